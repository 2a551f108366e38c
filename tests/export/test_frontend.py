"""The front end as convolutions is the front end."""

from __future__ import annotations

import pytest
import torch

from echoic.audio.frontend import PRESETS, FrontEnd
from echoic.export.frontend import ConvFrontEnd
from echoic.types import Ragged


@pytest.mark.parametrize("preset", PRESETS)
def test_it_equals_the_front_end(preset, generator):
    spec = PRESETS[preset]()
    shortest = spec.shortest_samples
    for samples in (shortest, shortest + 1, spec.rate_hz // 3, spec.rate_hz):
        wave = 0.1 * torch.randn(2, samples, generator=generator)
        found = ConvFrontEnd(spec)(wave)
        wanted = FrontEnd(spec)(Ragged.from_rows(list(wave))).values.view_as(found)
        torch.testing.assert_close(found * spec.std, wanted * spec.std, atol=2e-3, rtol=0)


def test_silence_is_the_floor():
    spec = PRESETS["slap"]()
    frames = ConvFrontEnd(spec)(torch.zeros(1, 1600))
    assert torch.equal(frames, torch.full_like(frames, (-70.0 - spec.mean) / spec.std))
