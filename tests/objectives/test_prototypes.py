"""Prototypes: heads, what keeps teachers from collapse, and the cross-entropy in parts, each
against itself written out in full."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from echoic.objectives import prototypes
from echoic.objectives.assignment import MONITORS, Teacher, cross_entropy_sum
from echoic.objectives.prototypes import (
    Centred,
    HeadSpec,
    PrototypeHead,
    Scores,
    Sinkhorn,
    autocast_type,
    product,
)

ROWS, COUNT, WIDTH = 60, 12, 8


@pytest.fixture(autouse=True)
def parts_of_seven_rows(monkeypatch):
    """So that 60 rows come in nine parts."""
    monkeypatch.setattr(prototypes, "CPU_CHUNK", 7 * COUNT)
    monkeypatch.setattr(prototypes, "FEWEST_ROWS", 1)


@pytest.fixture(params=["kept", "made anew"])
def memory(request, monkeypatch):
    """Of the teacher's scores: whether they fit it."""
    if request.param == "made anew":
        monkeypatch.setattr(prototypes, "KEPT", 0)


def unit(rows: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, WIDTH, generator=generator), dim=1)


def scores(temperature: float = 0.07) -> Scores:
    return against(unit(ROWS, 0), unit(COUNT, 1), temperature)


def against(rows: Tensor, prototypes: Tensor, temperature: float = 0.07) -> Scores:
    return Scores(rows, prototypes, torch.tensor(temperature))


def assigned(scores: Scores, bias: Tensor) -> Tensor:
    return (torch.cat(list(scores)) + bias).softmax(1)


# -- the head --------------------------------------------------------------------------------------


def test_a_head_is_an_mlp_with_unit_rows_and_unit_prototypes(generator):
    head = PrototypeHead(
        HeadSpec(layers=3, hidden=16, bottleneck=WIDTH, prototypes=COUNT), width=10
    )
    x = torch.randn(5, 10, generator=generator)
    first, second, third = head.layers
    wanted = third(F.gelu(second(F.gelu(first(x)))))
    torch.testing.assert_close(head(x), wanted / wanted.norm(dim=1, keepdim=True))
    assert [tuple(layer.weight.shape) for layer in head.layers] == [(16, 10), (16, 16), (8, 16)]
    torch.testing.assert_close(head.unit_prototypes().norm(dim=1), torch.ones(COUNT))
    head.prototypes.data *= 3
    torch.testing.assert_close(head.unit_prototypes().norm(dim=1), torch.ones(COUNT))


def test_a_head_of_one_layer_is_linear():
    head = PrototypeHead(HeadSpec(layers=1, bottleneck=WIDTH, prototypes=COUNT), width=10)
    assert [tuple(layer.weight.shape) for layer in head.layers] == [(8, 10)]


