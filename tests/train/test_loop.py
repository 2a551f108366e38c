"""One step is what it says; a run stops well; nothing disturbs the training."""

from __future__ import annotations

import io
import json
import random
import threading
import time

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from echoic.train import checkpoint
from echoic.train.checkpoint import Checkpoints, read
from echoic.train.loop import RunSpec
from echoic.train.optim import OptimSpec
from echoic.train.stepping import NonFiniteError
from echoic.types import CheckpointError, ConfigError
from tests.train.toy import OPTIM, RUN, WIDTH, ToyLoader, ToyTask, run_toy


class Line(nn.Module):
    """The plainest task: a linear copy, one loss."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.constant_(self.line.weight, 0.1)

    def forward(self, batch):
        clips = batch.audio.values.view(-1, WIDTH)
        return {"copy": (self.line(clips) - clips).square().mean()}


def short(steps: int, **changes) -> OptimSpec:
    return OptimSpec(steps=steps, **({"lr": 1e-2} | changes))


def rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_training_learns_and_leaves_what_it_promises(tmp_path):
    result = run_toy(tmp_path / "run")
    log = rows(tmp_path / "run")
    train = [row for row in log if row["kind"] == "train"]
    assert [row["step"] for row in train] == list(range(4, 61, 4))
    assert [row["step"] for row in log if row["kind"] == "eval"] == [10, 20, 30, 40, 50, 60]
    assert train[-1]["loss"] < 0.9 * train[0]["loss"]
    assert train[0]["tokens"] == 4 * OPTIM.accumulate * 8 * 10
    assert train[0]["audio_s"] == train[0]["clips"] == 4 * OPTIM.accumulate * 8
    assert train[0]["lr"] == OPTIM.lr_at(3)
    assert train[-1]["bad"] == 18
    assert (result.step, result.finished) == (60, True)
    assert result.losses == train[-1]["losses"]
    assert result.metrics == log[-1]["metrics"]
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-00000057", "step-00000060"]


def test_one_step_is_the_hand_made_one(tmp_path):
    """Mean gradient of the accumulated batches, clipped, then AdamW at that step's rate."""
    task, by_hand = Line(), Line()
    optim = short(1, accumulate=3, clip_norm=0.01, warmup_steps=1)
    run_toy(tmp_path, task, optim=optim, evaluate=None)
    loss = sum(by_hand(ToyLoader().batch(t))["copy"] for t in range(3)) / 3
    loss.backward()
    gradient = by_hand.line.weight.grad
    norm = gradient.norm()
    gradient *= 0.01 / norm
    moved = by_hand.line.weight.detach() - 1e-2 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(task.line.weight.detach(), moved, rtol=1e-5, atol=1e-7)
    row = rows(tmp_path)[0]
    assert row["loss"] == pytest.approx(loss.item())
    assert row["grad_norm"] == pytest.approx(norm.item())  # AdamW itself does not see its scale


def test_evaluation_and_the_rest_of_the_process_do_not_disturb_the_training(tmp_path):
    with_evaluation, without = ToyTask(), ToyTask()
    run_toy(tmp_path / "a", with_evaluation)
    random.seed(5)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = (random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist())  # noqa: NPY002
    run_toy(tmp_path / "b", without, evaluate=None)
    after = (random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist())  # noqa: NPY002
    for name, tensor in with_evaluation.state_dict().items():
        assert torch.equal(tensor, without.state_dict()[name]), name
    assert before[0] == after[0]
    assert torch.equal(before[1], after[1])
    assert before[2] == after[2]
    assert not torch.are_deterministic_algorithms_enabled()


def test_evaluation_sees_the_task_in_eval_mode_without_gradients(tmp_path):
    def look(task: nn.Module) -> dict[str, float]:
        assert not task.training
        assert not torch.is_grad_enabled()
        return {"seen": 1.0}

    task = Line()
    run_toy(tmp_path, task, optim=short(2), evaluate=look)
    assert task.training


