"""Our own model file: one safetensors whose header holds the description, the tokenizer and the
card.

One file, so weights, front end and tokenizer cannot come apart. Loading is strict: every tensor
must fit, or the load fails with the names that do not.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from echoic.config import parse_json
from echoic.encoders.tokenizer import TextTokenizer
from echoic.model import LanguageAudioModel, ModelSpec
from echoic.types import CheckpointError, ConfigError, first_line

FORMAT = "echoic-1"
FILE_NAME = "model.safetensors"
# of the other file that echoic writes, which finetune reads: a head, and a tower if that was tuned
CLASSIFIER_FORMAT = "echoic-classifier-1"
CLASSIFIER_FILE_NAME = "classifier.safetensors"


@dataclass(frozen=True)
class ModelFile:
    """What a model file holds. `tokenizer`: None where a checkpoint brought none. `card`: how the
    model was made (recipe, data, steps, figures), for people; `card["source"]`: the file of another
    program that it was read from."""

    model: LanguageAudioModel
    tokenizer: TextTokenizer | None = None
    card: dict[str, Any] = field(default_factory=dict)


def save_model(path: Path, content: ModelFile) -> None:
    """Write `content` to `path` at once or not at all. Raises CheckpointError when the disk
    refuses."""
    header = {
        "format": FORMAT,
        "spec": content.model.spec.model_dump_json(),
        "card": json.dumps(content.card, default=str),
    }
    if content.tokenizer is not None:
        header["tokenizer"] = content.tokenizer.to_json()
    write_tensors(path, content.model.state_dict(), header, what="model")


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], header: dict[str, str], *, what: str
) -> None:
    """A safetensors file, at once or not at all. what: what it holds, for the error. Raises
    CheckpointError when the disk refuses."""
    held = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)  # no two share
        for name, tensor in tensors.items()
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            save_file(held, unfinished, metadata=header)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: the {what} cannot be written ({error})") from None


def load_model(path: Path) -> ModelFile:
    """Read a model file, or the one in a folder. Raises CheckpointError with the names that do not
    fit."""
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(f"{file}: no such model file")
    header, tensors = read_tensors(file)
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{file}: a safetensors file, but not a model of echoic's (no {FORMAT} header)"
        )
    spec, tokenizer, card = _described(header, str(file))
    try:
        model = unfilled(spec)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    require_fit(model.state_dict(), tensors, str(file))
    give(model, tensors)
    return ModelFile(model.eval(), tokenizer, card)


def unfilled(spec: ModelSpec) -> LanguageAudioModel:
    """A model whose weights have shapes and no memory (device "meta"), for `give` to put there what
    a file holds. What is computed (mel banks, windows, index tables) is there. Raises
    CheckpointError on sizes of which nothing can be made."""
    with _Unallocated(), buildable():
        return LanguageAudioModel(spec)


@contextmanager
def buildable() -> Iterator[None]:
    """While modules are made as a file describes them: what torch says of mad sizes is told as
    CheckpointError."""
    try:
        yield
    except (ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError) as error:
        told = first_line(error)
        raise CheckpointError(f"its description cannot be built ({told})") from error


class _Unallocated(TorchFunctionMode):
    """Modules make their weights by torch.empty, and fill them later. To fill what has no memory
    changes nothing, but would load 70 MB of torch's shape functions; to draw for what has some
    (made by torch.zeros) would move the global generator."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if func is torch.empty:
            given["device"] = "meta"
        elif re.fullmatch(r"[a-z]\w*_", name) and name != "requires_grad_":  # it changes values
            tensor = args[0] if args else given["tensor"]  # a method's, or torch.nn.init's
            if tensor.is_meta or name.endswith(("normal_", "uniform_")):
                return tensor
        return func(*args, **given)


def give(model: LanguageAudioModel, tensors: Mapping[str, Tensor]) -> None:
    """Make `tensors`, all of which fit, the weights of an unfilled model: no copy of what is
    float32, so that a file that is mapped to memory is read as it is needed, and held once."""
    own = model.state_dict()
    seen: set[int] = set()
    held = {}
    for name, tensor in tensors.items():
        tensor = tensor.to(own[name].dtype).contiguous()
        held[name] = tensor.clone() if tensor.data_ptr() in seen else tensor  # no two share
        seen.add(tensor.data_ptr())
    model.load_state_dict(held, assign=True)
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


def load_strictly(module: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Copy `tensors` into `module`; every name and shape must fit. Raises CheckpointError."""
    require_fit(module.state_dict(), tensors, where)
    module.load_state_dict(tensors)


def require_fit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str) -> None:
    """Raises CheckpointError with the names that are missing, unknown, or of another shape."""
    wrong = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    wrong += [f"{name} is unknown" for name in found.keys() - wanted.keys()]
    wrong += [
        f"{name} is {tuple(found[name].shape)}, wanted {tuple(wanted[name].shape)}"
        for name in wanted.keys() & found.keys()
        if wanted[name].shape != found[name].shape
    ]
    if wrong:
        shown = "; ".join(sorted(wrong)[:5])
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise CheckpointError(f"{where}: the tensors do not fit the model: {shown}{more}")


def _described(header: dict[str, str], where: str) -> tuple[ModelSpec, TextTokenizer | None, Any]:
    """What the header says of the model, its tokenizer and its card."""
    try:
        spec = ModelSpec.parse(parse_json(header["spec"]), where="spec")
        tokenizer = None
        if "tokenizer" in header:
            tokenizer = TextTokenizer.from_json(header["tokenizer"], max_tokens=spec.max_tokens)
        card = parse_json(header["card"])
        if not isinstance(card, dict):
            raise CheckpointError(f"its card is a {type(card).__name__}, not an object")
        return spec, tokenizer, card
    except KeyError as error:
        raise CheckpointError(f"{where}: its header has no {error}") from None
    except (ConfigError, CheckpointError, ValueError) as error:
        raise CheckpointError(f"{where}: its header cannot be read ({error})") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to; it takes the place of `path` when it is whole and on
    disk."""
    unfinished = path.with_name(path.name + ".part")
    try:
        unfinished.touch()
        mode = unfinished.stat().st_mode
        yield unfinished
        unfinished.chmod(mode)  # safetensors writes files that only their owner may read
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_tensors(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Its header, and its tensors as parts of the mapped file. Raises CheckpointError."""
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return opened.metadata() or {}, tensors
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: not a whole safetensors file ({error})") from None
