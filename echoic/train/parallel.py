"""How a task is spread over the ranks, and what its blocks are made to do.

    Single     one process
    Replicas   every rank has all weights; gradients are averaged while they are made (DDP)
    Shards     every rank has a part of each weight, gathered block by block (FSDP2, `fully_shard`)

All three give the same gradient: the mean over ranks and over the batches of a step. A block is
what lies in an nn.ModuleList and has none itself, such as a transformer's layer; its activations
can be made again in the backward pass (1604.06174) and its forward pass compiled. Neither changes a
name, so weights are saved and loaded alike.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from echoic.train.ema import local
from echoic.train.world import World
from echoic.types import Batch, ConfigError

Kind = Literal["ddp", "fsdp"]
Losses = Mapping[str, Tensor]


class Parallel(Protocol):
    """A task over all ranks. Making one may replace the task's parameters: do it before the
    optimizer."""

    def __call__(self, batch: Batch, *more: Any) -> Losses:
        """Of this rank's batch; `more` is handed to the task."""
        ...

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Around the passes of a step; gradients meet in the last one only."""
        ...

    def clip(self, weights: Sequence[Tensor], limit: float) -> Tensor:
        """Shorten the gradient to that L2 norm; returns the norm that it had, on every rank."""
        ...

    def evaluating(self) -> AbstractContextManager[bool]:
        """Inside, any part of the task may be called; on every rank alike, where it gives True:
        else it raises ConfigError on all of them."""
        ...


class Single:
    def __init__(self, task: nn.Module) -> None:
        self.task = task

    def __call__(self, batch: Batch, *more: Any) -> Losses:
        losses: Losses = self.task(batch, *more)
        return losses

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def clip(self, weights: Sequence[Tensor], limit: float) -> Tensor:
        return nn.utils.clip_grad_norm_(weights, limit)

    def evaluating(self) -> AbstractContextManager[bool]:
        return nullcontext(False)


class Replicas(Single):
    """What a batch does not reach, as fusion in one without long clips, counts as a gradient of 0
    on that rank; what no rank's batch reaches has none and does not move, as in one process."""

    def __init__(self, task: nn.Module) -> None:
        super().__init__(task)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")  # since 2.13
            self._replica = DistributedDataParallel(
                task,
                broadcast_buffers=False,  # `mean_statistics` keeps the ones that differ equal
                find_unused_parameters=True,
                gradient_as_bucket_view=True,
            )

    def __call__(self, batch: Batch, *more: Any) -> Losses:
        losses: Losses = self._replica(batch, *more)
        return losses

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        with nullcontext() if last else self._replica.no_sync():
            yield


class Shards(Single):
    """Scalars cannot be cut and stay whole on every rank. Every batch must run the same blocks; of
    the other weights it may leave some out. A block whose weights other methods use, too, names
    them in `beside_forward`."""

    def __init__(self, task: nn.Module, world: World) -> None:
        # a second to import, which most trainings need not spend
        from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

        super().__init__(task)
        self.world, mesh = world, world.mesh()
        _same_as_first(task)
        self._scalars = [p for p in task.parameters() if not p.ndim]  # in one order on all ranks
        uncut = set(self._scalars)
        marked = [n for n, p in task.named_parameters() if getattr(p, "no_weight_decay", False)]
        for block in blocks(task):
            fully_shard(block, mesh=mesh, ignored_params=uncut)
            for name in getattr(block, "beside_forward", ()):
                register_fsdp_forward_method(block, name)
        # the root's own weights stay gathered from the forward pass to the backward pass
        fully_shard(task, mesh=mesh, ignored_params=uncut, reshard_after_forward=False)
        for name in marked:
            setattr(task.get_parameter(name), "no_weight_decay", True)  # noqa: B010
        self._zeros: dict[str, Tensor] = {}  # gradients as they were before the backward pass
        self._parts = [part for part in task.modules() if isinstance(part, FSDPModule)]

    def __call__(self, batch: Batch, *more: Any) -> Losses:
        losses = super().__call__(batch, *more)
        if not torch.is_grad_enabled():
            return losses
        for name, weight in self.task.named_parameters():
            whole = local(weight) is weight
            if whole and weight.requires_grad and weight.grad is None:
                # or the ranks would send different ones
                weight.grad = self._zeros[name] = torch.zeros_like(weight)
        return losses

    def _forget_unreached(self) -> None:
        """What no rank's batches reached has no gradient, as in one process."""
        reached = torch.tensor([zeros._version for zeros in self._zeros.values()])
        if len(reached):
            dist.all_reduce(reached, dist.ReduceOp.MAX)
        for name, changes in zip(self._zeros, reached.tolist(), strict=True):
            if not changes:
                self.task.get_parameter(name).grad = None
        self._zeros.clear()

    def _mean_scalars(self) -> None:
        for scalar in self._scalars:
            if scalar.grad is not None:
                dist.all_reduce(scalar.grad, dist.ReduceOp.SUM)
                scalar.grad /= dist.get_world_size()

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        for part in self._parts:
            part.set_requires_gradient_sync(last, recurse=False)
        yield

    def clip(self, weights: Sequence[Tensor], limit: float) -> Tensor:
        self._forget_unreached()
        self._mean_scalars()
        grads = [weight.grad for weight in weights if weight.grad is not None]
        parts = [local(grad) for grad in grads]
        whole = [part for part, grad in zip(parts, grads, strict=True) if part is grad]
        cut = [part for part, grad in zip(parts, grads, strict=True) if part is not grad]
        square = _square(cut, weights[0].device)
        dist.all_reduce(square)
        norm = (square + _square(whole, square.device)).sqrt()
        if math.isfinite(limit):
            torch._foreach_mul_(parts, (limit / (norm + 1e-6)).clamp(max=1.0))
        return norm

    @contextmanager
    def evaluating(self) -> Iterator[bool]:
        """The blocks gather their weights as ever, so all ranks take part."""
        root = self._parts[0]  # which is not called as a whole
        asking = partial(self._meet, asks=True)
        # before FSDP's own, which waits for the others
        hooks = [b.register_forward_pre_hook(asking, prepend=True) for b in blocks(self.task)]
        root.unshard()
        try:
            yield True
            self._meet(asks=False)
        finally:
            for hook in hooks:
                hook.remove()
            root.reshard()

    def _meet(self, *_: object, asks: bool) -> None:
        """asks: for a block's pass; or has done with all."""
        if self.world.agree(asks, not asks) != [True, True]:
            return
        ready = [str(rank) for rank, asked in enumerate(self.world.gather(asks)) if not asked]
        raise ConfigError(
            f"evaluation: rank {', '.join(ready)} of {self.world.size} had done while others still "
            "asked for the model, whose weights are cut over the ranks: with run.parallel=fsdp "
            "every rank must evaluate the same clips (no `if rank == 0`)"
        )


