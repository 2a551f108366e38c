"""How well captions fit their sounds, by a model that has both in one space (the CLAP score):
computed once, by a run that can be killed, and used to leave out what fits badly.

folder
  scores.json        of which model and which clips
  part-000000.jsonl  a line per clip, {key, captions, scores} or {key, bad}; whole when it is there
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from echoic.config import parse_json
from echoic.data.clips import Clip, RetoldSource, Source, SubsetSource, heard_or_noted
from echoic.data.files import made_folder, write_whole
from echoic.types import DataError

MANIFEST = "scores.json"
_VERSION = 1


class Score(Protocol):
    """How well texts fit sounds. name: all that the scores depend on."""

    @property
    def name(self) -> str: ...

    @property
    def rate_hz(self) -> int: ...

    def __call__(
        self, waves: Sequence[np.ndarray], captions: Sequence[Sequence[str]]
    ) -> Sequence[Sequence[float]]:
        """Clips (T,) and the captions of each -> a number for each caption, such as a cosine."""
        ...


@dataclass(frozen=True)
class ScoreSummary:
    """captions: with a score. bad: clip key -> reason, for those that cannot be heard."""

    folder: Path
    clips: int
    captions: int
    mean: float
    bad: dict[str, str]


def write_scores(
    source: Source,
    score: Score,
    out: str | os.PathLike[str],
    *,
    batch: int = 32,
    per_file: int = 1024,
    progress: Callable[[int, int], None] | None = None,
) -> ScoreSummary:
    """Score every caption, going on where an earlier run stopped. Raises DataError where `out`
    holds something else, or scores of another model or of other captions."""
    clips = source.clips
    folder, empty = made_folder(out)
    made = {
        "version": _VERSION,
        "model": score.name,
        "per_file": per_file,
        "clips": len(clips),
        "sha256": _fingerprint(clips),
    }
    if empty:
        write_whole(folder / MANIFEST, json.dumps(made, indent=1))
    elif _manifest(folder) != made:
        raise DataError(
            f"{folder}: holds scores of another model or of other captions; name another folder, "
            "or remove this one"
        )
    for first in range(0, len(clips), per_file):
        path = folder / _part(first // per_file)
        stop = min(first + per_file, len(clips))
        if not path.exists():
            lines = _scored(source, score, range(first, stop), batch)
            write_whole(path, "".join(json.dumps(line) + "\n" for line in lines))
        if progress is not None:
            progress(stop, len(clips))
    rows = list(_rows(folder))
    scores = [s for row in rows for s in row.get("scores", ())]
    return ScoreSummary(
        folder,
        len(clips),
        len(scores),
        float(np.mean(scores)) if scores else 0.0,
        {row["key"]: row["bad"] for row in rows if "bad" in row},
    )


def _fingerprint(clips: Sequence[Clip]) -> str:
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(json.dumps([clip.key, clip.captions]).encode())
    return digest.hexdigest()


def _part(number: int) -> str:
    return f"part-{number:06d}.jsonl"


def _scored(source: Source, score: Score, span: range, batch: int) -> Iterator[dict[str, Any]]:
    for at in range(span.start, span.stop, batch):
        bad: dict[str, str] = {}
        some = range(at, min(at + batch, span.stop))
        heard = [(i, heard_or_noted(source, i, score.rate_hz, bad)) for i in some]
        good = [(i, wave) for i, wave in heard if wave is not None]
        captions = [source.clips[i].captions for i, _ in good]
        found = score([wave for _, wave in good], captions) if good else []
        of = dict(zip((i for i, _ in good), found, strict=True))
        for i in some:
            clip = source.clips[i]
            if i not in of:
                yield {"key": clip.key, "bad": bad[clip.key]}
                continue
            scores = [round(float(s), 4) for s in of[i]]
            yield {"key": clip.key, "captions": clip.captions, "scores": scores}


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        tree = parse_json((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        raise DataError(f"{folder}: holds no readable {MANIFEST}, so no scores") from None
    if not isinstance(tree, dict) or "per_file" not in tree:
        raise DataError(f"{folder}: {MANIFEST} was not written by echoic data score")
    return tree


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    made = _manifest(folder)
    files = -(-made["clips"] // made["per_file"])
    for number in range(files):
        path = folder / _part(number)
        try:
            yield from map(parse_json, path.read_text("utf-8").splitlines())
        except FileNotFoundError:
            raise DataError(
                f"{folder}: unfinished, {path.name} is not there; run echoic data score again"
            ) from None
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({error}); remove it, score again") from None


def well_fitting(
    source: Source, folder: str | os.PathLike[str], least: float
) -> tuple[Source, str]:
    """The source without captions of a score below `least`, and without clips that have none left
    or could not be heard; and what was left out, in words. Raises DataError where a caption has no
    score, or nothing is left."""
    rows = _rows(Path(folder))
    scores = {
        row["key"]: dict(zip(row.get("captions", ()), row.get("scores", ()), strict=True))
        for row in rows
    }
    clips = []
    for clip in source.clips:
        own = scores.get(clip.key)
        if own is None or (own and any(text not in own for text in clip.captions)):
            raise DataError(f"{folder}: no score of the captions of clip {clip.key}")
        fitting = tuple(text for text in clip.captions if own.get(text, -np.inf) >= least)
        clips.append(replace(clip, captions=fitting))
    before, after = (sum(len(c.captions) for c in some) for some in (source.clips, clips))
    left = [i for i, clip in enumerate(clips) if clip.captions]
    told = (
        f"{before - after} of {before} captions fit worse than {least:g}; "
        f"{len(clips) - len(left)} of {len(clips)} clips have none left"
    )
    if not left:
        raise DataError(f"nothing is left: {told}")
    return SubsetSource(RetoldSource(source, clips), left), told
