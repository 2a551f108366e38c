from __future__ import annotations

import multiprocessing
import os
import signal
from concurrent.futures import Future

import pytest

from echoic.data import runners
from echoic.data.building import build_shards
from echoic.data.runners import Processes, RayTasks
from echoic.data.sources import FileSource
from echoic.types import DataError
from tests.data.test_building import OPTIONS, content, refused, source_in


@pytest.fixture
def source(tmp_path):
    return source_in(tmp_path / "sound", bad=(3, 17))


class Deadly(FileSource):
    """A source whose reading ends the process, as a decoder that runs out of memory does."""

    def part(self, first, stop):
        return Deadly(self.clips[first:stop], self.paths[first:stop])

    def read(self, i, rate_hz):
        if self.clips[i].key == "set/9.wav" and multiprocessing.parent_process():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(i, rate_hz)


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
@pytest.mark.timeout(300)
def test_processes_make_the_same_and_one_that_dies_is_told(source, tmp_path):
    build_shards(source, tmp_path / "whole", **OPTIONS)
    deadly = Deadly(source.clips, source.paths)
    line = refused(deadly, tmp_path / "out", run=Processes(2), **OPTIONS)
    assert "a process that was at work has died (out of memory?); the same call goes on" in line
    build_shards(deadly, tmp_path / "out", **OPTIONS)  # here nobody kills
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert not multiprocessing.active_children()


def test_tasks_are_drawn_as_the_work_goes_on():
    """Few at a time, whatever their number: each holds its clips."""
    drawn, done = [], []

    def submit(task):
        future = Future()
        future.set_result(task)
        return future

    def tasks():
        for i in range(100):
            drawn.append(i)
            assert len(drawn) - len(done) <= 3 * 2
            yield i

    for each in runners._few_at_once(submit, tasks(), 3):
        done.append(each)
    assert sorted(done) == list(range(100))


@pytest.mark.timeout(300)
def test_on_a_local_ray(source, tmp_path):
    ray = pytest.importorskip("ray")
    build_shards(source, tmp_path / "whole", **OPTIONS)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        summary = build_shards(source, tmp_path / "out", run=RayTasks(), **OPTIONS)

        def refuses(task):
            raise DataError("one line")

        with pytest.raises(DataError, match=r"^one line$"):
            list(RayTasks(at_once=1)(refuses, [1, 2, 3]))
        with pytest.raises(DataError, match=r"a task of Ray has failed .*; the same call goes on"):
            list(RayTasks(at_once=1)(lambda task: os._exit(1), [1]))
    finally:
        ray.shutdown()
    assert summary.clips == 28
    assert content(tmp_path / "out") == content(tmp_path / "whole")
