from __future__ import annotations

import gc
import itertools
import logging
import threading
import time

import numpy as np
import pytest
import torch

from echoic.data import order, pack
from echoic.data.clips import Clip
from echoic.data.loader import Loader, meaning_ids
from echoic.data.order import Draws
from echoic.data.shards import ShardSource, write_shards
from echoic.types import AudioError, Batch, ConfigError, DataError

RATE_HZ = 1000


class ArraySource:
    """Clips in memory. faults: clip index -> reason; jitter: reads that take uneven time."""

    def __init__(self, seconds, *, captions=3, tags=(), faults=None, jitter=False) -> None:
        self.faults, self.jitter, self.reads = faults or {}, jitter, []
        self.clips = [
            Clip(f"clip{i}", tuple(f"caption {j} of {i}" for j in range(captions)), tags, s)
            for i, s in enumerate(seconds)
        ]

    def read(self, i: int, rate_hz: int) -> np.ndarray:
        self.reads.append(i)
        if self.jitter:
            time.sleep(0.0005 * (i % 4))
        if i in self.faults:
            raise AudioError(self.clips[i].key, self.faults[i])
        length = round((self.clips[i].duration_s or 0.5) * rate_hz)
        return np.random.default_rng(i).normal(size=length).astype(np.float32)


def tokenize(texts: list[str]) -> list[list[int]]:
    return [[ord(c) for c in text] for text in texts]


def loader(source, **options) -> Loader:
    usual = {"rate_hz": RATE_HZ, "budget": 100, "seed": 5, "max_s": 4.0}
    return Loader(source, tokenize=tokenize, cost=lambda s: round(s * 10), **{**usual, **options})


def take(made: Loader, count: int, first_step: int = 0) -> list[Batch]:
    batches = made.batches(first_step)
    try:
        return list(itertools.islice(batches, count))
    finally:
        batches.close()


def assert_same(a: list[Batch], b: list[Batch]) -> None:
    assert [x.keys for x in a] == [x.keys for x in b]
    for x, y in zip(a, b, strict=True):
        for name in ("audio", "text"):
            assert torch.equal(getattr(x, name).values, getattr(y, name).values)
            assert torch.equal(getattr(x, name).offsets, getattr(y, name).offsets)
        assert torch.equal(x.meaning, y.meaning)
        assert x.seed == y.seed


def noisy(audio: np.ndarray, rate_hz: int, rng: np.random.Generator) -> np.ndarray:
    return audio + rng.normal(size=len(audio)).astype(np.float32)


SECONDS = [0.3 + 0.37 * (i % 13) for i in range(60)]  # some longer than max_s


def test_a_batch_is_what_the_plan_says():
    source = ArraySource([1.0, 2.0, 1.5, 0.5], captions=1)
    batch = take(loader(source), 1)[0]
    assert sorted(batch.keys) == ["clip0", "clip1", "clip2", "clip3"]
    for key, audio, ids in zip(batch.keys, batch.audio, batch.text, strict=True):
        i = int(key[4:])
        assert torch.equal(audio, torch.from_numpy(source.read(i, RATE_HZ)))
        assert "".join(map(chr, ids.tolist())) == f"caption 0 of {i}"
    assert batch.audio.values.dtype == torch.float32
    assert batch.text.values.dtype == torch.int64


@pytest.mark.parametrize("faults", [{}, {7: "broken", 30: "broken"}])
def test_the_same_batches_whatever_the_threads_prefetch_and_cache(faults):
    def run(**options):
        source = ArraySource(SECONDS, faults=faults, jitter=True)
        return take(loader(source, augment=noisy, **options), 40)

    one = run(threads=1, prefetch=0)
    assert_same(one, run(threads=4, prefetch=3))
    assert_same(one, run(threads=3, prefetch=1, cache_bytes=10**6))
    assert_same(one, run(threads=2, cache_bytes=10**5))


@pytest.mark.parametrize("faults", [{}, {7: "broken", 30: "broken"}])
@pytest.mark.parametrize("stop", [1, 13, 29])
def test_resumed_at_any_step_it_is_as_if_never_stopped(faults, stop):
    def fresh() -> Loader:
        return loader(ArraySource(SECONDS, faults=faults), augment=noisy, threads=2)

    whole = fresh()
    uninterrupted = take(whole, 40)
    first, second = fresh(), fresh()
    head = take(first, stop)
    second.load_state_dict(first.state_dict())
    tail = take(second, 40 - stop, stop)
    assert_same(uninterrupted, head + tail)
    assert second.state_dict() == whole.state_dict()


