"""Keyword-to-caption: one sentence out of the tags of a clip (LAION-CLAP, arXiv 2211.06687, section
3.3), for corpora that have tags and no captions, as AudioSet.

A generator makes the sentences: a template (`TemplateGenerator`), a T5 (`echoic.keywords`), or
whatever has its three members. `write_captions` runs it over a source and keeps the sentences in a
folder of JSONL files; `open_source(..., captions_from=folder)` puts them into a training.

folder
  keywords.json      of which generator, which settings and which tags; the files and their lines
  NAME.jsonl         one per tar, or per some thousand clips of anything else: {key, tags, caption}
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from echoic.config import parse_json
from echoic.data.captions import captions_from_tags, joined, words
from echoic.data.clips import Clip, RecaptionedSource, Source, SubsetSource
from echoic.data.files import is_file, made_folder, write_whole
from echoic.data.shards import ShardSource
from echoic.types import ConfigError, DataError

log = logging.getLogger("echoic.data")

MANIFEST = "keywords.json"
SHORTEST_S = 2.0  # the paper's: of less there are no captions
_VERSION = 1

# Whole words, which keep their case. The first four are the paper's ("her" is also an object, but
# told from the possessive by grammar alone); the plurals are ours.
DEBIAS: Mapping[str, str] = {
    "woman": "person",
    "man": "person",
    "her": "their",
    "his": "their",
    "women": "people",
    "men": "people",
}

Sentence = Callable[[Sequence[str]], str]
Progress = Callable[[int, int], None]


class Generator(Protocol):
    """Several tag lists to one sentence each.

    The same tags give the same sentence, whatever was asked before: a run that goes on after a stop
    relies on it. name, settings: all that the sentences depend on, as JSON has it; captions of
    another name or of other settings are not mixed with these.
    """

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    def __call__(self, tags: Sequence[Sequence[str]]) -> list[str]: ...


# Templates


def sounds_of(tags: Sequence[str]) -> str:
    """`The sounds of A, B and C`, `The sound of A`: upstream's for AudioSet and FSD50K."""
    return captions_from_tags(tags)[0]


def epidemic(tags: Sequence[str]) -> str:
    """`the sounds of a, b, and c.`: upstream's for Epidemic Sound, beside the title as another
    caption."""
    # differs from upstream: it writes "the sounds of , and a." of a single tag
    return f"the sounds of {', '.join(tags[:-1])}{', and ' if tags[1:] else ''}{tags[-1]}."


TEMPLATES: Mapping[str, Sentence] = {"template": sounds_of, "template:epidemic": epidemic}


class TemplateGenerator:
    """Sentences by a template: `template` or `template:epidemic`. Raises ConfigError."""

    def __init__(self, name: str = "template") -> None:
        if name not in TEMPLATES:
            raise ConfigError(f"template {name!r}: wanted one of {joined(tuple(TEMPLATES))}")
        self.name, self.settings = name, dict[str, Any]()

    def __call__(self, tags: Sequence[Sequence[str]]) -> list[str]:
        return [TEMPLATES[self.name](names) for names in tags]


def debiased(text: str, rules: Mapping[str, str] = DEBIAS) -> str:
    """`text` with whole words replaced: `A man and his Dog` gives `A person and their Dog`."""
    if not rules:
        return text
    pattern = rf"\b({'|'.join(map(re.escape, rules))})\b"
    return re.sub(pattern, lambda m: _cased(m[0], rules[m[0].lower()]), text, flags=re.IGNORECASE)


def _cased(seen: str, word: str) -> str:
    if seen.isupper() and len(seen) > 1:
        return word.upper()
    return word.capitalize() if seen[0].isupper() else word


# The run


@dataclass(frozen=True)
class KeywordSummary:
    """What a folder of captions holds. kept: of these, what an earlier run had written.

    untagged, short: clips without a caption, for want of tags or of length.
    """

    folder: Path
    captions: int
    kept: int
    files: int
    untagged: int
    short: int


