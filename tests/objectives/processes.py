"""Real processes that meet by gloo, each of which computes the same named cases on its part."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

Results = dict[str, Tensor]
Work = Callable[[int, Path], Results]  # (rank, folder with whatever the work needs)


def in_processes(work: Work, world: int, folder: Path) -> list[Results]:
    """What each of `world` processes returned, by rank. `work` is a function of a module."""
    mp.spawn(_process, (work, world, str(folder)), nprocs=world)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _process(rank: int, work: Work, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    meet = f"file://{folder}/meet"
    dist.init_process_group(
        "gloo", init_method=meet, rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    try:
        torch.save(work(rank, Path(folder)), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
    # DDP and meshes outlive the group, and so do gloo's threads: one of them that wants python's
    # lock while python ends aborts the process (seen once in dozens of runs on a busy machine)
    os._exit(0)
