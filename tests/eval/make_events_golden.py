"""Writes events_golden.json: random time lines, and what the public programs say of them.

Run in an environment of its own, where they are not needed here (they bring numba, scipy, pandas):

    pip install sed_eval==0.2.1 sed_scores_eval==0.0.4 psds_eval==0.5.3 "numpy<2" "pandas<3"
    python tests/eval/make_events_golden.py tests/eval/events_golden.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import dcase_util
import numpy as np
import pandas as pd
import psds_eval
import sed_eval
from sed_scores_eval import intersection_based
from sed_scores_eval.base_modules.scores import create_score_dataframe

LABELS, STEP_S = ["bell", "dog", "rain"], 0.25
# name: dtc, gtc, cttc, alpha_ct, alpha_st, max_efpr
SCENARIOS = {
    "psds1": (0.7, 0.7, None, 0.0, 1.0, 100.0),
    "psds2": (0.1, 0.1, 0.3, 0.5, 1.0, 100.0),
    "wide": (0.5, 0.5, 0.3, 0.5, 0.0, 2000.0),
}
SIGNAL = {"clear": (0.5, 0.15, 0.5), "noisy": (0.22, 0.2, 0.6)}  # own class, another's, noise


def draw_truth(rng, duration_s):
    rows = []
    for label in LABELS:
        at = rng.uniform(0, 1)
        while True:
            on = at + rng.uniform(0.1, 2.0)
            off = on + rng.uniform(0.15, 3.0)
            if off > duration_s or rng.random() < 0.2:
                break
            rows.append([round(on, 3), round(off, 3), label])
            at = off + 0.05
    return rows


def draw_found(rng, truth, duration_s):
    rows = []
    for on, off, label in truth:
        early, late = rng.normal(0, 0.12, 2)
        if rng.random() < 0.75 and off + late > on + early + 0.05:
            guess = label if rng.random() < 0.85 else LABELS[int(rng.integers(3))]
            rows.append([round(max(0, on + early), 3), round(off + late, 3), guess])
    for _ in range(int(rng.integers(0, 4))):
        on = rng.uniform(0, duration_s - 0.6)
        rows.append([round(on, 3), round(on + 0.5, 3), LABELS[int(rng.integers(3))]])
    return rows


def draw_scores(rng, truth, steps, signal):
    middle = (np.arange(steps) + 0.5) * STEP_S
    active = np.zeros((steps, 3))
    for on, off, label in truth:
        active[(middle >= on) & (middle < off), LABELS.index(label)] = 1
    own, other, noise = signal
    mixed = own * active + other * active[:, [1, 2, 0]] + rng.uniform(0, noise, active.shape)
    return np.round(mixed, 2)


def by_sed_eval(truth, found, durations):
    segment = sed_eval.sound_event.SegmentBasedMetrics(LABELS, time_resolution=1.0)
    event = sed_eval.sound_event.EventBasedMetrics(LABELS, t_collar=0.2, percentage_of_length=0.2)
    for key, duration_s in durations.items():
        both = [
            dcase_util.containers.MetaDataContainer(
                [{"filename": key, "onset": a, "offset": b, "event_label": c} for a, b, c in rows]
            )
            for rows in (truth[key], found[key])
        ]
        segment.evaluate(*both, evaluated_length_seconds=duration_s)
        event.evaluate(*both)
    s, e = segment.results(), event.results()
    return {
        "segment_f1": s["overall"]["f_measure"]["f_measure"],
        "segment_f1_macro": s["class_wise_average"]["f_measure"]["f_measure"],
        "error_rate": s["overall"]["error_rate"]["error_rate"],
        "event_f1": e["overall"]["f_measure"]["f_measure"],
        "event_f1_macro": e["class_wise_average"]["f_measure"]["f_measure"],
        "per_class": {
            label: {
                "segment_f1": s["class_wise"][label]["f_measure"]["f_measure"],
                "event_f1": e["class_wise"][label]["f_measure"]["f_measure"],
            }
            for label in LABELS
        },
    }


def by_sed_scores_eval(truth, scores, durations, scenario):
    dtc, gtc, cttc, alpha_ct, alpha_st, most = scenario
    tables = {
        key: create_score_dataframe(table, np.arange(len(table) + 1) * STEP_S, LABELS)
        for key, table in scores.items()
    }
    events = {key: [tuple(row) for row in rows] for key, rows in truth.items()}
    value, per_class, *_ = intersection_based.psds(
        tables, events, durations, dtc_threshold=dtc, gtc_threshold=gtc, cttc_threshold=cttc,
        alpha_ct=alpha_ct, alpha_st=alpha_st, max_efpr=most, num_jobs=1,
    )  # fmt: skip
    return {"value": value, "per_class": per_class}


def by_psds_eval(truth, scores, durations, scenario):
    """With every score as an operating point."""
    dtc, gtc, cttc, alpha_ct, alpha_st, most = scenario
    rows = [(f"{key}.wav", *row) for key, events in truth.items() for row in events]
    columns = ["filename", "onset", "offset", "event_label"]
    lengths = [(f"{key}.wav", seconds) for key, seconds in durations.items()]
    judge = psds_eval.PSDSEval(
        ground_truth=pd.DataFrame(rows, columns=columns),
        metadata=pd.DataFrame(lengths, columns=["filename", "duration"]),
        dtc_threshold=dtc, gtc_threshold=gtc, cttc_threshold=cttc or 0.3,
    )  # fmt: skip
    for threshold in np.unique(np.concatenate([table.ravel() for table in scores.values()])):
        found = []
        for key, table in scores.items():
            turns = np.diff(np.pad((table >= threshold).astype(int), ((1, 1), (0, 0))), axis=0)
            for i, label in enumerate(LABELS):
                begins, ends = np.flatnonzero(turns[:, i] == 1), np.flatnonzero(turns[:, i] == -1)
                for a, b in zip(begins, ends, strict=True):
                    found.append((f"{key}.wav", a * STEP_S, b * STEP_S, label))
        judge.add_operating_point(pd.DataFrame(found, columns=columns), info={"at": threshold})
    return judge.psds(max_efpr=most, alpha_ct=alpha_ct, alpha_st=alpha_st).value


def main(path):
    rng = np.random.default_rng(7)
    steps = {f"r{i}": int(rng.integers(20, 45)) for i in range(6)}
    durations = {key: count * STEP_S for key, count in steps.items()}
    truth = {key: draw_truth(rng, durations[key]) for key in steps}
    found = {key: draw_found(rng, truth[key], durations[key]) for key in steps}
    document = {
        "labels": LABELS,
        "step_s": STEP_S,
        "truth": truth,
        "found": found,
        "expected": by_sed_eval(truth, found, durations),
        "scored": {},
    }
    for name, signal in SIGNAL.items():
        scores = {key: draw_scores(rng, truth[key], steps[key], signal) for key in steps}
        figures = {}
        for each, scenario in SCENARIOS.items():
            figures[each] = by_sed_scores_eval(truth, scores, durations, scenario)
            figures[each]["psds_eval"] = by_psds_eval(truth, scores, durations, scenario)
        tables = {key: table.tolist() for key, table in scores.items()}
        document["scored"][name] = {"scores": tables, "psds": figures}
    path.write_text(json.dumps(document) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
