"""demo: the whole way in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from echoic.cli.common import CpuThreads, messages, program, train_on_cpu


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel="Start here", epilog="Example: echoic demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("runs/demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny sizes: shows that all works, learns nothing.")
    ] = False,
    cpu_threads: CpuThreads = None,
) -> None:
    """Make a corpus, pretrain a small model on it, measure it, search sounds with it: some minutes
    on two cores.

    An interrupted demo goes on where it stopped when it is called again.

    """
    from echoic.demo import FULL, QUICK, run_demo

    computing = train_on_cpu(cpu_threads)
    finished = run_demo(
        out,
        QUICK if quick else FULL,
        processes=computing,
        console=messages(),
        program=program(),
    )
    if not finished:
        raise typer.Exit(130)
