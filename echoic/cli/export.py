"""export: a model for runtimes other than echoic."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from echoic.cli.common import JsonOption, TokenizerOption, emit, say, wrong

PANEL = "Use a model"


class Part(StrEnum):
    audio = "audio"
    text = "text"


class Form(StrEnum):
    onnx = "onnx"
    torch = "torch"


def add_to(app: typer.Typer) -> None:
    example = "Example: echoic export runs/demo exported --int8"
    app.command(rich_help_panel=PANEL, epilog=example)(export)


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model in any form that echoic opens: a path, or a name of echoic models.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder to write.", show_default=False)
    ],
    part: Annotated[
        Part | None,
        typer.Option(help="One side alone.", show_default="all that the model has"),
    ] = None,
    to: Annotated[
        Form, typer.Option(help="ONNX (needs echoic[onnx]), or a program of torch.export.")
    ] = Form.onnx,
    int8: Annotated[
        bool, typer.Option("--int8", help="Also with 8-bit weights, for the CPU.")
    ] = False,
    tokenizer: TokenizerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model, front end included, as graphs that run without echoic: samples or token ids
    in, unit vectors out, of any length. Each is compared with the model before it is kept.
    """
    from echoic.convert.open import open_model, with_tokenizer
    from echoic.export.folder import export as write
    from echoic.hub import find_model

    if out.exists() and not out.is_dir():
        raise wrong(f"{out}: is a file; export writes a folder")
    content = open_model(find_model(model))
    if tokenizer is not None:
        content = with_tokenizer(content, tokenizer)
    both: dict[str, Any] = {"parts": (part.value,) if part else None, "form": to.value}
    found = write(content, out, int8=int8, told=say, **both)
    if as_json:
        files = [
            {"file": str(x.file), "bytes": x.file.stat().st_size, "difference": x.difference}
            for x in found
        ]
        emit({"folder": str(out), "space_id": content.model.space_id(), "files": files})
        return
    for each in found:
        megabytes = each.file.stat().st_size / 1e6
        print(f"{each.file}: {megabytes:.1f} MB, within {each.difference:.1g} of the model")
    print(f"how to run it:  {out / 'README.md'}")
