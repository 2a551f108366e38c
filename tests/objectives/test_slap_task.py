"""SLAP's step: three losses of one packed pass, each what it would be alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import pad_sequence

from echoic.encoders import decoder
from echoic.encoders.decoder import DecoderSpec
from echoic.model import LanguageAudioModel, build
from echoic.nn import transformer
from echoic.nn.masking import Mask
from echoic.objective import make_task
from echoic.objectives import slap_task
from echoic.objectives.captioning import caption_loss
from echoic.objectives.monitors import space_monitors
from echoic.objectives.slap_task import SlapTask
from echoic.objectives.task import ContrastiveTask
from echoic.recipes.recipe import Recipe
from echoic.train.optim import OptimSpec, make_optimizer
from echoic.types import Batch, ConfigError, Ragged, TextFeatures
from tests import m2d, tiny
from tests.objectives.processes import Results, in_processes

DECODER = DecoderSpec(vocab=300, depth=1, width=32, heads=2, hidden=48, max_tokens=32)
DISTILLATION = (
    "objectives.distillation={head: {layers: 2, hidden: 24, bottleneck: 8, prototypes: 16}}"
)
FULL = (DISTILLATION, "objectives.captioning=0.5", "frame_augment.freq_bins=8",
        "frame_augment.time_share=0.2")  # fmt: skip


def recipe(*changes: str) -> Recipe:
    plain = tiny.recipe(steps=5)
    model = plain.model.model_copy(update={"decoder": DECODER})
    return plain.model_copy(update={"model": model}).override(changes)


def made(*changes: str) -> tuple[SlapTask, LanguageAudioModel]:
    chosen = recipe(*changes)
    model = build(chosen.model, seed=0)
    task = make_task(chosen, model)
    assert isinstance(task, SlapTask)
    return task, model


def batch(
    first: int = 0, last: int = 5, *, seconds: Sequence[float] = (0.35, 0.57, 0.79, 1.01, 1.23)
) -> Batch:
    rows = range(first, last)
    waves = [torch.from_numpy(tiny.noise(seconds[i], seed=i)) for i in rows]
    texts = [torch.tensor(ids) for ids in tiny.tokenizer()([tiny.SENTENCES[i] for i in rows])]
    return Batch(
        Ragged.from_rows(waves), Ragged.from_rows(texts), torch.arange(first, last),
        tuple(map(str, rows)), seed=11,
    )  # fmt: skip


def test_each_loss_is_what_it_is_without_the_others():
    """The clean clips know nothing of the masked ones that lie beside them in the pass."""
    task, model = made(*FULL)
    losses = task(batch())
    assert set(losses) == {"contrastive", "distillation", "captioning"}
    change = recipe(*FULL).frame_augment.seeded
    alone = ContrastiveTask(model, augment=change)(batch())["contrastive"]
    torch.testing.assert_close(losses["contrastive"], alone, rtol=0, atol=1e-5)

    heard = model.audio(batch().audio, change(batch().seed))
    said = caption_loss(model.decoder, Ragged(heard.tokens, heard.offsets), batch().text)
    torch.testing.assert_close(losses["captioning"], 0.5 * said.loss, rtol=0, atol=1e-5)

    encoder, distillation = model.audio.encoder, task.distillation
    frames = model.audio.front_end(batch().audio)
    patches = encoder.patchify(change(batch().seed)(frames))
    mask = distillation.draw(patches.lengths, encoder.rows, batch().seed)
    hidden = distillation.hide(encoder.embed(patches.values), mask)
    seen = encoder.encode(Ragged(hidden, patches.offsets)).values
    taught = distillation.teach(encoder, encoder.patchify(frames))  # hears the clips unchanged
    expected = distillation(seen, taught, mask).loss
    torch.testing.assert_close(losses["distillation"], expected, rtol=0, atol=1e-5)


def one_by_one(task: SlapTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of any network sees two clips or captions at once."""
    model = task.model
    for part in (model.audio.encoder, task.distillation.teacher):
        monkeypatch.setattr(part, "encode", partial(_encode_alone, part.encode))
    head = model.audio.encoder.head
    monkeypatch.setattr(head, "forward", partial(_pool_alone, head.forward))
    monkeypatch.setattr(model.text, "forward", partial(_read_alone, model.text.forward))
    monkeypatch.setattr(model.decoder, "states", partial(_say_alone, model.decoder.states))


