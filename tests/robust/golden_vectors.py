"""Vectors that our own small models of every family give, kept in golden_vectors.json.

    python -m tests.robust.golden_vectors           # what changed since they were kept
    python -m tests.robust.golden_vectors --renew   # keeps those of now; say why in CHANGELOG.md

Weights and sounds follow from seeds, so a vector changes with the front end, an encoder, a head,
the reading of texts, or the drawing of weights. Whoever has indexes and caches of vectors must hear
of it. Renewing is a deliberate act: the script prints what it changes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from tests.adapters import families

FILE = Path(__file__).with_suffix(".json")
Vectors = dict[str, dict[str, Tensor]]  # by family and kind
SECONDS = (0.4, 1.3, 2.7)
WITHIN = 1e-4  # of unit vectors: other processors, thread counts and libraries stay below 1e-5


def sounds(family: str) -> list[Tensor]:
    return [families.sounds(family, s, seed=i)[0] for i, s in enumerate(SECONDS)]


def texts(family: str) -> list[str]:
    """In words that the family's own small tokenizer knows."""
    if family == "slap":
        return ["a dog barks", "rain falls on a roof"]
    return ["This is a sound of dog bark .", "rain on the roof"]


def vectors(family: str) -> dict[str, Tensor]:
    """`audio` (3, D), and `text` (2, D) where it reads text."""
    model = families.model(family)
    found = {"audio": model.embed_audio([sound.numpy() for sound in sounds(family)])}
    if model.reads_text:
        found["text"] = model.embed_text(texts(family))
    return found


def kept() -> Vectors:
    tree = json.loads(FILE.read_text())
    return {f: {k: torch.tensor(v) for k, v in each.items()} for f, each in tree.items()}


def changes(old: Vectors, new: Vectors, within: float = WITHIN) -> list[str]:
    """A line for each that differs by more than `within`, came or went."""
    said = []
    for family in sorted(old.keys() | new.keys()):
        for kind in sorted(old.get(family, {}).keys() | new.get(family, {}).keys()):
            was, now = old.get(family, {}).get(kind), new.get(family, {}).get(kind)
            if was is None or now is None:
                said.append(f"{family}, {kind}: {'new' if was is None else 'gone'}")
            elif was.shape != now.shape:
                said.append(f"{family}, {kind}: shape {tuple(was.shape)}, now {tuple(now.shape)}")
            elif (furthest := float((was - now).abs().max())) > within:
                cosine = float((was * now).sum(1).min())
                said.append(f"{family}, {kind}: up to {furthest:.2g}, lowest cosine {cosine:.6f}")
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--renew", action="store_true")
    renew = parser.parse_args().renew
    torch.set_num_threads(1)
    now = {family: vectors(family) for family in families.NAMES}
    said = changes(kept() if FILE.exists() else {}, now)
    print("\n".join(said) or f"no change above {WITHIN:g}")
    if renew and said:
        rounded = {
            family: {
                kind: [[round(x, 7) for x in row] for row in rows.tolist()]
                for kind, rows in each.items()
            }
            for family, each in now.items()
        }
        FILE.write_text(json.dumps(rounded).replace("], [", "],\n[").replace("}, ", "},\n") + "\n")
        print(f"kept in {FILE}")


if __name__ == "__main__":
    main()
