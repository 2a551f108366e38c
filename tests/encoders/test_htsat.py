"""HTSAT equals transformers and the goldens, at every stage; a clip's result is its own."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from transformers import ClapAudioConfig, ClapAudioModel

from echoic.audio.augment import FrameAugment
from echoic.audio.frontend import FrontEnd, laion_htk, laion_slaney
from echoic.audio.views import fill_window, fusion_views, int16_round_trip
from echoic.encoders.htsat import HtsatEncoder, HtsatSpec, image
from echoic.nn.swin import z_places
from echoic.types import Ragged
from tests.golden import Golden, golden_tools

SMALL = {"width": 16, "depths": (2, 2), "heads": (2, 4)}
SIZES = [
    SMALL,
    {"width": 12, "depths": (1, 2, 3), "heads": (1, 3, 2)},
    {"width": 8, "depths": (2, 1, 1, 2), "heads": (2, 4, 8, 16)},
]
KINDS = ["daf_1d", "aff_1d", "iaff_1d", "daf_2d", "aff_2d", "iaff_2d", "channel_map"]
LONGER = torch.tensor([True, False, True])


def build(**spec) -> HtsatEncoder:
    """Every parameter and statistic far from where it starts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return redrawn(HtsatEncoder(HtsatSpec(**spec)))


def redrawn(module):
    draw = torch.Generator().manual_seed(0)
    for name, value in module.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=draw)
        if name.endswith("running_var"):
            noise = 1 + 0.1 * noise.abs()
        elif value.ndim > 1:
            noise = noise * (2 / value[0].numel()) ** 0.5
        else:
            noise = 0.1 * noise + (1 if name.endswith("weight") else 0)
        value.copy_(noise)
    return module.eval()


@pytest.fixture
def made(generator):
    return lambda *shape: torch.randn(shape, generator=generator)


# -- transformers ----------------------------------------------------------------------------------


def of_transformers(width, depths, heads, fused=False, seed=0):
    config = ClapAudioConfig(
        patch_embeds_hidden_size=width, depths=list(depths), num_attention_heads=list(heads),
        hidden_size=width << (len(depths) - 1), num_hidden_layers=len(depths),
        enable_fusion=fused, fusion_type="aff_2d" if fused else None, hidden_dropout_prob=0.0,
    )  # fmt: skip
    return redrawn(ClapAudioModel(config))


