"""Log-mel front ends: samples in, spectrogram frames out, as part of the audio tower and of its
checkpoint.

Four presets. `laion_slaney` and `laion_htk` are the two mel banks of LAION-CLAP (2211.06687;
without and with feature fusion), `m2d` is the 16 kHz front end of M2D (2210.14648, section III),
`slap` that of SLAP (2601.12594, section 2). A batch is ragged: (ΣT,) samples in, (ΣN, F) frames
out; a clip's frames never depend on its neighbours.

B clips, T samples, N frames, F mel bins, K = n_fft / 2 + 1 frequency bins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from echoic.config import Spec
from echoic.types import Ragged

MelScale = Literal["slaney", "htk"]
MelNorm = Literal["slaney", "none"]
_Count = Annotated[int, Field(ge=1)]


class FrontEndSpec(Spec):
    """All that fixes a log-mel spectrogram. Frames are centred, the window is a periodic Hann,
    power 2.

    log "db": 10 log10(max(power, floor)); "ln": ln(power + floor). Then (x - mean) / std.
    """

    rate_hz: _Count
    n_fft: _Count
    win_samples: _Count
    hop_samples: _Count
    mel_bins: _Count
    fmin_hz: float = Field(ge=0)
    fmax_hz: float
    mel_scale: MelScale
    mel_norm: MelNorm
    log: Literal["db", "ln"]
    floor: float = Field(gt=0)
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _hears(self) -> Self:
        if self.win_samples > self.n_fft:
            raise ValueError(f"win_samples {self.win_samples} exceeds n_fft {self.n_fft}")
        bins_per_hz = self.n_fft / self.rate_hz
        last = min(math.ceil(self.fmax_hz * bins_per_hz) - 1, self.n_fft // 2)
        if math.floor(self.fmin_hz * bins_per_hz) >= last:
            told = f"fmin_hz {self.fmin_hz:g} and fmax_hz {self.fmax_hz:g}"
            raise ValueError(f"no frequency of the transform lies between {told}")
        return self

    def frames(self, samples: int) -> int:
        """How many frames a clip of `samples` samples has."""
        return 1 + max(samples, self.shortest_samples) // self.hop_samples

    @property
    def shortest_samples(self) -> int:
        """Reflection at the ends needs more than half a transform; shorter clips get zeros at the
        end."""
        return self.n_fft // 2 + 1


def laion_slaney() -> FrontEndSpec:
    """LAION-CLAP without fusion (its in-model mel): Slaney scale, area normalised."""
    return _laion("slaney", "slaney")


def laion_htk() -> FrontEndSpec:
    """LAION-CLAP with fusion (its data-side mel): HTK scale, triangles of height one."""
    return _laion("htk", "none")


def _laion(scale: MelScale, norm: MelNorm) -> FrontEndSpec:
    return FrontEndSpec(
        rate_hz=48_000, n_fft=1024, win_samples=1024, hop_samples=480, mel_bins=64, fmin_hz=50,
        fmax_hz=14_000, mel_scale=scale, mel_norm=norm, log="db", floor=1e-10,
    )  # fmt: skip


def m2d(rate_hz: int = 16_000) -> FrontEndSpec:
    """M2D and M2D-CLAP at 16 or 32 kHz, with the statistics of the 2022 models."""
    if rate_hz not in (16_000, 32_000):
        raise ValueError(f"M2D models hear at 16000 or 32000 Hz, not {rate_hz}")
    return FrontEndSpec(
        rate_hz=rate_hz, n_fft=rate_hz // 40, win_samples=rate_hz // 40, hop_samples=rate_hz // 100,
        mel_bins=80, fmin_hz=50, fmax_hz=rate_hz / 2, mel_scale="slaney", mel_norm="slaney",
        log="ln", floor=torch.finfo(torch.float32).eps, mean=-7.1, std=4.2,
    )  # fmt: skip


def slap() -> FrontEndSpec:
    """SLAP: 16 kHz, 25 ms Hann window, 10 ms hop, 64 mel bins.

    Transform size, band edges, log and normalisation are not in the paper; n_fft 512 and 0-8 kHz
    HTK in dB are those of CED and Dasheng, whose geometry SLAP shares. Mean and deviation: of the
    corpora in docs/RESULTS.md.
    """
    return FrontEndSpec(
        rate_hz=16_000, n_fft=512, win_samples=400, hop_samples=160, mel_bins=64, fmin_hz=0,
        fmax_hz=8_000, mel_scale="htk", mel_norm="none", log="db", floor=1e-7, mean=-20.0, std=22.0,
    )  # fmt: skip


PRESETS = {"laion_slaney": laion_slaney, "laion_htk": laion_htk, "m2d": m2d, "slap": slap}


class FrontEnd(nn.Module):
    """Log-mel spectrograms of a ragged batch. Ragged (ΣT,) float32 -> Ragged (ΣN, F) float32.

    Gradients reach samples that require them.
    """

    window: Tensor  # (n_fft,)
    mel: Tensor  # (K', F): without the frequency bins that no filter hears

    def __init__(self, spec: FrontEndSpec) -> None:
        super().__init__()
        self.spec = spec
        hann = torch.hann_window(spec.win_samples, periodic=True, dtype=torch.float64)
        left = (spec.n_fft - spec.win_samples) // 2
        window = nn.functional.pad(hann, (left, spec.n_fft - spec.win_samples - left))
        filters = mel_filters(spec)
        heard = filters.any(1).nonzero()
        self._heard = slice(int(heard[0]), int(heard[-1]) + 1)
        # Made from the spec, so never in a state dict: a checkpoint cannot hold a bank that
        # contradicts it.
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("mel", filters[self._heard].clone(), persistent=False)

    def forward(self, audio: Ragged) -> Ragged:
        return self.of_clips(audio)

    def of_clips(self, clips: Iterable[Tensor]) -> Ragged:
        """The same from clips (T,) one after another, each needed no longer than its turn lasts:
        made on the way, they cost no memory. Raises ValueError on no clips."""
        lengths: list[int] = []

        def spans() -> Iterator[Tensor]:
            for clip in clips:
                lengths.append(self.spec.frames(len(clip)))
                yield from self._spans(clip)

        frames = list(self._logmels(spans()))
        if not frames:
            raise ValueError("a ragged batch needs at least one clip")
        return Ragged.from_lengths(torch.cat(frames), lengths)

    def stream(self, blocks: Iterable[npt.NDArray[np.float32] | Tensor]) -> Iterator[Tensor]:
        """The frames (N, F) of one recording in pieces (n, F), from its samples in blocks (T,) of
        any length. Laid end to end they are `forward`'s, up to rounding; memory does not grow."""
        return self._logmels(self._stream_spans(blocks))

    def _spans(self, clip: Tensor) -> Iterator[Tensor]:
        """A clip with reflected ends, as runs of samples (T',): a frame begins at every hop of
        each. All but the frames that reach over an end are a view of the clip."""
        hop, half = self.spec.hop_samples, self.spec.n_fft // 2
        clip = nn.functional.pad(clip, (0, max(0, self.spec.shortest_samples - len(clip))))
        left = clip[1 : half + 1].flip(0)
        # how far the last frame reaches over the end
        beyond = max(0, len(clip) // hop * hop + half - len(clip))
        right = clip[-beyond - 1 : -1].flip(0)
        first, last = -(-half // hop), (len(clip) - half) // hop  # frames that lie in the clip
        if first > last:
            yield torch.cat([left, clip, right])
            return
        yield torch.cat([left, clip[: (first - 1) * hop + half]])
        yield clip[first * hop - half : last * hop + half]
        if beyond:
            yield torch.cat([clip[(last + 1) * hop - half :], right])

    def _stream_spans(self, blocks: Iterable[npt.NDArray[np.float32] | Tensor]) -> Iterator[Tensor]:
        """The same of a recording that comes in blocks."""
        hop, half = self.spec.hop_samples, self.spec.n_fft // 2
        most = _most_frames(self.window.device) * hop
        held: list[Tensor] = []
        count, begun = 0, False  # samples held; whether the left end is behind us
        for block in blocks:
            for at in range(0, len(block), most):
                held.append(self._copied(block[at : at + most]))
                count += len(held[-1])
                if count < most:
                    continue
                laid = torch.cat(held)
                laid = laid if begun else torch.cat([laid[1 : half + 1].flip(0), laid])
                # What stays must be enough to reflect, should the end come now.
                ready = min((len(laid) - 2 * half) // hop + 1, (len(laid) - half - 1) // hop)
                yield laid[: (ready - 1) * hop + 2 * half]
                held, begun = [laid[ready * hop :].clone()], True
                count = len(held[0])
        rest = torch.cat(held) if held else self.window.new_zeros(0)
        if begun:
            yield torch.cat([rest, rest[-half - 1 : -1].flip(0)])
        else:
            yield from self._spans(rest)

    def _copied(self, samples: npt.NDArray[np.float32] | Tensor) -> Tensor:
        """A copy, on the module's device: whoever handed them may fill their place anew."""
        if not isinstance(samples, Tensor):
            samples = torch.from_numpy(np.array(samples, np.float32))
        return samples.to(self.window.device, torch.float32, copy=True)

    def _logmels(self, spans: Iterable[Tensor]) -> Iterator[Tensor]:
        """The frames of all spans (T',), a bounded number (N, F) at a time."""
        size, most = self.spec.n_fft, _most_frames(self.window.device)
        frames = self.window.new_empty(most, size)
        count = 0
        for span in spans:
            rest = span.unfold(0, size, self.spec.hop_samples)
            if span.requires_grad and torch.is_grad_enabled():  # a buffer keeps no history
                if count:
                    yield self._logmel(frames[:count])
                    count = 0
                yield self._logmel(rest * self.window)
                continue
            while len(rest):
                taken, rest = rest[: most - count], rest[most - count :]
                torch.mul(taken, self.window, out=frames[count : count + len(taken)])
                count += len(taken)
                if count == most:
                    yield self._logmel(frames)
                    count = 0
        if count:
            yield self._logmel(frames[:count])

    def _logmel(self, frames: Tensor) -> Tensor:
        """Windowed frames (N, n_fft) -> (N, F)."""
        # A log-mel in half precision is not the one that the model knows: no autocast in here.
        with torch.autocast(frames.device.type, enabled=False):
            spectrum = torch.fft.rfft(frames)[:, self._heard]
            power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
            return (self._log(power @ self.mel) - self.spec.mean) / self.spec.std

    def _log(self, power: Tensor) -> Tensor:
        if self.spec.log == "db":
            return 10 * torch.log10(power.clamp(min=self.spec.floor))
        return torch.log(power + self.spec.floor)


def _most_frames(device: torch.device) -> int:
    """Frames at once. On a CPU what fits its cache, in buffers that the allocator keeps and need
    not be mapped anew (a third of the time of whole batches); on a GPU enough to keep it busy."""
    return 512 if device.type == "cpu" else 16_384


def mel_filters(spec: FrontEndSpec) -> Tensor:
    """The mel filter matrix (K, F) float32: triangles between neighbouring mel points (as in
    librosa)."""
    to_mel, to_hz = _SCALES[spec.mel_scale]
    edges_mel = torch.linspace(
        to_mel(spec.fmin_hz), to_mel(spec.fmax_hz), spec.mel_bins + 2, dtype=torch.float64
    )
    edges = torch.tensor([to_hz(float(m)) for m in edges_mel], dtype=torch.float64)
    bins = torch.linspace(0, spec.rate_hz / 2, spec.n_fft // 2 + 1, dtype=torch.float64)[:, None]
    rising = (bins - edges[:-2]) / edges[:-1].diff()
    falling = (edges[2:] - bins) / edges[1:].diff()
    filters = torch.minimum(rising, falling).clamp(min=0)
    if spec.mel_norm == "slaney":
        filters = filters * (2 / (edges[2:] - edges[:-2]))
    return filters.float()


def _htk_mel(hz: float) -> float:
    return 2595 * math.log10(1 + hz / 700)


def _htk_hz(mel: float) -> float:
    return 700 * (10 ** (mel / 2595) - 1)


# Slaney's Auditory Toolbox: linear to 1 kHz (15 mels), then 27 mels to each factor of 6.4.
_LINEAR_HZ_PER_MEL = 200 / 3
_LOG_STEP = math.log(6.4) / 27


def _slaney_mel(hz: float) -> float:
    return hz / _LINEAR_HZ_PER_MEL if hz < 1000 else 15 + math.log(hz / 1000) / _LOG_STEP


def _slaney_hz(mel: float) -> float:
    return mel * _LINEAR_HZ_PER_MEL if mel < 15 else 1000 * math.exp(_LOG_STEP * (mel - 15))


_SCALES = {"htk": (_htk_mel, _htk_hz), "slaney": (_slaney_mel, _slaney_hz)}
