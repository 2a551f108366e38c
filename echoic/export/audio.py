"""Audio towers as graphs for export: samples of clips of one length in, unit vectors out.

A clip alone is a batch of one, so any length can be heard, from `shortest` to `longest` samples.
What is longer the graph refuses: it runs into an index that is not there, where leaving samples out
would go unnoticed. `EchoicModel` hears a longer recording in windows of `longest` samples, and
takes the mean of their vectors, weighted so that each sample counts once, as a unit vector.

The weights are those of the model, not a copy. B clips, T samples, N frames, F mel bins, C patch
columns, R patches of a column, P = C R patches, W windows, L columns of a window, D width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echoic.audio.views import Fill
from echoic.encoders.htsat import HtsatEncoder
from echoic.export.dense import htsat_clip, near, pooled, through_block, through_vit_block
from echoic.export.frontend import ConvFrontEnd
from echoic.model import LanguageAudioModel
from echoic.nn.rope import rope_turns
from echoic.nn.transformer import Block
from echoic.nn.vit import TokenProjector, VitBlock
from echoic.towers import M2dTower, PackedTower, WindowTower


class AudioGraph(nn.Module):
    """Samples (B, T) float32 at `rate_hz` -> unit vectors (B, D)."""

    part: ClassVar = "audio"
    inputs: ClassVar[tuple[str, ...]] = ("samples",)
    strict = False  # whether torch.export must read the code, and not just run it

    zero: Tensor  # (1,)

    def __init__(self, rate_hz: int, *, shortest: int, longest: int) -> None:
        super().__init__()
        self.rate_hz, self.shortest, self.longest = rate_hz, shortest, longest
        self.register_buffer("zero", torch.zeros(1), persistent=False)

    def clip(self, samples: Tensor) -> Tensor:
        """(B, T) -> (B, D), not normalised."""
        raise NotImplementedError

    def forward(self, samples: Tensor) -> Tensor:
        length = samples.shape[1]
        beyond = number((length - 1) // self.longest + (self.shortest - 1) // length)
        allowed = self.zero.index_select(0, beyond)  # out of range, but for lengths that are heard
        return F.normalize(self.clip(samples), dim=-1) + allowed

    def example(self) -> tuple[Tensor, ...]:
        """Of the shape and type that is traced: a batch of one would be taken for a constant."""
        length = min(self.longest, max(self.shortest, 2 * self.rate_hz) + 7)
        return (torch.sin(torch.arange(2 * length) * 0.01).unflatten(0, (2, -1)),)


def audio_graph(model: LanguageAudioModel) -> AudioGraph:
    """Of any model, in inference."""
    tower = model.audio.eval()
    if isinstance(tower, PackedTower):
        return PackedAudio(tower)
    return M2dAudio(tower) if isinstance(tower, M2dTower) else WindowAudio(tower)


class PackedAudio(AudioGraph):
    """SLAP: the pack of one clip has no neighbours, so the window over it is a band."""

    def __init__(self, tower: PackedTower) -> None:
        spec = tower.front_end.spec
        longest = round(tower.max_s * tower.rate_hz)
        super().__init__(tower.rate_hz, shortest=spec.shortest_samples, longest=longest)
        self.front_end, self.encoder = ConvFrontEnd(spec), tower.encoder

    def clip(self, samples: Tensor) -> Tensor:
        encoder, step = self.encoder, self.encoder.spec.patch_frames
        grid = in_columns(self.front_end(samples), step).unflatten(-1, (encoder.rows, -1))
        patches = grid.transpose(2, 3).flatten(3).flatten(1, 2)  # (B, P, t f)
        x = encoder.embed(patches)
        at = torch.arange(x.shape[1])
        positions = torch.stack([at // encoder.rows, at % encoder.rows], dim=1)
        turns = rope_turns(positions, encoder.spec.width // encoder.spec.heads,
                           encoder.spec.rope_base)  # fmt: skip
        for block in encoder.blocks:
            assert isinstance(block, Block)
            x = through_block(block, x, turns, near(x.shape[1], block.attention.reach))
        return pooled(encoder.head, encoder.norm(x))


class WindowAudio(AudioGraph):
    """LAION-CLAP: HTSAT and PANN, on one window, filled where the clip is shorter. With feature
    fusion too: its views of a longer recording are not exported, windows serve as well."""

    def __init__(self, tower: WindowTower) -> None:
        super().__init__(tower.rate_hz, shortest=1, longest=tower.spec.window_samples)
        self.front_end, self.spec = ConvFrontEnd(tower.front_end.spec), tower.spec
        self.encoder, self.projection = tower.encoder, tower.projection
        self.strict = not isinstance(tower.encoder, HtsatEncoder)

    def clip(self, samples: Tensor) -> Tensor:
        if self.spec.int16:
            samples = (samples.clamp(-1, 1) * 32767).trunc() / 32767
        frames = self.front_end(filled(samples, self.spec.window_samples, self.spec.fill))
        vector: Tensor = self.projection(self._heard(frames))
        return vector

    def _heard(self, frames: Tensor) -> Tensor:
        """(B, N, F) -> (B, D), before the projection."""
        if isinstance(self.encoder, HtsatEncoder):
            return htsat_clip(self.encoder, frames)
        clip: Tensor = self.encoder(frames).clip
        return clip


class M2dAudio(AudioGraph):
    """M2D: windows of whole columns end to end, the last flush with the end
    (`encoders.m2d.whole_columns`), all of a clip's at once."""

    places: Tensor  # (L, R, D)

    def __init__(self, tower: M2dTower) -> None:
        spec = tower.front_end.spec
        longest = round(tower.max_s * tower.rate_hz)
        super().__init__(tower.rate_hz, shortest=spec.shortest_samples, longest=longest)
        self.front_end, self.encoder = ConvFrontEnd(spec), tower.encoder
        self.projection = tower.projection
        table = tower.encoder.pos_embed[0, 1:].unflatten(0, (tower.encoder.rows, -1))
        self.register_buffer("places", table.transpose(0, 1).contiguous(), persistent=False)

    def clip(self, samples: Tensor) -> Tensor:
        encoder, step = self.encoder, self.encoder.spec.patch_frames
        frames = self.front_end(samples)
        columns = in_columns(frames, step).unflatten(-1, (encoder.rows, -1))
        patches = columns.permute(0, 1, 3, 4, 2).flatten(3)  # (B, C, R, f t)
        embedded = encoder.patch_embed(patches)
        grid = self._heard_in_windows(embedded)
        at = torch.arange(grid.shape[1])
        share = (frames.shape[1] - at * step).clamp(max=step).float()
        share = (share / share.sum())[:, None]  # (C, 1)
        if isinstance(self.projection, TokenProjector):
            return _projected(self.projection, grid.flatten(1, 2))
        if self.projection is None:
            return (grid.flatten(2) * share).sum(1)
        vector: Tensor = self.projection((grid.mean(2) * share).sum(1))
        return vector

    def _heard_in_windows(self, embedded: Tensor) -> Tensor:
        """(B, C, R, D) -> (B, C, R, D), encoded."""
        encoder, most = self.encoder, self.encoder.columns
        rows, total = embedded.shape[:2]
        count = (total + most - 1) // most
        starts = _starts(torch.arange(count), most, total)
        column = starts[:, None] + torch.arange(most)  # (W, L)
        real = column < total
        taken = embedded.index_select(1, column.clamp(max=total - 1).flatten())
        x = taken.unflatten(1, (count, most)) + self.places  # (B, W, L, R, D)
        x = x.flatten(0, 1).flatten(1, 2)
        first = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(x.shape[0], -1, -1)
        heard = F.pad(real.repeat_interleave(encoder.rows, dim=1), (1, 0), value=True)
        heard = heard.repeat(rows, 1)[:, None, None]
        x = torch.cat([first, x], 1)
        for block in encoder.blocks:
            assert isinstance(block, VitBlock)
            x = through_vit_block(block, x, heard)
        patches = torch.arange(1, x.shape[1])  # a slice would be a view for one window only
        grid = encoder.norm(x).index_select(1, patches).unflatten(1, (most, encoder.rows))
        return _laid_end_to_end(grid.unflatten(0, (rows, count)).flatten(1, 2), most, total)