RENAMED = (
    ("batch_norm.", "bn0."),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("attention.output.dense", "attn.proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
    ("attention.self.relative", "attn.relative"),
)


def renamed(tensors):
    """From transformers' names to ours, with query, key and value as one."""
    ours = {}
    for name, value in tensors.items():
        name = name.removeprefix("audio_encoder.")
        for theirs, own in RENAMED:
            name = name.replace(theirs, own)
        ours[name] = value
    for name in [name for name in ours if ".query." in name]:
        parts = [ours.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        ours[name.replace("attention.self.query", "attn.qkv")] = torch.cat(parts)
    return {k: v for k, v in ours.items() if not k.endswith("relative_position_index")}


def pair(size, fused=False):
    theirs = of_transformers(**size, fused=fused)
    ours = HtsatEncoder(HtsatSpec(**size, drop_path=0.0, fusion="aff_2d" if fused else None))
    ours.load_state_dict(renamed(theirs.state_dict()))
    return theirs, ours.eval()


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_equals_transformers(size, made):
    theirs, ours = pair(size)
    x = made(2, 1001, 64)
    want = theirs(x[:, None])
    got = ours(x)
    torch.testing.assert_close(got.clip, want.pooler_output, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        ours.cells(x).permute(0, 3, 1, 2), want.last_hidden_state, rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
def test_fused_equals_transformers_whatever_rows_are_longer(made):
    theirs, ours = pair(SIZES[2], fused=True)
    x = made(3, 4, 1001, 64)
    for longer in (LONGER, ~LONGER, torch.ones(3, dtype=torch.bool)):
        want = theirs(x, is_longer=longer[:, None]).pooler_output
        got = ours(x[:, 0], x[longer, 1:], longer).clip
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_gradients_equal_those_of_transformers(fused, made):
    theirs, ours = pair(SMALL, fused)
    x, weight = made(3, 4, 1001, 64), made(3, 32)
    if fused:
        want = theirs(x, is_longer=LONGER[:, None])
        got = ours(x[:, 0], x[LONGER, 1:], LONGER)
    else:
        want, got = theirs(x[:, :1]), ours(x[:, 0])
    (want.pooler_output * weight).sum().backward()
    (got.clip * weight).sum().backward()
    expected = renamed({name: p.grad for name, p in theirs.named_parameters()})
    for name, parameter in ours.named_parameters():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(
            parameter.grad, expected[name], rtol=0, atol=2e-5 * scale, msg=lambda m, n=name: n + m
        )


# -- goldens ---------------------------------------------------------------------------------------


def window(wave):
    return wave if len(wave) > 480_000 else fill_window(wave, 480_000, "repeatpad")


def prepared(shared, golden, starts):
    """The golden's clips as windows of 480000 samples."""
    tools = golden_tools(shared)
    rows = []
    for made, start in zip(golden.spec["audio"], starts, strict=True):
        audio = torch.from_numpy(
            tools.make_audio(made["seconds"], made["sample_rate"], made["seed"])
        )
        rows.append(window(int16_round_trip(audio)[max(0, start) :][:480_000]))
    return Ragged.from_rows(rows)


def made_up(shared, golden, prefix):
    """The golden's weights below `prefix`, without what the model computes by itself."""
    shapes = {
        name: (tuple(entry["shape"]), entry["dtype"])
        for name, entry in golden.spec["state_dict"].items()
        if name.startswith(prefix)
    }
    tensors = golden_tools(shared).fill(shapes)
    return {name.removeprefix(prefix): torch.from_numpy(t) for name, t in tensors.items()}


def load(encoder, tensors):
    """All of them but batch norm's counter, which is not made up."""
    missing, extra = encoder.load_state_dict(tensors, strict=False)
    assert not extra
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return encoder.eval()


@torch.no_grad()
def test_golden_tiny(shared):
    golden = Golden(shared, "clap_htsat_tiny")
    tensors = made_up(shared, golden, "audio_branch.")
    encoder = HtsatEncoder(HtsatSpec(classes=527))
    load(encoder, {k: v for k, v in tensors.items() if not k.startswith("head.")})
    frames = torch.stack(
        list(FrontEnd(laion_slaney())(prepared(shared, golden, golden.arrays["crop_start"])))
    )
    seen = {}
    for name in ("bn0", "patch_embed", "layers.0", "layers.1", "layers.2", "layers.3", "norm"):
        encoder.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: seen.update({name: out})
        )
    features = encoder(frames)
    golden.check("logmel", frames)
    golden.check("logmel_bn", seen["bn0"].view(5, 1, 1001, 64))
    golden.check("image", image(seen["bn0"].view(5, 1, 1001, 64)))
    golden.check("patch_embed", row_by_row(seen["patch_embed"]))
    for stage in range(4):
        golden.check(f"stage{stage + 1}", row_by_row(seen[f"layers.{stage}"]))
    golden.check("norm", row_by_row(seen["norm"]))
    golden.check("embedding", features.clip)
    golden.check("fine_grained", encoder.fine_grained(features.tokens))
    clipwise, framewise = encoder.tag(frames)
    golden.check("clipwise", clipwise)
    golden.check("framewise", framewise)


def row_by_row(x):
    return x[:, z_places(int(x.shape[1] ** 0.5))]


def as_maps(x):
    """(B, P, D) along the Z curve -> (B, D, side, side)."""
    side = int(x.shape[1] ** 0.5)
    return row_by_row(x).transpose(1, 2).unflatten(2, (side, side))


@pytest.mark.parametrize("fused", [False, True])
@torch.no_grad()
def test_golden_of_transformers(shared, fused):
    golden = Golden(shared, "clap_transformers_small" + ("_fused" if fused else ""))
    tensors = renamed(made_up(shared, golden, "audio_model.audio_encoder."))
    encoder = load(HtsatEncoder(HtsatSpec(**SMALL, fusion="aff_2d" if fused else None)), tensors)
    views, local, longer = drawn_views(shared, golden, fused)
    seen = [None] * 3
    for i, part in enumerate((encoder.patch_embed, *encoder.layers)):
        part.register_forward_hook(lambda _, __, out, i=i: seen.__setitem__(i, out))
    clip = encoder(views, local, longer).clip
    for i, hidden in enumerate(seen):
        golden.check(f"audio_hidden{i}", as_maps(hidden))
    golden.check("audio_last", encoder.cells(views, local, longer).permute(0, 3, 1, 2))
    golden.check("audio_pooled", clip)


def drawn_views(shared, golden, fused):
    """What transformers' feature extractor made of the golden's clips, with the starts that it
    drew: no int16, and in fusion mode the flag that it sets by itself on one short clip."""
    tools, draws = golden_tools(shared), [draw[-1] for draw in golden.spec["draws"]]
    front_end = FrontEnd(laion_htk() if fused else laion_slaney())
    views, local = [], []
    for made in golden.spec["audio"]:
        audio = torch.from_numpy(tools.make_audio(made["seconds"], 48_000, made["seed"]))
        if len(audio) > 480_000 and not fused:
            start = draws.pop(0)
            audio = audio[start : start + 480_000]
        frames = front_end(Ragged.from_rows([window(audio)])).values
        if len(frames) > 1001:
            whole, crops = fusion_views(frames, 1001, tuple(draws.pop(0) for _ in range(3)))
        else:
            whole, crops = frames, frames.expand(3, -1, -1)
        views.append(whole)
        local.append(crops)
    longer = torch.from_numpy(golden.arrays["is_longer"])[:, 0].bool()
    golden.check("input_features", torch.stack([
        torch.cat([v[None], c]) if fused else v[None] for v, c in zip(views, local, strict=True)
    ]))  # fmt: skip
    if not fused:
        return torch.stack(views), None, None
    return torch.stack(views), torch.stack(local)[longer], longer


def test_names_and_sizes_are_upstreams(shared):
    """The trained parameters of HTSAT-tiny, without the dead `head`: 30,241,687 upstream with it
    and its 8 buffers of batch norm, window and mel."""
    names = json.loads((shared / "golden" / "clap_key_map.json").read_text())["map"]
    computed = (
        "spectrogram_extractor",
        "logmel_extractor",
        "head.",
        "attn_mask",
        "relative_position_index",
    )
    theirs = {n.removeprefix("audio_branch.") for n in names if n.startswith("audio_branch.")}
    theirs = {name for name in theirs if not any(part in name for part in computed)}
    encoder = HtsatEncoder(HtsatSpec(classes=527))
    assert set(encoder.state_dict()) == theirs
    trained = sum(p.numel() for p in encoder.parameters())
    assert trained + 527 * 527 + 527 == 30_241_687


# -- fusion without an oracle ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_row_hears_itself_alone(kind, made):
    encoder = build(**SMALL, fusion=kind)
    x, local = made(3, 1001, 64), made(2, 3, 1001, 64)
    together = encoder(x, local, LONGER)
    for i in range(3):
        own = local[:1] if i == 0 else local[1:]
        alone = encoder(x[i : i + 1], own, LONGER[:1]) if LONGER[i] else encoder(x[i : i + 1])
        torch.testing.assert_close(together.clip[i], alone.clip[0], rtol=1e-5, atol=1e-5)
        tokens = together.tokens.view(3, encoder.steps, -1)[i]
        torch.testing.assert_close(tokens, alone.tokens, rtol=1e-5, atol=1e-5)
    apart = (encoder(x).clip - together.clip).abs().amax(1)
    assert (apart[LONGER] > 1e-3).all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns_and_one_longer_row_is_enough(kind, made):
    encoder = build(**SMALL, fusion=kind).train()
    first = torch.tensor([True, False])
    encoder(made(2, 1001, 64), made(1, 3, 1001, 64), first).clip.square().sum().backward()
    idle = {name for name, p in encoder.named_parameters() if p.grad is None}
    assert all("global_att2" in name for name in idle)
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)


@torch.no_grad()
def test_one_d_fusion_is_what_the_specification_says(made):
    """Crops through a convolution of stride 3, end to end, cut to the frames of the whole."""
    encoder = build(**SMALL, fusion="daf_1d")
    x, local = made(1, 1001, 64), made(1, 3, 1001, 64)
    state = encoder.state_dict()

    def normed(name, values):
        mean, var, weight, bias = (
            state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(values, mean, var, weight, bias)

    crops = [normed("bn0", crop.t()[None]) for crop in local[0]]  # (1, F, N)
    conv = [
        F.conv1d(c, state["mel_conv1d.0.weight"], state["mel_conv1d.0.bias"], 3, 2) for c in crops
    ]
    assert conv[0].shape == (1, 64, 334)
    joined = torch.cat([normed("mel_conv1d.1", c) for c in conv], 2)[:, :, :1001]
    fused = (normed("bn0", x.transpose(1, 2)) + joined).transpose(1, 2)
    plain = HtsatEncoder(HtsatSpec(**SMALL))
    plain.load_state_dict({k: v for k, v in state.items() if not k.startswith("mel_conv1d")})
    plain.eval().bn0 = torch.nn.Identity()
    want = plain(fused).clip
    got = encoder(x, local, torch.tensor([True])).clip
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_short_clip_of_channel_map_is_four_equal_views(made):
    encoder = build(**SMALL, fusion="channel_map")
    x = made(1, 1001, 64)
    copies = encoder(x, x[:, None].expand(1, 3, -1, -1), torch.tensor([True]))
    torch.testing.assert_close(encoder(x).clip, copies.clip, rtol=1e-5, atol=1e-5)
    assert encoder.patch_embed.proj.weight.shape == (16, 4, 4, 4)


def test_statistics_count_four_views_of_every_clip(made):
    """As upstream, where a short clip stands four times in the batch."""
    encoder = build(**SMALL, fusion="aff_2d").train()
    encoder.bn0.momentum = 1.0
    x, local = made(2, 1001, 64) + 5, made(1, 3, 1001, 64)
    encoder(x, local, torch.tensor([False, True]))
    views = torch.cat([x[:1].repeat(4, 1, 1), x[1:], local[0]])
    torch.testing.assert_close(encoder.bn0.running_mean, views.mean((0, 1)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        encoder.bn0.running_var, views.flatten(0, 1).var(0), rtol=1e-4, atol=0
    )


# -- what the tower is given and gives -------------------------------------------------------------


@torch.no_grad()
def test_image_folds_time_into_rows():
    frames = torch.arange(1024 * 64.0).view(1, 1, 1024, 64)
    folded = image(frames)
    assert folded.shape == (1, 1, 256, 256)
    assert folded[0, 0, 2 * 64 + 5, 17] == frames[0, 0, 2 * 256 + 17, 5]


def test_tokens_run_in_time(made):
    """A sound late in the window changes the late tokens most."""
    encoder = build(width=8, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8))
    x = made(1, 1001, 64)
    for step in (3, 30):
        other = x.clone()
        at = encoder.time_s(1001)[step] / 0.01
        other[0, int(at) - 10 : int(at) + 10] += 3
        with torch.no_grad():
            change = (encoder(other).tokens - encoder(x).tokens).abs().mean(1)
        assert int(change.argmax()) == step


def test_times_are_centres_of_steps_in_the_window():
    time_s = HtsatEncoder(HtsatSpec()).time_s(1001)
    assert len(time_s) == 32
    torch.testing.assert_close(time_s[0] + time_s[-1], torch.tensor(10.0))
    torch.testing.assert_close(time_s.diff(), torch.full((31,), 32 / 1023 * 10))


@torch.no_grad()
def test_short_windows_are_stretched_and_long_ones_refused(made):
    theirs, ours = pair(SMALL)
    x = made(2, 501, 64)
    want = theirs(x[:, None]).pooler_output
    torch.testing.assert_close(ours(x).clip, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours(made(1, 1024, 64)).clip.shape, torch.Size([1, 32]))
    with pytest.raises(ValueError, match="at most 1024 frames of 64 mel bins, not 1025 of 64"):
        ours(made(1, 1025, 64))
    with pytest.raises(ValueError, match="no feature fusion"):
        ours(x, x[:, None].expand(2, 3, -1, -1), torch.ones(2, dtype=torch.bool))


def test_misfits_are_named(made):
    with pytest.raises(ValueError, match="2 longer clips do not have local views"):
        build(**SMALL, fusion="aff_2d")(made(3, 9, 64), made(1, 3, 9, 64), LONGER)
    with pytest.raises(ValueError, match="no tagging head"):
        build(**SMALL).tag(made(1, 9, 64))
    with pytest.raises(ValueError, match="2 depths need as many heads, not 1"):
        HtsatSpec(depths=(2, 2), heads=(4,))
    with pytest.raises(ValueError, match="stage 2: width 32 is not whole heads, 5"):
        HtsatSpec(width=16, depths=(2, 2), heads=(4, 5))


def test_augmentation_is_after_the_norm_and_the_same_in_every_view(made):
    encoder = build(**SMALL, fusion="aff_2d").train()
    seen = []
    augment = FrameAugment(time_share=0.2, freq_bins=8).seeded(0)

    def watched(frames):
        seen.append((frames, augment(frames)))
        return seen[-1][1]

    encoder(made(3, 1001, 64), made(2, 3, 1001, 64), LONGER, watched)
    assert len(seen) == 4
    blank = [(after.values == 0) & (before.values != 0) for before, after in seen]
    assert blank[0].any()
    assert all(torch.equal(blank[0], other) for other in blank[1:])


def test_drop_path_grows_with_depth_and_only_acts_in_training(made):
    encoder = build(**SMALL, drop_path=0.6)
    rates = [block.drop_path for stage in encoder.layers for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.2, 0.4, 0.6])
    x = made(2, 1001, 64)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        assert torch.equal(encoder(x).clip, encoder(x).clip)
        encoder.bn0.eval()
        encoder.train()
        assert not torch.equal(encoder(x).clip, encoder(x).clip)


@torch.no_grad()
def test_bfloat16_keeps_the_direction(made):
    encoder = build(**SIZES[2], fusion="aff_2d")
    x, local = made(3, 1001, 64), made(2, 3, 1001, 64)
    want = encoder(x, local, LONGER).clip
    with torch.autocast("cpu", torch.bfloat16):
        got = encoder(x, local, LONGER).clip
    assert (F.cosine_similarity(got.float(), want) > 0.999).all()
