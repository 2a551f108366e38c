"""Gradient caching: the gradient of one big batch, from the memory of a small one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from echoic.model import build
from echoic.objective import make_task
from echoic.objectives.chunked import Chunked
from echoic.objectives.four_term import MlpHeads
from echoic.objectives.gather import OwnQueries
from echoic.objectives.grad_cache import Pairs, PairsTask
from echoic.objectives.ring import Ring
from echoic.objectives.slap_task import SlapTask
from echoic.objectives.task import ContrastiveTask, FourTermTask
from echoic.recipes.recipe import Recipe
from echoic.types import Batch, ConfigError, Ragged
from tests import m2d, tiny
from tests.objectives.cached import (
    SIZES,
    STREAM,
    WAYS,
    Model,
    batch,
    batches,
    of_a_rank,
    seeded,
    step,
    toy,
)
from tests.objectives.processes import Results, in_processes
from tests.objectives.test_slap_task import DISTILLATION, recipe


def directly(task: PairsTask, of: Sequence[Batch]) -> Results:
    """The same by one graph: pairs of all batches, scored together; other losses averaged."""
    held: list[Pairs] = []

    def hold(pairs: Pairs) -> Tensor:
        held.append(pairs)
        return torch.zeros(())

    others: dict[str, Tensor] = {}
    for each in of:
        with seeded(each.seed):
            for name, value in task.losses(each, hold).items():
                others[name] = others.get(name, 0.0) + value / len(of)
    rows = tuple(torch.cat(kind) for kind in zip(*(p.rows for p in held), strict=True))
    whole = Pairs(rows, held[0].factors, torch.cat([p.meaning for p in held]))
    weight = task.weight if not hasattr(task, "duo") else task.contrast.weight
    losses = others | {"contrastive": weight * task.score(whole)}
    sum(losses.values()).backward()
    return {f"loss {n}": v.detach() for n, v in losses.items()} | {
        n: p.grad for n, p in task.named_parameters() if p.grad is not None
    }


def assert_equal(got: Results, wanted: Results, tolerance: float = 1e-6) -> None:
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(
            got[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("sizes", [SIZES, (10,), (1,) * 10])
@pytest.mark.parametrize("ranks", [OwnQueries(), Chunked(4), Ring(3)])
def test_the_gradient_is_that_of_one_big_batch(sizes, ranks) -> None:
    one = ContrastiveTask(Model(), weight=0.7)
    loss = one(batch(0, 10))["contrastive"]
    loss.backward()
    wanted = {"loss contrastive": loss.detach()}
    wanted |= {name: p.grad for name, p in one.named_parameters()}
    assert_equal(step(toy(ranks=ranks), batches(sizes)), wanted)


def test_without_it_batches_stand_alone() -> None:
    task, plain = toy(), toy()
    task.whole_step = False
    got = step(task, batches())
    for each in batches():
        (plain(each)["contrastive"] / len(SIZES)).backward()
    for name, p in plain.named_parameters():
        assert torch.equal(got[name], p.grad)


def test_both_passes_draw_the_same() -> None:
    task, seen = toy(dropout=0.3), []
    made = task.pairs
    task.pairs = lambda each: seen.append(made(each)) or seen[-1]
    got = step(task, batches())
    first, second = seen[: len(SIZES)], seen[len(SIZES) :]
    for one, two in zip(first, second, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(one.rows, two.rows, strict=True))
        assert [x.requires_grad for x in (*one.rows, *two.rows)] == [False, False, True, True]
    assert not torch.equal(made(batches()[0]).rows[0], first[0].rows[0])  # dropout there was
    assert_equal(got, directly(toy(dropout=0.3), batches()))


def test_a_batch_norm_counts_each_batch_once() -> None:
    sizes = (3, 3, 4)
    cached, direct = toy(norm=True), toy(norm=True)
    assert_equal(step(cached, batches(sizes)), directly(direct, batches(sizes)))
    assert cached.model.norm.num_batches_tracked == 3
    for one, other in zip(cached.buffers(), direct.buffers(), strict=True):
        assert torch.equal(one, other)


def clips(sizes: Sequence[int]) -> list[Batch]:
    """For real models."""
    found, first = [], 0
    for size in sizes:
        waves = [torch.from_numpy(tiny.noise(0.3 + 0.17 * i % 0.8, seed=i)) for i in range(size)]
        texts = tiny.tokenizer()([tiny.SENTENCES[first + i] for i in range(size)])
        rows = Ragged.from_rows([torch.tensor(ids) for ids in texts])
        keys = tuple(map(str, range(size)))
        meaning = torch.arange(first, first + size) % 7
        found.append(Batch(Ragged.from_rows(waves), rows, meaning, keys, seed=first))
        first += size
    return found


def of_recipe(chosen: Recipe, **options: Any) -> PairsTask:
    task = make_task(chosen, build(chosen.model, seed=0), **options)
    assert isinstance(task, PairsTask)
    return task


STEP = "objectives.negatives=step"
SLAP = (STEP, DISTILLATION, "objectives.captioning=0.5", "frame_augment.freq_bins=8",
        "frame_augment.time_share=0.2")  # fmt: skip


def vectors(of: Batch) -> Tensor:
    return torch.randn(len(of), 64, generator=torch.Generator().manual_seed(of.seed))


def slap(*changes: str) -> PairsTask:
    return of_recipe(recipe(*SLAP, *changes))


def sigmoid() -> PairsTask:
    return of_recipe(recipe(STEP, "objectives.pairs=sigmoid", "objectives.scores=chunked"))


def four_terms() -> PairsTask:
    with seeded(0):
        heads = MlpHeads(8)
    return FourTermTask(Model(), heads, kappa=1.0, whole_step=True)


def m2d_clap(objectives: str, *changes: str) -> PairsTask:
    plain = recipe(STEP, f"objectives.{objectives}", *changes)
    model = m2d.spec("mlp", text="sentence")
    return of_recipe(plain.model_copy(update={"model": model}), sentences=vectors)


TASKS: dict[str, Callable[[], PairsTask]] = {
    "slap": slap,
    "slap shared view": lambda: slap("objectives.shared_view=true"),
    "sigmoid": sigmoid,
    "four terms": four_terms,
    "m2d-clap 1": lambda: m2d_clap("masked={predictor: {width: 16, depth: 1, heads: 2}}"),
    "m2d-clap 2": lambda: m2d_clap("visible={kind: random, ratio: 0.5}"),
}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_learns_what_one_graph_teaches(name) -> None:
    of = batches() if name == "four terms" else clips(SIZES)
    got, wanted = step(TASKS[name](), of), directly(TASKS[name](), of)
    assert "logit_scale" in " ".join(got)
    assert_equal(got, wanted, tolerance=1e-4 if "slap" in name else 1e-5)


def test_the_first_pass_does_no_other_work() -> None:
    """No caption is said, no teacher asked, and of the two views one is heard."""
    task = slap()
    assert isinstance(task, SlapTask)
    encoder, heard = task.model.audio.encoder, []
    encode = encoder.encode
    encoder.encode = lambda x: heard.append(len(x)) or encode(x)
    said, states = [], task.model.decoder.states
    task.model.decoder.states = lambda *x, **y: said.append(1) or states(*x, **y)
    step(task, clips(SIZES))
    assert heard == [*SIZES, *(2 * n for n in SIZES)]
    assert len(said) == len(SIZES)


@pytest.mark.parametrize(("scores", "form"), [("whole", OwnQueries), ("ring", Ring)])
def test_the_recipe_says_how_scores_are_held(scores, form) -> None:
    asked = f"objectives.scores={scores}"
    assert isinstance(of_recipe(tiny.recipe(steps=5).override([asked])).ranks, form)
    assert isinstance(of_recipe(recipe(DISTILLATION, asked)).ranks, form)
    assert isinstance(m2d_clap("frozen=true", asked).ranks, form)
    first = m2d_clap("masked={predictor: {width: 16, depth: 1, heads: 2}}", asked)
    assert isinstance(first.contrast.ranks, form)


def test_negatives_of_the_step_need_a_contrastive_loss() -> None:
    with pytest.raises(ConfigError, match="negatives of the step without contrastive"):
        recipe(STEP, "objectives.contrastive=0", "objectives.captioning=1")


# -- several processes -----------------------------------------------------------------------------


@pytest.mark.timeout(300)  # more processes on a busy machine
@pytest.mark.parametrize("world", [2, 4])
def test_however_a_step_is_divided_its_gradient_is_the_same(world, tmp_path) -> None:
    wanted = step(toy(), batches(STREAM))
    found = in_processes(of_a_rank, world, tmp_path)
    for name in WAYS:
        got = {what: torch.stack([each[f"{name} {what}"] for each in found]) for what in wanted}
        for what, values in got.items():  # gradients were averaged, the losses are shares
            assert what.startswith("loss") or all(torch.equal(values[0], x) for x in values)
        assert_equal({what: values.mean(0) for what, values in got.items()}, wanted)


# -- memory ----------------------------------------------------------------------------------------

HEAVY = """
import sys, torch
from pathlib import Path
from torch import nn
from echoic.objectives.chunked import Chunked
from echoic.objectives.task import ContrastiveTask
from echoic.types import AudioFeatures, Batch, Ragged, TextFeatures

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(*[m for _ in range(3) for m in (nn.Linear(64, 64), nn.GELU())])
        self.read = nn.Embedding(9, 64)
        self.logit_scale = nn.Parameter(torch.zeros(1))
    def audio(self, audio, augment=None, draw=None):
        tokens = self.body(audio.values[:, None].expand(-1, 64))
        clip = tokens.unflatten(0, (len(audio), -1)).mean(1)
        return AudioFeatures(tokens, audio.offsets, None, clip)
    def text(self, text):
        tokens = self.read(text.values)
        return TextFeatures(tokens, text.offsets, tokens)