def _starts(window: Tensor, most: int, total: int) -> Tensor:
    """The first column of each window, (W,): only the last does not begin where one ends."""
    return (window * most).clamp(max=total - (most + 1) // 2).clamp(min=0)


def _laid_end_to_end(grid: Tensor, most: int, total: int) -> Tensor:
    """Columns of windows (B, W L, R, D) -> of clips (B, C, R, D): one that the last window and the
    one before it heard is the mean of both."""
    column, last = torch.arange(total), number((total - 1) // most)
    window, start = column // most, _starts(last, most, total)
    one = window * most + column - _starts(window, most, total)
    again = torch.where(column >= start, last * most + column - start, one)
    return (grid.index_select(1, one) + grid.index_select(1, again)) / 2


def _projected(projector: TokenProjector, tokens: Tensor) -> Tensor:
    """(B, P, D) -> (B, D)."""
    x = torch.cat([projector.sem_token.expand(tokens.shape[0], -1, -1), tokens], 1)
    for block in projector.sem_blocks:
        assert isinstance(block, VitBlock)
        x = through_vit_block(block, x)
    vector: Tensor = projector.norm(x[:, 0])
    return vector


def in_columns(frames: Tensor, step: int) -> Tensor:
    """(B, N, F) -> (B, C, step, F); a last column that is not full is filled with 0."""
    columns = (frames.shape[1] + step - 1) // step
    missing = columns * step - frames.shape[1]
    return F.pad(frames, (0, 0, 0, missing)).unflatten(1, (columns, step))


def filled(samples: Tensor, window: int, fill: Fill) -> Tensor:
    """`audio.views.fill_window` of each clip: (B, T) -> (B, window), by one index."""
    length, at = number(samples.shape[1]), torch.arange(window)
    if fill == "repeat":
        return samples.index_select(1, at % length)
    whole = number(window // samples.shape[1]) * length if fill == "repeatpad" else length
    return samples.index_select(1, at % length) * (at < whole)


def number(value: int) -> Tensor:
    """(1,) int64 of a size: not all operators of ONNX take one that is not known before."""
    return torch.full((1,), value)