def spread(task: nn.Module, kind: Kind, world: World) -> Parallel:
    """Over the ranks of `world`; in a world of one, neither kind does anything."""
    if world.store is None:
        return Single(task)
    return Replicas(task) if kind == "ddp" else Shards(task, world)


@torch.no_grad()
def _same_as_first(task: nn.Module) -> None:
    """The weights, as with DDP: what each rank drew may differ."""
    for weight in task.parameters():
        dist.broadcast(weight.detach(), 0)


def blocks(task: nn.Module) -> list[nn.Module]:
    """What lies in an nn.ModuleList, has weights and holds no nn.ModuleList itself."""
    lists = [module for module in task.modules() if isinstance(module, nn.ModuleList)]
    return [
        each
        for module in lists
        for each in module
        if any(True for _ in each.parameters())
        and not any(isinstance(part, nn.ModuleList) for part in each.modules())
    ]


@contextmanager
def changed_blocks(task: nn.Module, *, checkpointed: bool, compiled: bool) -> Iterator[None]:
    """Inside, the blocks that learn make their activations anew in the backward pass, and all run
    compiled; afterwards they are as they were."""
    found = blocks(task)
    learning = [each for each in found if any(p.requires_grad for p in each.parameters())]
    for block in learning if checkpointed else ():
        block.forward = partial(_anew, block.forward)
    for block in found if compiled else ():
        block.compile(dynamic=True)
    try:
        yield
    finally:
        for block in learning if checkpointed else ():
            del block.forward
        for block in found if compiled else ():
            block._compiled_call_impl = None


def _anew(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


@torch.no_grad()
def mean_statistics(task: nn.Module, world: World) -> None:
    """The running statistics of batch norms become their means over ranks, each of which normalises
    by its own batch; SyncBN's are equal already."""
    if world.store is None:
        return
    own = [
        buffer
        for norm in task.modules()
        if isinstance(norm, nn.modules.batchnorm._BatchNorm)
        and not isinstance(norm, nn.SyncBatchNorm)
        for buffer in (norm.running_mean, norm.running_var)
        if buffer is not None
    ]
    if not own:
        return
    flat = torch.cat([buffer.flatten() for buffer in own])
    with world.waiting():
        dist.all_reduce(flat)
    flat /= world.size
    for buffer, mean in zip(own, flat.split([b.numel() for b in own]), strict=True):
        buffer.copy_(mean.view_as(buffer))


def _square(parts: Sequence[Tensor], device: torch.device) -> Tensor:
    """The sum of squares of all of them, a scalar."""
    if not parts:
        return torch.zeros((), device=device)
    return torch.stack(torch._foreach_norm(list(parts))).square().sum()
