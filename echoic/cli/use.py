"""embed, classify: a model at work on files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echoic.cli.common import (
    CpuThreads,
    JsonOption,
    LongOption,
    ModelOption,
    Precision,
    PrecisionOption,
    TextEncoderOption,
    TokenizerOption,
    emit,
    open_model,
    plain_table,
    say,
    show,
    use_cpu,
    writing,
    wrong,
)

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table
    from torch import Tensor

    from echoic.api import EchoicModel

PANEL = "Use a model"

Sounds = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILES|FOLDERS", help="Recordings, or folders of them.", show_default=False
    ),
]

LabelsOption = Annotated[
    str | None,
    typer.Option(
        "--labels",
        help='What to choose among, parted by commas: "rain,dog bark".',
        show_default=False,
    ),
]
LabelsFileOption = Annotated[
    Path | None,
    typer.Option(
        "--labels-file", help="The same from a text file, one per line.", show_default=False
    ),
]
TemplateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--template",
        help="The sentence that a label is put into; may be repeated, for a mean of several.",
        show_default="This is a sound of {label}.",
    ),
]


def add_to(app: typer.Typer) -> None:
    example = "Example: echoic embed field-recordings/ --out vectors.npz"
    app.command(rich_help_panel=PANEL, epilog=example)(embed)
    example = 'Example: echoic classify dog.wav --labels "rain,dog bark,church bell"'
    app.command(rich_help_panel=PANEL, epilog=example)(classify)


def embed(
    sounds: Sounds,
    model: ModelOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Write the vectors here: .npz or .json.", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
    long: LongOption = None,
    precision: PrecisionOption = Precision.fp32,
    cpu_threads: CpuThreads = None,
) -> None:
    """Turn recordings into vectors.

    Recordings of any length are heard in full. A file that cannot be heard is named and left out,
    the rest is done.
    """
    if out is not None and out.suffix not in (".npz", ".json"):
        raise wrong(f"{out}: --out writes .npz or .json")
    use_cpu(cpu_threads)
    listener, _ = open_model(model, long=long, precision=precision)
    heard = hear_files(listener, sounds)
    document = {
        "space_id": listener.space_id,
        "dim": listener.embed_dim,
        "vectors": [
            {"file": str(file), "vector": row}
            for file, row in zip(heard.files, heard.vectors.tolist(), strict=True)
        ],
        "errors": heard.errors,
    }
    if out is not None and (heard.files or not heard.errors):  # an older file is better than none
        _write_vectors(out, heard, listener.space_id, document)
        say(f"{len(heard.files)} vectors of {listener.embed_dim} values written to {out}")
    if as_json:
        emit(document)
    elif out is None:
        table = plain_table("file", "first values of the vector")
        for file, row in zip(heard.files, heard.vectors.tolist(), strict=True):
            table.add_row(str(file), "  ".join(f"{value:+.3f}" for value in row[:6]) + "  ...")
        show(table)
        say("to keep the vectors: --out vectors.npz")
    heard.finish()


def classify(
    sounds: Sounds,
    model: ModelOption = None,
    labels: LabelsOption = None,
    labels_file: LabelsFileOption = None,
    template: TemplateOption = None,
    top: Annotated[int, typer.Option(min=1, help="How many labels to show per file.")] = 5,
    as_json: JsonOption = False,
    tokenizer: TokenizerOption = None,
    text_encoder: TextEncoderOption = None,
    long: LongOption = None,
    precision: PrecisionOption = Precision.fp32,
    cpu_threads: CpuThreads = None,
) -> None:
    """Name what is heard, from labels of your own (zero-shot classification).

    The figures are probabilities among the given labels: one of them is always the likeliest.
    """
    chosen = chosen_labels("classify", labels, labels_file)
    from echoic.eval.zeroshot import LAION_TEMPLATE, prompt

    for sentence in template or ():
        prompt(sentence, chosen[0])  # a wrong one is told before hours of listening
    use_cpu(cpu_threads)
    listener, _ = open_model(
        model, tokenizer=tokenizer, text_encoder=text_encoder, long=long, precision=precision
    )
    listener.require_text()  # where there is none, that is told before hours of listening
    heard = hear_files(listener, sounds)
    scores = listener.score_labels(heard.vectors, chosen, templates=template or LAION_TEMPLATE)
    rows = list(zip(heard.files, scores.top(top), strict=True))
    if as_json:
        results = [
            {"file": str(file), "labels": [{"label": n, "probability": p} for n, p in best]}
            for file, best in rows
        ]
        emit({"space_id": listener.space_id, "results": results, "errors": heard.errors})
    else:
        table = plain_table("file", "label", "probability", right=["probability"])
        for file, best in rows:
            for place, (name, probability) in enumerate(best):
                table.add_row("" if place else str(file), name, f"{100 * probability:.1f} %")
        show(table)
    heard.finish()


def hits_table(hits: list[tuple[str, float]]) -> Table:
    """Files and their cosines, best first."""
    table = plain_table("place", "cosine", "file", right=["place", "cosine"])
    for place, (file, cosine) in enumerate(hits, start=1):
        table.add_row(str(place), f"{cosine:.3f}", file)
    return table


@dataclass(frozen=True)
class HeardFiles:
    """vectors: (B, D), one row per entry of `files`; errors: what could not be heard."""

    files: list[str]
    vectors: Tensor
    errors: list[dict[str, str]]

    def finish(self) -> None:
        """Raises EchoicError where something was left out."""
        tell_left_out(self.errors, done=len(self.files))


def tell_left_out(errors: list[dict[str, str]], *, done: int) -> None:
    """Name the files that were left out. Raises EchoicError where there are any: the command then
    ends with 2."""
    if not errors:
        return
    bad, total = len(errors), len(errors) + done
    if total == 1:
        raise wrong(f"{errors[0]['file']}: {errors[0]['error']}")
    for entry in errors:
        say(f"left out: {entry['file']}: {entry['error']}")
    raise wrong(f"{bad} of {total} files could not be used (named above); the rest is done")


def hear_files(listener: EchoicModel, given: list[Path]) -> HeardFiles:
    """Embed recordings, folders of them, and vectors already made. Raises EchoicError where there
    is nothing to hear.
    """
    import torch

    from echoic.types import AudioError

    files: list[str] = []
    blocks: list[Tensor] = []
    sounds: list[Path] = []
    for path in given:
        if path.suffix == ".npz":
            names, vectors = _read_vectors(path, listener.space_id)
            files += names
            blocks.append(vectors)
        else:
            sounds += recordings(path)
    errors: dict[int, str] = {}

    def note(index: int, error: AudioError) -> None:
        errors[index] = error.reason

    made = listener.embed_audio(sounds, on_error=note)
    good = [i for i in range(len(sounds)) if i not in errors]
    files += [str(sounds[i]) for i in good]
    blocks.append(made[good] if good else torch.zeros(0, listener.embed_dim))
    bad = [{"file": str(sounds[i]), "error": errors[i]} for i in sorted(errors)]
    return HeardFiles(files, torch.cat(blocks), bad)


def recordings(path: Path) -> Iterator[Path]:
    """The file itself, or what a folder holds; a missing file is told when it is opened."""
    from echoic.data.clips import AUDIO_SUFFIXES

    if not path.is_dir():
        yield path
        return
    found = []
    for where, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(where, name) for name in names if not name.startswith(".")]
    sounds = sorted(file for file in found if file.suffix.lower() in AUDIO_SUFFIXES)
    if not sounds:
        raise wrong(f"{path}: no audio file in this folder")
    yield from sounds


def chosen_labels(command: str, listed: str | None, file: Path | None) -> list[str]:
    """Of --labels or --labels-file, each once. Raises EchoicError."""
    if (listed is None) == (file is None):
        raise wrong(f"{command}: give --labels or --labels-file, one of the two")
    names = (listed or "").split(",") if file is None else _lines_of(file)
    kept = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not kept:
        raise wrong(f"{file or '--labels'}: no label in it")
    if file is None:
        _look_for_files(command, kept)
    return kept


def _lines_of(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8-sig").splitlines()
    except FileNotFoundError:
        raise wrong(f"{file}: no such file") from None
    except OSError as error:
        raise wrong(f"{file}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise wrong(f"{file}: cannot be read ({error})") from None


def _look_for_files(command: str, labels: Sequence[str]) -> None:
    """Tell of a label that is a file's name. Raises EchoicError where there is no other."""
    from echoic.data.files import is_file

    for label in labels:
        if not Path(label).suffix or not is_file(Path(label)):  # a label may well be called "rain"
            continue
        told = f"--labels {label} is a file: did you mean --labels-file {label}?"
        if len(labels) == 1:
            raise wrong(f"{command}: {told}")
        say(f"warning: {told}")
        return


