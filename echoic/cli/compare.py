"""compare: is one model better than another, by what echoic eval kept of both."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from echoic.cli.common import JsonOption, emit, show
from echoic.cli.measure import PANEL


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel=PANEL, epilog="Example: echoic compare a.json b.json")(compare)


def compare(
    a: Annotated[Path, typer.Argument(help="What echoic eval --save wrote of model A.")],
    b: Annotated[Path, typer.Argument(help="Of model B, measured on the same clips.")],
    any_protocol: Annotated[
        bool,
        typer.Option(
            "--any-protocol",
            help="Compare though the two were measured in different ways, and say how they differ.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare two models on the same clips: differences, their intervals, and how likely so large
    a one is by chance.

    Intervals and p are over clips. They say nothing of other trainings of the same recipe.
    """
    from echoic.eval.comparison import compare_results
    from echoic.eval.outcomes import read_result

    found = compare_results(read_result(a), read_result(b), any_protocol=any_protocol)
    emit(found.to_json()) if as_json else show(found.table())
