"""What is said about a recording by the .json or .txt that goes with it, or at least by its name.

The same two forms stand beside audio files in a folder and as members of a tar. The fields of a
.json are those of upstream's shards: `text` (a string or a list), `tag`, and our `duration_s`; the
names that tables may use work too.
"""

from __future__ import annotations

import json
import re
from pathlib import PurePath

from echoic.data.clips import Clip
from echoic.data.tables import decode, find_columns
from echoic.types import DataError

DESCRIPTION_SUFFIXES = (".json", ".txt")


def clip_from_description(where: str, key: str, raw: bytes) -> Clip | None:
    """What a .json or a .txt (a caption per line) says; None: no caption. Raises DataError."""
    text = decode(where, raw)
    if where.lower().endswith(".txt"):
        lines = (" ".join(line.split()) for line in text.splitlines())
        captions = tuple(dict.fromkeys(filter(None, lines)))
        return Clip(key, captions, (), None) if captions else None
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not readable as JSON ({error})") from None
    if not isinstance(tree, dict):
        raise DataError(f'{where}: wanted an object as {{"text": ["a caption"]}}')
    columns = find_columns(where, tuple(tree), need_file=False)
    captions = columns.captions_of(tree)
    duration_s = columns.duration_of(where, tree)
    return Clip(key, captions, columns.tags_of(tree), duration_s) if captions else None


def clip_from_names(path: PurePath) -> Clip | None:
    """A caption of the words in the folders' and the file's names; the folders are the tags."""
    folders = tuple(filter(None, map(_name_words, path.parent.parts)))
    own = _name_words(path.stem)
    parts = dict.fromkeys((*folders, own) if own else folders)
    return Clip(str(path), (", ".join(parts),), folders, None) if parts else None


def _name_words(name: str) -> str:
    # numbers, hashes and the take letters of sound libraries say nothing about the sound
    tokens = (token.rstrip("0123456789") for token in re.split(r"[\s_\-.,()\[\]+]+", name))
    kept = (t for t in tokens if t and not re.search(r"\d|^[b-zA-Z]$", t))
    return " ".join(kept)
