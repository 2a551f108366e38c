"""What the ablation of SLAP tells: means over seeds, differences seed by seed, and their tables
beside the paper's Table 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.output import show
from benchmarks.slap_measures import CAPTIONING, Figures
from echoic.recipes.slap import ABLATION

Row = list[Figures]  # of one variant, by seed
Columns = Mapping[str, str]  # heading -> measure
PAPER = "paper R@1"
OF_RETRIEVAL = {
    f"{way} {at}": f"{direction}_{at}"
    for way, direction in (("T2A", "text_to_audio"), ("A2T", "audio_to_text"))
    for at in ("R@1", "R@10", "mAP@10")
}
OF_CAPTIONS = dict(zip(("CIDEr-D", "BLEU-4", "ROUGE-L"), CAPTIONING, strict=True))
OF_NEAREST = {f"tags: {heading}": f"nearest_tags_{name}" for heading, name in OF_CAPTIONS.items()}
OVERALL = {"zero-shot": "zero_shot", "probe": "probe"} | OF_CAPTIONS


def summary(rows: Mapping[str, Row]) -> Figures:
    """`row_measure`: mean over seeds, and with `_std` their deviation. `full_minus_row_measure`:
    the same of the differences seed by seed."""
    found: Figures = {}
    full = _columns(rows.get("full", []))
    for row, by_seed in rows.items():
        for measure, values in _columns(by_seed).items():
            found |= _mean(f"{row}_{measure}", values)
            if row not in ("full", "untrained") and measure in full and _judged(measure):
                found |= _mean(f"full_minus_{row}_{measure}", full[measure] - values)
    return found


def _columns(by_seed: Row) -> dict[str, np.ndarray]:
    """The figures that every seed has."""
    names = [name for name in (by_seed or [{}])[0] if all(name in each for each in by_seed)]
    return {name: np.array([each[name] for each in by_seed]) for name in names}


def _judged(measure: str) -> bool:
    """Whether it says how good a model is."""
    return measure != "train_s" and not measure.startswith("nearest_tags")


def _mean(name: str, values: np.ndarray) -> Figures:
    spread = {f"{name}_std": float(values.std())} if len(values) > 1 else {}
    return {name: float(values.mean()), **spread}


def tell(figures: Figures, rows: Sequence[str], sets: Sequence[str], told: str) -> None:
    """Tables of `summary` and `caption_baselines`: of every row, and of what each part is worth.
    sets: the names of those that are classified. told: of the study, for the titles."""
    paper = {row: "{} / {}".format(*shares) for row, shares in ABLATION.items()}
    values: tuple[tuple[str, Columns, Mapping[str, str]], ...] = (
        ("retrieval, per cent", OF_RETRIEVAL, paper),
        ("zero-shot accuracy, per cent", _of_sets("zero_shot", sets), {}),
        ("linear probe's accuracy, per cent", _of_sets("probe", sets), {}),
        (
            "captions x 100, and those of the nearest tags that it tells",
            OF_CAPTIONS | OF_NEAREST,
            {},
        ),
    )
    for title, columns, beside in values:
        _table(f"SLAP, {told}: {title}", figures, "", rows, columns, beside)
    for name in ("most_frequent", "known_tags"):
        scores = (f"{100 * figures[f'{name}_{measure}']:.1f}" for measure in CAPTIONING)
        print(f"captions x 100 of {name.replace('_', ' ')}:", ", ".join(scores))
    parts = [row for row in rows if row not in ("full", "untrained")]
    if "full" not in rows or not parts:
        return
    gains = {
        row: " / ".join(f"{a - b:+.1f}" for a, b in zip(ABLATION["full"], shares, strict=True))
        for row, shares in ABLATION.items()
    }
    title = f"SLAP, {told}: full less the variant, seed by seed, in points"
    _table(title, figures, "full_minus_", parts, OF_RETRIEVAL, gains)
    _table(title, figures, "full_minus_", parts, OVERALL, {})


def _of_sets(measure: str, names: Sequence[str]) -> Columns:
    return {name: f"{measure}_{name}" for name in names} | {"mean": measure}


def _table(
    title: str,
    figures: Figures,
    prefix: str,
    rows: Sequence[str],
    columns: Columns,
    paper: Mapping[str, str],
) -> None:
    def cell(name: str) -> str:
        if name not in figures:
            return ""
        mean = f"{100 * figures[name]:{'+' if prefix else ''}.1f}"
        return mean + (f" ± {100 * figures[f'{name}_std']:.1f}" if f"{name}_std" in figures else "")

    cells = {row: [cell(f"{prefix}{row}_{name}") for name in columns.values()] for row in rows}
    if paper:
        cells = {row: [*own, paper.get(row, "")] for row, own in cells.items()}
    show(
        title, ("", *columns, *([PAPER] if paper else [])), [(r, *own) for r, own in cells.items()]
    )
