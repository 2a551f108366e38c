"""PANN equals a plain reference, keeps upstream's names and shapes, and hears each row alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from echoic.audio.augment import FrameAugment
from echoic.encoders.pann import PannEncoder, PannSpec

FUSIONS = ["daf_1d", "aff_1d", "iaff_1d", "daf_2d", "aff_2d", "iaff_2d", "channel_map"]
LONGER = torch.tensor([False, True, True, False])


def build(layers=6, fusion=None, classes=None, frames=160, device="cpu"):
    """device "meta": no numbers, only names and shapes."""
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        spec = PannSpec(layers=layers, fusion=fusion, classes=classes)
        encoder = PannEncoder(spec, mel_bins=64, frames=frames, frame_s=0.01).eval()
        for name, value in encoder.state_dict().items():
            if "running_mean" in name or name.endswith("bias"):
                value.normal_(std=0.1)
            if "running_var" in name:
                value.uniform_(0.5, 1.5)
    return encoder


@pytest.fixture
def made(generator):
    def draw(*shape):
        return torch.randn(shape, generator=generator)

    return draw


# -- a plain reference -----------------------------------------------------------------------------


def norm(state, name, x):
    def of(part):
        return state[f"{name}.{part}"]

    return F.batch_norm(x, of("running_mean"), of("running_var"), of("weight"), of("bias"))


def block(state, name, x):
    convs = [n for n in (1, 2) if f"{name}.conv{n}.weight" in state]
    for n in convs:
        weight = state[f"{name}.conv{n}.weight"]
        x = norm(state, f"{name}.bn{n}", F.conv2d(x, weight, padding=weight.shape[-1] // 2)).relu()
    return x


def reference(encoder, views, longer):
    """Views (B, V, N, F) -> what upstream's forward computes of them: latent (B, D, S), clip."""
    state, kind = encoder.state_dict(), encoder.spec.fusion
    x = norm(state, "bn0", views.transpose(1, 3)).transpose(1, 3)
    if kind is not None and kind.endswith("1d"):
        whole = x[:, 0].clone()
        for row in longer.nonzero()[:, 0]:
            weight, bias = state["mel_conv1d.0.weight"], state["mel_conv1d.0.bias"]
            crops = F.conv1d(x[row, 1:].transpose(1, 2), weight, bias, stride=3, padding=2)
            crops = torch.cat(list(norm(state, "mel_conv1d.1", crops)), dim=1)
            crops = F.pad(crops, (0, whole.shape[1] - crops.shape[1]))  # a negative pad cuts
            whole[row] = encoder.fusion_model(whole[row].T[None], crops[None])[0].T
        x = whole[:, None]
    two_d = kind is not None and kind.endswith("2d")
    crops = x[:, 1:]
    x = F.avg_pool2d(block(state, "conv_block1", x[:, :1] if two_d else x), 2)
    if two_d:
        for row in longer.nonzero()[:, 0]:
            weight, bias = state["mel_conv2d.0.weight"], state["mel_conv2d.0.bias"]
            local = F.conv2d(crops[row][:, None], weight, bias, stride=(6, 2), padding=2)
            local = torch.cat(list(norm(state, "mel_conv2d.1", local).relu()), dim=1)
            local = F.pad(local, (0, 0, 0, x.shape[2] - local.shape[1]))
            x[row] = encoder.fusion_model(x[row][None], local[None])[0]
    for i in range(2, {14: 6, 10: 5, 6: 4}[encoder.spec.layers] + 1):
        x = block(state, f"conv_block{i}", x)
        x = F.avg_pool2d(x, 2 if i <= 5 else 1)
    latent = x.mean(3)
    both = latent.max(2).values + latent.mean(2)
    return latent, both @ state["fc1.weight"].T + state["fc1.bias"]


@pytest.mark.parametrize("layers", [14, 10, 6])
def test_equals_the_reference(layers, made):
    encoder, frames = build(layers), made(2, 160, 64)
    with torch.inference_mode():
        out = encoder(frames)
        latent, clip = reference(encoder, frames[:, None], None)
    torch.testing.assert_close(out.clip, clip.relu(), rtol=1e-4, atol=1e-5)
    steps = 160 // (16 if layers == 6 else 32)
    assert encoder.steps == steps
    assert out.offsets.tolist() == [0, steps, 2 * steps]
    torch.testing.assert_close(
        out.tokens, latent.transpose(1, 2).flatten(0, 1), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("fusion", FUSIONS)
def test_fusion_equals_the_reference(fusion, made):
    # three crops of (160 + 2) // 3 = 54 columns are 162 and get cut; of 27 rows, 81, one too many
    encoder, frames, local = build(fusion=fusion), made(4, 160, 64), made(2, 3, 160, 64)
    views = frames[:, None].repeat(1, 4, 1, 1)
    views[LONGER, 1:] = local
    with torch.inference_mode():
        out = encoder(frames, local, LONGER)
        _, clip = reference(encoder, views, LONGER)
    torch.testing.assert_close(out.clip, clip.relu(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", ["aff_1d", "aff_2d"])
def test_crops_that_fall_short_are_filled_with_zeros(fusion, made):
    # 2-D: three crops of 13 rows where 40 are wanted. 1-D: of 52, exactly enough
    encoder = build(fusion=fusion, frames=80 if fusion == "aff_2d" else 156)
    frames, local = made(1, encoder.frames, 64), made(1, 3, encoder.frames, 64)
    views = torch.cat([frames[:, None], local], 1)
    yes = torch.tensor([True])
    with torch.inference_mode():
        out = encoder(frames, local, yes)
        _, clip = reference(encoder, views, yes)
    torch.testing.assert_close(out.clip, clip.relu(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_rows_do_not_depend_on_each_other(fusion, made):
    encoder, frames, local = build(fusion=fusion), made(4, 160, 64), made(2, 3, 160, 64)
    with torch.inference_mode():
        together = encoder(frames, local, LONGER).clip
        alone = [
            encoder(frames[0:1]),
            encoder(frames[1:2], local[0:1], torch.tensor([True])),
            encoder(frames[2:3], local[1:2], torch.tensor([True])),
            encoder(frames[3:4], None, torch.tensor([False])),
        ]
    torch.testing.assert_close(together, torch.cat([x.clip for x in alone]), rtol=1e-4, atol=1e-5)


# -- shapes, names, sizes --------------------------------------------------------------------------


def test_shapes_at_ten_seconds(made):
    for layers, steps, width in ((14, 31, 2048), (10, 31, 1024), (6, 62, 512)):
        encoder = build(layers, classes=527, frames=1001)
        with torch.inference_mode():
            out = encoder(made(1, 1001, 64))
            fine = encoder.fine_grained(out.tokens)
        assert (encoder.steps, encoder.width) == (steps, width)
        assert out.tokens.shape == (steps, width)
        assert out.clip.shape == (1, width)
        assert fine.shape == (1, 992, width)
        step_s = 9.92 / steps
        torch.testing.assert_close(out.time_s, (torch.arange(steps) + 0.5) * step_s)


def test_parameters_of_cnn14():
    encoder = build(14, classes=527, device="meta")
    stored = 2 * 513 * 1024 + 513 * 64  # upstream counts its transform and mel bank: 81.8 M in all
    assert sum(p.numel() for p in encoder.parameters()) == 81_837_071 - stored


@pytest.mark.parametrize(("layers", "blocks", "convs"), [(14, 6, 2), (10, 5, 2), (6, 4, 1)])
def test_names_are_upstreams(layers, blocks, convs):
    norms = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    names = {f"bn0.{part}" for part in norms}
    for i in range(1, blocks + 1):
        for n in range(1, convs + 1):
            names |= {f"conv_block{i}.conv{n}.weight"}
            names |= {f"conv_block{i}.bn{n}.{part}" for part in norms}
    names |= {f"{layer}.{part}" for layer in ("fc1", "fc_audioset") for part in ("weight", "bias")}
    state = build(layers, classes=527, device="meta").state_dict()
    assert set(state) == names
    assert state["conv_block1.conv1.weight"].shape[1:] == ((1, 5, 5) if layers == 6 else (1, 3, 3))
    assert not any(
        name.startswith("fc_audioset") for name in build(layers, device="meta").state_dict()
    )


def test_names_of_fusion():
    assert build(fusion="channel_map").conv_block1.conv1.weight.shape[1] == 4
    one, two = build(fusion="aff_1d").state_dict(), build(fusion="aff_2d").state_dict()
    assert one["mel_conv1d.0.weight"].shape == (64, 64, 5)
    assert two["mel_conv2d.0.weight"].shape == (64, 1, 5, 5)
    for state, conv in ((one, "mel_conv1d"), (two, "mel_conv2d")):
        wanted = {f"{conv}.0.bias", f"{conv}.1.running_var", "fusion_model.local_att.0.weight"}
        assert wanted <= set(state)


# -- heads, training, mistakes ---------------------------------------------------------------------


def test_fine_grained(made):
    encoder, frames = build(10), made(2, 160, 64)
    with torch.inference_mode():
        out = encoder(frames)
        latent, _ = reference(encoder, frames[:, None], None)
        pooled = F.max_pool1d(latent, 3, 1, 1) + F.avg_pool1d(latent, 3, 1, 1)
        want = encoder.fc1(pooled.transpose(1, 2)).relu()
        fine = encoder.fine_grained(out.tokens)
    assert fine.shape == (2, 160, 1024)
    for step in (0, 4):
        torch.testing.assert_close(fine[:, 32 * step + 31], want[:, step], rtol=1e-4, atol=1e-5)


def test_tags(made):
    encoder, frames = build(classes=9), made(2, 160, 64)
    with torch.inference_mode():
        whole, along = encoder.tag(frames)
        out = encoder(frames)
        torch.testing.assert_close(whole, encoder.fc_audioset(out.clip).sigmoid())
        fine = encoder.fine_grained(out.tokens)
        torch.testing.assert_close(along, encoder.fc_audioset(fine).sigmoid())
    with pytest.raises(ValueError, match="no tagging head"):
        build().tag(frames)


def test_training_drops_out_and_moves_the_statistics(made):
    encoder, frames = build(fusion="aff_2d").train(), made(2, 160, 64)
    local, longer = made(1, 3, 160, 64), torch.tensor([False, True])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one, two = encoder(frames, local, longer).clip, encoder(frames, local, longer).clip
    assert not torch.allclose(one, two)
    assert (one == 0).float().mean() > 0.4  # half dropped, and what ReLU left at 0
    # a short clip counts with four equal views
    views = torch.cat([frames[:1].expand(4, -1, -1), frames[1:], local[0]])
    fresh = build(fusion="aff_2d").bn0.running_mean
    moved = 0.81 * fresh + 0.19 * views.mean((0, 1))  # two steps of momentum 0.1
    torch.testing.assert_close(encoder.bn0.running_mean, moved, rtol=1e-4, atol=1e-5)
    two.sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("fusion", ["aff_2d", "aff_1d", "channel_map", None])
def test_augmentation_is_the_same_in_all_views(fusion, made):
    """It acts after the input batch norm; where each view is changed, all are changed alike."""
    encoder, frames = build(fusion=fusion), made(2, 160, 64)
    seen = []
    stripes = FrameAugment(time_share=0.5, freq_bins=20).seeded(3)

    def augment(ragged):
        seen.append(stripes(ragged))
        return seen[-1]

    with torch.inference_mode():
        changed = encoder(frames, augment=augment).clip
        assert not torch.allclose(changed, encoder(frames).clip)
    masks = [view.values == 0 for view in seen]
    assert len(masks) == (4 if fusion in ("aff_2d", "channel_map") else 1)
    assert masks[0].any()
    assert all(torch.equal(mask, masks[0]) for mask in masks)


def test_wrong_input_is_named(made):
    frames, local, one = made(1, 160, 64), made(1, 3, 160, 64), torch.tensor([True])
    with pytest.raises(ValueError, match="has 160 frames of 64 mel bins, not 161 x 64"):
        build()(made(1, 161, 64))
    with pytest.raises(ValueError, match="no fusion"):
        build()(frames, local, one)
    for wrong in ((None, one), (local, ~one), (local, None)):
        with pytest.raises(ValueError, match="local views are of another number"):
            build(fusion="aff_2d")(frames, *wrong)