def write_captions(
    source: Source | Sequence[Clip],
    generator: Generator,
    out: str | os.PathLike[str],
    *,
    batch: int = 32,
    per_file: int = 4096,
    shortest_s: float = SHORTEST_S,
    debias: Mapping[str, str] = DEBIAS,
    progress: Progress | None = None,
) -> KeywordSummary:
    """Write one sentence per clip into the folder `out`, going on where an earlier run stopped.

    source: clips of the same tags get the same sentence, made once. Shards give one file per tar,
    all else one per `per_file` clips.
    batch: tag lists per call of the generator; where it says nothing, the template does.
    shortest_s: shorter clips are left out; one of unknown duration is not.
    debias: see `debiased`; {} for none.
    progress: called with (clips done, clips in all) before each batch and after each file.
    A file gets its name when it is whole, so nothing is lost or half there whatever stops the run.
    Raises DataError: no tags at all, `out` holds something else, or captions of another generator,
    of other settings or of other tags.
    """
    clips = source if isinstance(source, Sequence) else source.clips
    tagged = [(clip, names) for clip in clips if (names := _names(clip.tags))]
    long = [(clip, names) for clip, names in tagged if not _too_short(clip, shortest_s)]
    if not long:
        why = f"none is {shortest_s:g} s or longer" if tagged else "none has tags (see tag_column)"
        raise DataError(f"no clip to make a caption of: of {len(clips)}, {why}")
    files = _files(source, long, per_file)
    settings = {**generator.settings, "shortest_s": shortest_s, "debias": dict(debias)}
    if not isinstance(source, ShardSource):
        settings["per_file"] = per_file
    made = {"version": _VERSION, "generator": generator.name, "settings": settings}
    made = json.loads(json.dumps(made))  # as it is read back: a tuple becomes a list
    folder = Path(out)
    _claim(folder, {**made, "tags": _fingerprint(files)}, files)
    known, kept = _run(folder, files, _Writer(generator, batch, debias), progress)
    if len(known) < len(long):
        log.info("%s: %d different sets of tags", folder, len(known))
    return KeywordSummary(
        folder, len(long), kept, len(files), len(clips) - len(tagged), len(tagged) - len(long)
    )


_Tagged = tuple[Clip, tuple[str, ...]]


def _names(tags: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, map(words, tags))))


def _too_short(clip: Clip, shortest_s: float) -> bool:
    return clip.duration_s is not None and clip.duration_s < shortest_s


def _files(
    source: Source | Sequence[Clip], tagged: Sequence[_Tagged], per_file: int
) -> dict[str, list[_Tagged]]:
    """The clips of each file, by its name."""
    files: dict[str, list[_Tagged]] = {}
    if isinstance(source, ShardSource):
        tar_of = {clip.key: tar for clip, tar in zip(source.clips, source.tars, strict=True)}
        for clip, names in tagged:
            files.setdefault(f"{tar_of[clip.key].stem}.jsonl", []).append((clip, names))
    else:
        for i, entry in enumerate(tagged):
            files.setdefault(f"part-{i // per_file:06d}.jsonl", []).append(entry)
    return files


def _fingerprint(files: Mapping[str, Sequence[_Tagged]]) -> str:
    """Of which clip has which tags and stands in which file."""
    digest = hashlib.sha256()
    for name, tagged in files.items():
        lines = (json.dumps([name, clip.key, names]) for clip, names in tagged)
        digest.update("\n".join(lines).encode())
    return digest.hexdigest()


def _claim(folder: Path, made: dict[str, Any], files: Mapping[str, Sequence[_Tagged]]) -> None:
    """Make the folder that of this run, or see that it is. Raises DataError."""
    folder, empty = made_folder(folder)
    manifest = {**made, "files": {name: len(tagged) for name, tagged in files.items()}}
    if empty:
        write_whole(folder / MANIFEST, json.dumps(manifest, indent=1))
        return
    before = _manifest(folder)
    if any(before.get(name) != value for name, value in made.items()):
        raise DataError(
            f"{folder}: holds captions made of {_difference(before, made)}; "
            "name another folder, or remove this one"
        )


