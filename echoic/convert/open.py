"""Opens a model whatever wrote it: our own file, LAION-CLAP's .pt, M2D's .pth, or a Hugging Face
folder.

What a file is, is told by its content, not by its name. `card["source"]` of what another program
wrote says where it came from, what it is, and what of it was not taken.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError, safe_open

from echoic.convert.huggingface import (
    CONFIG,
    PICKLED,
    TOKENIZER,
    is_huggingface,
    load_huggingface,
)
from echoic.convert.known import known_model
from echoic.convert.laion import AUDIO, laion_model
from echoic.convert.m2d import is_m2d, m2d_model
from echoic.convert.native import (
    CLASSIFIER_FILE_NAME,
    CLASSIFIER_FORMAT,
    FILE_NAME,
    FORMAT,
    ModelFile,
    load_model,
)
from echoic.convert.torch_file import SUFFIXES, is_pickled, read_state_dict
from echoic.encoders.tokenizer import TextTokenizer
from echoic.model import ModelSpec
from echoic.towers import SentenceTextSpec
from echoic.types import CheckpointError

log = logging.getLogger("echoic.convert")

# What a checkpoint of another family looks like: a name that gives it away, and what it then is.
_FAMILIES = (
    ("sed_model.", "HTSAT trained on AudioSet, an audio encoder alone: start a training from it"),
    (
        "conv_block1.",
        "a PANN trained on AudioSet, an audio encoder alone: start a training from it",
    ),
    ("audio_encoder.base.htsat.", "Microsoft CLAP"),
    ("caption_encoder.", "Microsoft CLAP"),
    ("audio_model.audio_encoder.", "LAION-CLAP as transformers has it, without its config.json"),
    ("target_blocks.", "M2D, not as its .pth files have it"),
    ("decoder_blocks.", "a masked autoencoder, such as AudioMAE"),
    ("backbone.", "a larger model around some backbone"),
    ("model.encoder.conv1.", "Whisper"),
    ("visual.", "CLIP, for images"),
    ("vision_model.", "CLIP, for images"),
    ("cls_token", "a vision transformer (timm, AST)"),
    ("roberta.", "RoBERTa, a text encoder alone"),
    ("bert.", "BERT, a text encoder alone"),
    ("embeddings.word_embeddings.", "a text encoder alone"),
)


def open_model(path: Path) -> ModelFile:
    """A file or a folder. Raises CheckpointError of one line, which says what else it looks like.

    A tokenizer.json beside a checkpoint that brings none is taken for its own.
    """
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such model file")
    header = _safetensors_header(path)
    if header is None and is_pickled(path):
        return _open_pickled(path)
    if header is not None and header[0] != FORMAT:
        if path.name == FILE_NAME and is_huggingface(path.parent):
            return load_huggingface(path.parent)
        if header[0] == CLASSIFIER_FORMAT:
            raise _not_a_model(path)
        raise CheckpointError(
            f"{path}: a safetensors file, but not a model of echoic's (no {FORMAT} header); it "
            f"looks like {looks_like(header[1])}"
        )
    return load_model(path)


def with_tokenizer(content: ModelFile, name: str | Path) -> ModelFile:
    """The same model with a published tokenizer: a folder, a tokenizer.json or a Hub name. Warns
    where its size is not the model's. Raises CheckpointError; so does a model that reads no
    tokens."""
    text = content.model.spec.text
    if not reads_tokens(content.model.spec):
        reads = "no text" if text is None else "vectors of a sentence encoder"
        raise CheckpointError(f"tokenizer {name}: this model reads {reads}, and takes no tokenizer")
    tokenizer = TextTokenizer.published(name, max_tokens=content.model.spec.max_tokens)
    wanted = getattr(text, "vocab", tokenizer.vocab)
    if tokenizer.vocab != wanted:
        log.warning(
            "%s: a tokenizer of %d tokens for a model of %d: is it the one it was trained with?",
            name, tokenizer.vocab, wanted,
        )  # fmt: skip
    return replace(content, tokenizer=tokenizer)


def reads_tokens(spec: ModelSpec) -> bool:
    """Whether a model has use for a tokenizer."""
    return spec.text is not None and not isinstance(spec.text, SentenceTextSpec)


def looks_like(names: Iterable[str]) -> str:
    """What a checkpoint with tensors of these names is, as far as can be told."""
    known = list(names)
    for prefix, family in _FAMILIES:
        if any(name.startswith(prefix) for name in known):
            return family
    shown = ", ".join(sorted(known)[:3]) or "nothing"
    return f"none that is known ({len(known)} tensors: {shown})"


def model_in(folder: Path) -> Path:
    """The one file of a model in a folder, which need not be there; the folder, where it is Hugging
    Face's. Raises CheckpointError where there are several, or a classifier alone."""
    if is_huggingface(folder):
        return folder
    files = sorted(each for each in folder.iterdir() if each.suffix in SUFFIXES)
    own = folder / FILE_NAME
    if not files and not own.exists() and (folder / CLASSIFIER_FILE_NAME).is_file():
        raise _not_a_model(folder)
    if not files or own.exists():
        return own
    if len(files) > 1:
        raise CheckpointError(
            f"{folder}: holds {len(files)} checkpoints; name one, such as {files[0]}"
        )
    return files[0]


