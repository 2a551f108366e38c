"""The GPU script runs with torch and numpy alone, and counts FLOP as a count by hand does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu_slap import BASE, TINY, Encoder, Size, clip_lengths, heard_pairs, step_flop
from benchmarks.timing import operations
from echoic.nn.attention_pattern import Pattern

ROOT = Path(__file__).parents[2]
ALONE = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in {others}:
            raise ImportError(name)

sys.meta_path.insert(0, Nothing())
from benchmarks.gpu_slap import main
main(["--device", "cpu", "--quick", "--dtype", "float32"])
"""


def test_it_runs_with_torch_and_numpy_alone():
    """On the CPU at a tiny size; an import of any other package that echoic needs fails."""
    others = {"pydantic", "yaml", "rich", "typer", "tokenizers", "soundfile", "soxr", "safetensors"}
    others |= {"transformers", "pytest", "huggingface_hub", "av"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE.format(others=others)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["card"] == "CPU"
    assert figures["cpu"]["fault"] < 1e-5
    assert figures["cpu"]["eager_tokens_per_s"] > 0
    assert 0 < figures["cpu"]["eager_mfu"] < 1
    assert "needs bfloat16 or float16 on CUDA" in figures["varlen"]["error"]


@pytest.mark.parametrize(("length", "reach"), [(9, 3), (9, None), (4, 3), (3, 8), (1, 0), (6, 5)])
def test_pairs_are_those_of_the_mask(length, reach):
    mask = Pattern((length,), (length,), reach).mask(torch.device("cpu"))
    assert heard_pairs(length, reach) == int(mask.sum())


def test_flop_are_those_that_torch_counts():
    """Forward, of global blocks: the way of unfused products computes just what is needed."""
    size = Size(depth=2, width=32, heads=2, hidden=48, clips=1, global_every=1)
    encoder = Encoder(size)
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        forward = operations(lambda: encoder(torch.zeros(40, 32), (40,), torch.zeros(40, 2, 8)))
    assert 3 * forward == step_flop(size, (40,))


def test_clips_are_many_short_and_some_of_30_s():
    lengths = clip_lengths(64)
    assert sum(n <= 252 for n in lengths) > 40
    assert sum(n == 252 for n in lengths) > 16
    assert sum(n == 752 for n in lengths) >= 8
    assert list(lengths) != sorted(lengths)
    assert BASE.reach(0) == 48
    assert [TINY.reach(i) is None for i in range(3)] == [False, False, True]