def _encode_alone(encode, x: Ragged) -> Ragged:
    return Ragged.from_rows([encode(Ragged.from_rows([row])).values for row in x])


def _pool_alone(pool, tokens: Tensor, offsets: Tensor) -> Tensor:
    return torch.cat([pool(row, torch.tensor([0, len(row)])) for row in Ragged(tokens, offsets)])


def _read_alone(read, text: Ragged) -> TextFeatures:
    each = [read(Ragged.from_rows([row])) for row in text]
    tokens, clip = (torch.cat([getattr(x, name) for x in each]) for name in ("tokens", "clip"))
    return TextFeatures(tokens, text.offsets, clip)


def _say_alone(states, heard: Ragged, text: Ragged, *, parallel: bool) -> Tensor:
    pairs = zip(heard, text, strict=True)
    return torch.cat(
        [states(*(Ragged.from_rows([row]) for row in pair), parallel=parallel) for pair in pairs]
    )


def padded(_task: SlapTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attention runs on a dense batch filled up to the longest."""
    for module in (transformer, decoder):
        monkeypatch.setattr(module, "packed_attention", _padded_attention)
    monkeypatch.setattr(decoder, "cross_attention", _padded_cross)


def _padded_attention(q, k, v, lengths, reach=None, *, causal=False, backend=None) -> Tensor:
    at = torch.arange(max(lengths))
    ahead = at - at[:, None]
    near = torch.ones_like(ahead, dtype=torch.bool) if reach is None else ahead.abs() <= reach
    near &= (ahead <= 0) | (not causal)
    real = at < torch.tensor(lengths)[:, None, None]
    return _in_dense(q, k, v, lengths, lengths, near & real | (ahead == 0))


def _padded_cross(q, k, v, q_lengths, k_lengths, *, backend=None) -> Tensor:
    real = torch.arange(max(k_lengths)) < torch.tensor(k_lengths)[:, None, None]
    return _in_dense(q, k, v, q_lengths, k_lengths, real)


def _in_dense(q, k, v, q_lengths, k_lengths, heard: Tensor) -> Tensor:
    q, k, v = (
        pad_sequence(x.split(list(n)), batch_first=True).transpose(1, 2)
        for x, n in ((q, q_lengths), (k, k_lengths), (v, k_lengths))
    )
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=heard[:, None]).transpose(1, 2)
    return torch.cat([row[:n] for row, n in zip(mixed, q_lengths, strict=True)])


@pytest.mark.parametrize("other", [one_by_one, padded])
def test_the_packed_step_equals_padded_and_one_by_one_with_gradients(other, monkeypatch):
    """Clips of one column, of some, and long enough for local attention to cut them into bands."""
    task, _ = made(*FULL)
    names = dict(task.named_parameters())
    learnt = [p for p in task.parameters() if p.requires_grad]

    def run() -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        losses = task(batch(seconds=(0.02, 0.5, 4.0, 1.3, 4.5)))
        return losses, torch.autograd.grad(sum(losses.values()), learnt)

    losses, grads = run()
    other(task, monkeypatch)
    expected, expected_grads = run()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=0, atol=1e-5, msg=name)
    learning = [name for name, p in names.items() if p.requires_grad]
    for name, ours, theirs in zip(learning, grads, expected_grads, strict=True):
        size = float(theirs.abs().max())
        assert size > 0, name
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * size + 1e-6, msg=name)


def test_one_clip_of_one_column_is_a_batch():
    task, _ = made(*FULL)
    losses = task(batch(0, 1, seconds=(0.01,)))
    sum(losses.values()).backward()
    assert losses["contrastive"] == 0
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in task.parameters() if p.requires_grad)
    assert all(math.isfinite(value) for value in task.metrics.values())


def test_under_bfloat16_losses_and_what_tells_a_collapse_are_of_float32(monkeypatch):
    task, _ = made(*FULL)
    exact, rounded = task(batch()), []

    def watched(audio: Tensor, text: Tensor) -> dict[str, Tensor]:
        rounded.append(torch.is_autocast_enabled("cpu"))
        return space_monitors(audio, text)

    monkeypatch.setattr(slap_task, "space_monitors", watched)
    with torch.autocast("cpu", torch.bfloat16):
        losses = task(batch())
    assert rounded == [False]
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    for name, loss in losses.items():
        torch.testing.assert_close(loss, exact[name], rtol=0.03, atol=0.03, msg=name)
    sum(losses.values()).backward()
    assert all(p.grad.dtype == torch.float32 for p in task.parameters() if p.requires_grad)


def test_a_handful_of_sounds_is_learnt():
    task, _ = made(*FULL[:2])
    tones = [torch.from_numpy(tiny.tone(150 * 1.9**i, 0.3 + 0.04 * i)) for i in range(5)]
    given = replace(batch(), audio=Ragged.from_rows(tones))
    optimizer, told = make_optimizer(task, OptimSpec(lr=5e-3, steps=24)), []
    for step in range(24):
        losses = task(given)
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
        task.after_step(step)
        told.append({name: float(loss.detach()) for name, loss in losses.items()})
    assert told[-1]["contrastive"] < 0.1 * told[0]["contrastive"]
    assert told[-1]["captioning"] < 0.2 * told[0]["captioning"]
    assert told[-1]["distillation"] < 0.6 * told[0]["distillation"]


def test_both_views_are_one_call_of_the_encoder(monkeypatch):
    task, model = made(*FULL)
    calls: list[int] = []
    encode = model.audio.encoder.encode

    def counted(x: Ragged) -> Ragged:
        calls.append(len(x))
        return encode(x)

    monkeypatch.setattr(model.audio.encoder, "encode", counted)
    task(batch())
    assert calls == [10]


def test_a_shared_view_is_the_masked_one_for_all_at_half_the_tokens(monkeypatch):
    task, model = made(*FULL, "objectives.shared_view=true")
    whole, _ = made(*FULL)
    calls: list[int] = []
    encode = model.audio.encoder.encode

    def counted(x: Ragged) -> Ragged:
        calls.append(len(x))
        return encode(x)

    monkeypatch.setattr(model.audio.encoder, "encode", counted)
    shared, both = task(batch()), whole(batch())
    assert calls == [5]
    torch.testing.assert_close(shared["distillation"], both["distillation"])
    assert not torch.allclose(shared["contrastive"], both["contrastive"], atol=1e-3)
    assert not torch.allclose(shared["captioning"], both["captioning"], atol=1e-5)


def test_every_part_learns_but_the_teacher():
    task, _ = made(*FULL)
    sum(task(batch()).values()).backward()
    for name, parameter in task.named_parameters():
        if name.startswith(("distillation.teacher", "distillation.teacher_head")):
            assert not parameter.requires_grad, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_what_is_left_out_does_not_learn():
    task, model = made("objectives.captioning=0.5")
    assert set(task(batch())) == {"contrastive", "captioning"}
    task, model = made(DISTILLATION)
    losses = task(batch())
    assert set(losses) == {"contrastive", "distillation"}
    assert not any(p.requires_grad for p in model.decoder.parameters())
    plain = make_task(recipe(), build(recipe().model, seed=0))
    assert isinstance(plain, ContrastiveTask)


def test_captions_can_be_foretold_at_once():
    task, model = made(*FULL, "objectives.parallel_captions=1")
    heard = model.audio(batch().audio, recipe(*FULL).frame_augment.seeded(batch().seed))
    tokens = Ragged(heard.tokens, heard.offsets)
    wanted = caption_loss(model.decoder, tokens, batch().text, parallel=True).loss
    torch.testing.assert_close(task(batch())["captioning"], 0.5 * wanted, rtol=0, atol=1e-5)


def test_rows_that_say_the_same_are_no_negatives():
    task, model = made(*FULL)
    given = batch()
    two = replace(given, meaning=torch.tensor([0, 1, 0, 2, 3]))
    heard, read = model(given.audio, given.text)
    logits = model.logit_scale.exp() * heard @ read.T
    target = torch.eye(5)
    target[0, 2] = target[2, 0] = 1
    target /= target.sum(1, keepdim=True)
    wanted = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    task.eval()  # no SpecAugment
    torch.testing.assert_close(task(two)["contrastive"], wanted, rtol=0, atol=1e-5)


def test_the_log_has_what_tells_a_collapse():
    task, _ = made(*FULL)
    task(batch())
    assert {
        "tokens", "logit_scale", "gap", "audio_spread", "word_accuracy", "prototype_use",
        "teacher_entropy", "student_entropy",
    } <= task.metrics.keys()  # fmt: skip
    told = [value for name, value in task.metrics.items() if name != "tokens"]
    assert all(isinstance(value, Tensor) and not value.requires_grad for value in told)


def test_after_a_step_the_teacher_follows_and_the_scale_is_bounded():
    task, model = made(*FULL)
    teacher, student = (
        part.get_parameter("patch.weight")
        for part in (task.distillation.teacher, model.audio.encoder)
    )
    with torch.no_grad():
        student.add_(1.0)
        model.logit_scale.fill_(99.0)
    before = teacher.clone()
    task.after_step(0)
    torch.testing.assert_close(teacher, before + (1 - 0.994))
    assert model.logit_scale.exp().item() == pytest.approx(100)


def test_the_sigmoid_loss_is_an_option():
    task, _ = made("objectives.pairs=sigmoid")
    loss = task(batch())["contrastive"]
    loss.backward()
    learnt = dict(task.contrast.named_parameters())
    assert learnt
    assert all(p.grad is not None for p in learnt.values())


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (["model.decoder=null", "objectives.captioning=1"], "captioning: needs a decoder"),
        (["objectives.shared_view=true"], "shared_view without distillation"),
        (["objectives.parallel_captions=0.5"], "parallel_captions without captioning"),
    ],
)
def test_what_does_not_fit_is_one_line(change, wanted):
    with pytest.raises(ConfigError, match=wanted):
        made(*change)


def test_the_sigmoid_loss_is_of_whole_clips():
    model = m2d.spec("mlp", text="small")
    plain = recipe("objectives.pairs=sigmoid", "objectives.frozen=true")
    with pytest.raises(ConfigError, match=r"objectives\.pairs: not beside objectives\.frozen"):
        make_task(plain.model_copy(update={"model": model}), build(model, seed=0))
    sentences = m2d.spec("mlp", text="sentence")
    changed = recipe("objectives.pairs=sigmoid").model_copy(update={"model": sentences})
    with pytest.raises(ConfigError, match=r"objectives\.pairs: not with .* sentence vectors"):
        make_task(changed, build(sentences, seed=0))


def test_only_slaps_encoder_is_distilled():
    plain = recipe(DISTILLATION)
    changed = plain.model_copy(update={"model": m2d.spec()})
    with pytest.raises(ConfigError, match=r"objectives.distillation: for SLAP's encoder, not"):
        make_task(changed, build(changed.model, seed=0))


# -- two processes ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class EveryOther:
    """A mask that hangs on the clip alone, so that it is the same on whichever process."""

    ratio: float = 0.5

    def draw(self, lengths: Sequence[int], rows: int, generator: torch.Generator) -> Mask:
        places = [torch.arange(n) + sum(lengths[:i]) for i, n in enumerate(lengths)]
        return Mask(
            Ragged.from_rows([each[::2] for each in places]),
            Ragged.from_rows([each[1::2] for each in places]),
        )


def two_steps(first: int, last: int, *, ranks: bool) -> Results:
    """Losses and gradients of the first step, all that was there after the second."""
    task, _ = made(DISTILLATION, "objectives.captioning=0.5")
    task.distillation.spec = task.distillation.spec.model_copy(update={"mask": EveryOther()})
    module = DistributedDataParallel(task) if ranks else task
    optimizer = make_optimizer(task, OptimSpec(lr=1e-3, weight_decay=0.05, steps=2))
    told: Results = {}
    for step in range(2):
        losses: dict[str, Tensor] = module(batch(first, last))
        sum(losses.values()).backward()
        if step == 0:
            told |= {f"loss {name}": loss.detach() for name, loss in losses.items()}
            told |= {
                f"grad {n}": p.grad.clone() for n, p in task.named_parameters() if p.requires_grad
            }
        optimizer.step()
        optimizer.zero_grad()
        task.after_step(step)
    return told | {f"after {name}": tensor for name, tensor in task.state_dict().items()}


def of_a_rank(rank: int, _folder: Path) -> Results:
    return two_steps(*((0, 2) if rank == 0 else (2, 5)), ranks=True)


@pytest.mark.timeout(300)  # two more processes on a busy machine
def test_two_processes_learn_what_one_learns_of_the_whole_batch(tmp_path):
    both, alone = in_processes(of_a_rank, 2, tmp_path), two_steps(0, 5, ranks=False)
    for name, wanted in alone.items():
        got = torch.stack([each[name] for each in both])
        if not name.startswith("loss "):
            assert torch.equal(got[0], got[1]), name
        if not name.startswith("after "):
            torch.testing.assert_close(
                got.mean(0), wanted, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )
