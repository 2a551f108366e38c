"""The masked modelling duo equals the goldens, value and gradient, over ten training steps too; no
masked patch tells the online encoder anything, and no clip tells another."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from echoic.encoders.m2d import M2dEncoder, M2dSpec, fresh_positions
from echoic.nn.masking import Mask, RandomMask, StructuredMask, take
from echoic.nn.vit import Vit, split_first
from echoic.objectives.contrastive import contrastive_loss
from echoic.objectives.gather import OwnQueries
from echoic.objectives.masked_duo import (
    ColumnPredictor,
    DecaySpec,
    Duo,
    MaskedDuo,
    Predictor,
    PredictorSpec,
    at_columns,
    column_loss,
    cosine_distance,
    label_loss,
    square_distance,
    standardised,
    with_noise,
)
from echoic.train.optim import OptimSpec
from echoic.types import Ragged
from tests.encoders.m2d_golden import encoder_part, part, time_major, weights
from tests.golden import Golden, golden_tools
from tests.objectives.processes import in_processes

ROWS, COLUMNS, PATCHES, VISIBLE = 5, 13, 65, 19
SPEC = M2dSpec(width=192, depth=2, heads=3, frames=208)
PREDICTOR = PredictorSpec(width=128, depth=2, heads=4)


@dataclass
class Parts:
    """The golden's model: its parameters by their published names."""

    encoder: M2dEncoder
    duo: MaskedDuo
    projector: nn.Sequential | None
    log_scale: nn.Parameter | None

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> Parts:
        encoder = M2dEncoder(SPEC)
        encoder.load_state_dict(encoder_part(tensors))
        target = Vit(width=192, depth=2, heads=3)
        target.load_state_dict(part(tensors, "target_"))
        predictor = Predictor(PREDICTOR, width=192, rows=ROWS, columns=COLUMNS)
        inner = part(tensors, "decoder_") | {"mask_token": tensors["mask_token"]}
        predictor.load_state_dict(inner)
        duo = MaskedDuo(target, predictor)
        if "logit_scale" not in tensors:
            return cls(encoder, duo, None, None)
        projector = nn.Sequential(nn.Linear(192, 192), nn.ReLU(), nn.Linear(192, 192))
        projector.load_state_dict(part(tensors, "audio_proj."))
        return cls(encoder, duo, projector, nn.Parameter(tensors["logit_scale"]))

    def trained(self) -> dict[str, nn.Parameter]:
        named = dict(self.encoder.named_parameters())
        for name, p in self.duo.predictor.named_parameters():
            named["mask_token" if name == "mask_token" else f"decoder_{name}"] = p
        if self.projector is not None and self.log_scale is not None:
            named |= {f"audio_proj.{k}": p for k, p in self.projector.named_parameters()}
            named["logit_scale"] = self.log_scale
        return named

    def losses(self, frames: Ragged, mask: Mask, sentences: Tensor) -> tuple[Duo, Tensor, Tensor]:
        """The forward pass, the projected clips, the contrastive loss."""
        assert self.projector is not None
        assert self.log_scale is not None
        seen: Duo = self.duo(self.encoder, frames, mask)
        heard = self.projector(seen.clip())
        return seen, heard, contrastive_loss(heard, sentences, self.log_scale.exp())


def inputs(shared: Path, batch: int, seed: int) -> tuple[Ragged, Mask]:
    tools = golden_tools(shared)
    image = torch.from_numpy(tools.normal_array((batch, 1, 80, 208), seed))
    noise = time_major(tools.mask_noise(batch, PATCHES, seed), ROWS)
    mask = RandomMask(ratio=0.7).by(noise.flatten(), [PATCHES] * batch)
    return Ragged.from_rows(list(image[:, 0].transpose(1, 2))), mask


def per_clip(values: Tensor, batch: int) -> Tensor:
    return values.detach().unflatten(0, (batch, -1))


# -- the goldens of one step -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden(shared) -> Golden:
    return Golden(shared, "m2d_pretrain_tiny")