def test_every_clip_once_per_epoch_and_captions_redrawn():
    made = loader(ArraySource(SECONDS))
    steps = made.steps_in(2)
    batches = take(made, steps)
    epochs = [made.epoch_of(t) for t in range(steps)]
    assert epochs == sorted(epochs)
    drawn: list[dict[str, tuple[int, ...]]] = [{}, {}]
    for epoch, batch in zip(epochs, batches, strict=True):
        for key, ids in zip(batch.keys, batch.text, strict=True):
            assert key not in drawn[epoch]
            drawn[epoch][key] = tuple(ids.tolist())
    assert len(drawn[0]) == len(drawn[1]) == len(SECONDS)
    changed = sum(drawn[0][key] != drawn[1][key] for key in drawn[0])
    assert 0.4 < changed / len(SECONDS) < 0.9  # two thirds of the draws from three captions differ


def test_batches_keep_to_the_budget():
    for batch in take(loader(ArraySource(SECONDS)), 30):
        cost = sum(round(len(audio) / RATE_HZ * 10) for audio in batch.audio)
        assert cost <= 100
        assert len(batch) >= 2


def test_long_clips_give_another_window_each_epoch():
    source = ArraySource([9.0, 1.0], captions=1)
    made = loader(source)
    windows = []
    for batch in take(made, 4):
        audio = batch.audio[batch.keys.index("clip0")].numpy()
        assert len(audio) == 4 * RATE_HZ
        whole = source.read(0, RATE_HZ)
        starts = np.flatnonzero(whole == audio[0])
        assert any(np.array_equal(whole[s : s + len(audio)], audio) for s in starts)
        windows.append(audio)
    assert not np.array_equal(windows[0], windows[1])


def test_a_source_that_can_is_asked_for_the_window_alone():
    class Windowed(ArraySource):
        def read_window(self, i, rate_hz, start_s, duration_s):
            assert 0 <= start_s <= 3600 - duration_s
            # every other stretch of the recording is silent
            level = np.float32(int(start_s / 60) % 2)
            return np.full(round(duration_s * rate_hz), level, np.float32)

    source = Windowed([3600.0, 1.0, 1.0])
    batches = take(loader(source), 20)
    assert 0 not in source.reads
    assert (
        sum("clip0" in batch.keys for batch in batches) >= 15
    )  # of 20; 1 in 8 draws meets silence three times


def test_unknown_durations_are_counted_as_the_longest():
    made = loader(ArraySource([None] * 9), budget=100)
    assert all(len(batch) <= 2 for batch in take(made, 4))