def _not_a_model(classifier: Path) -> CheckpointError:
    return CheckpointError(
        f"{classifier}: a classifier of echoic finetune, not a model; in Python: from "
        f"echoic.finetune import load_classifier; load_classifier({str(classifier)!r}, "
        "echoic.load(MODEL)).probabilities(['a.wav']), MODEL being the one it was trained on"
    )


def _open_folder(folder: Path) -> ModelFile:
    file = model_in(folder)
    if file == folder:
        own = _safetensors_header(folder / FILE_NAME)
        native = own is not None and own[0] == FORMAT
        return load_model(folder) if native else load_huggingface(folder)
    if not file.is_file():
        raise CheckpointError(
            f"{folder}: holds neither {FILE_NAME} nor {CONFIG}: no such model file"
        )
    return open_model(file)


def _safetensors_header(file: Path) -> tuple[str | None, list[str]] | None:
    """Its format and the names of its tensors; None where it is no whole safetensors file."""
    try:
        with safe_open(file, framework="pt") as opened:
            return (opened.metadata() or {}).get("format"), list(opened.keys())
    except (SafetensorError, OSError):
        return None  # load_model says what is wrong with it


def _open_pickled(path: Path) -> ModelFile:
    if path.name == PICKLED and is_huggingface(path.parent):
        return load_huggingface(path.parent)
    state = read_state_dict(path)
    if any(name.startswith(AUDIO) for name in state):
        model, report = laion_model(state, str(path))
    elif is_m2d(state):
        folder = path.absolute().parent.name
        model, report = m2d_model(state, str(path), name=f"{folder}/{path.stem}")
        _compare_with_published(path, folder)
    else:
        raise CheckpointError(
            f"{path}: not a checkpoint of LAION-CLAP (no {AUDIO}*) nor of M2D; it looks like "
            f"{looks_like(state)}"
        )
    source = {**report, "file": path.name}
    return ModelFile(model, _beside(path, model.spec), {"source": source})


def _compare_with_published(path: Path, folder: str) -> None:
    """Warns where a file that lies in a folder by a known name is not the published one."""
    known = known_model(folder)
    if known is None or known.sha256 is None or Path(known.full_name).name != path.name:
        return
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != known.sha256:
            log.warning("%s: its SHA-256 is not that of the published %s", path, folder)


def _beside(path: Path, spec: ModelSpec) -> TextTokenizer | None:
    file = path.with_name(TOKENIZER)
    if not file.is_file() or not reads_tokens(spec):
        return None
    return TextTokenizer.published(file, max_tokens=spec.max_tokens)
