"""Does a model file still compute on this machine what it computed where it was made?

At export the vectors of two fixed sounds and two fixed texts are stored in the model's card
(`self_test`); `check` computes them anew, and shows that a vector depends on nothing but its input.
The sounds are made by formula: a gated chirp, and noise of the raw bits of a generator.

T samples, D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from echoic.convert.reference import reference_gaps, uniform
from echoic.encoders.htsat import HtsatSpec
from echoic.encoders.pann import PannSpec
from echoic.model import LanguageAudioModel

CARD_KEY = "self_test"
STORED_TOLERANCE = 1e-4  # other machines sum in another order
BATCH_TOLERANCE = 1e-5
TEXTS = ("a dog barks twice in the distance", "rain falls on a tin roof, and then a bell rings")
TOKEN_IDS = ((0, 11, 12, 13, 2), (0, 30, 20, 10, 40, 50, 2))  # where no tokenizer came along


class Embedder(Protocol):
    """What is tested: `api.EchoicModel`, which this module must not import."""

    network: LanguageAudioModel
    card: dict[str, Any]

    @property
    def rate_hz(self) -> int: ...
    @property
    def space_id(self) -> str: ...
    def embed_audio(self, items: Any, /) -> Tensor: ...
    @property
    def reads(self) -> str: ...
    def embed_text(self, texts: Any, /) -> Tensor: ...
    def embed_tokens(self, ids: Tensor, mask: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class SelfTest:
    """Vectors (D,) by the name of their input, and the space that they lie in."""

    space_id: str
    vectors: Mapping[str, Sequence[float]]

    def to_json(self) -> dict[str, Any]:
        rounded = {name: [round(x, 7) for x in row] for name, row in self.vectors.items()}
        return {"space_id": self.space_id, "vectors": rounded}

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> SelfTest | None:
        """What the card holds; None where it holds none."""
        stored = card.get(CARD_KEY)
        if not isinstance(stored, Mapping) or "vectors" not in stored:
            return None
        return cls(str(stored.get("space_id", "")), stored["vectors"])


@dataclass(frozen=True)
class Finding:
    """One thing looked at: the largest difference (None where none can be told), and whether it is
    in order.
    """

    name: str
    difference: float | None
    tolerance: float
    ok: bool

    def to_json(self) -> dict[str, Any]:
        """difference is null where it is infinite: JSON has no infinity."""
        finite = self.difference is not None and np.isfinite(self.difference)
        return {**vars(self), "difference": self.difference if finite else None}


@dataclass(frozen=True)
class Check:
    """What `check` found. stored: whether the model brought vectors to compare with."""

    tensors: int
    parameters: int
    front_end: dict[str, Any]
    space_id: str
    stored: bool
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "tensors": self.tensors,
            "parameters": self.parameters,
            "front_end": self.front_end,
            "space_id": self.space_id,
            "stored": self.stored,
            "findings": [finding.to_json() for finding in self.findings],
        }


def fixed_sounds(rate_hz: int) -> dict[str, np.ndarray]:
    """Two sounds (T,) float32 of different lengths, the same for ever at one rate."""
    time_s = np.arange(round(2.0 * rate_hz)) / rate_hz
    swept_hz = 200.0 + 900.0 * time_s
    gate = (time_s % 0.5) < 0.3
    chirp = 0.4 * gate * np.sin(2 * np.pi * swept_hz * time_s)
    noise = 0.2 * uniform(20_260_112, round(1.3 * rate_hz))
    return {"chirp": chirp.astype(np.float32), "noise": noise.astype(np.float32)}


def self_test(model: Embedder) -> SelfTest:
    """The vectors of the fixed sounds and texts."""
    sounds = fixed_sounds(model.rate_hz)
    audio = model.embed_audio(list(sounds.values()))
    texts = _texts(model)
    rows = audio.tolist() + (_read(model, list(texts.values())).tolist() if texts else [])
    names = [f"audio: {name}" for name in sounds] + list(texts)
    return SelfTest(model.space_id, dict(zip(names, rows, strict=True)))


def check(model: Embedder) -> Check:
    """Compute the self-test anew and hold it against the stored one, a second call, and single
    items.
    """
    stored = SelfTest.from_card(model.card)
    finite = _finite(model.network.state_dict())
    findings = [finite, *(_compared(model, stored) if finite.ok else ())]
    return Check(
        tensors=len(model.network.state_dict()),
        parameters=sum(p.numel() for p in model.network.parameters()),
        front_end=model.network.spec.front_end.model_dump(mode="json"),
        space_id=model.space_id,
        stored=stored is not None,
        findings=tuple(findings),
    )


def _compared(model: Embedder, stored: SelfTest | None) -> list[Finding]:
    """Its vectors: with those of a second call, of single items, of its file."""
    now = self_test(model)
    findings = [_difference("repeated", now, self_test(model), tolerance=0.0)]
    findings.append(_difference("alone against in a batch", now, _alone(model), BATCH_TOLERANCE))
    findings += [
        Finding(
            f"reference program, small CLAP {name}", gap, STORED_TOLERANCE, gap <= STORED_TOLERANCE
        )
        for name, gap in reference_gaps().items()
        if isinstance(model.network.spec.audio, HtsatSpec | PannSpec)
    ]
    if stored is not None:
        same = stored.space_id == now.space_id
        findings.append(Finding(f"space id as exported ({stored.space_id})", None, 0.0, same))
        if not _texts(model):
            stored, left_out = _sounds_of(stored)
            findings += left_out
        findings += _against_stored(stored, now)
    return findings


def _texts(model: Embedder) -> dict[str, Any]:
    """The fixed texts by their names; as token ids for a model without tokenizer; none for one that
    reads nothing."""
    if model.reads == "words":
        return {f"text: {text}": text for text in TEXTS}
    if model.reads == "nothing":
        return {}
    return {f"tokens: {' '.join(map(str, ids))}": ids for ids in TOKEN_IDS}


def _read(model: Embedder, texts: Sequence[Any]) -> Tensor:
    """(B, D) of some of the fixed texts."""
    if model.reads == "words":
        return model.embed_text(texts)
    rows = [torch.tensor(ids) for ids in texts]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return model.embed_tokens(ids, mask)


def _alone(model: Embedder) -> SelfTest:
    sounds = fixed_sounds(model.rate_hz)
    rows = {
        f"audio: {name}": model.embed_audio([wave])[0].tolist() for name, wave in sounds.items()
    }
    rows |= {name: _read(model, [text])[0].tolist() for name, text in _texts(model).items()}
    return SelfTest(model.space_id, rows)


def _finite(weights: Mapping[str, Tensor]) -> Finding:
    """Vectors of others would be refused: `embed_audio` raises."""
    spoilt = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if not spoilt:
        return Finding("all weights finite", None, 0.0, True)
    more = f" and {len(spoilt) - 1} more" if len(spoilt) > 1 else ""
    return Finding(f"weights hold NaN or infinity: {spoilt[0]}{more}", None, 0.0, False)


def _difference(name: str, a: SelfTest, b: SelfTest, tolerance: float) -> Finding:
    largest = max(_gap(a.vectors[key], b.vectors[key]) for key in a.vectors)
    return Finding(name, largest, tolerance, largest <= tolerance)


def _sounds_of(stored: SelfTest) -> tuple[SelfTest, list[Finding]]:
    """Without its texts, where a model needs a sentence encoder for those that is not here; and a
    line that says so."""
    sounds = {name: row for name, row in stored.vectors.items() if not name.startswith("text: ")}
    told = Finding("texts not compared, their sentence encoder is not here", None, 0.0, True)
    return SelfTest(stored.space_id, sounds), [told] * (len(sounds) < len(stored.vectors))


def _against_stored(stored: SelfTest, now: SelfTest) -> list[Finding]:
    """One finding per stored vector; one that this version doesn't compute any more is not in
    order.
    """
    found = []
    for name, vector in stored.vectors.items():
        gap = _gap(vector, now.vectors[name]) if name in now.vectors else np.inf
        found.append(
            Finding(f"{name}, as exported", gap, STORED_TOLERANCE, gap <= STORED_TOLERANCE)
        )
    return found


def _gap(a: Sequence[float], b: Sequence[float]) -> float:
    """Largest difference; infinite where lengths differ or a value is not finite."""
    if len(a) != len(b):
        return float("inf")
    gap = float(np.abs(np.subtract(a, b)).max())
    return gap if np.isfinite(gap) else float("inf")
