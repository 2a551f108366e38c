"""The log-mel front end as two convolutions, for graphs that run outside of torch.

The discrete Fourier transform of windowed frames is a product with fixed cosines and sines, so that
samples to power is one convolution with the hop as its stride, and power to mel bands another of
width one. Every runtime has those; the FFT operator of ONNX is missing from many, and int8 must
leave both alone. It equals `audio.frontend.FrontEnd` to rounding (docs/RESULTS.md).

B clips of one length, T samples, N frames, F mel bins, K frequency bins that a mel filter hears.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echoic.audio.frontend import FrontEndSpec, mel_filters


class ConvFrontEnd(nn.Module):
    """Samples (B, T), T at least `spec.shortest_samples` -> frames (B, N, F)."""

    waves: Tensor  # (2 K, 1, win_samples): cosines, then sines, under the window
    mel: Tensor  # (F, K, 1)

    def __init__(self, spec: FrontEndSpec) -> None:
        super().__init__()
        self.spec = spec
        filters = mel_filters(spec)
        heard = filters.any(1).nonzero()[:, 0]
        bins = torch.arange(int(heard[0]), int(heard[-1]) + 1)
        time = torch.arange(spec.win_samples, dtype=torch.float64)
        angle = 2 * math.pi / spec.n_fft * bins[:, None] * time
        hann = torch.hann_window(spec.win_samples, periodic=True, dtype=torch.float64)
        waves = torch.cat([angle.cos(), angle.sin()]) * hann
        self.register_buffer("waves", waves.float()[:, None], persistent=False)
        self.register_buffer("mel", filters[bins].t()[:, :, None].contiguous(), persistent=False)
        # Frames are centred in n_fft samples, of which the window leaves out as many on the left.
        self.before = spec.n_fft // 2 - (spec.n_fft - spec.win_samples) // 2

    def forward(self, samples: Tensor) -> Tensor:
        spec, after = self.spec, self.spec.win_samples - self.before
        reflected = F.pad(samples[:, None], (self.before, after), mode="reflect")
        real, imaginary = F.conv1d(reflected, self.waves, stride=spec.hop_samples).chunk(2, dim=1)
        mel = F.conv1d(real * real + imaginary * imaginary, self.mel)
        if spec.log == "db":
            logmel = 10 * torch.log10(mel.clamp(min=spec.floor))
        else:
            logmel = torch.log(mel + spec.floor)
        return ((logmel - spec.mean) / spec.std).transpose(1, 2)
