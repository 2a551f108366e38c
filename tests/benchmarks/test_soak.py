"""What a soak tells of a process: growth, files and speed, of parts that are not its start."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from benchmarks.soak import Sample, Watch, family, parted, steps_of


def watch(samples: list[Sample]) -> Watch:
    return Watch(None, lambda: 0.0, samples)  # type: ignore[arg-type]


def samples(count: int = 50, *, memory=lambda i: 100, files=lambda i: 7, work=lambda i: i):
    return [
        Sample(2.0 * i, 1.5 * i, memory(i) * 2**20, files(i), 3, float(work(i)))
        for i in range(count)
    ]


def test_what_stays_the_same_is_told_so():
    found = watch(samples()).figures("it")
    assert found["it_growth"] == 0
    assert found["it_mib"] == 100
    assert (found["it_files"], found["it_threads"]) == (0, 0)
    assert found["it_steadiness"] == pytest.approx(1)
    assert found["it_minutes"] == pytest.approx(98 / 60)


def test_what_leaks_is_told():
    leaking = watch(samples(memory=lambda i: 100 + i, files=lambda i: i)).figures("it")
    second, fifth = 100 + (10 + 19) / 2, 100 + (40 + 49) / 2
    assert leaking["it_growth"] == pytest.approx(fifth / second - 1)
    assert leaking["it_files"] == 49 - 19


def test_what_tires_is_told():
    tiring = watch(samples(work=lambda i: min(i, 30))).figures("it")
    assert tiring["it_steadiness"] < 0.1


def test_a_start_is_not_held_against_it():
    starting = watch(samples(memory=lambda i: 10 if i < 10 else 100)).figures("it")
    assert starting["it_growth"] == 0


def test_too_few_samples_are_refused():
    assert [len(part) for part in parted(samples(12))] == [2, 3, 2, 3, 2]
    with pytest.raises(ValueError, match="ended early"):
        parted(samples(9))


def test_the_last_whole_line_of_a_log_counts(tmp_path):
    log = tmp_path / "log.jsonl"
    assert steps_of(log) == 0
    log.write_text("".join(json.dumps({"step": i}) + "\n" for i in range(3000)) + '{"ste')
    assert steps_of(log) == 2999


def test_children_belong_to_a_process_until_they_end():
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    process = subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE)
    try:
        until = time.monotonic() + 30
        while len(family(process.pid)) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        assert len(family(process.pid)) == 2
    finally:
        process.communicate(b"\n", timeout=30)
    assert family(process.pid) == []
