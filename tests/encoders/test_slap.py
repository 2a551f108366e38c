"""The SLAP encoder: what a patch is, where it stands, and that no clip hears its neighbours."""

from __future__ import annotations

import pytest
import torch

from echoic.encoders import slap as module
from echoic.encoders.slap import SlapEncoder, SlapSpec
from echoic.nn.attention import set_backend
from echoic.types import Ragged

TINY = SlapSpec(depth=3, width=32, heads=2, hidden=64, window_columns=4)


@pytest.fixture
def encoder() -> SlapEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SlapEncoder(TINY, mel_bins=64, frame_s=0.01, embed_dim=16)


def frames(*lengths: int) -> Ragged:
    draw = torch.Generator().manual_seed(1)
    return Ragged.from_rows([torch.randn(n, 64, generator=draw) for n in lengths])


def test_token_counts_of_the_paper(encoder):
    """Ten seconds are 63 columns of four patches, thirty are 188."""
    assert encoder.patchify(frames(1001, 3001)).lengths == (252, 752)


def test_patches_run_time_then_frequency(encoder):
    x = torch.arange(32 * 64, dtype=torch.float32).view(32, 64)
    patches = encoder.patchify(Ragged.from_rows([x])).values
    for index, (column, row) in enumerate((c, r) for c in range(2) for r in range(4)):
        cut = x[column * 16 : column * 16 + 16, row * 16 : row * 16 + 16]
        assert torch.equal(patches[index], cut.flatten())


def test_last_column_is_filled_with_the_mean(encoder):
    patches = encoder.patchify(Ragged.from_rows([torch.ones(17, 64)])).values.view(2, 4, 16, 16)
    assert (patches[1, :, 0] == 1).all()
    assert (patches[1, :, 1:] == 0).all()


def test_clip_vectors_do_not_depend_on_neighbours(encoder):
    batch = frames(1, 15, 300, 300, 801, 47)
    together = encoder(batch)
    for i, clip in enumerate(batch):
        alone = encoder(Ragged.from_rows([clip]))
        torch.testing.assert_close(together.clip[i], alone.clip[0], rtol=0, atol=1e-5)
        start, stop = together.offsets[i], together.offsets[i + 1]
        torch.testing.assert_close(together.tokens[start:stop], alone.tokens, rtol=0, atol=1e-5)


def test_packed_equals_one_by_one_with_gradients(encoder):
    """Clips of a column, of some, and long enough to be cut into bands; to what is heard too."""
    batch = frames(3, 700, 47, 160, 500)
    probe = torch.randn(5, 16, generator=torch.Generator().manual_seed(2))

    def run(parts: list[list[int]]) -> list[torch.Tensor]:
        values = batch.values.clone().requires_grad_()
        rows = values.split(list(batch.lengths))
        clips = [encoder(Ragged.from_rows([rows[i] for i in part])).clip for part in parts]
        learnt = [values, *encoder.parameters()]
        clip = torch.cat(clips)
        return [clip.detach(), *torch.autograd.grad((clip * probe).sum(), learnt)]

    together, alone = run([[0, 1, 2, 3, 4]]), run([[i] for i in range(5)])
    for ours, theirs in zip(together, alone, strict=True):
        assert theirs.abs().sum() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_packed_equals_masked_with_gradients(encoder):
    batch = frames(33, 700, 161)

    def run():
        encoder.zero_grad()
        clip = encoder(batch).clip
        clip.square().sum().backward()
        return clip.detach(), [p.grad.clone() for p in encoder.parameters()]

    clip, gradients = run()
    set_backend(encoder, "masked")
    reference, reference_gradients = run()
    torch.testing.assert_close(clip, reference, rtol=0, atol=1e-5)
    for ours, theirs in zip(gradients, reference_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_every_parameter_learns_and_none_is_a_bias(encoder):
    encoder(frames(100, 40)).clip.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
        assert not name.endswith("bias")


def test_local_and_global_blocks_alternate_two_to_one():
    spec = TINY.model_copy(update={"depth": 12})
    encoder = SlapEncoder(spec, mel_bins=64, frame_s=0.01, embed_dim=16)
    everywhere = [i + 1 for i, block in enumerate(encoder.blocks) if block.attention.reach is None]
    assert everywhere == [3, 6, 9, 12]
    assert (
        encoder.blocks[0].attention.reach == 4 * 4 // 2
    )  # four columns of four tokens, both sides


def test_times_are_the_centres_of_the_columns(encoder):
    time_s = encoder(frames(33)).time_s.view(3, 4)
    torch.testing.assert_close(time_s[:, 0], torch.tensor([0.08, 0.24, 0.40]))
    assert (time_s == time_s[:, :1]).all()


def test_base_size_has_the_parameters_computed_from_the_paper():
    """Three 768 x 3072 matrices for SwiGLU make 113.5 M parameters in the blocks (reference/slap.md
    1.2)."""
    spec = SlapSpec(depth=12, width=768, heads=12, hidden=3072)
    with torch.device("meta"):
        encoder = module.SlapEncoder(spec, mel_bins=64, frame_s=0.01, embed_dim=512)
    blocks = sum(p.numel() for p in encoder.blocks.parameters())
    assert round(blocks / 1e6, 1) == 113.3


def test_refuses_bins_that_are_not_whole_patches():
    with pytest.raises(ValueError, match="80 mel bins"):
        SlapEncoder(
            TINY.model_copy(update={"patch_bins": 32}), mel_bins=80, frame_s=0.01, embed_dim=8
        )
