"""What a plan takes for granted of GPUs, the loader and prices. Data, with where it is from.

Rates are the makers' data sheets', of dense matrices; memory in bytes as sold.
"""

from __future__ import annotations

from dataclasses import dataclass

from echoic.config import close_to
from echoic.types import ConfigError


@dataclass(frozen=True)
class Gpu:
    """bf16, fp32: operations per second of matrix products; fp32 without TF32, which echoic leaves
    off. memory: bytes; bandwidth: of it, bytes/s. link: bytes/s to the GPUs of its node, one
    way."""

    name: str
    bf16: float
    fp32: float
    memory: float
    bandwidth: float
    link: float


GPUS = {
    "a100": Gpu("A100 80 GB SXM", 312e12, 19.5e12, 80e9, 2.04e12, 300e9),
    "a100-40": Gpu("A100 40 GB SXM", 312e12, 19.5e12, 40e9, 1.56e12, 300e9),
    "h100": Gpu("H100 SXM", 989e12, 67e12, 80e9, 3.35e12, 450e9),
    "h200": Gpu("H200 SXM", 989e12, 67e12, 141e9, 4.8e12, 450e9),
    "b200": Gpu("B200 SXM", 2250e12, 75e12, 180e9, 7.7e12, 900e9),
    "l4": Gpu("L4", 121e12, 30.3e12, 24e9, 0.3e12, 32e9),
    "l40s": Gpu("L40S", 362e12, 91.6e12, 48e9, 0.864e12, 32e9),
    "rtx4090": Gpu("RTX 4090", 165e12, 82.6e12, 24e9, 1.008e12, 32e9),
}

# Of the rates above, what a whole training step reaches; not measured: no GPU was at hand. Dense
# transformers of this size are told to reach 0.3 to 0.5; norms, packing and small batches take more
# of a faster card.
UTILISATION = 0.35
MEMORY_SHARE = 0.9  # that a step may take: the rest is CUDA's, NCCL's and fragments
GPUS_PER_NODE = 8
CORES_PER_GPU = 16
NETWORK_GBIT_S = 400.0  # of a node
PRICE = 2.5  # per GPU-hour, in whatever currency

# Hours of audio that a core decodes, cuts and packs in a second, of FLAC at 16 kHz
# (python -m benchmarks.loader, on a core of an AMD EPYC that was shared).
HOURS_PER_CORE_S = 1.3
# Shares of 16-bit samples: 200 clips of ESC-50 and Clotho, mono at 16 kHz. Opus is a rate.
FLAC_SHARE, OPUS_BYTES_PER_S = 0.57, 6000.0
CLIPS_PER_SHARD = 512  # as data/shards.py writes
CLIP_TEXT_BYTES = 2048  # a clip's header and JSON in a tar, with padding


def find_gpu(name: str) -> Gpu:
    """Raises ConfigError on one that is not known."""
    if name.lower() not in GPUS:
        raise ConfigError(f"no GPU {name!r}; {close_to(name.lower(), GPUS)}")
    return GPUS[name.lower()]
