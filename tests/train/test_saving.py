"""Faults while ranks save the parts of a checkpoint: all end with one line, and can go on."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from echoic.train.checkpoint import Checkpoints
from echoic.train.world import joined
from tests.train.ranks import in_ranks
from tests.train.test_ranks import OPTIM, RUN, STEPS, Deep, run

SAVED = 2


class Fills(Deep):
    """From the step after the first checkpoint on, the system refuses this rank large files."""

    def forward(self, batch):
        if int(self.step) == SAVED:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        return super().forward(batch)


def two_parts(folder: Path) -> None:
    with joined(timeout_s=20) as world:
        task = Deep() if world.first else Fills()
        run(folder, world, task, accumulate=2, parallel="fsdp", save_in_background=False)


def two_parts_resumed(folder: Path) -> None:
    with joined(timeout_s=20) as world:
        run(folder, world, accumulate=2, parallel="fsdp", resume=True)


@pytest.mark.timeout(200)
def test_a_disk_that_is_full_on_one_rank_ends_all_and_the_checkpoint_before_is_whole(tmp_path):
    ended = in_ranks(two_parts, 2, tmp_path, whole=False)
    assert ended.codes == [1, 1], ended.said
    line = f"step-{2 * SAVED:08d}: cannot be written (rank 1: "
    assert ended.said.count(line) == 2, ended.said
    assert "the earlier checkpoints are untouched" in ended.said
    assert "Traceback" not in ended.said
    store = Checkpoints(tmp_path / "run" / "checkpoints", 1)
    assert list(store.steps()) == [SAVED]
    # the newest is damaged after it was written: the one before is taken, and said
    assert in_ranks(two_parts_resumed, 2, tmp_path).codes == [0, 0]
    part = next(store.of_step(STEPS).glob("shard-00002*"))
    part.write_bytes(part.read_bytes()[:-8])
    ended = in_ranks(two_parts_resumed, 2, tmp_path)
    assert f"passed over: {store.of_step(STEPS)}: damaged" in ended.said
    assert f"resumed at step {STEPS - 2} from" in ended.said
    assert [OPTIM.steps, RUN.keep_last, len(store.steps())] == [STEPS, 3, 3]
