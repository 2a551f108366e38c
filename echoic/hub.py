"""Where a model comes from: a path, a known name, or a name on the Hugging Face Hub, fetched once
and checked.

Nothing reaches the network unless the user names something to fetch; with HF_HUB_OFFLINE=1 only
what was fetched before is found. Weights are compared with the Hub's own check sum when they are
fetched.

And the way back: `save_pretrained` writes a model as a folder for the Hub, `push_to_hub` uploads
it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from echoic.convert.huggingface import (
    CONFIG,
    PICKLED,
    PREPROCESSOR,
    PROCESSOR,
    TOKENIZER,
    TOKENIZER_CONFIG,
)
from echoic.convert.known import KnownModel, known_model
from echoic.convert.native import FILE_NAME, FORMAT, ModelFile, replacing, save_model
from echoic.convert.open import model_in
from echoic.convert.torch_file import SUFFIXES
from echoic.encoders.published import hub_file
from echoic.export.card import model_card
from echoic.types import CheckpointError, first_line

log = logging.getLogger("echoic.hub")

# owner/name and an optional @revision, in the Hub's own letters
_HUB_NAME = re.compile(r"(?P<owner>\w[\w.-]*)/(?P<name>\w[\w.-]*)(@[\w./-]+)?", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_REFUSED = "the Hub did not take it; it wants a token that may write (HF_TOKEN, hf auth login)"
# All that a model needs; weights that are a pickle are fetched where there are no others.
_WANTED = [
    FILE_NAME, CONFIG, PREPROCESSOR, PROCESSOR, TOKENIZER, TOKENIZER_CONFIG, "vocab.json",
    "merges.txt",
]  # fmt: skip


def find_model(path_or_name: str | Path, *, sha256: str | None = None) -> Path:
    """The file of a model, or the folder where it is several: a path as it is; a known name; or
    `owner/name` on the Hub. A name may end in `@revision`.

    Only a str can name the Hub, and only where nothing here has that name; a Path never does.
    sha256: refuse weights with another digest. Raises CheckpointError.
    """
    path = Path(path_or_name)
    name, _, revision = str(path_or_name).partition("@")
    known = known_model(name) if isinstance(path_or_name, str) else None
    if path.exists():
        found = model_in(path) if path.is_dir() else path
    elif known is not None and not _is_here(name):
        found, sha256 = _known(known, str(path_or_name), revision), sha256 or known.sha256
    elif isinstance(path_or_name, str) and looks_like_hub_name(path_or_name):
        found = _repository(name, path_or_name, revision)
    else:
        raise CheckpointError(
            f"{path_or_name}: no such file or folder (a model on the Hub is named owner/name; "
            "`echoic models` lists the known ones)"
        )
    weights = _weights(found)
    if not weights.is_file():
        raise CheckpointError(f"{weights}: no such model file")
    if sha256 is not None:
        _check_digest(weights, sha256)
    return found


def looks_like_hub_name(name: str) -> bool:
    """owner/name with an optional @revision; not a file's name, nor one in a folder that is
    here."""
    match = _HUB_NAME.fullmatch(name)
    if match is None or match["name"].endswith((Path(FILE_NAME).suffix, *SUFFIXES)):
        return False
    return not _is_here(name)


def _is_here(name: str) -> bool:
    """Whether `name` would lie in a folder that there is."""
    owner, slash, _ = name.partition("/")
    return bool(slash) and Path(owner).is_dir()


def _weights(found: Path) -> Path:
    """The file that holds the tensors."""
    if not found.is_dir():
        return found
    file = found / FILE_NAME
    return file if file.is_file() or not (found / PICKLED).is_file() else found / PICKLED


def _known(model: KnownModel, asked: str, revision: str) -> Path:
    if model.warning is not None:
        log.warning("%s: %s", model.full_name, model.warning)
    if model.page is not None:
        raise CheckpointError(
            f"{asked}: is not on the Hub; fetch it by hand from {model.page} and name its path "
            f"({model.licence})"
        )
    if model.file is None:
        return _repository(model.repo, asked, revision)
    with _told(asked):
        file = hub_file(model.repo, model.file, revision)
    _check_fetched(file)
    return file


def _repository(repo: str, asked: str, revision: str) -> Path:
    """Its files that a model needs, and no others."""
    from huggingface_hub import snapshot_download

    with _told(asked):
        folder = Path(snapshot_download(repo, revision=revision or None, allow_patterns=_WANTED))
        if not (folder / FILE_NAME).is_file():
            snapshot_download(repo, revision=revision or None, allow_patterns=[PICKLED])
    if not any((folder / name).is_file() for name in (FILE_NAME, PICKLED)):
        raise CheckpointError(f"{asked}: its repository has neither {FILE_NAME} nor {PICKLED}")
    found = model_in(folder)
    _check_fetched(_weights(found))
    return found


@contextmanager
def _told(
    asked: str, failed: str = "no such file or folder here, and the Hub did not give it"
) -> Iterator[None]:
    """Turns what the Hub's client raises into one line."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        why = first_line(error)
        raise CheckpointError(f"{asked}: {failed} ({why})") from None