class TestBadClips:
    def test_are_skipped_named_once_and_counted(self, caplog):
        faults = {3: "cannot be decoded", 40: "is empty"}
        made = loader(ArraySource(SECONDS, faults=faults))
        with caplog.at_level(logging.WARNING, "echoic.data"):
            batches = take(made, made.steps_in(3))
        assert made.bad == {"clip3": "cannot be decoded", "clip40": "is empty"}
        lines = [record.getMessage() for record in caplog.records]
        assert sorted(lines) == [
            "clip clip3 skipped: cannot be decoded",
            "clip clip40 skipped: is empty",
        ]
        assert not {"clip3", "clip40"} & {key for batch in batches for key in batch.keys}

    @pytest.mark.parametrize(
        ("samples", "reason"),
        [
            (np.zeros(500, np.float32), "silent"),
            (np.zeros(0, np.float32), "no samples"),
            (np.full(500, np.nan, np.float32), "NaN"),
            (np.r_[np.ones(9, np.float32), np.float32(-np.inf)], "infinite"),
        ],
    )
    def test_silent_empty_and_nan_clips_are_bad(self, samples, reason):
        source = ArraySource([0.5] * 40)
        read = source.read
        source.read = lambda i, rate_hz: samples.copy() if i == 4 else read(i, rate_hz)
        made = loader(source)
        take(made, made.steps_in(1))
        assert list(made.bad) == ["clip4"]
        assert reason in made.bad["clip4"]

    def test_too_many_stop_the_run(self):
        faults = dict.fromkeys(range(0, 60, 10), "cannot be decoded")
        made = loader(ArraySource(SECONDS, faults=faults))
        with pytest.raises(DataError) as caught:
            take(made, made.steps_in(1))
        line = str(caught.value)
        assert "4 of the" in line
        assert "allowed 0.05" in line
        assert line.count("cannot be decoded") == 3
        assert line.endswith("; ...")

    def test_the_share_is_of_one_epoch_and_few_are_no_verdict(self):
        made = loader(ArraySource(SECONDS, faults=dict.fromkeys((1, 2, 3), "bad")))
        take(made, made.steps_in(4))  # 3 of 60 is the allowed 5 %, however often it is met
        assert len(made.bad) == 3
        take(loader(ArraySource([0.5] * 9, faults={1: "bad"})), 2)

    def test_a_batch_left_too_small_is_filled_from_the_next(self):
        # two clips fill a batch, so a bad one leaves its partner alone
        source = ArraySource([4.0] * 40, faults=dict.fromkeys((0, 9), "bad"))
        made = loader(source, budget=80)
        batches = take(made, made.steps_in(2))
        assert {len(batch) for batch in batches} == {2}
        assert all(len(set(batch.keys)) == 2 for batch in batches)

    def test_nothing_usable_is_one_clear_error(self):
        made = loader(
            ArraySource([1.0] * 4, faults=dict.fromkeys(range(4), "gone")), max_bad_share=1
        )
        with pytest.raises(DataError, match=r"step 0 has fewer than 2 usable clips.*clip\d: gone"):
            take(made, 1)


class TestThreads:
    @staticmethod
    def ours() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name.startswith("echoic-loader")]

    def test_end_when_the_consumer_stops_early(self):
        before = len(self.ours())
        batches = loader(ArraySource(SECONDS), threads=3, prefetch=4).batches()
        next(batches)
        assert len(self.ours()) > before
        batches.close()
        assert len(self.ours()) == before

    def test_end_when_the_iterator_is_dropped(self):
        before = len(self.ours())
        batches = loader(ArraySource(SECONDS), threads=2).batches()
        next(batches)
        del batches
        gc.collect()
        assert len(self.ours()) == before

    def test_errors_that_are_no_ones_fault_reach_the_consumer_and_end_the_threads(self):
        def broken(audio, rate_hz, rng):
            raise ZeroDivisionError("a bug in augment")

        before = len(self.ours())
        batches = loader(ArraySource(SECONDS), augment=broken, threads=2).batches()
        with pytest.raises(ZeroDivisionError, match="a bug in augment"):
            next(batches)
        assert len(self.ours()) == before

    def test_decode_at_the_same_time(self):
        together = threading.Barrier(3, timeout=20)

        class Meeting(ArraySource):
            def read(self, i, rate_hz):
                together.wait()
                return super().read(i, rate_hz)

        take(loader(Meeting([0.5] * 6), threads=3, prefetch=0), 1)


class TestCache:
    def test_small_corpora_are_decoded_once(self):
        source = ArraySource([0.5] * 20)
        made = loader(source, cache_bytes=10**6)
        take(made, made.steps_in(3))
        assert sorted(source.reads) == list(range(20))

    def test_is_bounded(self):
        source = ArraySource([0.5] * 20)
        made = loader(source, cache_bytes=10 * 500 * 4, prefetch=0)
        take(made, made.steps_in(2))
        assert len(source.reads) == 20 + 10

    def test_augment_cannot_spoil_it(self):
        def in_place(audio, rate_hz, rng):
            audio *= 2
            return audio

        with pytest.raises(ValueError, match="read-only"):
            take(loader(ArraySource(SECONDS), augment=in_place), 1)

    def test_the_sources_own_array_is_left_alone(self):
        source = ArraySource([0.5] * 4)
        own = source.read(0, RATE_HZ)
        source.read = lambda i, rate_hz: own
        take(loader(source, cache_bytes=10**6), 2)
        assert own.flags.writeable


