"""eval --data: a model measured on captioned sound of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from echoic.cli.common import TableOptions, wrong
from echoic.cli.telling import Telling, refuse_bad

if TYPE_CHECKING:
    from echoic.api import EchoicModel
    from echoic.data.clips import Source
    from echoic.embeddings import VectorCache
    from echoic.eval.prompts import Prompts
    from echoic.eval.retrieval import Map10


@dataclass(frozen=True)
class OwnSound:
    """The options, as given."""

    data: Path | None
    table: TableOptions
    valid_share: float | None
    template: str | None
    map10: Map10 | None
    captions: bool

    def choices(self) -> dict[str, object]:
        """Options that are of use here alone."""
        named: dict[str, object] = {
            "--valid-share": self.valid_share,
            "--template": self.template,
            "--map10": self.map10,
        }
        return named | {word: word for word in self.table.words() if word.startswith("--")}

    def prompts(self) -> Prompts:
        """Raises EchoicError."""
        from echoic.eval.prompts import find_prompts
        from echoic.eval.zeroshot import LAION_TEMPLATE

        found = find_prompts(self.template or LAION_TEMPLATE)
        if found.wording:
            raise wrong(f"eval: --template {self.template} words its labels: ask for it by --task")
        return found

    def check(self) -> None:
        """Before a model is opened. Raises EchoicError."""
        if self.data is None:
            raise wrong("eval: give --data PATH, --suite NAME (as --suite quick), or --task NAME")
        self.prompts()

    def open(self) -> tuple[Source, str]:
        """The clips and what to call them. Raises EchoicError."""
        from echoic.data.split import hold_out

        assert self.data is not None
        source = self.table.open(self.data)
        if self.valid_share is None:
            return source, str(self.data)
        _, held = hold_out(source, self.valid_share)
        if held is None:
            clips = len(source.clips)
            raise wrong(f"{self.data}: {self.valid_share:g} of {clips} clips holds none out")
        return held, f"{self.data}, {self.valid_share:g} held out"


def measure(
    model: EchoicModel, sound: OwnSound, telling: Telling, cache: VectorCache | None
) -> None:
    """Raises EchoicError, at the end, where clips could not be heard."""
    from echoic.encoders.generation import Beam
    from echoic.evaluate import evaluate
    from echoic.judges import available_judges

    model.require_text()  # where there is none, that is told before hours of listening
    prompts, (source, name) = sound.prompts(), sound.open()
    writes = sound.captions and model.network.decoder is not None
    found = evaluate(
        model,
        source,
        name=name,
        template=prompts.template,
        labels=prompts.labels,
        map10=sound.map10 or "sorted",
        captions=Beam() if writes else None,
        judges=available_judges() if writes else None,
        cache=cache,
    )
    telling.tell(found)
    refuse_bad(len(found.data["bad"]))
