"""Generation: each search against one written out, with memory and without, alone and among
others."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from echoic.encoders.decoder import CaptionDecoder, DecoderSpec
from echoic.encoders.generation import Beam, Caption, Greedy, Sampling, Search, generate
from echoic.types import ConfigError, DataError, Ragged

WIDTH = 12
BEGIN, END, PAD = 1, 2, 0


def decoder(vocab: int = 30, **changes) -> CaptionDecoder:
    """Of random weights, but sure enough of itself for captions of many lengths."""
    parts = {"depth": 2, "width": 32, "heads": 2, "hidden": 48, "max_tokens": 14}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = CaptionDecoder(DecoderSpec(vocab=vocab, **(parts | changes)), audio_width=WIDTH)
    with torch.no_grad():
        made.norm.weight.mul_(3)
        made.embedding.weight[END] *= 2.5  # likely, or very unlikely, to follow
    return made


def sounds(*lengths: int, seed: int = 1) -> Ragged:
    draw = torch.Generator().manual_seed(seed)
    return Ragged.from_rows([3 * torch.randn(n, WIDTH, generator=draw) for n in lengths])


MANY = sounds(9, 1, 17, 4, 4, 30, 12)


def seeded(**changes) -> Sampling:
    return Sampling(torch.Generator().manual_seed(7), **changes)


SEARCHES = {
    "greedy": Greedy,
    "greedy, no repeat": lambda: Greedy(no_repeat=2),
    "beam": lambda: Beam(width=4, captions=3),
    "beam, no repeat": lambda: Beam(width=3, no_repeat=1, length_penalty=0.5),
    "sampling": lambda: seeded(captions=3),
    "sampling, cut": lambda: seeded(captions=2, temperature=0.8, top_k=9, top_p=0.8),
}
every_search = pytest.mark.parametrize("make", SEARCHES.values(), ids=SEARCHES)


def same(one: list[list[Caption]], other: list[list[Caption]]) -> None:
    assert [[c.ids for c in clip] for clip in one] == [[c.ids for c in clip] for clip in other]
    for a, b in zip(itertools.chain(*one), itertools.chain(*other), strict=True):
        assert a.log_probability == pytest.approx(b.log_probability, abs=1e-3)


def follows(reads: CaptionDecoder, heard: Ragged, said: list[int]) -> list[float]:
    """Log-probabilities of what follows, from a pass of its own."""
    with torch.no_grad():
        logits = reads(heard, Ragged.from_rows([torch.tensor([BEGIN, *said])]))
    return logits[-1].log_softmax(0).tolist()


def log_probability(reads: CaptionDecoder, heard: Ragged, ids: tuple[int, ...]) -> float:
    """Of a whole caption, by teacher forcing."""
    with torch.no_grad():
        logits = reads(heard, Ragged.from_rows([torch.tensor([BEGIN, *ids])])).log_softmax(1)
    return sum(float(logits[i, token]) for i, token in enumerate([*ids, END]))


# -- all searches --------------------------------------------------------------------------------


@every_search
def test_memory_changes_nothing(make):
    reads = decoder()
    same(generate(reads, MANY, make()), generate(reads, MANY, make(), cached=False))


@every_search
def test_memory_changes_nothing_with_positions_of_sound(make):
    reads = decoder(sound_positions=True)
    same(generate(reads, MANY, make()), generate(reads, MANY, make(), cached=False))


@every_search
def test_neighbours_change_nothing(make):
    """Nor does the way in which clips are parted into batches."""
    reads, how = decoder(), make()
    parts = [list(MANY)[:1], list(MANY)[1:3], list(MANY)[3:]]
    alone = [each for part in parts for each in generate(reads, Ragged.from_rows(part), how)]
    same(generate(reads, MANY, make()), alone)


@every_search
def test_log_probability_is_that_of_the_whole_caption_by_the_decoder(make):
    reads = decoder()
    for heard, told in zip(MANY, generate(reads, MANY, make()), strict=True):
        for caption in told:
            wanted = log_probability(reads, Ragged.from_rows([heard]), caption.ids)
            assert caption.log_probability == pytest.approx(wanted, abs=1e-3)


@every_search
def test_what_no_caption_has_is_never_said(make):
    reads = decoder()
    with torch.no_grad():  # else it would say nothing but these
        reads.embedding.weight[[PAD, BEGIN, 5]] *= 4
    loud = CaptionDecoder(reads.spec.model_copy(update={"unsaid_ids": (PAD, 5)}), audio_width=WIDTH)
    loud.load_state_dict(reads.state_dict())
    said = {token for clip in generate(loud, MANY, make()) for c in clip for token in c.ids}
    assert said
    assert said.isdisjoint({PAD, BEGIN, END, 5})


@every_search
@pytest.mark.parametrize("longest", [3, 6])
def test_no_caption_is_longer_than_asked(make, longest):
    found = generate(decoder(), MANY, make(), max_tokens=longest)
    lengths = [len(caption.ids) for clip in found for caption in clip]
    assert max(lengths) == longest - 2  # the frame counts


@every_search
def test_it_takes_no_more_words_than_it_must(make, monkeypatch):
    """A search ends with its last caption, and a clip that is done is no longer computed."""
    reads, rows = decoder(), []
    step = CaptionDecoder.step

    def counted(self, ids, memory):
        rows.append(len(ids))
        return step(self, ids, memory)

    monkeypatch.setattr(CaptionDecoder, "step", counted)
    found = generate(reads, MANY, make())
    if not isinstance(make(), Beam):
        longest = [max(len(caption.ids) for caption in clip) for clip in found]
        assert len(rows) == max(longest) + 1
        each = len(found[0])
        assert rows == [each * sum(n >= step for n in longest) for step in range(len(rows))]
    assert rows == sorted(rows, reverse=True)
    assert rows[0] > rows[-1]
    assert len(rows) <= 13


# -- one by one ----------------------------------------------------------------------------------


def test_greedy_is_the_likeliest_token_each_time():
    reads = decoder()
    for row, told in zip(MANY, generate(reads, MANY, Greedy()), strict=True):
        heard, said = Ragged.from_rows([row]), []
        while len(said) < 12:
            log_p = follows(reads, heard, said)
            best = max((t for t in range(30) if t not in (PAD, BEGIN)), key=lambda t: log_p[t])
            if best == END:
                break
            said.append(best)
        assert [caption.ids for caption in told] == [tuple(said)]


def test_lengths_differ():
    """Else the tests of this file prove little."""
    assert len({len(clip[0].ids) for clip in generate(decoder(), MANY, Greedy())}) > 3


@pytest.mark.parametrize("words", [1, 2, 3])
@pytest.mark.parametrize("kind", [Greedy, Beam])
def test_no_words_in_a_row_are_said_twice(kind, words):
    reads = decoder()

    def repeats(how: Search) -> int:
        said = [clip[0].ids for clip in generate(reads, MANY, how, max_tokens=40)]
        runs = [[ids[i : i + words] for i in range(len(ids) - words + 1)] for ids in said]
        return sum(len(each) - len(set(each)) for each in runs)

    with torch.no_grad():
        reads.embedding.weight[END] -= 10 * reads.embedding.weight[END]  # it never ends by itself
    assert repeats(kind()) > 0
    assert repeats(kind(no_repeat=words)) == 0


# -- beam ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("cached", [True, False])
def test_a_beam_of_all_is_a_search_through_all(penalty, cached):
    """Three words, captions of at most four: 121 of them."""
    reads, batch = decoder(vocab=6), sounds(5, 2, seed=4)
    found = generate(
        reads, batch, Beam(121, captions=121, length_penalty=penalty), max_tokens=6, cached=cached
    )
    every = [ids for n in range(5) for ids in itertools.product((3, 4, 5), repeat=n)]
    for row, told in zip(batch, found, strict=True):
        heard = Ragged.from_rows([row])
        scores = {
            ids: log_probability(reads, heard, ids) / (len(ids) + 1) ** penalty for ids in every
        }
        got = [scores[caption.ids] for caption in told]
        assert sorted(caption.ids for caption in told) == sorted(every)
        assert got == pytest.approx(sorted(scores.values(), reverse=True), abs=1e-4)


def written_out(
    reads: CaptionDecoder, heard: Ragged, how: Beam, vocab: int, longest: int
) -> list[tuple[int, ...]]:
    """A beam of one clip in plain Python."""
    live, finds = [((), 0.0)], []
    for length in range(1, longest):
        last = length == longest - 1
        grown = [
            ((*said, token), total + log_p)
            for said, total in live
            for token, log_p in enumerate(follows(reads, heard, list(said)))
            if token == END or not (last or token in (PAD, BEGIN))
        ]
        grown.sort(key=lambda each: -each[1])
        finds += [
            (total / length**how.length_penalty, said[:-1])
            for said, total in grown[: how.width]
            if said[-1] == END
        ]
        finds = sorted(finds, reverse=True)[: how.width]
        live = [each for each in grown if each[0][-1] != END][: how.width]
        if not live or (
            len(finds) == how.width and finds[-1][0] >= live[0][1] / length**how.length_penalty
        ):
            break
    return [ids for _, ids in finds[: how.captions]]


@pytest.mark.parametrize("width", [1, 2, 3, 5])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_narrow_beam_equals_one_written_out(width, penalty):
    reads, how = decoder(vocab=12), Beam(width, captions=width, length_penalty=penalty)
    found = generate(reads, MANY, how, max_tokens=8)
    for row, told in zip(MANY, found, strict=True):
        wanted = written_out(reads, Ragged.from_rows([row]), how, 12, 8)
        assert [caption.ids for caption in told] == wanted


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_of_one_is_greedy(penalty):
    reads = decoder()
    one = generate(reads, MANY, Beam(width=1, length_penalty=penalty))
    same(one, generate(reads, MANY, Greedy()))


def test_length_penalty_makes_longer():
    reads = decoder()
    short, long = (
        sum(len(clip[0].ids) for clip in generate(reads, MANY, Beam(length_penalty=penalty)))
        for penalty in (0.0, 2.0)
    )
    assert short < long


# -- sampling ------------------------------------------------------------------------------------


def shares(how: Sampling, reads: CaptionDecoder, heard: Ragged) -> dict[int, float]:
    """How often each word was the first; captions of one word, END where there was none."""
    told = generate(reads, heard, how, max_tokens=3)[0]
    words = [caption.ids[0] if caption.ids else END for caption in told]
    return {word: words.count(word) / len(words) for word in set(words)}


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, None, 1.0), (0.5, None, 1.0), (2.0, None, 1.0), (1.0, 3, 1.0), (1.0, None, 0.6),
     (1.5, 4, 0.7), (1.0, 1, 1.0), (1.0, None, 1e-9), (1.0, 99, 1.0)],
)  # fmt: skip
def test_words_are_drawn_by_their_probability(temperature, top_k, top_p):
    reads, heard = decoder(vocab=10), sounds(6, seed=3)
    log_p = follows(reads, heard, [])
    weight = {t: math.exp(log_p[t] / temperature) for t in range(10) if t not in (PAD, BEGIN)}
    kept, mass = {}, 0.0
    likeliest = sorted(weight, key=lambda t: -weight[t])[: top_k or 10]
    whole = sum(weight[t] for t in likeliest)
    for token in likeliest:
        if mass < top_p:
            kept[token] = weight[token]
        mass += weight[token] / whole
    wanted = {token: each / sum(kept.values()) for token, each in kept.items()}
    draws = 4000
    how = seeded(captions=draws, temperature=temperature, top_k=top_k, top_p=top_p)
    got = shares(how, reads, heard)
    assert got.keys() <= wanted.keys()
    for token, share in wanted.items():
        error = math.sqrt(share * (1 - share) / draws)
        assert abs(got.get(token, 0) - share) <= 5 * error + 1e-4


def test_a_generator_decides_alone():
    reads = decoder()
    first, again = (generate(reads, MANY, seeded(captions=2)) for _ in range(2))
    same(first, again)
    other = generate(reads, MANY, Sampling(torch.Generator().manual_seed(8), captions=2))
    assert first != other


def test_samples_of_a_clip_differ_and_come_best_first():
    for clip in generate(decoder(), MANY, seeded(captions=5)):
        assert len({caption.ids for caption in clip}) > 1
        told = [caption.log_probability for caption in clip]
        assert told == sorted(told, reverse=True)


# -- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Beam(width=0), "width 0: must be 1 or more"),
        (lambda: Beam(width=3, captions=4), "captions 4: 1 to the width, 3"),
        (lambda: Beam(length_penalty=-1), "length_penalty -1: must be 0 or more"),
        (lambda: Greedy(no_repeat=-1), "no_repeat -1: must be 0 or more"),
        (lambda: seeded(captions=0), "captions 0: must be 1 or more"),
        (lambda: seeded(temperature=0), "temperature 0: must be above 0"),
        (lambda: seeded(top_k=0), "top_k 0: must be 1 or more"),
        (lambda: seeded(top_p=0), "top_p 0: must be above 0, at most 1"),
        (lambda: generate(decoder(), MANY, max_tokens=2), "max_tokens 2: a caption of one word"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


@pytest.mark.parametrize("cached", [True, False])
def test_a_clip_without_tokens_is_refused(cached):
    with pytest.raises(DataError, match="clip 1 of the batch has no audio tokens"):
        generate(decoder(), sounds(3, 0), cached=cached)