def _write_vectors(path: Path, heard: HeardFiles, space_id: str, document: object) -> None:
    import numpy as np

    with writing(path) as beside, beside.open("wb") as opened:
        if path.suffix == ".npz":
            names = np.array(heard.files, dtype=np.str_)
            np.savez(opened, files=names, vectors=heard.vectors.numpy(), space_id=np.str_(space_id))
        else:
            opened.write(
                json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace")
            )


def _texts(held: np.ndarray) -> list[str]:
    """Raises ValueError on numbers of no character: of these numpy makes strings that nobody can
    print."""
    import numpy as np

    codes = np.frombuffer(held.astype(held.dtype.newbyteorder("=")).tobytes(), np.uint32)
    if held.dtype.kind != "U" or held.ndim != 1 or (codes > sys.maxunicode).any():
        raise ValueError("its names are no texts")
    texts: list[str] = held.tolist()
    return texts


def _read_vectors(path: Path, space_id: str) -> tuple[list[str], Tensor]:
    import numpy as np
    import torch

    from echoic.types import first_line

    try:
        with np.load(path, allow_pickle=False) as stored:
            names, space = _texts(stored["files"]), _texts(stored["space_id"].reshape(1))[0]
            vectors = stored["vectors"]
        if vectors.ndim != 2 or len(names) != len(vectors) or not np.isfinite(vectors).all():
            raise ValueError("its vectors are not finite, or not as many as its names")
    except Exception as error:  # damaged bytes make numpy's reader raise anything
        why = first_line(error)
        raise wrong(f"{path}: not a file of vectors by echoic embed ({why})") from None
    (made, _, made_how), (here, _, here_how) = space.partition("-"), space_id.partition("-")
    if space != space_id and made == here:
        ways = [f"--long {way}" if way else "no --long" for way in (made_how, here_how)]
        raise wrong(
            f"{path}: its vectors are of this model, heard another way ({ways[0]}, here "
            f"{ways[1]}); ask the same way, or embed anew"
        )
    if space != space_id:
        other = f"space {space}, this one's is {space_id}"
        raise wrong(f"{path}: its vectors are of another model ({other}); embed anew")
    return names, torch.from_numpy(vectors)
