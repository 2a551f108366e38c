"""Model cards: what a model is, how it was made, what it reaches, how to load it. Written from the
model file, so that nothing in them has to be remembered.

What only a person knows (the licence, what the model must not be used for) stands there as a line
to fill in, marked `TODO`.
"""

from __future__ import annotations

from typing import Any

from echoic.convert.native import ModelFile
from echoic.model import ModelSpec

_ARCHITECTURES = {"slap": "SLAP", "htsat": "HTSAT", "pann": "PANN", "m2d": "M2D"}
_TEXTS = {
    "none": "none", "small": "a small transformer", "sentence": "vectors of a sentence encoder",
    "hf": "an encoder of transformers", "roberta": "RoBERTa", "bert": "BERT", "bart": "BART",
    "clip": "CLIP's transformer",
}  # fmt: skip


def model_card(content: ModelFile, *, name: str = "this model") -> str:
    """A README.md for the Hub: its front matter, then the card. name: by which it is loaded."""
    reads = content.model.spec.text is not None
    return "\n".join([
        *_front_matter(content), "", f"# {name}", "",
        f"A model of sound{' and language' if reads else ''} made with "
        "[echoic](https://pypi.org/project/echoic/).", "",
        "## What it is", "", *_table(described(content)), "",
        "## How it was made", "", *_table(made(content.card)), "",
        "## Figures", "", *_figures(content.card),
        "## How to use it", "", *_usage(content.model.spec, name), "",
        "## Licence and limits", "",
        "TODO: the licence of these weights, and of the data they were trained on.", "",
        "TODO: what the model is for, and what it must not be used for. Scores are cosines of one "
        "model: they cannot be compared with another's.", "",
    ])  # fmt: skip


def described(content: ModelFile) -> dict[str, str]:
    """What a model is, for a table."""
    spec, model = content.model.spec, content.model
    parameters = sum(p.numel() for p in model.parameters())
    front = spec.front_end
    return {
        "audio encoder": f"{_ARCHITECTURES[spec.audio.kind]}, heard at {front.rate_hz} Hz, "
        f"{front.mel_bins} mel bins, up to {spec.max_s:g} s at once",
        "text encoder": _TEXTS.get(spec.text_kind, spec.text_kind),
        "captions": "yes" if spec.decoder else "no",
        "vectors": f"{spec.embed_dim} wide, of length 1",
        "parameters": f"{parameters:,}",
        "space": f"`{model.space_id()}` (compare only vectors of one space)",
    }


def made(card: dict[str, Any]) -> dict[str, str]:
    """How a model was made, for a table; a row to fill in where its file does not say."""
    source = card.get("source", {})
    rows = {
        "recipe": card.get("recipe"),
        "paper": card.get("paper"),
        "converted from": source.get("file"),
        "clips": card.get("clips"),
        "hours": card.get("hours"),
        "steps": card.get("steps"),
        "torch": card.get("torch"),
    }
    known = {name: str(value) for name, value in rows.items() if value is not None}
    return known | {"data": "TODO: which recordings and captions, and where they come from"}


def _front_matter(content: ModelFile) -> list[str]:
    text = content.model.spec.text is not None
    tags = ["audio", "echoic", content.model.spec.audio.kind]
    return [
        "---", "library_name: echoic", "license: unknown",
        f"pipeline_tag: {'zero-shot-audio-classification' if text else 'feature-extraction'}",
        "tags:", *(f"- {tag}" for tag in tags), "---",
    ]  # fmt: skip


def _table(rows: dict[str, str]) -> list[str]:
    return ["| | |", "| --- | --- |", *(f"| {a} | {b} |" for a, b in rows.items())]


def _figures(card: dict[str, Any]) -> list[str]:
    found = {n: v for n, v in card.get("metrics", {}).items() if isinstance(v, int | float)}
    if not found:
        return ["TODO: none are in its file; `echoic eval` measures them.", ""]
    rows = {name: f"{value:.3f}" for name, value in found.items()}
    return ["On clips held out of its training (shares of 1):", "", *_table(rows), ""]


def _usage(spec: ModelSpec, name: str) -> list[str]:
    lines = ["```python", "import echoic", "", f'model = echoic.load("{name}")',
             'sounds = model.embed_audio(["rain.wav"])  # (1, D)']  # fmt: skip
    if spec.text is not None:
        lines += [
            'texts = model.embed_text(["rain on a roof"])',
            'model.classify("rain.wav", ["rain", "dog bark"]).top()',
        ]
    return [*lines, "```"]
