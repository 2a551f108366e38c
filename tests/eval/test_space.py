"""The space's figures are the monitors', count all captions of a clip, and made faults alarm."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from echoic.eval.sections import space_section
from echoic.eval.space import Space, measure_space
from echoic.objectives.monitors import space_monitors
from echoic.types import EchoicError

N, D = 60, 24


@pytest.fixture
def pairs(rng):
    """A healthy space: (N, D) each, sounds all over the sphere, captions near them."""
    audio = rng.standard_normal((N, D))
    return audio, audio + 0.4 * rng.standard_normal((N, D))


def of_pairs(audio, text) -> Space:
    return measure_space(audio, text, np.arange(len(text)))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("count", [N, D // 2, 1])
def test_same_definitions_as_the_monitors(pairs, rng, count) -> None:
    cone = rng.standard_normal(D)
    audio, text = pairs[0][:count] + cone, pairs[1][:count] - cone
    wanted = space_monitors(*(torch.tensor(unit(each)) for each in (audio, text)))
    found = of_pairs(audio, text).metrics()
    assert {name: found[name] for name in wanted} == pytest.approx(
        {name: value.item() for name, value in wanted.items()}, abs=1e-5
    )


def test_pairs_and_firsts_by_hand(rng) -> None:
    """Several captions per clip, one clip without, against every cosine written out."""
    owner = np.array([0, 0, 0, 1, 3, 3])
    audio, text = unit(rng.standard_normal((4, 5))), unit(rng.standard_normal((6, 5)))
    cosine, own = audio @ text.T, np.arange(4)[:, None] == owner
    found = measure_space(3 * audio, 2 * text, owner)
    assert found.alignment == pytest.approx(cosine[own].mean())
    assert found.others == pytest.approx(cosine[~own].mean())
    assert found.audio_first == np.bincount(cosine.argmax(axis=0)).max() / 6
    assert found.text_first == np.bincount(cosine.argmax(axis=1)).max() / 4


def test_blocks_change_nothing(pairs, monkeypatch) -> None:
    whole = of_pairs(*pairs)
    monkeypatch.setattr("echoic.eval.space._BLOCK_VALUES", 7 * N)
    assert of_pairs(*pairs) == whole


def test_a_healthy_space_is_quiet(pairs) -> None:
    found = of_pairs(*pairs)
    assert found.alarms() == {}
    assert found.audio_first < 0.1
    assert found.margin > 0.5


def collapsed(audio, text):
    """But for the rounding of float32, which makes no sound the first."""
    return audio[:1] + 1e-7 * audio, text


def line(audio, text):
    return audio[:1] * np.where(np.arange(N) % 2, 1, -1)[:, None] + 0.01 * audio, text


def apart(audio, text):
    far = 20 * np.eye(D)[0]
    return audio + far, text - far


def opposite(audio, text):
    return audio, -text


def hub(audio, text):
    """One caption amid all sounds, which hide in a cone; its rivals lie beside."""
    centre = np.eye(D)[0]
    text = np.concatenate([centre[None], text[1:] - 9 * centre])
    return audio + 9 * centre, text


@pytest.mark.parametrize(
    ("fault", "wanted"),
    [
        (collapsed, {"audio_spread", "audio_dims", "audio_first", "margin"}),
        (line, {"audio_dims", "margin", "text_first"}),
        (apart, {"audio_spread", "text_spread", "gap"}),
        (opposite, {"margin"}),
        (hub, {"text_first"}),
    ],
)
def test_made_faults_alarm(pairs, fault, wanted) -> None:
    found = of_pairs(*fault(*pairs))
    assert wanted <= set(found.alarms())
    section = space_section(found)
    marked = [cell for table in section.blocks[-2:] for row in table.rows for cell in row]
    assert sum("▲" in cell for cell in marked) == len(found.alarms())
    assert all(told in section.blocks[0].text for told in found.alarms().values())


def test_few_clips_are_not_judged_by_what_few_must_show(rng) -> None:
    """Three strangers: far apart on a line for want of more, and one of three comes first."""
    found = of_pairs(rng.standard_normal((3, D)), rng.standard_normal((3, D)))
    assert found.margin < 0.2
    assert found.audio_dims < 2
    assert found.alarms() == {}


def test_how_many_dimensions_there_can_be(rng) -> None:
    found = of_pairs(rng.standard_normal((5, 3)), rng.standard_normal((5, 3)))
    assert found.most_dims() == (3, 3)
    found = of_pairs(rng.standard_normal((5, 8)), rng.standard_normal((5, 8)))
    assert found.most_dims() == (4, 4)


def test_one_clip_has_no_other_pairs(rng) -> None:
    found = measure_space(
        rng.standard_normal((1, D)), rng.standard_normal((3, D)), np.zeros(3, int)
    )
    assert found.others is None
    assert found.margin is None
    assert "others" not in found.metrics()
    assert len(space_section(found).blocks) == 2


def test_diverged_vectors_are_an_error(pairs) -> None:
    pairs[0][3, 0] = np.nan
    with pytest.raises(EchoicError, match="row 3"):
        of_pairs(*pairs)
