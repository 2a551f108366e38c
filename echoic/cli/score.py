"""data score: how well captions fit their sounds, by a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echoic.cli.common import (
    AudioDir,
    CaptionColumn,
    CpuThreads,
    FileColumn,
    JsonOption,
    Missing,
    MissingOption,
    ModelOption,
    TableOptions,
    TagColumn,
    emit,
    open_model,
    say,
    told_now_and_then,
    use_cpu,
)

if TYPE_CHECKING:
    import numpy as np

    from echoic.api import EchoicModel


class Cosine:
    """The cosine of a clip's and a caption's vector."""

    def __init__(self, model: EchoicModel) -> None:
        self._model = model
        self.name, self.rate_hz = f"cosine in {model.space_id}", model.rate_hz

    def __call__(
        self, waves: Sequence[np.ndarray], captions: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        sounds = self._model.embed_audio(list(waves))
        texts = self._model.embed_text([text for each in captions for text in each])
        parts = texts.split([len(each) for each in captions])
        return [(part @ sound).tolist() for part, sound in zip(parts, sounds, strict=True)]


def score(
    source: Annotated[
        Path,
        typer.Argument(
            help="Captioned sound, in any form that echoic train --data takes.", show_default=False
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="The folder of the scores; of a run that was stopped, to go on.",
            show_default=False,
        ),
    ],
    model: ModelOption = None,
    batch: Annotated[int, typer.Option(min=1, help="Clips at once.")] = 32,
    cpu_threads: CpuThreads = None,
    as_json: JsonOption = False,
    audio_dir: AudioDir = None,
    file_column: FileColumn = None,
    caption_column: CaptionColumn = None,
    tag_column: TagColumn = None,
    missing: MissingOption = Missing.error,
) -> None:
    """Score every caption by how well it fits its sound (the CLAP score), for
    `echoic data shards --scores`.

    Whatever stops it, the same command goes on.
    """
    from echoic.data.scores import write_scores

    use_cpu(cpu_threads)
    opened, _ = open_model(model)
    opened.require_text()
    table = TableOptions(audio_dir, file_column, caption_column, tag_column, missing)
    clips = table.open(source)
    summary = write_scores(
        clips, Cosine(opened), out, batch=batch, progress=told_now_and_then("clips")
    )
    if as_json:
        emit({**vars(summary), "folder": str(summary.folder)})
        return
    print(f"{summary.folder}: {summary.captions} captions of {summary.clips} clips scored")
    print(f"mean      {summary.mean:.3f}")
    if summary.bad:
        say(f"{len(summary.bad)} clips could not be heard; the filter leaves them out")
    say(f"to pack what fits: echoic data shards {source} OUT --scores {summary.folder}")