@pytest.fixture
def m2d(shared, golden) -> Parts:
    return Parts.of(weights(shared, golden.spec["state_dict"]["m2d"]))


@pytest.fixture
def clap(shared, golden) -> Parts:
    return Parts.of(weights(shared, golden.spec["state_dict"]["clap"]))


def test_the_mask_equals_the_golden(shared, golden):
    _, mask = inputs(shared, 3, 0)
    order = torch.cat(
        [torch.cat([v, m]) - i * PATCHES
         for i, (v, m) in enumerate(zip(mask.visible, mask.masked, strict=True))]
    ).view(3, PATCHES)  # fmt: skip
    column, row = order // ROWS, order % ROWS
    golden.check("len_keep", mask.visible.lengths[0])
    golden.check("ids_restore", (row * COLUMNS + column).argsort(1))


def grad_norms(parts: Parts, names: list[str]) -> Tensor:
    named = parts.trained()
    assert named.keys() == set(names)
    grads = [named[name].grad for name in names]
    return torch.stack([grad.norm() for grad in grads if grad is not None])


def test_a_step_of_m2d_equals_the_golden(shared, golden, m2d):
    frames, mask = inputs(shared, 3, 0)
    online = m2d.encoder.encode(take(m2d.encoder.patches(frames), mask.visible))
    seen = m2d.duo(m2d.encoder, frames, mask)
    seen.loss.backward()
    golden.check("m2d_online", per_clip(online.values, 3))
    golden.check("m2d_target", per_clip(seen.target, 3))
    golden.check("m2d_pred", per_clip(seen.predicted, 3))
    golden.check("m2d_loss", seen.loss.detach())
    golden.check("m2d_grad_norm", grad_norms(m2d, golden.spec["m2d_grad_names"]))
    assert all(p.grad is None for p in m2d.duo.target.parameters())


@pytest.mark.parametrize(
    ("name", "prepare", "distance"),
    [
        ("norm_mse_std", standardised, cosine_distance),
        ("norm_mse_raw", torch.clone, cosine_distance),
        ("mse_std", standardised, square_distance),
        ("mse_raw", torch.clone, square_distance),
    ],
)
def test_the_other_losses_equal_the_golden(name, prepare, distance, shared, golden, m2d):
    duo = MaskedDuo(m2d.duo.target, m2d.duo.predictor, prepare=prepare, distance=distance)
    with torch.no_grad():
        golden.check(f"m2d_loss_{name}", duo(m2d.encoder, *inputs(shared, 3, 0)).loss)


def test_targets_of_an_early_layer_equal_the_golden(shared, golden, m2d):
    duo = MaskedDuo(m2d.duo.target, m2d.duo.predictor, target_layers=[0])
    seen = duo(m2d.encoder, *inputs(shared, 3, 0))
    golden.check("m2d_target_layer0", per_clip(seen.target, 3))


def test_the_target_follows_as_in_the_golden(golden, m2d):
    m2d.duo.follow(m2d.encoder, 0.9)
    weight = m2d.duo.target.blocks[0].attn.qkv.weight
    golden.check("m2d_ema_blocks.0.attn.qkv.weight", weight)
    m2d.duo.start(m2d.encoder)
    own = dict(m2d.encoder.named_parameters())
    for name, p in m2d.duo.target.named_parameters():
        assert torch.equal(p, own[name])
        assert p.data_ptr() != own[name].data_ptr()


def test_a_step_of_m2d_clap_equals_the_golden(shared, golden, clap):
    frames, mask = inputs(shared, 3, 0)
    sentences = torch.from_numpy(golden_tools(shared).normal_array((3, 192), 50))
    seen, heard, contrast = clap.losses(frames, mask, sentences)
    loss = seen.loss + 0.01 * contrast
    loss.backward()
    online = clap.encoder.encode(take(clap.encoder.patches(frames), mask.visible))
    golden.check("clap_online", per_clip(online.values, 3))
    golden.check("clap_target", per_clip(seen.target, 3))
    golden.check("clap_pred", per_clip(seen.predicted, 3))
    golden.check("clap_text", sentences)
    golden.check("clap_text_projected", sentences)
    golden.check("clap_audio", heard.detach())
    golden.check("clap_scale", clap.log_scale.detach().exp())
    golden.check("clap_embed_loss", contrast.detach())
    golden.check("clap_parts", torch.stack([seen.loss, contrast]).detach())
    golden.check("clap_loss", loss.detach())
    golden.check("clap_grad_norm", grad_norms(clap, golden.spec["clap_grad_names"]))


