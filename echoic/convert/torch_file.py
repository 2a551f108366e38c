"""The tensors of a file that `torch.save` wrote (.pt, .pth, .ckpt, .bin), without running what it
says.

Such a file is a pickle, and a pickle may name any function. First its opcodes are looked through,
without running any: names that no checkpoint needs are refused, also those that would only allocate
(bytearray, a call of torch.Tensor), and so are tuples of tuples of which few bytes make more than
can ever be hashed. Then `torch.load(weights_only=True)` reads it, which knows tensors and plain
containers only; the numpy numbers and the argparse options that trainers write beside the weights
become empty stand-ins. The optimizer's tensors stay on disk.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from echoic.types import CheckpointError, first_line

SUFFIXES = (".pt", ".pth", ".ckpt")
ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch before 1.6
CONTAINERS = ("state_dict", "model")  # LAION and Lightning; PANNs and M2D
WRAPPER = "module."  # DistributedDataParallel's
_LONGEST_PICKLE = 32 * 2**20  # bytes that describe tensors, without their values
_LARGEST_TUPLE = 10_000  # with all that is in it, counted as often as it is there
_LAST_PROTOCOL = 3  # of those whose opcodes torch's reader knows
_LEGACY_PICKLES = 5  # magic number, version, machine, content, names of the storages
_NUMPY = ("numpy.core", "numpy._core")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The state dict in `path`, alone or in a dict of a trainer's, without the prefix `module.`.

    Tensors of a zip file (torch 1.6 and later) are mapped from disk: nothing is read before it is
    used, and the file must stay as it is meanwhile. Raises CheckpointError of one line.
    """
    loaded = _load(path)
    state = _state_in(loaded, path)
    for name, value in state.items():
        _check_tensor(name, value, path)
    if _head(path).startswith(ZIP_MAGIC):
        _check_sums(state, path)
    return _unwrapped(state)


def is_pickled(path: Path) -> bool:
    """Whether `path` begins like a file of `torch.save`, or like any pickle. Read it with
    `read_state_dict`, which refuses the latter; but a safetensors file may begin so by chance."""
    return _head(path).startswith((ZIP_MAGIC, PICKLE_MAGIC))


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(LEGACY_MAGIC))
    except IsADirectoryError:
        raise CheckpointError(f"{path}: a folder, not a file of torch.save") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None


def _load(path: Path) -> Any:
    head = _head(path)
    if not head:
        raise CheckpointError(f"{path}: an empty file")
    is_zip = head.startswith(ZIP_MAGIC)
    if not is_zip and not head.startswith(LEGACY_MAGIC):
        bare = head.startswith(PICKLE_MAGIC)
        kind = "a bare pickle, which may run anything" if bare else "something else"
        raise CheckpointError(f"{path}: not a file of torch.save, but {kind}")
    if is_zip:
        _check_archive(path)
    else:
        _check_legacy(path)
    mapped = is_zip and path.suffix != ".safetensors"  # by that name torch would not read a zip
    try:
        with path.open("rb") as file, torch.serialization.safe_globals(_STAND_INS):
            source = path if mapped else file
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except MemoryError:
        raise CheckpointError(f"{path}: does not fit into memory") from None
    except Exception as error:  # damaged bytes make torch's reader raise anything
        raise CheckpointError(f"{path}: {_refusal(error)}") from None