def _difference(before: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    old, new = before.get("generator"), made["generator"]
    if old != new:
        return f"another generator ({old}, now {new})"
    if before.get("settings") != made["settings"]:
        was, now = before.get("settings") or {}, made["settings"]
        names = sorted(n for n in was.keys() | now.keys() if was.get(n) != now.get(n))
        changes = (f"{n} {_short(was.get(n))}, now {_short(now.get(n))}" for n in names)
        return f"other settings ({'; '.join(changes)})"
    return "other clips or tags than the source has now"


def _short(value: Any) -> str:
    told = json.dumps(value)
    return told if len(told) < 40 else f"{told[:36]}..."


@dataclass(frozen=True)
class _Writer:
    generator: Generator
    batch: int
    debias: Mapping[str, str]

    def sentences(self, tags: Sequence[tuple[str, ...]]) -> list[str]:
        """Of one batch. Raises ValueError on a generator that loses count."""
        made = self.generator(tags)
        if len(made) != len(tags):
            name = self.generator.name
            raise ValueError(f"generator {name}: {len(made)} sentences of {len(tags)} tag lists")
        plain = [
            " ".join(said.split()) or sounds_of(names)
            for said, names in zip(made, tags, strict=True)
        ]
        return [debiased(said, self.debias) for said in plain]


def _run(
    folder: Path,
    files: Mapping[str, Sequence[_Tagged]],
    writer: _Writer,
    progress: Progress | None,
) -> tuple[dict[tuple[str, ...], str], int]:
    """(sentence by tags, number of captions that were there)."""
    total = sum(map(len, files.values()))
    known: dict[tuple[str, ...], str] = {}
    kept = done = 0
    for name, tagged in files.items():
        path = folder / name
        if path.exists():
            # in the order of the files, so that what is known, and with it every batch, is what it
            # would be without the stop
            known.update({tuple(row["tags"]): row["caption"] for row in _rows(path, len(tagged))})
            kept += len(tagged)
        else:
            new = list(dict.fromkeys(names for _, names in tagged if names not in known))
            for first in range(0, len(new), writer.batch):
                if progress is not None:
                    progress(done + len(tagged) * first // len(new), total)
                tags = new[first : first + writer.batch]
                known.update(zip(tags, writer.sentences(tags), strict=True))
            rows = ({"key": c.key, "tags": names, "caption": known[names]} for c, names in tagged)
            write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))
        done += len(tagged)
        if progress is not None:
            progress(done, total)
    return known, kept


# Back into a source


def read_captions(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Sentence by clip key. Raises DataError on a folder that is not whole, or none of these."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of captions")
    files = _manifest(folder)["files"]
    absent = [name for name in files if not is_file(folder / name)]
    if absent:
        raise DataError(
            f"{folder}: unfinished, {len(absent)} of {len(files)} files are not there (first: "
            f"{absent[0]}); run echoic data keywords again with the same options"
        )
    rows = (row for name, lines in files.items() for row in _rows(folder / name, lines))
    return {row["key"]: row["caption"] for row in rows}


def with_captions(
    source: Source, sentences: Mapping[str, str], *, keep_own: bool, where: str
) -> Source:
    """A source with these captions by clip key, in place of its own or after them (`keep_own`).

    A clip that has none keeps its own; one without any caption is left out, with a note. Raises
    DataError where no key fits.
    """
    clips = source.clips
    if not any(clip.key in sentences for clip in clips):
        first = next(iter(sentences), "none")
        raise DataError(f"{where}: no clip has a caption there: keys {clips[0].key!r}, {first!r}")

    def captions(clip: Clip) -> tuple[str, ...]:
        made = (sentences[clip.key],) if clip.key in sentences else ()
        return tuple(dict.fromkeys((*clip.captions, *made) if keep_own else made or clip.captions))

    recaptioned = RecaptionedSource(source, captions)
    kept = [i for i, clip in enumerate(recaptioned.clips) if clip.captions]
    if len(kept) == len(clips):
        return recaptioned
    log.warning(
        "%s: %d of %d clips have no caption; left out", where, len(clips) - len(kept), len(clips)
    )
    return SubsetSource(recaptioned, kept)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        tree = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{folder}: holds no {MANIFEST}, so no captions of tags") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("files"), dict):
        raise DataError(f"{path}: not written by echoic data keywords")
    return tree


def _rows(path: Path, lines: int) -> list[dict[str, Any]]:
    """Raises DataError on anything else than `lines` captions."""
    try:
        text = path.read_text("utf-8")
        rows = [parse_json(line) for line in text.split("\n") if line]
        good = all(isinstance(r["key"], str) and isinstance(r["caption"], str) for r in rows)
        good = good and all(isinstance(r["tags"], list) for r in rows) and len(rows) == lines
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        good, rows = False, []
    if not good:
        raise DataError(f"{path}: not the {lines} captions written there; remove it and run again")
    return rows
