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
from typing import Literal

import torch
from torch import Tensor, nn

from echoic.config import Spec
from echoic.types import Ragged

MelScale = Literal["slaney", "htk"]
MelNorm = Literal["slaney", "none"]


class FrontEndSpec(Spec):
    """All that fixes a log-mel spectrogram. Frames are centred, the window is a periodic Hann,
    power 2.

    log "db": 10 log10(max(power, floor)); "ln": ln(power + floor). Then (x - mean) / std.
    """

    rate_hz: int
    n_fft: int
    win_samples: int
    hop_samples: int
    mel_bins: int
    fmin_hz: float
    fmax_hz: float
    mel_scale: MelScale
    mel_norm: MelNorm
    log: Literal["db", "ln"]
    floor: float
    mean: float = 0.0
    std: float = 1.0

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
    """Log-mel spectrograms of a ragged batch. Ragged (ΣT,) float32 -> Ragged (ΣN, F) float32."""

    window: Tensor  # (n_fft,)
    mel: Tensor  # (K, F)

    def __init__(self, spec: FrontEndSpec) -> None:
        super().__init__()
        self.spec = spec
        hann = torch.hann_window(spec.win_samples, periodic=True, dtype=torch.float64)
        left = (spec.n_fft - spec.win_samples) // 2
        window = nn.functional.pad(hann, (left, spec.n_fft - spec.win_samples - left))
        # Made from the spec, so never in a state dict: a checkpoint cannot hold a bank that
        # contradicts it.
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("mel", mel_filters(spec), persistent=False)

    @torch.no_grad()
    def forward(self, audio: Ragged) -> Ragged:
        # A log-mel in half precision is not the one that the model knows: no autocast in here.
        with torch.autocast(audio.values.device.type, enabled=False):
            laid, picked = self._lay_out(audio)
            frames = laid.unfold(0, self.spec.n_fft, self.spec.hop_samples) * self.window
            spectrum = torch.fft.rfft(frames)
            power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
            logmel = self._log(power @ self.mel)
        lengths = [self.spec.frames(n) for n in audio.lengths]
        return Ragged.from_lengths((logmel[picked] - self.spec.mean) / self.spec.std, lengths)

    def _lay_out(self, audio: Ragged) -> tuple[Tensor, Tensor]:
        """Clips with reflected ends, each starting at a multiple of the hop, so that one strided
        view cuts the frames of the whole batch; the second result picks the frames that do not
        straddle two clips."""
        hop, half = self.spec.hop_samples, self.spec.n_fft // 2
        pieces: list[Tensor] = []
        picked: list[Tensor] = []
        start = 0
        for clip in audio:
            clip = nn.functional.pad(clip, (0, max(0, self.spec.shortest_samples - len(clip))))
            padded = nn.functional.pad(clip[None], (half, half), mode="reflect")[0]
            padded = nn.functional.pad(padded, (0, -len(padded) % hop))
            picked.append(torch.arange(1 + len(clip) // hop) + start)
            pieces.append(padded)
            start += len(padded) // hop
        pieces.append(audio.values.new_zeros(self.spec.n_fft))
        return torch.cat(pieces), torch.cat(picked).to(audio.values.device)

    def _log(self, power: Tensor) -> Tensor:
        if self.spec.log == "db":
            return 10 * torch.log10(power.clamp(min=self.spec.floor))
        return torch.log(power + self.spec.floor)


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
