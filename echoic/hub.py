"""Where a model file comes from: a path, or a name on the Hugging Face Hub, fetched once and
checked.

Nothing reaches the network unless the user names something to fetch.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from echoic.convert.native import FILE_NAME
from echoic.types import CheckpointError

# owner/name and an optional @revision, in the Hub's own letters
_HUB_NAME = re.compile(r"(?P<owner>\w[\w.-]*)/(?P<name>\w[\w.-]*)(@[\w./-]+)?", re.ASCII)


def find_model(path_or_name: str | Path, *, sha256: str | None = None) -> Path:
    """The local file of a model: a path as it is, `owner/name` or `owner/name@revision` from the
    Hub.

    Only a str can name the Hub, and only where nothing here has that name; a Path never does.
    sha256: refuse a file with another digest. Raises CheckpointError.
    """
    path = Path(path_or_name)
    if path.exists():
        file = path / FILE_NAME if path.is_dir() else path
    elif isinstance(path_or_name, str) and looks_like_hub_name(path_or_name):
        file = _download(path_or_name)
    else:
        raise CheckpointError(
            f"{path_or_name}: no such file or folder (a model on the Hub is named owner/name)"
        )
    if not file.is_file():
        raise CheckpointError(f"{file}: no such model file")
    if sha256 is not None:
        _check_digest(file, sha256)
    return file


def looks_like_hub_name(name: str) -> bool:
    """owner/name with an optional @revision; not a file's name, nor one in a folder that is
    here."""
    match = _HUB_NAME.fullmatch(name)
    if match is None or match["name"].endswith(Path(FILE_NAME).suffix):
        return False
    return not Path(match["owner"]).is_dir()


def _download(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")
    try:
        return Path(hf_hub_download(repo, FILE_NAME, revision=revision or None))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{name}: no such file or folder here, and the Hub did not give it ({why})"
        ) from None


def _check_digest(file: Path, wanted: str) -> None:
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != wanted.lower():
        raise CheckpointError(f"{file}: its SHA-256 is {found}, not {wanted}; fetch it again")
