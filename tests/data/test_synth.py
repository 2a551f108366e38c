"""The embedded corpus: classes sound, scenes are what they say, splits are apart, bits repeat."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import zlib
from collections import Counter
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from numpy.random import SeedSequence

from echoic.data import synth
from echoic.data.synth import dsp, mix, scenes, wording
from echoic.data.synth.registry import REGISTRY
from echoic.data.synth.take import CELLS, CELLS_OF, Take
from echoic.data.synth.templates import TEMPLATES
from echoic.types import ConfigError

RATE_HZ = 16_000
SPLIT_PAIRS = list(combinations(synth.SPLITS, 2))


# (labels, duration_s, RMS in dB) of scenes 0 to 5 of seed 0
GOLDEN = [
    (("car engine", "bass drum"), 3.636, -31.39),
    (("snoring", "keyboard typing"), 4.017, -30.55),
    (("xylophone", "rooster"), 4.785, -29.35),
    (("helicopter", "dripping water"), 2.207, -19.80),
    (("stream", "telephone ring", "vacuum cleaner"), 4.025, -28.92),
    (("dial tone", "snare drum", "vacuum cleaner"), 3.146, -23.79),
]


def play(
    name: str, *attributes: str, seed: int = 0, seconds: float = 3.0, rate_hz: int = RATE_HZ
) -> npt.NDArray[np.float64]:
    """One event alone, as it stands in a mix; as long as `seconds` or as its class allows."""
    length_s = float(np.clip(seconds, *REGISTRY[name].length_s))
    event = synth.Event(0.0, length_s, name, attributes)
    return mix.perform(event, SeedSequence((seed, 5)), rate_hz, "train")


def energy_above(x: npt.NDArray[np.float64], hz: float) -> float:
    """Share of the energy above `hz`."""
    power = np.abs(np.fft.rfft(x)) ** 2
    return float(power[np.fft.rfftfreq(x.size, 1.0 / RATE_HZ) > hz].sum() / power.sum())


# ---------------------------------------------------------------- building blocks


def test_harmonics_equal_a_plain_sum_of_sines_and_leave_out_what_would_alias() -> None:
    f0_hz = np.full(800, 300.0)
    phase = 2 * np.pi * np.cumsum(f0_hz) / 8000
    want = sum(np.sin(k * phase) / k for k in range(1, 13))  # 12 * 300 < 0.46 * 8000 < 13 * 300
    np.testing.assert_allclose(dsp.harmonics(f0_hz, dsp.rolloff(40, 1.0), 8000), want, atol=1e-9)


def test_karplus_strong_equals_its_recursion_sample_by_sample(rng: np.random.Generator) -> None:
    burst = rng.standard_normal(50)
    got = dsp.karplus_strong(400, 8000, 8000 / 20.5, 0.5, burst)
    loss = 0.5 * 10 ** (-3 / (8000 / 20.5 * 0.5))
    want = np.zeros(401)
    want[1:21] = burst[:20]
    for i in range(21, 401):
        want[i] = loss * (want[i - 20] + want[i - 21])
    np.testing.assert_allclose(got, want[1:], atol=1e-12)


def test_convolution_equals_numpys(rng: np.random.Generator) -> None:
    x, kernel = rng.standard_normal(300), rng.standard_normal(77)
    np.testing.assert_allclose(dsp.convolved(x, kernel), np.convolve(x, kernel)[:300], atol=1e-12)


def test_band_is_half_power_at_its_edges() -> None:
    gain = dsp.band(100.0, 4000.0, order=4)(np.array([10.0, 100.0, 600.0, 4000.0]))
    np.testing.assert_allclose(gain, [1e-4, 0.5**0.5, 1.0, 0.5**0.5], rtol=1e-2)


def test_doppler_starts_high_and_ends_low() -> None:
    t = np.arange(4 * RATE_HZ) / RATE_HZ
    heard = dsp.doppler(np.sin(2 * np.pi * 1000 * t), RATE_HZ, 30.0, 5.0)
    start, end = (
        np.abs(np.fft.rfft(part * np.hanning(part.size))).argmax() * RATE_HZ / part.size
        for part in (heard[:RATE_HZ], heard[-RATE_HZ:])
    )
    assert start == pytest.approx(1000 * (1 + 30 / 343), abs=10)
    assert end == pytest.approx(1000 * (1 - 30 / 343), abs=10)


def test_active_level_ignores_pauses_and_the_limiter_keeps_the_quiet_part() -> None:
    tone = 0.1 * np.sin(2 * np.pi * 500 * np.arange(RATE_HZ) / RATE_HZ)
    padded = np.concatenate([tone, np.zeros(3 * RATE_HZ)])
    assert dsp.active_level_db(padded, RATE_HZ) == pytest.approx(-23.0, abs=0.1)
    wild = np.array([0.0, 0.3, -0.39, 5.0, -80.0])
    np.testing.assert_array_equal(dsp.limited(wild)[:3], wild[:3])
    assert np.abs(dsp.limited(wild)).max() <= 0.6


# ---------------------------------------------------------------- classes


def test_there_are_enough_classes_and_their_words_are_distinct() -> None:
    assert len(synth.CLASSES) >= 40
    nouns = [noun for known in REGISTRY.values() for noun in known.nouns]
    assert not [noun for noun, count in Counter(nouns).items() if count > 1]
    poles = {word.lstrip("<") for words in wording.NOUN_WORDS.values() for word in words}
    texts = [*nouns, *(" ".join(c) for known in REGISTRY.values() for c in known.clauses)]
    assert not [t for t in texts if poles & set(t.split())], "an attribute word nobody drew"


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])
@pytest.mark.parametrize("name", synth.CLASSES)
def test_class_is_heard_at_every_rate(name: str, rate_hz: int) -> None:
    for seed in range(3):
        x = play(name, seed=seed, rate_hz=rate_hz, seconds=1.5)
        assert np.isfinite(x).all()
        assert np.abs(x).max() < 0.7
        assert dsp.active_level_db(x, rate_hz) == pytest.approx(mix.PLAIN_DB, abs=2.0)
        third = x.size // 3
        assert dsp.active_level_db(x[:third], rate_hz) > -45.0, "silent after its onset"


@pytest.mark.parametrize("name", synth.CLASSES)
def test_class_performs_exactly_the_axes_that_it_declares(name: str) -> None:
    take = Take(SeedSequence(0), 2.0, RATE_HZ)
    REGISTRY[name].recipe(take)
    assert take.performed == set(REGISTRY[name].axes) - {"level motion"}


@pytest.mark.parametrize("name", synth.CLASSES)
def test_parameters_do_not_hang_on_the_rate(name: str) -> None:
    takes = [Take(SeedSequence(3), 2.0, rate_hz) for rate_hz in (8_000, 44_100)]
    for take in takes:
        REGISTRY[name].recipe(take)
    assert takes[0].units == takes[1].units


def test_levels_mean_what_they_say() -> None:
    for attribute, want_db in mix.LEVEL_DB.items():
        got = [dsp.active_level_db(play(name, attribute), RATE_HZ) for name in synth.CLASSES]
        assert np.mean(got) == pytest.approx(want_db, abs=1.0)
        assert np.ptp(got) < 6.0  # the limiter takes a little from what is mostly peaks


@pytest.mark.parametrize("name", ["rain", "cat meow", "church bell", "hi-hat"])
def test_far_is_duller_than_near(name: str) -> None:
    assert energy_above(play(name, "far"), 2500) < energy_above(play(name, "near"), 2500)


@pytest.mark.parametrize("name", [n for n, k in REGISTRY.items() if "level motion" in k.axes])
def test_growing_grows_and_fading_fades(name: str) -> None:
    for attribute, sign in (("growing", 1), ("fading", -1)):
        x = play(name, attribute, seconds=4.0)
        ends = [
            dsp.active_level_db(part, RATE_HZ) for part in (x[: x.size // 3], x[-x.size // 3 :])
        ]
        assert sign * (ends[1] - ends[0]) > 5.0


def test_tempo_and_pitch_take_separate_thirds_and_glides_go_their_way() -> None:
    def drawn(attribute: str, seed: int) -> Take:
        return Take(SeedSequence(seed), 2.0, RATE_HZ, (attribute,))

    for low, high, call in (("slow", "fast", Take.tempo), ("low", "high", Take.pitch)):
        lows = [call(drawn(low, s), 1.0, 8.0) for s in range(40)]
        highs = [call(drawn(high, s), 1.0, 8.0) for s in range(40)]
        assert max(lows) <= 2.0 < 4.0 <= min(highs)
    assert (np.diff(drawn("rising", 0).glide()) > 0).all()
    assert (np.diff(drawn("falling", 0).glide()) < 0).all()


# ---------------------------------------------------------------- scenes


def test_scenes_are_well_formed_and_mostly_short() -> None:
    drawn = [synth.draw_scene(1, i) for i in range(1500)]
    lengths = np.array([s.duration_s for s in drawn])
    assert lengths.min() >= 1.0
    assert 10.0 < lengths.max() <= 30.0
    assert 4.0 < lengths.mean() < 5.0
    assert {s.relation for s in drawn} == set(synth.RELATIONS)
    assert {e.label for s in drawn for e in s.events} == set(synth.CLASSES)
    for s in drawn:
        assert len(set(s.captions)) == len(s.captions) >= 4
        assert set(s.labels) <= set(s.tags)
        assert len(set(s.labels)) == len(s.labels)
        assert max(e.offset_s for e in s.events) <= s.duration_s
        for e in s.events:
            low, high = REGISTRY[e.label].length_s
            assert low - 0.002 <= e.duration_s  # times are rounded to ms
            assert e.duration_s <= max(high, 30.0) + 0.002


def test_time_line_agrees_with_the_relation() -> None:
    for i in range(800):
        scene = synth.draw_scene(2, i)
        first, *others = scene.events
        if scene.relation == "sequence":
            for one, two in zip(scene.events, others, strict=False):
                assert one.offset_s < two.onset_s
        elif scene.relation == "overlap":
            shorter = min(e.duration_s for e in scene.events)
            shared = min(e.offset_s for e in scene.events) - max(e.onset_s for e in scene.events)
            assert shared == pytest.approx(shorter, abs=0.01)
        elif scene.relation in ("during", "backdrop"):
            assert all(first.onset_s < e.onset_s < e.offset_s < first.offset_s for e in others)


@pytest.mark.parametrize("max_s", [2.0, 3.5, 10.0])
def test_max_s_is_kept(max_s: float) -> None:
    drawn = [synth.draw_scene(0, i, max_s=max_s) for i in range(300)]
    assert max(s.duration_s for s in drawn) <= max_s
    assert max(e.offset_s for s in drawn for e in s.events) <= max_s
    assert max(len(s.events) for s in drawn) > 1


def test_captions_say_the_content_in_the_right_words() -> None:
    for i in range(300):
        scene = synth.draw_scene(3, i)
        for caption in scene.captions:
            for event in scene.events:
                known = REGISTRY[event.label]
                said = [
                    noun.removeprefix("a ").removeprefix("an ").removeprefix("the ")
                    for noun in known.nouns
                ]
                said += [
                    f"{s} {form}" for s, verb, gerund in known.clauses for form in (verb, gerund)
                ]
                assert any(text in caption for text in said), (caption, event.label)
        poles = {pole for event in scene.events for pole in event.attributes}
        for pole, forms in wording.NOUN_WORDS.items():
            words = {w.lstrip("<") for w in (*forms, *wording.CLAUSE_WORDS[pole])}
            told = any(w in scene.captions[0] for w in words)
            assert told or pole not in poles, (scene.captions[0], pole)


@pytest.mark.parametrize("split", synth.SPLITS)
def test_order_words_put_the_events_in_order(split: str) -> None:
    """Where a template names the second event first, and only there, its words turn them round."""
    turns_round = re.compile(r"^before \{b\}|\{b\} after \{a\}|but first \{a\}$")
    for _, text in TEMPLATES[split]["sequence2"]:
        assert (text.index("{b}") < text.index("{a}")) == bool(turns_round.search(text)), text
        assert not re.search(r"^before \{a\}|\{a\} after \{b\}|but first \{b\}", text), text
    for _, text in TEMPLATES[split]["sequence3"]:
        assert text.index("{a}") < text.index("{b}") < text.index("{c}")


def test_bad_arguments_are_one_clear_line() -> None:
    scene = synth.draw_scene(0, 0)
    for call in (
        lambda: synth.draw_scene(0, 0, split="dev"),
        lambda: synth.draw_scene(0, 0, max_s=60.0),
        lambda: synth.draw_scene(0, 0, relation="chaos"),
        lambda: synth.draw_scene(-1, 0),
        lambda: synth.render(scene, 4_000),
        lambda: synth.order_pairs(0, 1, split="dev"),
        lambda: synth.attribute_pairs(0, -1),
    ):
        with pytest.raises(ConfigError, match=r"^synth: [^\n]+$"):
            call()


# ---------------------------------------------------------------- held-out splits


def test_held_out_parameters_are_never_drawn_in_train() -> None:
    cells: dict[str, set[int]] = {split: set() for split in synth.SPLITS}
    for split in synth.SPLITS:
        for i, known in enumerate(REGISTRY.values()):
            for attributes in ((), ("slow", "low", "rising"), ("fast", "high", "falling")):
                take = Take(SeedSequence((7, i)), 1.5, 8_000, attributes, split)
                known.recipe(take)
                assert take.units
                cells[split] |= {int(unit * CELLS) for unit in take.units}
    for one, other in SPLIT_PAIRS:
        assert not cells[one] & cells[other]
    assert all(cells[split] == set(CELLS_OF[split]) for split in synth.SPLITS)


def test_held_out_wordings_are_never_used_in_train() -> None:
    texts = {s: {t for family in TEMPLATES[s].values() for _, t in family} for s in synth.SPLITS}
    said = {
        s: {c for i in range(1500) for c in synth.draw_scene(0, i, split=s).captions}
        for s in synth.SPLITS
    }
    for one, other in SPLIT_PAIRS:
        assert not texts[one] & texts[other]
        assert not said[one] & said[other]


def test_held_out_combinations_never_meet_in_train() -> None:
    met: dict[str, set[tuple[str, ...]]] = {}
    for split in synth.SPLITS:
        drawn = [synth.draw_scene(0, i, split=split) for i in range(1500)]
        met[split] = {pair for s in drawn for pair in combinations(sorted(s.labels), 2)}
        assert all(scenes.partners(name, split) for name in synth.CLASSES)
    for one, other in SPLIT_PAIRS:
        assert not met[one] & met[other]
    assert min(len(pairs) for pairs in met.values()) > 80


# ---------------------------------------------------------------- rendering


def test_scenes_are_pure_functions_of_their_index() -> None:
    assert synth.draw_scene(5, 9, split="test") == synth.draw_scene(5, 9, split="test")
    keys = {
        synth.draw_scene(s, i, split=p).captions
        for s in (0, 1)
        for i in (0, 1)
        for p in synth.SPLITS
    }
    assert len(keys) == 12


_CRC = """
import zlib
from echoic.data import synth
for i in range(6):
    print(zlib.crc32(synth.render(synth.draw_scene(0, i), 16000).tobytes()))
