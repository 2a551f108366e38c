"""Classification: losses by hand, heads as upstream has them, labels by key."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from echoic.objectives.tagging import ClassifyTask, make_head, many_labels, one_label
from echoic.types import AudioFeatures, Batch, Ragged

TABLE = {"a": [1.0, 0, 0], "b": [0, 0, 1.0], "c": [0, 1.0, 1.0]}


class Mean(nn.Module):
    """The tower of a clip (T,): its mean, four times, of what `change` makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, audio: Ragged, change=None) -> AudioFeatures:
        audio = change.waves(audio) if change else audio
        clip = self.gain * torch.stack([row.mean() for row in audio])[:, None].expand(-1, 4)
        return AudioFeatures(audio.values, audio.offsets, audio.values, clip)


class Swapped:
    """Adds its seed to the samples; and the labels of the batch change places."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def waves(self, audio: Ragged) -> Ragged:
        return Ragged(audio.values + self.seed, audio.offsets)

    def frames(self, frames: Ragged) -> Ragged:
        raise AssertionError("this tower has no frames")

    def truth(self, truth: torch.Tensor) -> torch.Tensor:
        return truth.flip(0)


def truth(keys) -> torch.Tensor:
    return torch.tensor([TABLE[key] for key in keys])


@pytest.fixture
def batch() -> Batch:
    rows = [torch.full((n,), float(n)) for n in (2, 3)]
    text = Ragged.from_rows([torch.zeros(1, dtype=torch.int64)] * 2)
    return Batch(Ragged.from_rows(rows), text, torch.arange(2), ("b", "a"), seed=5)


def task(**options) -> ClassifyTask:
    head = nn.Linear(4, 3)
    with torch.no_grad():
        head.weight.copy_(torch.arange(12.0).view(3, 4) / 10)
        head.bias.zero_()
    return ClassifyTask(Mean(), head, truth=truth, **options)


def test_loss_is_that_of_the_keys(batch):
    of = task()
    logits = of.head(torch.tensor([2.0, 3.0])[:, None].expand(2, 4))
    wanted = nn.functional.cross_entropy(logits, torch.tensor([2, 0]))
    found = of(batch)["classify"]
    torch.testing.assert_close(found, wanted)
    assert of.metrics == {"tokens": 5.0, "top1": 0.5}
    found.backward()
    assert all(p.grad is not None for p in of.parameters())


def test_a_change_is_drawn_from_the_seed_in_training_only(batch):
    seeds: list[int] = []

    def augment(seed: int) -> Swapped:
        seeds.append(seed)
        return Swapped(seed)

    changed, plain = task(augment=augment), task()
    logits = changed.head(torch.tensor([7.0, 8.0])[:, None].expand(2, 4))
    wanted = nn.functional.cross_entropy(logits, torch.tensor([0, 2]))
    torch.testing.assert_close(changed.train()(batch)["classify"], wanted)
    assert torch.equal(changed.eval()(batch)["classify"], plain(batch)["classify"])
    assert seeds == [5]


def test_losses_by_hand():
    logits = torch.tensor([[1.0, -2.0, 0.5]])
    one, many = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[1.0, 0.0, 1.0]])
    torch.testing.assert_close(one_label(logits, one), -logits.log_softmax(1)[0, 2])
    mixed = torch.tensor([[0.25, 0.0, 0.75]])
    log_p = logits.log_softmax(1)[0]
    torch.testing.assert_close(one_label(logits, mixed), -0.25 * log_p[0] - 0.75 * log_p[2])
    p = logits.sigmoid()[0]
    wanted = -(p[0].log() + (1 - p[1]).log() + p[2].log()) / 3
    torch.testing.assert_close(many_labels(logits, many), wanted)


def test_heads_have_upstreams_sizes():
    sizes = [tuple(p.shape) for p in make_head("mlp", 512, 50).parameters()]
    assert sizes == [(1024, 512), (1024,), (50, 1024), (50,)]
    assert [tuple(p.shape) for p in make_head("linear", 512, 50).parameters()] == [(50, 512), (50,)]


def test_m2ds_head_is_a_linear_layer_on_normed_features():
    head = make_head("normed_linear", 4, 3)
    assert [tuple(p.shape) for p in head.parameters()] == [(3, 4), (3,)]
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)) * 3 + 7
    normed = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(head(x), normed @ head.linear.weight.T, rtol=1e-4, atol=1e-5)
    assert float(head.linear.weight.detach().abs().max()) < 0.06  # normal, of 0.01


def test_what_is_told_beside_the_loss(batch):
    """Larger clips weigh the classes in order: class 2 comes first, right for "b" alone."""
    classifier = task()
    classifier(batch)
    assert classifier.metrics["top1"] == 0.5
    assert classifier.metrics["tokens"] == 5
    with torch.no_grad():
        classifier.head.weight.copy_(-classifier.head.weight)  # now class 0: for "a" alone
    classifier(batch)
    assert classifier.metrics["top1"] == 0.5
    classifier.truth = lambda keys: truth(["a", "a"])
    classifier(batch)
    assert classifier.metrics["top1"] == 1.0


def test_it_counts_its_steps():
    classifier = task()
    assert classifier.steps == 0
    classifier.after_step(6)
    assert classifier.steps == 7