def _check_archive(path: Path) -> None:
    """What the zip must be before torch reads it: whole, uncompressed, with a sound table of
    contents."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            inside = {entry.filename.partition("/")[2]: entry for entry in entries}
            tops = {entry.filename.partition("/")[0] for entry in entries}
            if "data.pkl" not in inside:
                raise CheckpointError(f"{path}: a zip file, but not one of torch.save")
            if "constants.pkl" in inside:
                raise CheckpointError(f"{path}: a TorchScript program; export its state dict")
            pickled = inside["data.pkl"]
            packed = any(
                e.compress_type != zipfile.ZIP_STORED
                or e.compress_size != e.file_size  # so much memory would be taken to read it
                or e.flag_bits & 1
                for e in entries
            )
            twice = len(tops) > 1 or len(inside) < len(entries)  # which of them does torch read?
            if packed or twice or pickled.file_size > _LONGEST_PICKLE:
                raise CheckpointError(f"{path}: packed as torch.save packs nothing; refused")
            if not pickled.CRC:  # torch can be told to write none
                pickled.CRC = None  # type: ignore[assignment]
            _check_pickle(io.BytesIO(archive.read(pickled)), path)  # a wrong check sum raises
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path}: truncated or damaged ({first_line(error)})") from None


def _check_legacy(path: Path) -> None:
    with path.open("rb") as file:
        raw = io.BytesIO(file.read(_LONGEST_PICKLE))
    try:
        for _ in range(_LEGACY_PICKLES):
            _check_pickle(raw, path)
    except ValueError as error:
        raise CheckpointError(f"{path}: truncated or damaged ({first_line(error)})") from None


class _Built(NamedTuple):
    """What an opcode leaves. size: of a tuple, with all that is in it; else 1. told: its argument;
    of a tuple those of its parts."""

    size: int
    told: Any


def _check_pickle(raw: io.BytesIO, path: Path) -> None:
    """One pickle, by its opcodes. Raises ValueError where it is none, CheckpointError where it asks
    for what no checkpoint needs."""
    stack: list[_Built] = []
    memo: dict[Any, _Built] = {}
    marks: list[int] = []
    storages: dict[Any, int] = {}
    room = path.stat().st_size
    try:
        for code, argument, _ in pickletools.genops(raw):
            if code.name == "PROTO" and int(argument or 0) > _LAST_PROTOCOL:
                raise CheckpointError(f"{path}: {_too_new(argument)}")
            elif code.name == "MARK":
                marks.append(len(stack))
            elif code.name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif code.name in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
                _require_small(stack[-1].size, _LARGEST_TUPLE, path)
            else:
                taken, size = _popped(code, stack, marks), 1
                if code.name == "GLOBAL":
                    _require_known(str(argument), path)
                elif "TUPLE" in code.name:
                    argument = tuple(each.told for each in taken)
                    size += sum(each.size for each in taken)
                    _require_small(size, max(_LARGEST_TUPLE, raw.tell()), path)
                elif code.name == "BINPERSID":
                    _, _, key, _, count, *_ = taken[0].told
                    argument = storages[key] = max(storages.get(key, 0), count)
                elif code.name in ("REDUCE", "NEWOBJ"):
                    _check_call(taken[0].told, taken[1].told, path)
                stack += [_Built(size, argument)] * len(code.stack_after)
    except (IndexError, KeyError, TypeError) as error:
        raise ValueError(f"no pickle of torch.save: {first_line(error)}") from None
    if sum(storages.values()) > room:
        raise ValueError("it tells of more values than it has bytes")


def _too_new(protocol: Any) -> str:
    newest = f"torch reads only those up to {_LAST_PROTOCOL} without running them"
    return f"a pickle of protocol {protocol}, and {newest}: save it again as torch.save does"


def _require_small(size: int, most: int, path: Path) -> None:
    """most: what the bytes so far can hold; of a tuple that is there again, `_LARGEST_TUPLE`."""
    if size > most:
        raise CheckpointError(f"{path}: refused: tuples in tuples without end")


def _check_call(call: Any, arguments: Any, path: Path) -> None:
    """Raises CheckpointError where torch.Tensor is more than a name, and ValueError where a tensor
    reaches beyond its storage, which some readers of torch's make larger then."""
    while call == "torch._tensor _rebuild_from_type_v2":  # a tensor with attributes
        call, _, arguments, _ = arguments
    if call == "torch Tensor":
        raise CheckpointError(f"{path}: {_asks_for('torch.Tensor')}")
    if isinstance(call, str) and call.startswith("torch._utils _rebuild_tensor"):
        count, offset, shape, steps, *_ = arguments
        last = offset + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
        if all(shape) and last >= count:
            raise ValueError("a tensor reaches beyond its values")


def _popped(code: Any, stack: list[_Built], marks: list[int]) -> list[_Built]:
    """What an opcode takes from the stack: so many, or all down to the last mark, and those."""
    wanted = code.stack_before
    marked = pickletools.markobject in wanted
    count = wanted.index(pickletools.markobject) if marked else len(wanted)
    first = (marks.pop() if marked else len(stack)) - count
    if first < 0:
        raise IndexError("its stack is empty")
    taken = stack[first:]
    del stack[first:]
    return taken


