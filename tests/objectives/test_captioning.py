"""The captioning loss: eq. 5 written out, in parts as in one, over processes as in one; and a small
decoder that learns a handful of captions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from echoic.encoders.decoder import CaptionDecoder, DecoderSpec
from echoic.encoders.generation import Beam, Greedy, Sampling, generate
from echoic.objectives import captioning
from echoic.objectives.captioning import caption_loss, summed_cross_entropy
from echoic.types import DataError, Ragged
from tests.objectives.processes import in_processes

WIDTH = 16
SPEC = DecoderSpec(vocab=40, depth=2, width=32, heads=2, hidden=64, max_tokens=12)


def decoder() -> CaptionDecoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CaptionDecoder(SPEC, audio_width=WIDTH)


def sounds(*lengths: int) -> Ragged:
    draw = torch.Generator().manual_seed(1)
    return Ragged.from_rows([torch.randn(n, WIDTH, generator=draw) for n in lengths])


def captions(*lengths: int) -> Ragged:
    """Framed, so many tokens each."""
    draw = torch.Generator().manual_seed(2)
    rows = (torch.randint(3, 40, (n - 2,), generator=draw).tolist() for n in lengths)
    return Ragged.from_rows([torch.tensor([1, *row, 2]) for row in rows])


def written_out(reads: CaptionDecoder, heard: Ragged, text: Ragged) -> tuple[Tensor, Tensor]:
    """Eq. 5 token by token, each from a pass of its own over the words before it; share right."""
    terms, right = [], []
    for sound, row in zip(heard, text, strict=True):
        for place in range(1, len(row)):
            logits = reads(Ragged.from_rows([sound]), Ragged.from_rows([row[:place]]))[-1]
            terms.append(-logits.log_softmax(0)[row[place]])
            right.append(float(logits.argmax() == row[place]))
    return torch.stack(terms).mean(), torch.tensor(right).mean()


def grads(reads: CaptionDecoder) -> list[Tensor]:
    found = [p.grad.clone() for p in reads.parameters()]
    reads.zero_grad()
    return found


def test_loss_is_eq_5_with_its_gradients():
    reads, heard, text = decoder(), sounds(9, 3, 20), captions(6, 3, 9)
    wanted, right = written_out(reads, heard, text)
    (2 * wanted).backward()
    wanted_grads = grads(reads)
    loss, accuracy = caption_loss(reads, heard, text)
    (2 * loss).backward()
    torch.testing.assert_close(loss, wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(accuracy, right)
    for got, expected in zip(grads(reads), wanted_grads, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_nothing_stands_in_the_way_of_the_sound():
    """The encoder learns from the loss."""
    heard = sounds(9, 3)
    values = heard.values.requires_grad_()
    caption_loss(decoder(), Ragged(values, heard.offsets), captions(6, 3)).loss.backward()
    assert (values.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("rows", [1, 3, 7, 8, 100])
@pytest.mark.parametrize("large", [False, True])
def test_parts_equal_torchs_cross_entropy(rows, large):
    draw = torch.Generator().manual_seed(0)
    scale = 100 if large else 1  # exp alone would overflow
    states = (scale * torch.randn(8, 6, generator=draw)).requires_grad_()
    weight = torch.randn(11, 6, generator=draw).requires_grad_()
    target = torch.randint(11, (8,), generator=draw)
    logits = states @ weight.T
    wanted = F.cross_entropy(logits, target, reduction="sum")
    expected = torch.autograd.grad(3 * wanted, (states, weight))
    got, right = summed_cross_entropy(states, weight, target, most_logits=rows * 11)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    assert right == (logits.argmax(1) == target).sum()
    found = torch.autograd.grad(3 * got, (states, weight))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_gradients_are_made_only_where_they_are_wanted(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(5, 4, generator=draw).requires_grad_()
    weight, target = torch.randn(7, 4, generator=draw), torch.arange(5)
    learnt, right = summed_cross_entropy(states, weight, target)
    learnt.backward()
    assert not right.requires_grad
    assert weight.grad is None
    monkeypatch.delattr(captioning, "_Summed")
    with torch.no_grad():
        total, _ = summed_cross_entropy(states, weight, target)
    assert torch.equal(total, learnt.detach())
    assert not summed_cross_entropy(states.detach(), weight, target)[0].requires_grad


def test_under_autocast_the_softmax_is_float32():
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(50, 64, generator=draw).requires_grad_()
    weight = torch.randn(300, 64, generator=draw).requires_grad_()
    target = torch.randint(300, (50,), generator=draw)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = summed_cross_entropy(states, weight, target, most_logits=300 * 16)
    logits = (states.bfloat16() @ weight.bfloat16().T).float()
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, F.cross_entropy(logits, target, reduction="sum"))
    got = torch.autograd.grad(total, (states, weight))
    wanted = torch.autograd.grad(
        F.cross_entropy(states @ weight.T, target, reduction="sum"), (states, weight)
    )
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.02 * other.norm()


def test_the_whole_under_autocast():
    reads, heard, text = decoder(), sounds(9, 3), captions(6, 8)
    exact = caption_loss(reads, heard, text).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = caption_loss(reads, heard, text).loss
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0)


def test_parallel_reads_no_words():
    """The likelihood of a caption is then a product over its places."""
    reads, heard, text = decoder(), sounds(9), captions(6)
    loss = caption_loss(reads, heard, text, parallel=True).loss
    given = Ragged.from_rows([text[0][:-1]])
    logits = reads.logits(reads.states(heard, given, parallel=True))
    torch.testing.assert_close(loss, F.cross_entropy(logits, text[0][1:]))
    assert not torch.isclose(loss, caption_loss(reads, heard, text).loss)


def test_a_caption_of_no_words_is_learnt():
    """Where it begins and where it ends: that nothing is to be said."""
    text = Ragged.from_rows([torch.tensor([1, 5, 2]), torch.tensor([1, 2])])
    assert caption_loss(decoder(), sounds(3, 3), text).loss.isfinite()


def test_a_caption_of_one_token_is_refused():
    text = Ragged.from_rows([torch.tensor([1, 5, 2]), torch.tensor([2])])
    with pytest.raises(DataError, match="caption 1 of the batch has 1 tokens"):
        caption_loss(decoder(), sounds(3, 3), text)


# -- over processes ------------------------------------------------------------------------------

LENGTHS = (6, 3, 9)


def _share(rank: int, folder: Path) -> dict[str, Tensor]:
    """Of three captions, the first process has one and the second two; gradients are averaged, as
    DDP does."""
    reads, mine = decoder(), slice(0, 1) if rank == 0 else slice(1, 3)
    heard, text = list(sounds(9, 3, 20))[mine], list(captions(*LENGTHS))[mine]
    loss = caption_loss(reads, Ragged.from_rows(heard), Ragged.from_rows(text)).loss
    loss.backward()
    for parameter in reads.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= 2
    return {"loss": loss.detach(), **{str(i): g for i, g in enumerate(grads(reads))}}


def test_processes_average_to_the_mean_over_all_tokens(tmp_path):
    reads = decoder()
    whole = caption_loss(reads, sounds(9, 3, 20), captions(*LENGTHS)).loss
    whole.backward()
    one, other = in_processes(_share, 2, tmp_path)
    torch.testing.assert_close((one["loss"] + other["loss"]) / 2, whole.detach())
    for i, wanted in enumerate(grads(reads)):
        torch.testing.assert_close(one[str(i)], wanted, rtol=1e-4, atol=1e-5)


# -- learning ------------------------------------------------------------------------------------


def test_a_handful_of_captions_is_learnt_and_said():
    """Each caption follows its sound; two begin alike and two end alike."""
    reads, heard = decoder(), sounds(12, 4, 7, 30)
    rows = [[5, 6, 7, 8], [5, 6, 9, 8], [30, 31], [10, 11, 12, 13, 14, 8]]
    text = Ragged.from_rows([torch.tensor([1, *row, 2]) for row in rows])
    optimizer = torch.optim.AdamW(reads.parameters(), lr=3e-3)
    first = caption_loss(reads, heard, text).loss.item()
    for _ in range(80):
        loss, accuracy = caption_loss(reads, heard, text)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert first > 3
    assert loss < 0.05
    assert accuracy == 1
    draws = torch.Generator().manual_seed(0)
    for how in (Greedy(), Beam(width=4), Sampling(draws, top_k=1), Sampling(draws, top_p=0.5)):
        said = [each[0] for each in generate(reads, heard, how)]
        assert [list(caption.ids) for caption in said] == rows
        assert min(caption.log_probability for caption in said) > -0.5
