"""The caption decoder: what a word may know, that neighbours change nothing, and that the words one
by one give what all at once give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from echoic.encoders.decoder import CaptionDecoder, DecoderSpec
from echoic.types import ConfigError, DataError, Ragged

WIDTH = 24  # of the audio tokens
TINY = {"vocab": 60, "depth": 3, "width": 32, "heads": 2, "hidden": 64}


def decoder(**changes) -> CaptionDecoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CaptionDecoder(DecoderSpec(**(TINY | changes)), audio_width=WIDTH)


def sounds(*lengths: int) -> Ragged:
    draw = torch.Generator().manual_seed(1)
    return Ragged.from_rows([torch.randn(n, WIDTH, generator=draw) for n in lengths])


def words(*lengths: int) -> Ragged:
    draw = torch.Generator().manual_seed(2)
    return Ragged.from_rows([torch.randint(3, 60, (n,), generator=draw) for n in lengths])


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.fixture(params=[False, True], ids=["plain", "positions"])
def tiny(request) -> CaptionDecoder:
    return decoder(sound_positions=request.param)


def test_defaults_are_the_papers():
    spec = DecoderSpec(vocab=100)
    assert (spec.depth, spec.width, spec.heads) == (8, 512, 8)


def test_a_later_token_changes_no_earlier_logit(tiny):
    heard, text = sounds(9, 5), words(6, 8)
    before = tiny(heard, text)
    for place in range(14):
        changed = text.values.clone()
        changed[place] = 3 + (changed[place] - 2) % 57
        after = tiny(heard, Ragged(changed, text.offsets))
        moved = (after - before).abs().amax(1) > 1e-6
        own = slice(0, 6) if place < 6 else slice(6, 14)
        assert moved[place]
        assert not moved[own.start : place].any()
        assert moved[place : own.stop].all()
        assert moved.sum() == own.stop - place  # nor anything of the other caption


def test_each_token_heard_changes_every_logit_of_its_caption_only(tiny):
    heard, text = sounds(4, 3), words(5, 6)
    before = tiny(heard, text)
    for place in range(7):
        changed = heard.values.clone()
        changed[place] += 1
        moved = (tiny(Ragged(changed, heard.offsets), text) - before).abs().amax(1) > 1e-6
        assert moved.tolist() == ([place < 4] * 5 + [place >= 4] * 6)


def test_packed_equals_one_by_one_with_gradients(tiny):
    heard, text = sounds(40, 1, 7, 300), words(5, 20, 1, 9)
    probe = torch.randn(35, 60, generator=torch.Generator().manual_seed(3))

    def run(parts: list[tuple[Ragged, Ragged]]) -> tuple[Tensor, Tensor, list[Tensor]]:
        tiny.zero_grad()
        sound = heard.values.clone().requires_grad_()
        rows = sound.split(list(heard.lengths))
        logits = torch.cat(
            [tiny(Ragged.from_rows([rows[i] for i in each]), _of(text, each)) for each in parts]
        )
        (logits * probe).sum().backward()
        return logits, sound.grad, [p.grad.clone() for p in tiny.parameters()]

    def _of(text: Ragged, each: list[int]) -> Ragged:
        return Ragged.from_rows([text[i] for i in each])

    logits, sound, grads = run([[0, 1, 2, 3]])
    alone_logits, alone_sound, alone_grads = run([[0], [1], [2], [3]])
    close(logits, alone_logits)
    close(sound, alone_sound)
    for got, wanted in zip(grads, alone_grads, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
        assert got.abs().sum() > 0


@pytest.mark.parametrize("lengths", [(9, 4, 17), (6, 6, 6)])
def test_word_by_word_equals_all_at_once(tiny, lengths):
    heard, text = sounds(*lengths), words(7, 7, 7)
    whole = tiny(heard, text).view(3, 7, 60)
    memory = tiny.listen(heard)
    for place in range(7):
        close(tiny.step(text.values.view(3, 7)[:, place], memory), whole[:, place])


def test_memory_goes_on_with_chosen_clips_and_captions(tiny):
    """Two captions on each of three clips; clips 0 and 2 go on, the second with its captions
    swapped, the first with its second one twice."""
    heard, said = sounds(9, 4, 17), words(12).values.view(3, 2, 2)
    memory = tiny.listen(heard, 2)
    for place in range(2):
        tiny.step(said[:, :, place].flatten(), memory)
    memory.select(torch.tensor([0, 2]), torch.tensor([[1, 1], [1, 0]]))
    last = torch.tensor([40, 41, 42, 43])
    got = tiny.step(last, memory)
    rows = [(0, said[0, 1]), (0, said[0, 1]), (2, said[2, 1]), (2, said[2, 0])]
    for i, (clip, before) in enumerate(rows):
        text = Ragged.from_rows([torch.cat([before, last[i : i + 1]])])
        close(got[i], tiny(Ragged.from_rows([heard[clip]]), text)[-1])


def test_parallel_words_read_no_text_but_know_their_place(tiny):
    heard = sounds(5, 8)
    one, other = (tiny.states(heard, Ragged.from_lengths(x, (4, 3)), parallel=True)
                  for x in (words(7).values, words(9).values[2:]))  # fmt: skip
    assert torch.equal(one, other)
    apart = (one[:4, None] - one[:4]).abs().amax(-1)
    assert (apart > 1e-2).sum() == 12  # each word is foretold otherwise than the other three
    # more words to come change what is foretold of the first: nothing is hidden from it
    longer = tiny.states(heard, words(5, 3), parallel=True)
    assert not torch.allclose(one[0], longer[0], atol=1e-4)


@pytest.mark.parametrize(("positions", "told"), [(False, False), (True, True)])
def test_where_a_token_stands_is_told_by_positions_alone(positions, told):
    """Of tokens that carry no position, cross-attention without any makes a bag."""
    reads, heard, text = decoder(sound_positions=positions), sounds(6), words(4)
    turned = Ragged(heard.values.flip(0), heard.offsets)
    assert torch.allclose(reads(heard, text), reads(turned, text), atol=1e-5) != told


def test_logits_begin_small():
    """A fresh decoder is nearly as unsure as it can be, whatever its width."""
    fresh = decoder(width=256, heads=4)
    logits = fresh(sounds(50, 3), words(20, 12))
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    assert entropy.min() > 0.7 * torch.tensor(60.0).log()


def test_what_does_not_fit_is_one_clear_line():
    reads = decoder()
    with pytest.raises(DataError, match="clip 1 of the batch has no audio tokens"):
        reads(sounds(3, 0), words(4, 4))
    with pytest.raises(DataError, match="clip 0 of the batch has no audio tokens"):
        reads.listen(sounds(0, 3))
    with pytest.raises(DataError, match="caption 1 of the batch has no tokens"):
        reads(sounds(3, 3), words(4, 0))
    with pytest.raises(DataError, match="token 60, which is not in the decoder's vocabulary of 60"):
        reads(sounds(3), Ragged.from_rows([torch.tensor([1, 60, 2])]))
    with pytest.raises(DataError, match="token -1"):
        reads(sounds(3), Ragged.from_rows([torch.tensor([1, -1, 2])]))
    with pytest.raises(ValueError, match="1 captions of 2 clips"):
        reads(sounds(3, 3), words(4))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"heads": 3}, "width 32 is not a multiple of 2 x 3 heads"),
        ({"end_id": 1}, "begin_id and end_id are both 1"),
        ({"begin_id": 60}, "id 60 is not in a vocabulary of 60"),
        ({"unsaid_ids": (0, 99)}, "id 99 is not in a vocabulary of 60"),
    ],
)
def test_a_description_that_cannot_be_is_refused(changes, says):
    with pytest.raises(ConfigError, match=says):
        DecoderSpec.parse(TINY | changes, where="decoder")