def _require_known(named: str, path: Path) -> None:
    """`named`: module and name, with a space between."""
    module, _, name = named.partition(" ")
    whole = f"{module}.{name}"
    storage = module in ("torch", "torch.storage") and name.endswith("Storage")
    found = vars(torch).get(name)  # getattr would import what torch loads on demand
    kind = module == "torch" and isinstance(found, torch.dtype | torch.qscheme)
    rebuilt = whole.startswith("torch._utils._rebuild_")  # of a storage that is there
    if not (storage or kind or rebuilt or whole in _NEEDED):
        raise CheckpointError(f"{path}: {_asks_for(whole.removeprefix('__builtin__.'))}")


def _asks_for(named: str) -> str:
    return f"refused: it asks to load {named}, which no checkpoint needs; nothing was run"


def _state_in(loaded: Any, path: Path) -> dict[str, Any]:
    if isinstance(loaded, Mapping):
        for name in CONTAINERS:
            inner = loaded.get(name)
            if isinstance(inner, Mapping) and inner:
                return {str(key): value for key, value in inner.items()}
        if any(isinstance(value, Tensor) for value in loaded.values()):
            return {str(key): value for key, value in loaded.items()}
        holds = ", ".join(map(repr, list(loaded)[:5])) or "nothing"
        raise CheckpointError(f"{path}: holds no state dict, but a dict of {holds}")
    raise CheckpointError(f"{path}: holds no state dict, but a {type(loaded).__name__}")


def _check_tensor(name: str, value: Any, path: Path) -> None:
    if not isinstance(value, Tensor):
        raise CheckpointError(f"{path}: {name} is a {type(value).__name__}, not a tensor")
    plain = value.layout == torch.strided and not value.is_quantized and value.device.type == "cpu"
    if not plain or value.is_complex():
        raise CheckpointError(f"{path}: {name} is not a plain tensor of numbers")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise CheckpointError(
            f"{path}: {name} claims {tuple(value.shape)} values, more than the file holds of it"
        )


def _check_sums(state: Mapping[str, Tensor], path: Path) -> None:
    """Every tensor's bytes have a check sum that the archive records for a part of their size."""
    with zipfile.ZipFile(path) as archive:
        recorded = {(entry.file_size, entry.CRC) for entry in archive.infolist()}
    checked: set[int] = set()
    for name, tensor in state.items():
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        if size == 0 or storage.data_ptr() in checked:
            continue
        checked.add(storage.data_ptr())
        whole: Any = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
        if not {(size, zlib.crc32(whole)), (size, 0)} & recorded:
            raise CheckpointError(f"{path}: damaged; the check sum of {name} is wrong")


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    wrapped = all(name.startswith(WRAPPER) for name in state)
    return {
        name.removeprefix(WRAPPER) if wrapped else name: tensor.detach()
        for name, tensor in state.items()
    }


def _refusal(error: Exception) -> str:
    """One line for what torch says in many, and with advice that would run the pickle."""
    text = str(error)
    for before, after in (("GLOBAL ", " was not"), ("unsupported GLOBAL ", " whose module")):
        if before in text and after in text:
            named = text.partition(before)[2].partition(after)[0]
            return _asks_for(named)
    told = text.rpartition("WeightsUnpickler error:")[2].strip() or type(error).__name__
    return f"truncated, damaged, or not tensors alone ({told.splitlines()[0]})"


class _Inert:
    """Takes the place of something else: holds nothing, does nothing."""

    def __init__(self, *_: object) -> None: ...
    def __setstate__(self, _: object) -> None: ...


class _Number(_Inert):
    """Takes the place of a number of numpy's."""


class _NumberType(_Inert):
    """Takes the place of a dtype of numpy's."""


class _Array(_Inert):
    """Takes the place of an array of numpy's."""


class _Options(_Inert):
    """Takes the place of an argparse.Namespace, the options of a training."""


_STAND_INS: list[Any] = [
    (_Options, "argparse.Namespace"),
    (_NumberType, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    *((_Number, f"{module}.multiarray.scalar") for module in _NUMPY),
    *((_Array, f"{module}.multiarray._reconstruct") for module in _NUMPY),
]

_NEEDED = frozenset({
    "collections.OrderedDict", "collections.Counter", "_codecs.encode", "__builtin__.set",
    "builtins.set", "__builtin__.complex", "builtins.complex", "torch.Size", "torch.device",
    "torch.nn.parameter.Parameter", "torch.serialization._get_layout",
    "torch._tensor._rebuild_from_type_v2", "torch.Tensor",
    *(name for _, name in _STAND_INS),
})  # fmt: skip
