"""What a training asks of its process: exact sums with several threads, signals given back."""

from __future__ import annotations

import platform
import signal
import subprocess
import sys

import pytest
import torch

from echoic.train.process import StopRequest, exact_kernels, isolated_rng


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def gathered_gradient() -> torch.Tensor:
    """Of x[i] with many repeats, which several threads sum by default in the order they come."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 128, generator=generator, requires_grad=True)
    i = torch.randint(0, 20, (5000,), generator=generator)
    (x[i] * torch.randn(5000, 128, generator=generator)).sum().backward()
    assert x.grad is not None
    return x.grad


def test_a_gather_has_one_gradient_whatever_the_threads_do(two_threads):
    with exact_kernels(torch.device("cpu")):
        first = gathered_gradient()
        assert all(torch.equal(first, gathered_gradient()) for _ in range(5))
    assert not torch.are_deterministic_algorithms_enabled()


def test_drawing_inside_leaves_no_trace():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    with isolated_rng(seed=9):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with isolated_rng(seed=9):
        assert torch.equal(torch.rand(3), inside)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_does_what_it_did_before(number):
    heard: list[int] = []
    before = signal.signal(number, lambda n, frame: heard.append(n))
    try:
        with StopRequest() as stop:
            assert not stop.asked
            signal.raise_signal(number)
            assert stop.asked
            assert not heard
            signal.raise_signal(number)
            assert heard == [number]
        with StopRequest():
            pass
        signal.raise_signal(number)
        assert heard == [number, number]
    finally:
        signal.signal(number, before)


_WHERE = """
import sys
import torch
from echoic.train.process import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
large = torch.zeros(64 << 20, dtype=torch.uint8)
heap = next(line for line in open("/proc/self/maps") if line.endswith("[heap]\\n"))
first, last = (int(each, 16) for each in heap.split()[0].split("-"))
print(first <= large.data_ptr() < last)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="speaks to glibc")
def test_large_tensors_lie_in_memory_that_is_kept():
    kept, left = (
        subprocess.check_output([sys.executable, "-c", _WHERE, mode], text=True).strip()
        for mode in ("keep", "leave")
    )
    assert (kept, left) == ("True", "False")