def test_a_head_begins_small():
    head = PrototypeHead(HeadSpec(layers=1, bottleneck=64, prototypes=64), width=64)
    for weights in (head.layers[0].weight, head.prototypes):
        assert float(weights.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert not head.layers[0].bias.any()


def test_the_published_size():
    with torch.device("meta"):
        head = PrototypeHead(HeadSpec(), width=768)
    mlp = (768 + 1) * 2048 + (2048 + 1) * 2048 + (2048 + 1) * 256
    assert sum(p.numel() for p in head.parameters()) == mlp + 65536 * 256


@pytest.mark.usefixtures("memory")
def test_scores_come_in_parts():
    parts = list(scores())
    assert [len(part) for part in parts] == [7] * 8 + [4]
    torch.testing.assert_close(torch.cat(parts), unit(ROWS, 0) @ unit(COUNT, 1).T / 0.07)


def test_a_product_of_rounded_factors_is_summed_up_in_float32():
    """The form for a GPU, in shape and type only: torch has it for no CPU."""
    a, b = torch.empty(3, 4, device="meta"), torch.empty(5, 4, device="meta")
    made = product(a, b, torch.bfloat16)
    assert made.shape == (3, 5)
    assert made.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert autocast_type(torch.device("cpu")) is None


# -- Sinkhorn --------------------------------------------------------------------------------------


def sinkhorn_knopp(logits: Tensor, iterations: int) -> Tensor:
    """As SwAV writes it: the whole matrix, scaled by turns."""
    found = logits.double().exp().T
    found /= found.sum()
    for _ in range(iterations):
        found /= found.sum(1, keepdim=True) * len(found)
        found /= found.sum(0, keepdim=True) * found.shape[1]
    return (found * found.shape[1]).T.float()


@pytest.mark.parametrize("iterations", [1, 2, 3, 8])
@pytest.mark.parametrize("temperature", [0.04, 0.07, 1.0])
def test_sinkhorn_equals_the_scaled_matrix(iterations, temperature):
    every = scores(temperature)
    made = assigned(every, Sinkhorn(iterations)(every))
    wanted = sinkhorn_knopp(unit(ROWS, 0) @ unit(COUNT, 1).T / temperature, iterations)
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("memory")
def test_sinkhorns_marginals():
    """Each patch sums to 1; each prototype comes to M / K, the closer the longer."""
    off = []
    for iterations in (1, 3, 100):
        made = assigned(scores(), Sinkhorn(iterations)(scores()))
        torch.testing.assert_close(made.sum(1), torch.ones(ROWS))
        off.append(float((made.sum(0) - ROWS / COUNT).abs().max()))
    assert off[0] > off[1] > off[2]
    assert off[2] < 1e-3
    plain = assigned(scores(), torch.zeros(COUNT)).sum(0)
    assert float((plain - ROWS / COUNT).abs().max()) > 3 * off[1]


def test_sinkhorn_holds_where_plain_exponentials_do_not():
    """exp(1 / 0.005) is 7e86; and a prototype that no patch is near gets its share."""
    rows = unit(ROWS, 0)
    far = torch.cat([unit(COUNT - 1, 1), F.normalize(-rows.mean(0, keepdim=True), dim=1)])
    near = F.normalize(rows + 5 * rows.mean(0), dim=1)
    every = against(near, far, 0.005)
    made = assigned(every, Sinkhorn(200)(every))
    torch.testing.assert_close(made.sum(0), torch.full((COUNT,), ROWS / COUNT), rtol=0.3, atol=0)


# -- centring --------------------------------------------------------------------------------------


def test_the_centre_is_a_running_mean_of_scores_that_lags_one_call():
    centred = Centred(COUNT, momentum=0.9)
    assert not centred(scores()).any()
    mean = (unit(ROWS, 0) @ unit(COUNT, 1).T).mean(0)
    torch.testing.assert_close(centred.centre, 0.1 * mean)
    torch.testing.assert_close(centred(scores()), -0.1 * mean / 0.07)
    torch.testing.assert_close(centred.centre, 0.19 * mean)


def test_centring_takes_off_what_all_patches_agree_on():
    common = 4 * unit(1, 5)
    every = against(F.normalize(unit(ROWS, 0) + common, dim=1), unit(COUNT, 1))
    centred = Centred(COUNT, momentum=0.0)
    before = assigned(every, centred(every)).mean(0)
    after = assigned(every, centred(every)).mean(0)
    assert before.max() > 0.8
    assert after.max() < 0.3


def test_in_evaluation_the_centre_stays():
    centred = Centred(COUNT)
    centred(scores())
    before = centred.centre.clone()
    centred.eval()(scores())
    assert torch.equal(centred.centre, before)


# -- the cross-entropy -----------------------------------------------------------------------------


def both_ways(bias: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Loss, monitors, and gradients by rows and prototypes: ours, and written out."""
    ours, plain = ([unit(ROWS, 2).requires_grad_(), unit(COUNT, 3).requires_grad_()] for _ in "ab")
    total, monitors = cross_entropy_sum(*ours, Teacher(scores(), bias), 0.1)
    (3 * total).backward()

    target = assigned(scores(), bias)
    log_found = (plain[0] @ plain[1].T / 0.1).log_softmax(1)
    wanted = -(target * log_found).sum()
    (3 * wanted).backward()
    entropy = -(target * target.log()).sum(1).mean()
    mean, norm = target.mean(0), torch.tensor(float(COUNT)).log()
    told = torch.stack([
        (-(mean * mean.log()).sum()).exp() / COUNT,
        torch.tensor(len(target.argmax(1).unique()) / COUNT),
        entropy / norm,
        -(log_found.exp() * log_found).sum(1).mean().detach() / norm,
        wanted.detach() / ROWS - entropy,
    ])  # fmt: skip
    return (
        [total.detach(), monitors, *(x.grad for x in ours)],
        [wanted.detach(), told, *(x.grad for x in plain)],
    )


@pytest.mark.usefixtures("memory")
def test_the_cross_entropy_and_its_gradient_equal_those_written_out():
    made, wanted = both_ways(0.3 * torch.arange(COUNT))
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-5)


def test_neither_side_holds_the_whole_of_rows_by_prototypes():
    student = unit(ROWS, 2).requires_grad_()
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: saved.append(x.numel()) or x, lambda x: x
    ):
        total, _ = cross_entropy_sum(
            student, unit(COUNT, 3), Teacher(scores(), torch.zeros(COUNT)), 0.1
        )
    assert saved == [ROWS * WIDTH, COUNT * WIDTH]
    assert not total.isnan()


def test_without_a_patch_there_is_nothing_to_lose():
    none = against(torch.empty(0, WIDTH), unit(COUNT, 1))
    student = torch.empty(0, WIDTH, requires_grad=True)
    for targets in (Sinkhorn(), Centred(COUNT)):
        total, monitors = cross_entropy_sum(
            student, unit(COUNT, 3), Teacher(none, torch.zeros(COUNT)), 0.1
        )
        total.backward()
        targets(none)
        assert total == 0
        assert student.grad.shape == (0, WIDTH)
        assert not monitors.isnan().any()


def monitored(teacher: Scores, bias: Tensor, student: Tensor) -> dict[str, float]:
    _, monitors = cross_entropy_sum(student, unit(COUNT, 1), Teacher(teacher, bias), 0.1)
    return dict(zip(MONITORS, monitors.tolist(), strict=True))


def test_monitors_tell_a_collapse_to_one_prototype():
    one = unit(COUNT, 1)[:1].expand(ROWS, -1)
    told = monitored(against(one, unit(COUNT, 1)), 1000 * F.one_hot(torch.tensor(0), COUNT), one)
    assert told["prototype_use"] == pytest.approx(1 / COUNT)
    assert told["prototypes_won"] == pytest.approx(1 / COUNT)
    assert told["teacher_entropy"] == pytest.approx(0, abs=1e-6)
    assert told["student_entropy"] < 0.5


def test_monitors_tell_a_collapse_to_the_uniform():
    flat = torch.zeros(ROWS, WIDTH)
    told = monitored(against(flat, unit(COUNT, 1)), torch.zeros(COUNT), flat)
    assert told["teacher_entropy"] == pytest.approx(1)
    assert told["student_entropy"] == pytest.approx(1)
    assert told["teacher_kl"] == pytest.approx(0, abs=1e-5)
    assert told["prototypes_won"] == pytest.approx(1 / COUNT)


def test_monitors_tell_a_healthy_teacher():
    each = unit(COUNT, 1).repeat(5, 1)
    every = against(each, unit(COUNT, 1))
    told = monitored(every, Sinkhorn()(every), each)
    assert told["prototype_use"] > 0.99
    assert told["prototypes_won"] == 1
    assert told["teacher_entropy"] < 0.5