class TestMeaning:
    def test_same_words_but_for_case_and_spaces(self):
        ids = meaning_ids(["A dog", "a  DOG ", "a cat", "a dog"], [()] * 4)
        assert ids[0] == ids[1] == ids[3] != ids[2]

    def test_same_tag_sets(self):
        ids = meaning_ids(
            ["one", "two", "three", "four", "five"], [("a", "b"), ("b", "a"), ("a",), (), ()]
        )
        assert ids[0] == ids[1]
        assert len(set(ids)) == 4

    def test_groups_that_meet_are_one(self):
        ids = meaning_ids(["one", "two", "one", "two"], [("a",), ("b",), (), ("a",)])
        assert len(set(ids)) == 1

    def test_ids_hold_in_every_process(self):
        here = meaning_ids(["a dog", "a cat"], [(), ("cat",)])
        there = meaning_ids(["a bird", "A  dog", "another cat"], [("bird",), (), ("cat",)])
        assert (here[0], here[1]) == (there[1], there[2])
        assert len({*here, *there}) == 3
        assert meaning_ids(["a dog"], [()]) == [9187547309142480561]

    def test_in_batches(self):
        source = ArraySource([0.5] * 6, captions=1, tags=("bell",))
        assert len(set(take(loader(source), 1)[0].meaning.tolist())) == 6
        assert len(set(take(loader(source, meaning="tags"), 1)[0].meaning.tolist())) == 1


class TestRefusals:
    def test_a_budget_below_two_of_the_longest(self):
        with pytest.raises(
            ConfigError, match=r"budget of 79 .* fewer than 2 .*40 each, cut at 4 s"
        ):
            loader(ArraySource([9.0, 1.0]), budget=79)

    def test_one_clip(self):
        with pytest.raises(DataError, match="1 clips are too few"):
            loader(ArraySource([1.0]))

    def test_no_caption(self):
        with pytest.raises(DataError, match="clip0 has no caption"):
            loader(ArraySource([1.0, 1.0], captions=0))

    def test_a_state_of_other_data(self):
        state = loader(ArraySource([1.0, 1.0])).state_dict()
        with pytest.raises(DataError, match="start one from its weights"):
            loader(ArraySource([1.0, 2.0])).load_state_dict(state)


def test_a_clip_that_is_mostly_silent_gives_the_window_with_the_sound():
    class Late(ArraySource):
        def read(self, i, rate_hz):
            audio = np.zeros(100 * rate_hz, np.float32)
            audio[-rate_hz:] = 0.5
            return audio

    made = loader(Late([100.0] * 4), max_s=2.0, cache_bytes=10**9)
    for batch in take(made, 3):
        assert all(row.abs().max() > 0 for row in batch.audio)
    assert not made.bad


def test_an_epoch_may_be_drawn_by_weight():
    source = ArraySource([0.5] * 12)
    weights = np.where(np.arange(12) < 6, 1e9, 1.0)
    made = loader(source, draws=Draws(weights, 6), budget=15)
    batches = take(made, made.steps_in(1))
    assert sorted(key for batch in batches for key in batch.keys) == [f"clip{i}" for i in range(6)]
    with pytest.raises(DataError, match="cannot go on"):
        loader(source, draws=Draws(weights[::-1], 6), budget=15).load_state_dict(made.state_dict())
    with pytest.raises(DataError, match="cannot go on"):
        loader(source, budget=15).load_state_dict(made.state_dict())


# Sound alone


def test_without_a_tokenizer_captions_are_not_needed():
    source = ArraySource([1.0, 2.0, 1.5, 0.5], captions=0)
    made = Loader(source, tokenize=None, rate_hz=RATE_HZ, cost=lambda s: 1, budget=4, seed=5)
    (batch,) = take(made, 1)
    assert sorted(batch.keys) == ["clip0", "clip1", "clip2", "clip3"]
    assert batch.text.lengths == (1,) * 4
    assert not batch.text.values.any()
    assert len(set(batch.meaning.tolist())) == 4
    with pytest.raises(DataError, match="clip clip0 has no caption"):
        loader(source)