def test_after_step_counts_from_zero_and_comes_after_the_update(tmp_path):
    class Clamped(Line):
        seen: tuple[int, ...] = ()

        @torch.no_grad()
        def after_step(self, step: int) -> None:
            self.seen = (*self.seen, step)
            self.line.weight.clamp_(max=0.1)

    task = Clamped()
    run_toy(tmp_path, task, optim=short(3))
    assert task.seen == (0, 1, 2)
    assert task.line.weight.detach().max() == torch.tensor(0.1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_step_and_clips(tmp_path, value):
    loader = ToyLoader(
        spoil=lambda t, clips: clips.index_fill(0, torch.tensor(3), value) if t == 13 else clips
    )
    task = Line()
    with pytest.raises(NonFiniteError) as caught:
        run_toy(tmp_path, task, loader=loader, run=RUN.model_copy(update={"max_skipped": 0}))
    said = str(caught.value)
    assert said.startswith("step 7: loss copy is ")
    assert "clip13_0, clip13_1" in said
    assert "clip12" not in said
    assert "\n" not in said
    assert list(Checkpoints(tmp_path / "checkpoints", 1).steps()) == [3, 6]
    read(tmp_path / "checkpoints" / "step-00000006")
    assert task.line.weight.isfinite().all()


def test_a_gradient_that_is_not_finite_stops_too(tmp_path):
    class Steep(Line):
        def forward(self, batch):
            return {"copy": (self.line.weight.sum() * 0).sqrt()}  # 0, with an infinite slope

    with pytest.raises(NonFiniteError, match=r"step 1: the gradient's norm is nan; stopped"):
        run_toy(tmp_path, Steep(), run=RUN.model_copy(update={"max_skipped": 0}))


def test_a_step_that_is_not_finite_is_skipped_counted_and_leaves_no_trace(tmp_path):
    """Of a task with running statistics, momentum, an average and a teacher."""

    class Watched(ToyTask):
        def after_step(self, step: int) -> None:
            super().after_step(step)
            self.made = (*getattr(self, "made", ()), step)

    def spoil(t: int, clips: torch.Tensor) -> torch.Tensor:
        return clips.index_fill(0, torch.tensor(3), float("nan")) if t in (13, 20, 22) else clips

    console = Console(file=(told := io.StringIO()), width=1000)
    task = Watched()
    assert run_toy(tmp_path, task, loader=ToyLoader(spoil=spoil), console=console).finished
    assert set(range(60)) - set(task.made) == {6, 10, 11}
    assert all(tensor.isfinite().all() for tensor in task.state_dict().values())
    said = told.getvalue()
    assert "step 7 skipped: loss copy is nan; clips: clip13_0" in said
    assert "3 steps skipped" in said.splitlines()[-3]
    counts = {row["step"]: row["skipped"] for row in rows(tmp_path) if row["kind"] == "train"}
    assert (counts[4], counts[8], counts[12], counts[60]) == (0, 1, 3, 3)
    row = next(row for row in rows(tmp_path) if row["step"] == 8)
    assert row["clips"] == 3 * OPTIM.accumulate * 8  # of the steps that were made
    assert np.isfinite(row["loss"])


def test_too_many_in_a_row_stop_the_run(tmp_path):
    loader = ToyLoader(spoil=lambda t, clips: clips * float("nan") if t == 8 or t > 13 else clips)
    with pytest.raises(NonFiniteError, match=r"step 10: loss copy is nan \(3 steps in a row\)"):
        run_toy(tmp_path, loader=loader, run=RUN.model_copy(update={"max_skipped": 2}), resume=True)
    with pytest.raises(NonFiniteError, match=r"step 10: .*3 steps in a row"):  # counted on
        run_toy(tmp_path, loader=loader, run=RUN.model_copy(update={"max_skipped": 2}), resume=True)


def test_a_full_disk_stops_the_run_and_keeps_the_earlier_checkpoints(tmp_path, monkeypatch):
    saves = []
    write = checkpoint.save_file

    def full(tensors, path):
        saves.append(path)
        if len(saves) == 3:
            raise OSError(28, "No space left on device", str(path))
        write(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match=r"step-00000009: cannot be written.*No space left"):
        run_toy(tmp_path)
    assert list(Checkpoints(tmp_path / "checkpoints", 1).steps()) == [3, 6]
    monkeypatch.undo()
    assert run_toy(tmp_path, resume=True).finished


def test_a_changed_recipe_is_refused_by_the_names_of_what_changed(tmp_path):
    run_toy(tmp_path, optim=short(6), config={"recipe": {"name": "toy", "width": 4}})
    with pytest.raises(ConfigError) as caught:
        run_toy(
            tmp_path,
            optim=short(7, lr=0.5),
            run=RUN.model_copy(update={"seed": 8, "log_every": 1}),
            config={"recipe": {"name": "toy", "depth": 2}},
            resume=True,
        )
    said = str(caught.value)
    for change in (
        "optim.lr (was 0.01, is 0.5)",
        "optim.steps (was 6, is 7)",
        "recipe.depth (was absent, is 2)",
        "recipe.width (was 4, is absent)",
        "run.seed (was 7, is 8)",
    ):
        assert change in said
    assert "log_every" not in said
    assert "recipe.name" not in said


def test_how_often_it_logs_and_saves_may_change_on_resume(tmp_path):
    run_toy(tmp_path, optim=short(6))
    other = RunSpec(log_every=1, eval_every=None, save_every=2, keep_last=1, seed=RUN.seed)
    result = run_toy(tmp_path, optim=short(6), run=other, resume=True)
    assert result.finished
    assert set(result.metrics) == {"weights", "noise"}  # those of the run that had ended


def test_a_used_folder_is_not_overwritten(tmp_path):
    run_toy(tmp_path, optim=short(3))
    before = (tmp_path / "log.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="holds a training at step 3"):
        run_toy(tmp_path, optim=short(3))
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_resuming_what_has_no_checkpoint_starts_and_says_so(tmp_path):
    console = Console(file=(told := io.StringIO()))
    assert run_toy(tmp_path / "new", optim=short(3), resume=True, console=console).finished
    assert "no checkpoint yet; starting at step 0" in told.getvalue()


def test_another_machine_is_told_on_resume(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    run_toy(tmp_path, optim=short(3))
    monkeypatch.setattr("torch.get_num_threads", lambda: 64)
    console = Console(file=(told := io.StringIO()))
    run_toy(tmp_path, optim=short(3), resume=True, console=console)
    assert "not bit for bit from here on" in told.getvalue()
    assert "threads 1 then, 64 now" in told.getvalue()


def test_bf16_computes_in_half_and_keeps_full_weights(tmp_path):
    class Watched(Line):
        def forward(self, batch):
            losses = super().forward(batch)
            self.kind = self.line(batch.audio.values.view(-1, WIDTH)).dtype
            return losses

    task = Watched()
    run_toy(tmp_path, task, optim=short(20, precision="bf16"), evaluate=None)
    assert (task.kind, task.line.weight.dtype) == (torch.bfloat16, torch.float32)
    losses = [row["loss"] for row in rows(tmp_path) if row["kind"] == "train"]
    assert losses[-1] < losses[0]


def test_it_runs_outside_the_main_thread(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(run_toy(tmp_path, optim=short(3))))
    thread.start()
    thread.join()
    assert results[0].finished


def test_a_step_of_a_trivial_task_costs_little(tmp_path):
    """CPU seconds of this thread, the fastest quarter: 0.5 ms on a quiet machine. A file written
    or a model copied in each step would be more than this."""

    class Timed(Line):
        def __init__(self) -> None:
            super().__init__()
            self.at: list[float] = []

        def after_step(self, step: int) -> None:
            self.at.append(time.thread_time())

    class Ready(ToyLoader):
        def batches(self, first_step):
            batch = self.batch(0)
            while True:
                yield batch

    task = Timed()
    quiet = RunSpec(log_every=1000, save_every=1000)
    run_toy(tmp_path, task, loader=Ready(), optim=short(200), run=quiet, evaluate=None)
    steps_s = np.diff(task.at)
    fastest_s = float(np.sort(steps_s)[: len(steps_s) // 4].mean())
    assert fastest_s < 3e-3, f"{fastest_s * 1e6:.0f} µs"
