"""The tensors of a checkpoint in one file per rank, by torch.distributed.checkpoint (DCP).

Its safetensors storage is used, whose headers say which part of a tensor lies where: DCP's own
storage keeps that in a pickle. Any number of ranks reads what any number wrote; a file with whole
tensors and no such header is read alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

ENDING = ".safetensors"


class PartError(Exception):
    """Some ranks could not write their parts."""


def write(folder: Path, tensors: Mapping[str, Tensor], group: dist.ProcessGroup) -> Path | None:
    """Every rank of `group` calls it with its parts; returns the file that this one wrote. A tensor
    that all have whole is written once. Raises PartError, on all alike."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    before = set(folder.glob(f"shard-{dist.get_rank(group) + 1:05d}-*{ENDING}"))
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save(dict(tensors), storage_writer=writer, process_group=group)
    except CheckpointException as error:  # names all ranks and their stacks, on many lines
        told = (
            f"rank {rank}: {str(why).partition(chr(10))[0]}"
            for rank, (why, _) in error.failures.items()
        )
        raise PartError("; ".join(told)) from error
    made = set(folder.glob(f"shard-{dist.get_rank(group) + 1:05d}-*{ENDING}")) - before
    return next(iter(made), None)


def described(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder by name, without its values (on the device "meta")."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    metadata = HuggingFaceStorageReader(str(folder)).read_metadata()
    return {
        name: torch.empty(found.size, dtype=found.properties.dtype, device="meta")
        for name, found in metadata.state_dict_metadata.items()
        if isinstance(found, TensorStorageMetadata)
    }


def read_into(folder: Path, targets: Mapping[str, Tensor]) -> None:
    """Fill the targets, whole or this rank's part of each; no rank waits for another."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    if not targets:
        return
    reader = HuggingFaceStorageReader(str(folder))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        load(dict(targets), storage_reader=reader, no_dist=True)