"""


def test_render_is_the_same_bits_in_another_process() -> None:
    done = subprocess.run([sys.executable, "-c", _CRC], capture_output=True, text=True, check=True)
    here = [zlib.crc32(synth.render(synth.draw_scene(0, i), RATE_HZ).tobytes()) for i in range(6)]
    assert [int(line) for line in done.stdout.split()] == here


def test_coarse_statistics_stay_as_they_were() -> None:
    """The golden: the corpus does not change unnoticed; the tolerance is for other platforms."""
    for i, (labels, duration_s, rms_db) in enumerate(GOLDEN):
        scene = synth.draw_scene(0, i)
        x = synth.render(scene, RATE_HZ)
        assert (scene.labels, scene.duration_s) == (labels, duration_s)
        assert 10 * np.log10(np.mean(x.astype(np.float64) ** 2)) == pytest.approx(rms_db, abs=0.05)


def test_renders_never_clip_nor_fall_silent() -> None:
    for i in range(60):
        scene = synth.draw_scene(8, i, max_s=8.0)
        x = synth.render(scene, 8_000)
        assert x.dtype == np.float32
        assert x.shape == (round(scene.duration_s * 8_000),)
        assert np.isfinite(x).all()
        assert np.abs(x).max() < 0.99
        assert dsp.active_level_db(x.astype(np.float64), 8_000) > -43.0


def test_every_event_can_be_heard_in_the_mix() -> None:
    """Each event rules some of the spectrogram's cells and stays within its time line."""

    def cells(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        frames = x[: x.size // 512 * 512].reshape(-1, 512) * np.hanning(512)
        return np.abs(np.fft.rfft(frames, axis=1)) ** 2

    for i in range(40):
        relation = ("overlap", "during", "backdrop")[i % 3]
        scene = synth.draw_scene(4, i, max_s=6.0, relation=relation)
        made = mix.stems(scene, RATE_HZ)
        power = np.stack([cells(x) for x in (*made, mix.background(scene, RATE_HZ))])
        for k, (event, x) in enumerate(zip(scene.events, made, strict=True)):
            ruled = (power[k] > np.delete(power, k, axis=0).sum(axis=0)).sum()
            assert ruled >= 30, (scene.labels, event.label)  # the least of 2000 events was 39
            outside = np.arange(x.size) / RATE_HZ
            outside = (outside < event.onset_s - 1e-3) | (outside > event.offset_s + 1e-3)
            assert not x[outside].any()


def test_rendering_is_much_faster_than_real_time() -> None:
    """Measured at several hundred times on one core; the bound leaves room for a busy machine."""
    drawn = [synth.draw_scene(6, i) for i in range(40)]
    start = time.process_time()
    for scene in drawn:
        synth.render(scene)
    assert sum(s.duration_s for s in drawn) / (time.process_time() - start) > 60.0


# ---------------------------------------------------------------- the benchmark


def test_order_pairs_swap_the_events_and_nothing_else() -> None:
    items = synth.order_pairs(0, 60)
    assert items == synth.order_pairs(0, 60)
    for item in items:
        assert item.axis == "order"
        assert item.right != item.wrong
        assert sorted(item.right.replace(",", "").split()) == sorted(
            item.wrong.replace(",", "").split()
        )
        one, two = item.scene.events
        assert one.offset_s < two.onset_s
        assert synth.pair_split(one.label, two.label) == "test"


def test_attribute_pairs_change_one_attribute_to_its_opposite() -> None:
    items = synth.attribute_pairs(0, 120)
    assert Counter(item.axis for item in items) == dict.fromkeys(synth.AXES, 20)
    for item in items:
        (event,) = item.scene.events
        (pole,) = event.attributes
        assert pole in synth.AXES[item.axis]
        assert item.right != item.wrong
        known = {w.lstrip("<") for w in (*wording.NOUN_WORDS[pole], *wording.CLAUSE_WORDS[pole])}
        contrary = synth.OPPOSITE[pole]
        others = {
            w.lstrip("<") for w in (*wording.NOUN_WORDS[contrary], *wording.CLAUSE_WORDS[contrary])
        }
        assert any(w in item.right for w in known)
        assert any(w in item.wrong for w in others)
    poles = Counter(item.scene.events[0].attributes[0] for item in synth.attribute_pairs(1, 600))
    assert all(30 <= count <= 70 for count in poles.values()), "no pole is the likelier answer"


def test_benchmark_items_render_and_are_apart_from_the_corpus() -> None:
    for item in (*synth.order_pairs(1, 3), *synth.attribute_pairs(1, 6)):
        assert np.abs(synth.render(item.scene, 8_000)).max() > 0.005
        assert item.scene.entropy != synth.draw_scene(1, 0, split="test").entropy
        assert len(item.scene.captions) >= 4