def batch(i, clips):
    ids = Ragged.from_lengths(torch.arange(clips) % 9, [1] * clips)
    wave = torch.randn(clips * 256, generator=torch.Generator().manual_seed(i))
    audio = Ragged.from_lengths(wave, [256] * clips)
    return Batch(audio, ids, torch.arange(clips) + i * clips, ("",) * clips, i)

def step(batches):
    for losses in task.losses_of_step(task, batches):
        (sum(losses.values()) / len(batches)).backward()

def mib(what):
    status = Path("/proc/self/status").read_text()
    return int(status.split(what + ":")[1].split()[0]) / 1024

torch.set_num_threads(1)
task = ContrastiveTask(Model(), whole_step=True, ranks=Chunked(256))
of = [batch(i, int(sys.argv[2])) for i in range(int(sys.argv[1]))]
step([batch(0, 2)])
Path("/proc/self/clear_refs").write_text("5")  # the largest memory is that of now
before = mib("VmRSS")
step(of)
print(mib("VmHWM") - before)
"""


def peak_mib(count: int, size: int) -> float:
    """What a step of `count` batches of `size` clips adds to a process's largest memory."""
    at_once = {f"MALLOC_{name}_THRESHOLD_": "65536" for name in ("MMAP", "TRIM")}  # given back
    ran = subprocess.run(
        [sys.executable, "-c", HEAVY, str(count), str(size)], capture_output=True, text=True,
        timeout=120, check=True, cwd=Path(__file__).parents[2], env=os.environ | at_once,
    )  # fmt: skip
    return float(ran.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(300)
def test_2048_clips_take_the_memory_of_64() -> None:
    small, cached = peak_mib(1, 64), peak_mib(32, 64)
    assert small > 20  # so that it is a model's, not noise
    assert cached < 1.3 * small
