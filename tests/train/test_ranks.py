"""Training on several ranks equals training in one process; real processes, by gloo."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor, nn

from echoic.train import world
from echoic.train.checkpoint import Checkpoints, load_weights
from echoic.train.loop import RunSpec, TrainResult
from echoic.train.optim import OptimSpec
from echoic.train.world import ALONE, LostError, World, joined
from echoic.types import ConfigError
from tests.train.ranks import in_ranks
from tests.train.toy import WIDTH, ToyLoader, run_toy

STEPS = 6
OPTIM = OptimSpec(lr=1e-2, weight_decay=0.1, warmup_steps=2, steps=STEPS, ema=0.9, clip_norm=0.5)
RUN = RunSpec(log_every=2, eval_every=3, save_every=2, keep_last=3, seed=7)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.line = nn.Linear(width, width)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        hidden = nn.functional.dropout(torch.tanh(self.line(self.norm(x))), 0.1, self.training)
        return x + scale * hidden


class Deep(nn.Module):
    """Blocks, two scalars, a frozen teacher that follows, dropout, weights that some batches do not
    reach, a scalar among them, and one that nothing reaches."""

    stop_after = STEPS

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(WIDTH, 24)
        self.blocks = nn.ModuleList(Block(24) for _ in range(3))
        self.leave = nn.Linear(24, WIDTH)
        self.rare = nn.Linear(WIDTH, WIDTH)
        self.never = nn.Parameter(torch.ones(5))
        self.rarely = nn.Parameter(torch.tensor(0.1))
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.teacher = nn.ModuleList(Block(24) for _ in range(3)).requires_grad_(False)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.metrics: dict[str, Any] = {}
        draw = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name not in ("rarely", "scale", "never"):
                    parameter.copy_(torch.randn(parameter.shape, generator=draw) / 5)
        self.follow(0.0)
        self.enter.weight.no_weight_decay = True

    def forward(self, batch: Any) -> dict[str, Tensor]:
        if int(self.step) + 1 == self.stop_after < STEPS:
            self.stop_after = STEPS
            signal.raise_signal(signal.SIGINT)
        clips = batch.audio.values.view(-1, WIDTH)
        hidden = taught = self.enter(clips)
        for block in self.blocks:
            hidden = block(hidden, self.scale)
        with torch.no_grad():
            for block in self.teacher:
                taught = block(taught, self.scale)
        out = self.leave(hidden)
        losses = {"copy": (out - clips).square().mean()}
        if batch.seed % 3 == 0:
            losses["rare"] = self.rarely * (self.rare(clips) - out).square().mean()
        losses["teacher"] = 0.1 * (hidden - taught).square().mean()
        self.metrics = {"tokens": len(clips) * 10, "size": out.detach().abs().mean()}
        return losses

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        student = list(self.blocks.parameters())
        torch._foreach_lerp_(list(self.teacher.parameters()), student, 1 - decay)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        self.follow(0.9)
        self.scale.clamp_(0, 1)
        self.step.fill_(step + 1)


def run(
    folder: Path,
    world: World = ALONE,
    task: Deep | None = None,
    *,
    spoil: Callable[[int, Tensor], Tensor] | None = None,
    accumulate: int = 1,
    resume: bool = False,
    steps: int = STEPS,
    whole: int = STEPS,
    **changes: Any,
) -> TrainResult:
    """changes: to RUN. steps: fewer stop it there, as Ctrl-C on the last rank does."""
    optim = OPTIM.model_copy(update={"accumulate": accumulate, "steps": whole})
    loader = ToyLoader(rank=world.rank, ranks=world.size, uneven=True, spoil=spoil)
    task = task or Deep()
    task.stop_after = steps if world.rank == world.size - 1 else STEPS
    return run_toy(
        folder / "run", task, loader=loader, world=world, optim=optim, resume=resume,
        run=RUN.model_copy(update=changes), console=Console(), evaluate=evaluate,
    )  # fmt: skip


def evaluate(task: nn.Module) -> dict[str, float]:
    """By parts of the task, as what evaluates a model calls its towers."""
    assert isinstance(task, Deep)
    with torch.inference_mode():
        hidden = task.enter(ToyLoader().batch(1000).audio.values.view(-1, WIDTH))
        for block in task.blocks:
            hidden = block(hidden, task.scale)
        return {"heard": float(task.leave(hidden).abs().mean())}


def weights(folder: Path, *, averaged: bool = False, step: int = STEPS) -> dict[str, Tensor]:
    task = Deep()
    assert load_weights(task, folder / "run", averaged=averaged) == step
    return task.state_dict()


def assert_close(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name, tensor in theirs.items():
        torch.testing.assert_close(mine[name], tensor, rtol=0, atol=1e-6, msg=name)


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "run" / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]


def assert_same_rows(mine: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    def leaves(tree: Any) -> list[Any]:
        if isinstance(tree, dict):
            return [leaf for key in sorted(tree) for leaf in leaves(tree[key])]
        return [tree]

    for one, other in zip(mine, theirs, strict=True):
        assert leaves(one) == [
            pytest.approx(x, abs=1e-5, rel=1e-5) if isinstance(x, float) else x
            for x in leaves(other)
        ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """One process, four batches a step."""
    folder = tmp_path_factory.mktemp("alone")
    run(folder, accumulate=4)
    return folder


def two(folder: Path) -> None:
    with joined(timeout_s=60) as world:
        run(folder, world, accumulate=2)


def four(folder: Path) -> None:
    with joined(timeout_s=60) as world:
        run(folder, world)


@pytest.mark.parametrize(("work", "world"), [(two, 2), (four, 4)])
def test_ranks_make_the_steps_that_one_process_makes(alone, tmp_path, work, world):
    """Weights, average, teacher, and the log but for its clocks."""
    in_ranks(work, world, tmp_path)
    assert_close(weights(tmp_path), weights(alone))
    assert_close(weights(tmp_path, averaged=True), weights(alone, averaged=True))
    assert_same_rows(rows(tmp_path), rows(alone))
    assert torch.equal(weights(tmp_path)["never"], torch.ones(5))


def four_shards(folder: Path) -> None:
    with joined(timeout_s=60) as world:
        run(folder / "cut", world, parallel="fsdp")
        run(folder / "anew", world, parallel="fsdp", checkpoint_activations=True)


def test_weights_cut_over_the_ranks_make_the_same_steps(alone, tmp_path):
    """FSDP2, with activations made anew in the backward pass and without."""
    in_ranks(four_shards, 4, tmp_path)
    for way in ("cut", "anew"):
        folder = tmp_path / way
        newest = folder / "run" / "checkpoints" / f"step-{STEPS:08d}"
        assert len(list(newest.glob("*.safetensors"))) == 4
        assert_close(weights(folder), weights(alone))
        assert_close(weights(folder, averaged=True), weights(alone, averaged=True))
        assert_same_rows(rows(folder), rows(alone))


# -- stopping, resuming with other ranks ---------------------------------------------------------


def two_until_four(folder: Path) -> None:
    """As many shards, and as replicas; each asked to stop on its last rank."""
    with joined(timeout_s=60) as world:
        for way, parallel in (("whole", "ddp"), ("cut", "fsdp")):
            result = run(folder / way, world, accumulate=2, steps=3, parallel=parallel)
            assert (result.step, result.finished) == (3, False)


def four_to_the_end(folder: Path) -> None:
    """What two replicas began as shards, and the other way round; the batches are shared anew."""
    with joined(timeout_s=60) as world:
        for way, parallel in (("whole", "fsdp"), ("cut", "ddp")):
            assert run(folder / way, world, accumulate=2, resume=True, parallel=parallel).finished


def test_a_stop_on_one_rank_stops_all_and_any_number_goes_on(alone, tmp_path):
    ended = in_ranks(two_until_four, 2, tmp_path)
    assert ended.said.count("stopped as asked after step 3 of 6") == 2
    shutil.copytree(tmp_path, tmp_path / "begun")
    ended = in_ranks(four_to_the_end, 4, tmp_path)
    assert ended.said.count("a step stays 4 batches: 1 of each rank") == 2
    assert ended.said.count("not bit for bit from here on: ranks 2 then, 4 now") == 2
    for way in ("whole", "cut"):
        assert_close(weights(tmp_path / way), weights(alone))
        assert_same_rows(rows(tmp_path / way), rows(alone))
        run(tmp_path / "begun" / way, accumulate=2, resume=True)  # alone
        assert_close(weights(tmp_path / "begun" / way), weights(alone))
        assert_same_rows(rows(tmp_path / "begun" / way), rows(alone))


def two_from_one(folder: Path) -> None:
    with joined(timeout_s=60) as world:
        assert run(folder, world, accumulate=4, resume=True, parallel="fsdp").finished


def test_what_one_process_began_several_end(alone, tmp_path):
    assert run(tmp_path, accumulate=4, steps=4).step == 4
    in_ranks(two_from_one, 2, tmp_path)
    assert_close(weights(tmp_path), weights(alone))
    assert_same_rows(rows(tmp_path), rows(alone))


def test_ranks_that_cannot_share_a_step_evenly_are_refused(tmp_path):
    run(tmp_path, accumulate=4, steps=2)
    with pytest.raises(ConfigError) as caught:
        run(tmp_path, World(rank=0, size=3), accumulate=4, resume=True)
    assert "a step is 4 batches, which 3 ranks cannot share evenly" in str(caught.value)
    assert str(caught.value).endswith("resume with one of 1, 2, 4")
    with pytest.raises(ConfigError, match=r"optim.accumulate \(was 4, is 3\)"):
        run(tmp_path, accumulate=3, resume=True)


# -- faults --------------------------------------------------------------------------------------


class Hangs(Deep):
    def forward(self, batch: Any) -> dict[str, Tensor]:
        if batch.seed == 7:
            time.sleep(60)
        return super().forward(batch)


class Ends(Deep):
    def forward(self, batch: Any) -> dict[str, Tensor]:
        if batch.seed == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(batch)


def one_hangs(folder: Path) -> None:
    with joined(timeout_s=8) as world:
        run(folder, world, Hangs())


def one_is_killed(folder: Path) -> None:
    with joined(timeout_s=20) as world:
        run(folder, world, Ends())


@pytest.mark.parametrize(
    ("work", "how"),
    [
        pytest.param(one_hangs, "did not come for 8 s: it hangs", marks=pytest.mark.slow),
        (one_is_killed, "has ended"),
    ],
)
def test_the_rank_that_is_missing_is_named_and_the_run_goes_on_later(alone, tmp_path, work, how):
    """Batch 7 is that of rank 3, in step 1."""
    ended = in_ranks(work, 4, tmp_path, whole=False)
    assert ended.codes[:3] == [1, 1, 1], ended.said
    assert ended.said.count(f"LostError: rank 3 of 4 {how}; ") == 3, ended.said
    assert "--resume" in ended.said
    in_ranks(four_resumed, 4, tmp_path)
    assert_close(weights(tmp_path), weights(alone))


@pytest.mark.parametrize(
    ("said", "how"),
    [
        ("[unbound_buffer.cc:81] Timed out waiting 8000ms for recv operation", "it hangs"),
        ("Application timeout caused pair closure", "it hangs"),
        ("[gloo/transport/tcp/pair.cc:547] Connection closed by peer", "has ended"),
    ],
)
def test_whatever_torch_says_of_a_rank_that_is_missing(monkeypatch, said, how):
    monkeypatch.setattr(world, "_leave", lambda **_: None)
    monkeypatch.setattr(world, "GRACE_S", 0.0)
    mine = World(rank=0, size=2, store=dist.HashStore(), timeout_s=8.0)
    with pytest.raises(LostError, match=f"rank 1 of 2 .*{how}"), mine.waiting():
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="of ours"), mine.waiting():
        raise RuntimeError("a fault of ours")


def four_resumed(folder: Path) -> None:
    with joined(timeout_s=60) as world:
        run(folder, world, resume=True)


def one_has_nan(folder: Path) -> None:
    """In the third batch, so in step 0 of four ranks, and in the ninth."""

    def spoil(t: int, clips: Tensor) -> Tensor:
        return clips * float("nan") if t in (2, 8) else clips

    with joined(timeout_s=60) as world:
        run(folder, world, spoil=spoil)


def test_a_step_that_is_not_finite_on_one_rank_is_skipped_on_all(tmp_path):
    ended = in_ranks(one_has_nan, 4, tmp_path)
    assert "step 1 skipped: loss copy is nan; clips: clip2_0" in ended.said
    assert "step 3 skipped: loss copy is nan; clips: clip8_0" in ended.said
    assert ended.said.count("skipped:") == 2
    assert rows(tmp_path)[-2]["skipped"] == 2
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())
    assert weights(tmp_path)["step"] == STEPS


def test_a_process_without_a_gpu_of_its_own_is_told_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "2")
    line = r"process 3 of this machine, which has 2 GPUs: .*--nproc_per_node 2\)"
    with pytest.raises(ConfigError, match=line), joined():
        pass


LONG = 60


def two_long(folder: Path) -> None:
    """Until the end, or the moment that a file here names: so long after the next checkpoint."""
    file = folder / f"kill{os.environ['RANK']}"
    if file.exists():
        threading.Thread(target=die, args=(folder, float(file.read_text())), daemon=True).start()
    with joined(timeout_s=60) as world:
        run(folder, world, resume=True, whole=LONG, parallel=(folder / "how").read_text())


def die(folder: Path, after_s: float) -> None:
    store = Checkpoints(folder / "run" / "checkpoints", 1)
    before = max(store.steps(), default=0)
    while max(store.steps(), default=0) <= before:
        time.sleep(0.001)
    time.sleep(after_s)
    os.kill(os.getpid(), signal.SIGKILL)


def assert_survives(folder: Path, kills: list[tuple[int, ...]]) -> None:
    """kills: which ranks are killed, by each start; in turn they are replicas and shards."""
    chance = random.SystemRandom()
    for i, ranks in enumerate(kills):
        (folder / "how").write_text(("fsdp", "ddp")[i % 2])
        moment_s = chance.uniform(0, 0.05)
        for rank in (0, 1):
            (folder / f"kill{rank}").unlink(missing_ok=True)
        for rank in ranks:
            (folder / f"kill{rank}").write_text(str(moment_s))
        ended = in_ranks(two_long, 2, folder, whole=False)
        assert any(ended.codes), ended.said
        assert "Traceback" not in ended.said, ended.said
    for rank in (0, 1):
        (folder / f"kill{rank}").unlink(missing_ok=True)
    in_ranks(two_long, 2, folder)
    run(folder / "alone", accumulate=2, whole=LONG)
    mine, undisturbed = weights(folder, step=LONG), weights(folder / "alone", step=LONG)
    for name, tensor in undisturbed.items():  # 60 steps multiply what the order of sums rounds
        torch.testing.assert_close(mine[name], tensor, rtol=0, atol=1e-4, msg=name)
    assert [row["step"] for row in rows(folder)] == [row["step"] for row in rows(folder / "alone")]
    assert not list((folder / "run" / "checkpoints").glob("*.tmp"))


@pytest.mark.slow
def test_ranks_killed_at_random_moments_go_on_as_if_they_had_not_been(tmp_path):
    assert_survives(tmp_path, [(0, 1), (0, 1)])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_rank_or_all_killed_many_times(tmp_path):
    assert_survives(tmp_path, [(0,), (0, 1), (1,), (1,), (0,), (0, 1), (0, 1), (0,)])


def test_a_jump_of_the_clock_changes_nothing(tmp_path, monkeypatch):
    """What counts time is monotonic: the date may be any."""
    dates = iter([2e9, 0.0] * 10_000)
    monkeypatch.setattr(time, "time", lambda: next(dates))
    assert run(tmp_path).finished
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    times = [json.loads(line)["time"] for line in lines]
    assert all(0 <= each["elapsed_s"] < 60 for each in times)
