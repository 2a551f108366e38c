"""check: does a model compute here what it computed where it was made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from echoic.cli.common import (
    CpuThreads,
    JsonOption,
    ModelArgument,
    emit,
    open_model,
    plain_table,
    show,
    use_cpu,
    wrong,
)
from echoic.cli.models import source_lines

if TYPE_CHECKING:
    from echoic.convert.check import Check


def add_to(app: typer.Typer, panel: str) -> None:
    app.command(rich_help_panel=panel, epilog="Example: echoic check runs/demo")(check)


def check(
    model: ModelArgument = None, as_json: JsonOption = False, cpu_threads: CpuThreads = None
) -> None:
    """Prove that a model computes here what it computed where it was made.

    Compares with vectors stored at export, and shows that a vector hangs on nothing but its input.
    """
    from echoic.convert.check import check as examine

    use_cpu(cpu_threads)
    listener, file = open_model(model)
    result = examine(listener)
    source: dict[str, Any] = listener.card.get("source", {})
    if as_json:
        emit({"model": str(file), "source": source, **result.to_json()})
    else:
        _tell(file, source, result)
    if not result.ok:
        off = [finding.name for finding in result.findings if not finding.ok]
        raise wrong(f"{file}: not in order: {'; '.join(off)}")


def _tell(file: Path, source: dict[str, Any], result: Check) -> None:
    front = result.front_end
    print(f"model        {file}")
    for line in source_lines(source):
        print(line)
    print(f"tensors      {result.tensors}, {result.parameters} parameters, all loaded")
    mel = f"{front['mel_bins']} mel bins, hop {front['hop_samples']} samples"
    print(f"front end    {front['rate_hz']} Hz, {mel}")
    print(f"space        {result.space_id}")
    if not result.stored:
        print(
            "stored       no self-test in this file: nothing to compare with, the rest is checked"
        )
    table = plain_table("check", "difference", "allowed", "result", right=["difference", "allowed"])
    for finding in result.findings:
        gap = "" if finding.difference is None else f"{finding.difference:.1e}"
        allowed = "" if finding.difference is None else f"{finding.tolerance:.0e}"
        table.add_row(finding.name, gap, allowed, "ok" if finding.ok else "NOT OK")
    show(table)
