"""What is said about a recording by the .json or .txt that goes with it, or at least by its name.

The same two forms stand beside audio files in a folder and as members of a tar. The fields of a
.json are those of upstream's shards: `text` (a string or a list), `text_augment_t5`,
`text_augment_all`, `tag`, and our `duration_s`; the names that tables may use work too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any, get_args

from echoic.config import parse_json
from echoic.data.clips import Clip
from echoic.data.tables import TAG_NAMES, CaptionChoice, decode, find_columns
from echoic.types import DataError

DESCRIPTION_SUFFIXES = (".json", ".txt")

# What of upstream's `original_data` says which recording this was; the rest (descriptions, user
# names) would only make an index big.
_ORIGIN_NAMES = frozenset({
    "key", "id", "file", "file_name", "filename", "fname", "url", "download_url",
    "freesound_id", "fsid", "youtube_id", "ytid",
})  # fmt: skip


@dataclass(frozen=True)
class Described:
    """All that is said of a recording.

    clip: with its written captions. augmented: other captions by choice, where there are such.
    origin: what names the recording elsewhere, as {"freesound_id": "1234"}.
    """

    clip: Clip
    augmented: Mapping[CaptionChoice, tuple[str, ...]] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)

    def chosen(self, which: CaptionChoice) -> Clip:
        """The clip with these captions, the written ones where there are no others."""
        return replace(self.clip, captions=self.augmented.get(which, self.clip.captions))


def describe(where: str, key: str, raw: bytes) -> Described:
    """What a .json or a .txt (a caption per line) says; maybe no caption. Raises DataError."""
    text = decode(where, raw)
    if where.lower().endswith(".txt"):
        lines = (" ".join(line.split()) for line in text.splitlines())
        return Described(Clip(key, tuple(dict.fromkeys(filter(None, lines))), (), None))
    try:
        tree = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not readable as JSON ({error})") from None
    if not isinstance(tree, dict):
        raise DataError(f'{where}: wanted an object as {{"text": ["a caption"]}}')
    tagged = any(name.strip().lower() in TAG_NAMES for name in tree)
    columns = find_columns(where, tuple(tree), need_file=False, need_captions=not tagged)
    by_choice = {which: columns.captions_of(tree, which) for which in get_args(CaptionChoice)}
    written = by_choice["written"]
    return Described(
        Clip(key, written, columns.tags_of(tree), columns.duration_of(where, tree)),
        {which: found for which, found in by_choice.items() if found != written},
        _origin(tree.get("original_data")),
    )


def _origin(told: Any) -> dict[str, str]:
    if not isinstance(told, dict):
        return {}
    names = _ORIGIN_NAMES.intersection(told)
    return {name: str(told[name]) for name in sorted(names) if isinstance(told[name], str | int)}


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
