"""What papers report: every value names a task, a protocol and a metric of ours, and is what was
read."""

from __future__ import annotations

import pytest

from echoic.data.tasks import CAPTIONED, TASKS
from echoic.data.tasks.paper import _TABLES, published
from echoic.eval.captioning import score_captions
from echoic.eval.retrieval import retrieve

PROTOCOLS = {"linear", "finetune", "zero_shot", "retrieval", "captioning", "events"}


def values(task, protocol, metric=""):
    return {
        each.model: each.value
        for each in published(task)
        if (each.protocol, each.metric) == (protocol, metric)
    }


def test_every_column_is_of_a_task_that_is_declared_and_every_row_has_them_all():
    assert {table.protocol for table in _TABLES} <= PROTOCOLS
    for table in _TABLES:
        columns = table.columns.split()
        captioned = table.protocol in {"retrieval", "captioning"}
        for column in columns:
            task, _, metric = column.partition(":")
            assert task in (CAPTIONED if captioned else TASKS)
            assert bool(metric) == captioned
        assert table.source
        assert all(len(row.split()) == len(columns) for row in table.rows.values())


def test_values_are_shares_and_of_a_model_once():
    for task in (*TASKS, *CAPTIONED):
        found = published(task)
        assert all(0 < each.value < 1 for each in found)
        keys = [(each.protocol, each.model, each.metric) for each in found]
        assert len(keys) == len(set(keys))


def test_metrics_are_named_as_ours():
    retrieval = retrieve([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], owner=[0, 1])
    captioning = score_captions(["a dog barks", "rain"], [["a dog barks"], ["rain falls"]])
    ours = {"retrieval": {*retrieval.metrics()}, "captioning": {*captioning.metrics(), "spice"}}
    found = [each for task in CAPTIONED for each in published(task)]
    assert found
    assert all(each.metric in ours[each.protocol] for each in found)


@pytest.mark.parametrize(
    ("task", "protocol", "metric", "wanted"),
    [
        ("esc50", "zero_shot", "", {"SLAP": 0.886, "SLAP + WavCaps": 0.955}),
        ("ravdess", "zero_shot", "", {"SLAP": 0.264, "SLAP + WavCaps": 0.298}),
        ("gtzan", "zero_shot", "", {"M2D-CLAP 2024": 0.7517, "M2D-CLAP 2025": 0.793}),
        ("vggsound", "zero_shot", "", {"LAION-CLAP": 0.462}),
        ("esc50", "finetune", "", {"SLAP": 0.982, "M2D-CLAP 2024": 0.974}),
        ("spcv2", "finetune", "", {"SLAP": 0.985}),
        ("as", "finetune", "", {"M2D-CLAP 2025": 0.49}),
        ("clotho", "captioning", "cider_d", {"SLAP": 0.437, "M2D-CLAP 2025": 0.435}),
        ("audiocaps", "captioning", "spice", {"SLAP": 0.181, "Cacophony": 0.168}),
        (
            "audiocaps",
            "retrieval",
            "text_to_audio_R@1",
            {
                "SLAP, zero-shot": 0.351,
                "SLAP, fine-tuned": 0.475,
                "M2D-CLAP 2025, fine-tuned": 0.419,
            },
        ),
        (
            "clotho",
            "retrieval",
            "audio_to_text_R@1",
            {
                "SLAP, zero-shot": 0.235,
                "SLAP, fine-tuned": 0.368,
                "M2D-CLAP 2025, fine-tuned": 0.249,
            },
        ),
        ("clotho", "retrieval", "audio_to_text_R@10", {"M2D-CLAP 2025, fine-tuned": 0.645}),
        (
            "audiocaps",
            "retrieval",
            "audio_to_text_R@5",
            {"LAION-CLAP + AudioSet K2C, fine-tuned": 0.829},
        ),
    ],
)
def test_values_are_what_was_read(task, protocol, metric, wanted):
    assert wanted.items() <= values(task, protocol, metric).items()
