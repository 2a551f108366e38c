"""The monitors tell made collapses from a healthy space, and from each other."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from echoic.objectives.monitors import space_monitors

NAMES = ["audio_spread", "text_spread", "audio_dims", "text_dims", "gap", "alignment"]
B, D = 64, 32


@pytest.fixture
def rows(generator) -> tuple[Tensor, Tensor]:
    """A healthy batch: vectors all over the sphere, pairs near each other."""
    audio = F.normalize(torch.randn(B, D, generator=generator), dim=1)
    text = F.normalize(audio + 0.1 * torch.randn(B, D, generator=generator), dim=1)
    return audio, text


def test_a_healthy_space(rows) -> None:
    found = space_monitors(*rows)
    assert list(found) == NAMES
    assert found["audio_spread"] > 0.8
    assert found["text_dims"] > D / 2
    assert found["gap"] < 0.1
    assert found["alignment"] > 0.8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_in_one_place(rows, dtype) -> None:
    """The collapse that alignment and gap call perfect."""
    one = rows[0][:1].expand(B, D).to(dtype)
    found = space_monitors(one, one)
    assert found["alignment"] == pytest.approx(1, abs=0.01)
    assert found["gap"] == 0
    for side in ("audio", "text"):
        assert found[f"{side}_spread"] == pytest.approx(0, abs=0.01)
        assert found[f"{side}_dims"] == pytest.approx(0, abs=0.01)


def test_all_on_one_line(rows, generator) -> None:
    """Spread is blind where the mean is zero; dimensions are not."""
    line = rows[0][:1] * torch.tensor([1.0, -1.0]).repeat(B // 2)[:, None]
    found = space_monitors(line, rows[1])
    assert found["audio_spread"] > 0.99
    assert found["audio_dims"] == pytest.approx(1)
    assert found["text_dims"] > D / 2


def test_a_narrow_cone_loses_spread_not_dimensions(rows) -> None:
    audio, text = rows
    cone = F.normalize(audio + 5 * torch.eye(D)[0], dim=1)
    found, healthy = space_monitors(cone, text), space_monitors(audio, text)
    assert found["audio_spread"] < 0.1
    assert found["audio_dims"] > healthy["audio_dims"] / 2
    assert found["text_spread"] == healthy["text_spread"]


def test_modality_gap(rows) -> None:
    """Sounds in one cone, texts in the opposite one."""
    apart = 3 * torch.eye(D)[0]
    audio, text = (F.normalize(each, dim=1) for each in (rows[0] + apart, rows[1] - apart))
    found = space_monitors(audio, text)
    assert found["gap"] > 1.5
    assert found["alignment"] < 0


def test_dimensions_by_hand() -> None:
    """Of axes and their opposites, as many as there are axes, however the rows lie (B < D, B > D);
    of unequal variances fewer."""
    for width in (3, 40):
        axes = torch.eye(width)[:3]
        both = torch.cat([axes, -axes])
        assert space_monitors(both, both)["audio_dims"] == pytest.approx(3, rel=1e-5)
    uneven = torch.cat([axes[:1], axes[:1], axes[:1], axes[1:2]])
    uneven = torch.cat([uneven, -uneven])
    # variances 3/4 and 1/4
    assert space_monitors(uneven, uneven)["audio_dims"] == pytest.approx(1 / (9 / 16 + 1 / 16))


def test_nothing_is_learnt_and_nothing_waited_for(rows) -> None:
    """vmap refuses whatever reads a value, which on a GPU would wait."""
    audio, text = (each.clone().requires_grad_() for each in rows)
    for value in space_monitors(audio, text).values():
        assert value.shape == ()
        assert value.dtype == torch.float32
        assert not value.requires_grad
    torch.vmap(space_monitors)(audio[None], text[None])


def test_one_pair_is_no_error(rows) -> None:
    found = space_monitors(rows[0][:1], rows[1][:1])
    assert all(value.isfinite() for value in found.values())