# -- ten steps -------------------------------------------------------------------------------------


def test_ten_steps_of_m2d_clap_equal_the_golden(shared):
    golden = Golden(shared, "m2d_clap_training")
    parts = Parts.of(weights(shared, golden.spec["state_dict"], seed=8))
    named = parts.trained()
    assert named.keys() == {*golden.spec["decay"], *golden.spec["no_decay"]}
    groups = [
        {"params": [named[name] for name in golden.spec[key]], "weight_decay": decay}
        for key, decay in (("decay", 0.05), ("no_decay", 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    plan = OptimSpec(lr=1e-3, warmup_steps=2, warmup_from_zero=True, steps=10)
    slowing = DecaySpec(first=0.9, last=0.99)
    told: dict[str, list[float]] = {
        name: [] for name in ("loss", "grad_norm", "lr", "ema_decay", "logit_scale")
    }
    masked, contrasts = [], []
    for step in range(10):
        frames, mask = inputs(shared, 4, 100 + step)
        sentences = torch.from_numpy(golden_tools(shared).normal_array((4, 192), 600 + step))
        seen, _, contrast = parts.losses(frames, mask, sentences)
        loss = seen.loss + 0.5 * contrast
        loss.backward()
        told["grad_norm"].append(float(nn.utils.clip_grad_norm_(named.values(), 3.0)))
        for group in optimizer.param_groups:
            group["lr"] = plan.lr_at(step)
        optimizer.step()
        optimizer.zero_grad()
        decay = slowing.at(step, 10)
        parts.duo.follow(parts.encoder, decay)
        with torch.no_grad():
            parts.log_scale.clamp_(0, math.log(100))
        masked.append(seen.loss.item())
        contrasts.append(contrast.item())
        told["loss"].append(loss.item())
        told["lr"].append(plan.lr_at(step))
        told["ema_decay"].append(decay)
        told["logit_scale"].append(parts.log_scale.item())
    for name, values in told.items():
        golden.check(name, values)
    golden.check("parts", [masked, contrasts])
    target = {f"target_{k}": p for k, p in parts.duo.target.named_parameters()}
    tensors = named | target | kept()
    norms = [float(tensors[name].detach().norm()) for name in golden.spec["final_names"]]
    golden.check("final_norm", norms)
    for name in ("blocks.0.attn.qkv.weight", "target_blocks.0.attn.qkv.weight"):
        golden.check(f"final_{name}", tensors[name].detach())


def kept() -> dict[str, Tensor]:
    """What is in the published state, and with us computed or of the front end."""
    inner = M2dSpec(width=128, depth=1, heads=1, frames=208)
    return {
        "pos_embed": fresh_positions(SPEC, ROWS),
        "decoder_pos_embed": fresh_positions(inner, ROWS),
        "norm_stats": torch.tensor([-7.1, 4.2]),
    }


def test_the_decay_equals_the_golden(shared):
    cases = json.loads((shared / "golden" / "schedules.json").read_text())["ema_decay"]
    for case in cases:
        spec = DecaySpec(first=case["start"], last=case["end"])
        made = [spec.at(step, case["total_steps"]) for step in case["step"]]
        assert made == pytest.approx(case["value"], rel=1e-12)
    assert DecaySpec().at(0, 1) == 0.99995


# -- what knows of what ----------------------------------------------------------------------------

LENGTHS = (64, 40, 64, 17)
SMALL = M2dSpec(width=32, depth=2, heads=2, frames=64, patch_frames=8, patch_bins=4)


def small() -> tuple[M2dEncoder, MaskedDuo]:
    """Three rows, eight columns."""
    encoder = M2dEncoder(SMALL, mel_bins=12)
    target = Vit(width=32, depth=2, heads=2)
    predictor = Predictor(PredictorSpec(width=16, depth=1, heads=2), width=32, rows=3, columns=8)
    duo = MaskedDuo(target, predictor)
    generator = torch.Generator().manual_seed(1)
    for p in [*encoder.parameters(), *duo.parameters()]:
        p.data = 0.3 * torch.randn(p.shape, generator=generator) + (p.ndim == 1)
    return encoder, duo


def clips(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> Ragged:
    generator = torch.Generator().manual_seed(seed)
    return Ragged.from_lengths(torch.randn(sum(lengths), 12, generator=generator), lengths)


def patch_lengths(encoder: M2dEncoder, frames: Ragged) -> list[int]:
    return [encoder.columns_in(n) * encoder.rows for n in frames.lengths]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("masking", [RandomMask(ratio=0.6), StructuredMask(ratio=0.5)])
def test_only_visible_patches_are_learnt_from_and_only_masked_ones_are_targets(masking):
    encoder, duo = small()
    frames = clips((64, 64))
    frames.values.requires_grad_()
    mask = masking.draw([24, 24], 3, seeded())
    seen = duo(encoder, frames, mask)
    seen.loss.backward()
    grads = frames.values.grad.view(16, 8, 3, 4).abs().sum((1, 3)).flatten()  # of each patch
    assert (grads[mask.visible.values] > 0).all()
    assert not grads[mask.masked.values].any()

    changed = Ragged(frames.values.detach().clone(), frames.offsets)
    hidden = torch.zeros(48, dtype=torch.bool).index_fill(0, mask.visible.values, True)
    where = hidden.view(16, 1, 3, 1).expand(-1, 8, -1, 4).reshape(-1, 12)
    changed.values[where] += 1.0
    again = duo(encoder, changed, mask)
    assert torch.equal(again.target, seen.target)  # of the masked patches alone
    assert not torch.allclose(again.predicted, seen.predicted)


def test_every_trained_weight_gets_a_gradient_and_no_other():
    encoder, duo = small()
    frames = clips()
    mask = RandomMask(ratio=0.6).draw(patch_lengths(encoder, frames), 3, seeded())
    seen = duo(encoder, frames, mask)
    second = ColumnPredictor(width=32, rows=3, out_width=7)
    (seen.loss + second(seen).values.square().mean()).backward()
    trained = [*encoder.parameters(), *duo.predictor.parameters(), *second.parameters()]
    assert all(p.grad is not None and p.grad.any() for p in trained)
    assert not any(p.requires_grad for p in duo.target.parameters())


def test_no_clip_tells_another():
    encoder, duo = small()
    frames = clips()
    lengths = patch_lengths(encoder, frames)
    mask = RandomMask(ratio=0.6).draw(lengths, 3, seeded())
    whole = duo(encoder, frames, mask)
    rows, start = Ragged(whole.predicted, mask.masked.offsets), 0
    targets = Ragged(whole.target, mask.masked.offsets)
    for i, clip in enumerate(frames):
        own = Mask(
            Ragged.from_rows([mask.visible[i] - start]), Ragged.from_rows([mask.masked[i] - start])
        )
        alone = duo(encoder, Ragged.from_rows([clip]), own)
        torch.testing.assert_close(alone.predicted, rows[i], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(alone.target, targets[i], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(alone.clip()[0], whole.clip()[i], rtol=1e-4, atol=1e-4)
        start += lengths[i]


def test_the_loss_is_the_distance_of_unit_rows():
    predicted, target = torch.randn(2, 5, 8, generator=seeded()).unbind()
    normed = F.normalize(standardised(target), dim=1)
    wanted = (F.normalize(predicted, dim=1) - normed).square().sum(1)
    torch.testing.assert_close(cosine_distance(predicted, standardised(target)), wanted)
    rows = standardised(5 * target + 3)
    torch.testing.assert_close(rows.mean(1), torch.zeros(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows.var(1), torch.ones(5), atol=1e-4, rtol=0)


def test_under_autocast_the_loss_stays_float32():
    encoder, duo = small()
    frames = clips()
    mask = RandomMask(ratio=0.6).draw(patch_lengths(encoder, frames), 3, seeded())
    exact = duo(encoder, frames, mask)
    with torch.autocast("cpu", torch.bfloat16):
        rough = duo(encoder, frames, mask)
    assert rough.loss.dtype == torch.float32
    torch.testing.assert_close(rough.loss, exact.loss, rtol=0.05, atol=0)
    rough.loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in encoder.parameters())


def test_a_step_lowers_the_loss():
    encoder, duo = small()
    frames = clips((64, 64, 64, 64))
    mask = RandomMask(ratio=0.6).draw([24] * 4, 3, seeded())
    weights = [p for p in [*encoder.parameters(), *duo.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = duo(encoder, frames, mask).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


# -- M2D-X, -AS, -S --------------------------------------------------------------------------------


def test_with_noise_the_student_hears_it_and_the_target_does_not():
    encoder, duo = small()
    clean, noise = clips(), clips(seed=1)
    noisy = Ragged(with_noise(clean.values, noise.values, 0.3, 4.2), clean.offsets)
    mask = RandomMask(ratio=0.6).draw(patch_lengths(encoder, clean), 3, seeded())
    quiet = duo(encoder, clean, mask)
    loud = duo(encoder, noisy, mask, clean=clean)
    assert torch.equal(loud.target, quiet.target)
    assert not torch.allclose(loud.predicted, quiet.predicted)
    assert torch.equal(loud.predicted, duo(encoder, noisy, mask).predicted)


def test_noise_is_mixed_as_power():
    clean, noise = torch.randn(2, 40, 12, generator=seeded()).unbind()
    mixed = with_noise(clean, noise, 0.2, 4.2)
    wanted = 0.8 * (4.2 * clean).exp() + 0.2 * (4.2 * noise).exp()
    torch.testing.assert_close((4.2 * mixed).exp(), wanted, rtol=1e-4, atol=2e-7)
    torch.testing.assert_close(with_noise(clean, noise, 0.0, 4.2), clean)
    torch.testing.assert_close(with_noise(clean, noise, 1.0, 4.2), noise)
    with pytest.raises(ValueError, match=r"a share of 1.5 is not in \[0, 1\]"):
        with_noise(clean, noise, 1.5, 4.2)


def test_columns_are_stacked_low_to_high_from_what_was_seen_and_what_was_predicted():
    encoder, duo = small()
    frames = clips()
    mask = RandomMask(ratio=0.6).draw(patch_lengths(encoder, frames), 3, seeded())
    seen = duo(encoder, frames, mask)
    stacked = seen.stacked(3)
    assert stacked.lengths == (8, 5, 8, 2)
    assert stacked.values.shape == (23, 96)
    where = {int(p): seen.visible.values[i] for i, p in enumerate(mask.visible.values)}
    where |= {int(p): seen.predicted[i] for i, p in enumerate(mask.masked.values)}
    wanted = torch.cat([where[3 * 9 + row] for row in range(3)])
    assert torch.equal(stacked.values[9], wanted)  # the second column of the second clip


def test_with_nothing_masked_the_second_task_reads_what_inference_gives():
    """M2D-X: its targets are a teacher's stacked columns, in the same layout."""
    encoder, _ = small()
    frames = clips((64, 40))
    mask = RandomMask(ratio=0.0).draw([24, 15], 3, seeded())
    visible = split_first(encoder.encode(take(encoder.patches(frames), mask.visible)))[1]
    none = torch.empty(0, 32)
    stacked = Duo(torch.tensor(0.0), visible, none, none, mask).stacked(3)
    heard = encoder.hear(frames).stacked()
    torch.testing.assert_close(stacked.values, heard.tokens, rtol=1e-4, atol=1e-4)
    assert torch.equal(stacked.offsets, heard.offsets)


def test_losses_of_the_second_task():
    predicted = Ragged.from_lengths(torch.randn(7, 4, generator=seeded()), [5, 2])
    target = torch.randn(7, 4, generator=seeded(1))
    wanted = cosine_distance(predicted.values, standardised(target)).mean()
    torch.testing.assert_close(column_loss(predicted, target), wanted)
    labels = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0]])
    logits = torch.stack([predicted.values[:5].mean(0), predicted.values[5:].mean(0)])
    p = logits.sigmoid()
    wanted = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    torch.testing.assert_close(label_loss(predicted, labels), wanted)


def test_a_teachers_features_are_averaged_to_columns():
    features = Ragged.from_lengths(torch.arange(14.0).view(7, 2), [6, 1])
    made = at_columns(features, [3, 1])
    assert made.tolist() == [[1, 2], [5, 6], [9, 10], [12, 13]]


def test_the_mask_token_begins_small():
    """As the class tokens and the published weights do: drawn with 0.02."""
    predictor = Predictor(PredictorSpec(), width=32, rows=3, columns=8)
    assert float(predictor.mask_token.detach().std()) == pytest.approx(0.02, rel=0.2)


def test_the_published_sizes():
    """M2D: 401 tensors with two tables of positions and norm_stats, 111.3 M trained, 196.6 M in
    all; M2D-AS: 403."""
    with torch.device("meta"):
        encoder = M2dEncoder(M2dSpec())
        duo = MaskedDuo(
            Vit(width=768, depth=12, heads=12),
            Predictor(PredictorSpec(), width=768, rows=5, columns=38),
        )
        second = ColumnPredictor(width=768, rows=5, out_width=527)
    parts = [*encoder.parameters(), *duo.parameters()]
    assert len(parts) + 3 == 401
    assert len(parts) + 3 + len(list(second.parameters())) == 403
    assert sum(p.numel() for p in parts if p.requires_grad) == 111_262_464
    assert round((sum(p.numel() for p in parts) + 191 * (768 + 512) + 2) / 1e6, 1) == 196.6


# -- over processes --------------------------------------------------------------------------------


class Whole(nn.Module):
    """Both losses of M2D-CLAP on the clips [start, stop) of a batch of five of uneven length."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.duo = small()
        self.projector = nn.Linear(32, 16)
        self.projector.weight.data.normal_(generator=seeded(2))
        self.projector.bias.data.zero_()
        self.log_scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, start: int, stop: int) -> Tensor:
        every = clips((64, 40, 64, 17, 33))
        frames = Ragged.from_rows(list(every)[start:stop])
        lengths = patch_lengths(self.encoder, every)
        noise = torch.rand(sum(lengths), generator=seeded(3)).split(lengths)[start:stop]
        mask = RandomMask(ratio=0.6).by(torch.cat(noise), lengths[start:stop])
        seen = self.duo(self.encoder, frames, mask)
        sentences = torch.randn(5, 16, generator=seeded(4))[start:stop]
        contrast = contrastive_loss(
            self.projector(seen.clip()), sentences, self.log_scale.exp(), ranks=OwnQueries()
        )
        return seen.loss + 0.5 * contrast


def learnt(module: nn.Module, start: int, stop: int) -> dict[str, Tensor]:
    loss = module(start, stop)
    loss.backward()
    named = {k.removeprefix("module."): p.grad for k, p in module.named_parameters()}
    return {"loss": loss.detach()} | {k: grad for k, grad in named.items() if grad is not None}


def of_a_rank(rank: int, _folder: Path) -> dict[str, Tensor]:
    return learnt(DistributedDataParallel(Whole()), *((0, 2) if rank == 0 else (2, 5)))


def test_two_processes_learn_what_one_learns_of_the_whole_batch(tmp_path):
    both = in_processes(of_a_rank, 2, tmp_path)
    alone = learnt(Whole(), 0, 5)
    assert both[0].keys() == alone.keys()
    for name, wanted in alone.items():
        got = torch.stack([each[name] for each in both])
        got = got.mean(0) if name == "loss" else got  # of the gradients, each has the average
        torch.testing.assert_close(got, wanted.expand_as(got), rtol=1e-4, atol=1e-5)
