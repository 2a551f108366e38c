"""--srt and --vtt: where subtitles go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echoic.cli.common import say, writing, wrong

if TYPE_CHECKING:
    from echoic.subtitles import Cue

_HELP = "Write {} here: a file, or of several recordings a folder."
SrtOption = Annotated[
    Path | None,
    typer.Option("--srt", help=_HELP.format("subtitles (SubRip)"), rich_help_panel="Files"),
]
VttOption = Annotated[
    Path | None,
    typer.Option("--vtt", help=_HELP.format("subtitles (WebVTT)"), rich_help_panel="Files"),
]


@dataclass(frozen=True)
class SubtitleFiles:
    """targets: by recording, the kind and path of each file to write."""

    targets: dict[str, list[tuple[str, Path]]]

    @classmethod
    def plan(cls, files: Sequence[str], srt: Path | None, vtt: Path | None) -> SubtitleFiles:
        """Before anything is heard. Raises EchoicError where two recordings would share a file."""
        targets: dict[str, list[tuple[str, Path]]] = {file: [] for file in files}
        taken: dict[Path, str] = {}
        for kind, out in (("srt", srt), ("vtt", vtt)):
            if out is None:
                continue
            folder = len(targets) > 1 or out.is_dir()
            if folder and out.suffix == f".{kind}" and not out.is_dir():
                raise wrong(f"{out}: of several recordings --{kind} needs a folder")
            for file in targets:
                name = "stdin" if file == "-" else Path(file).stem
                path = out / f"{name}.{kind}" if folder else out
                if path in taken:
                    raise wrong(f"{path}: {taken[path]} and {file} would both be written to it")
                taken[path] = file
                targets[file].append((kind, path))
        return cls(targets)

    def write(self, file: str, cues: Sequence[Cue]) -> None:
        """Those of one recording, each whole or not at all. Raises DataError."""
        from echoic.subtitles import FORMATS

        for kind, path in self.targets[file]:
            with writing(path) as beside:
                text = FORMATS[kind](cues)
                beside.write_bytes(text.encode("utf-8", "replace"))
            say(f"{path}: {len(cues)} subtitle{'' if len(cues) == 1 else 's'}")
