"""Where what was measured goes: a table or JSON on stdout, a report, a result file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from echoic.cli.common import emit, say, show, wrong

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from echoic.eval.outcomes import Outcomes


class Found(Protocol):
    """An `Evaluation` or a `SuiteResult`."""

    def to_json(self) -> dict[str, Any]: ...
    def table(self) -> Table: ...
    def write_report(self, path: Path, *, run_folder: Path | None = None) -> Path: ...
    def outcomes(self) -> Sequence[Outcomes]: ...


@dataclass(frozen=True)
class Telling:
    """run_folder: of the model's training, for its loss curves."""

    as_json: bool
    report: Path | None
    save: Path | None
    run_folder: Path

    def tell(self, found: Found) -> None:
        """All that is wanted of it. Raises EchoicError."""
        emit(found.to_json()) if self.as_json else show(found.table())
        self.keep(found)

    def keep(self, found: Found) -> None:
        """The files. Raises EchoicError."""
        from echoic.eval.outcomes import write_result

        if self.report is not None:
            say(f"report: {found.write_report(self.report, run_folder=self.run_folder)}")
        if self.save is not None:
            say(f"saved: {write_result(self.save, found)}")


def refuse_bad(count: int) -> None:
    """Raises EchoicError where clips could not be heard."""
    if count:
        raise wrong(f"{count} clips could not be used (named above); the rest is measured")