def _check_fetched(weights: Path) -> None:
    """Once, against the SHA-256 that the Hub gives of large files: by it the cache names them. A
    mark beside the file says that it was done. Raises CheckpointError; the file is then gone."""
    blob = weights.resolve()
    mark = blob.with_name(f"{blob.name}.checked")
    if not _DIGEST.fullmatch(blob.name) or not blob.is_file() or mark.exists():
        return
    try:
        _check_digest(blob, blob.name)
    except CheckpointError:
        weights.unlink()
        blob.unlink(missing_ok=True)
        raise CheckpointError(
            f"{weights}: came damaged from the Hub (its SHA-256 is not {blob.name}) and was "
            "removed; fetch it again"
        ) from None
    with suppress(OSError):  # a cache that others share may not be ours to write to
        mark.touch()


def _check_digest(file: Path, wanted: str) -> None:
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != wanted.lower():
        raise CheckpointError(f"{file}: its SHA-256 is {found}, not {wanted}; fetch it again")


# -- the way back ----------------------------------------------------------------------------------


def save_pretrained(content: ModelFile, folder: Path, *, name: str | None = None) -> None:
    """A model as a folder for the Hub, which `echoic.load` opens: model.safetensors (with its
    tokenizer and card), config.json, tokenizer.json and README.md. A README.md that is there stays:
    people write in it. name: by which the card says it is loaded. Raises CheckpointError."""
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder / FILE_NAME, content)
    spec = content.model.spec.model_dump(mode="json")
    config = {"model_type": "echoic", "format": FORMAT, "space_id": content.model.space_id()}
    _write(folder / CONFIG, json.dumps(config | {"spec": spec}, indent=2) + "\n")
    if content.tokenizer is not None:
        _write(folder / TOKENIZER, content.tokenizer.to_json())
    if not (folder / "README.md").exists():
        _write(folder / "README.md", model_card(content, name=name or str(folder)))


def push_to_hub(
    content: ModelFile,
    name: str,
    *,
    private: bool = False,
    message: str = "Upload a model of echoic's",
) -> str:
    """The same folder as the repository owner/name, made where there is none; a card that stands
    there already stays. Returns its address. Raises CheckpointError."""
    from huggingface_hub import HfApi

    require_name(name)
    hub = HfApi()
    with tempfile.TemporaryDirectory() as scratch:
        save_pretrained(content, Path(scratch), name=name)
        with _told(name, _REFUSED):
            address = hub.create_repo(name, private=private, exist_ok=True)
            if hub.file_exists(name, "README.md"):
                Path(scratch, "README.md").unlink()
            hub.upload_folder(repo_id=name, folder_path=scratch, commit_message=message)
    return str(address)


def require_name(name: str) -> None:
    """Raises CheckpointError on what cannot be a repository of the Hub."""
    if not _HUB_NAME.fullmatch(name) or "@" in name:
        raise CheckpointError(f"{name}: a repository on the Hub is named owner/name")


def _write(path: Path, text: str) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(text, "utf-8")