def test_without_a_tokenizer_the_sound_is_the_same():
    """So is what goes on from a checkpoint, and tags may still be the meaning."""
    mute, told = (ArraySource(SECONDS, captions=n, tags=("dog",)) for n in (0, 3))
    usual = {"rate_hz": RATE_HZ, "cost": lambda s: round(s * 10), "budget": 100, "seed": 5}
    made = Loader(mute, tokenize=None, max_s=4.0, augment=noisy, meaning="tags", **usual)
    batches = take(made, 20)
    for ours, theirs in zip(batches, take(loader(told, augment=noisy), 20), strict=True):
        assert ours.keys == theirs.keys
        assert torch.equal(ours.audio.values, theirs.audio.values)
        assert ours.seed == theirs.seed
        assert len(set(ours.meaning.tolist())) == 1
    again = Loader(mute, tokenize=None, max_s=4.0, augment=noisy, meaning="tags", **usual)
    again.load_state_dict(made.state_dict())
    assert_same(take(again, 5, first_step=15), batches[15:])


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("first", [0, 12])
def test_several_ranks_give_together_what_one_gives(ranks, first):
    """Over the end of an epoch, from any step, with clips that cannot be read."""
    faults = {7: "broken", 30: "broken"}

    def of(rank: int, ranks: int, count: int) -> list[Batch]:
        source = ArraySource(SECONDS, faults=faults)
        return take(loader(source, augment=noisy, rank=rank, ranks=ranks), count, first)

    whole = of(0, 1, 12 * ranks)
    shares = [of(rank, ranks, 12) for rank in range(ranks)]
    assert_same(whole, [batch for turn in zip(*shares, strict=True) for batch in turn])
    assert loader(ArraySource(SECONDS)).epoch_of(first + len(whole)) > 0
    for rank, share in enumerate(shares):
        assert_same(share, whole[rank::ranks])


@pytest.mark.parametrize("stop", [1, 9, 25])
def test_of_many_windows_any_step_may_be_the_first(monkeypatch, stop):
    """As of a corpus that is too big to be planned at once."""
    for module in (order, pack):
        monkeypatch.setattr(module, "WHOLE_CLIPS", 16)
    whole = loader(ArraySource(SECONDS), augment=noisy)
    assert whole._schedule.windows == 4
    uninterrupted = take(whole, 40)
    first, second, unaware = (loader(ArraySource(SECONDS), augment=noisy) for _ in range(3))
    head = take(first, stop)
    second.load_state_dict(first.state_dict())
    assert_same(uninterrupted, head + take(second, 40 - stop, stop))
    assert_same(uninterrupted[stop:], take(unaware, 40 - stop, stop))
    ranks = [
        take(loader(ArraySource(SECONDS), augment=noisy, rank=r, ranks=3), 9) for r in range(3)
    ]
    dealt = [batch for turn in zip(*ranks, strict=True) for batch in turn]
    assert_same(dealt, uninterrupted[:27])
    keys = [key for batch in take(whole, whole.steps_in(1)) for key in batch.keys]
    assert len(set(keys)) == len(keys) == len(SECONDS)


def test_of_many_clips_the_fingerprint_is_that_of_their_columns(monkeypatch, tmp_path):
    def opened(folder, **options) -> Loader:
        return loader(ShardSource(folder), min_clips=1, **options)

    waves = [np.full(RATE_HZ, 0.5, np.float32)] * 6
    for name, caption in (("a", "x"), ("same", "x"), ("other", "y")):
        pairs = ((Clip(f"{i}", (caption,), (), None), wave) for i, wave in enumerate(waves))
        write_shards(pairs, tmp_path / name, per_shard=2, rate_hz=RATE_HZ)
    before = opened(tmp_path / "a").fingerprint
    monkeypatch.setattr("echoic.data.loader.WHOLE_CLIPS", 5)
    found = opened(tmp_path / "a").fingerprint
    assert found == opened(tmp_path / "same").fingerprint != before
    assert found != opened(tmp_path / "other").fingerprint
    assert found != opened(tmp_path / "a", seed=6).fingerprint
    assert found != opened(tmp_path / "a", max_s=3.0).fingerprint


def test_costs_are_told_for_many_at_once():
    asked: list[float] = []

    def cost(seconds: float) -> int:
        asked.append(seconds)
        return round(seconds * 10)

    source = ArraySource([1.0, 9.0, None, 0.0, 1.0, 0.01] * 500)
    made = Loader(source, rate_hz=RATE_HZ, tokenize=tokenize, cost=cost, budget=100, seed=0,
                  max_s=4.0)  # fmt: skip
    assert len(asked) == 1
    assert made._costs[np.arange(6)].tolist() == [10, 40, 40, 40, 10, 1]
    assert sorted(asked[1:]) == [0.01, 1.0, 4.0]
