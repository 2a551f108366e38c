"""What the layers of a training step cost: weights, floating-point operations, and memory from the
forward to the backward pass. Each formula with what it follows from; `parts.py` puts them together.

A product of P rows (P, D) with a matrix (D, E) is 2 P D E operations, a multiplication and an
addition each. Backward it is made twice: for the gradient of its input and for that of the matrix;
once where the input needs none.

Attention of width D, all heads together, makes for each pair of a query and a key that it looks at
a score (2 D) and a part of the mean (2 D). Backward a fused kernel makes the score anew and four
products of that size: 10 D; where the scores were kept: 8 D. A window of `reach` tokens to each
side is worked on in blocks of `granule` queries, so that each costs 2 reach + granule keys.

Kept is what autograd saves: the input of each product and norm, q, k, v and the result of each
attention, what goes into each non-linearity. Norms and the residual stream are float32 (4 bytes);
what products take in and give has `low` bytes: 2 under autocast to bfloat16, else 4. Where blocks
are checkpointed, only their inputs are kept, and one block's inside at a time; their forward pass
is made twice.

Norms, softmax, non-linearities, rotary positions and the Fourier transform count no operations:
they are bound by memory, and what they take is in the utilisation that a plan assumes.

P rows or tokens, D width, M hidden width, H heads, E another width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np

FLOAT = 4  # bytes of float32


@dataclass(frozen=True)
class Kernels:
    """How a step is computed. low: bytes of what products take in and give. granule: queries that a
    windowed attention works on together. fused: whether its scores are made anew backward. inner:
    whether MLPs keep what comes out of their non-linearities (nn/linear.py makes it anew in float32
    on the CPU). norm: how many values RMSNorm keeps of one (one kernel keeps what goes in; torch on
    the CPU also what is scaled)."""

    low: int
    granule: int
    fused: bool = True
    inner: bool = True
    norm: int = 1


GPU_BF16 = Kernels(low=2, granule=128)
GPU_FP32 = Kernels(low=4, granule=128)
CPU_FP32 = Kernels(low=4, granule=48, inner=False, norm=2)


@dataclass(frozen=True)
class Cost:
    """Of a part of a step. Sums add up, but for the two of the largest block.

    weights, held: parameters that learn and that do not. forward, backward: operations. kept: bytes
    from the forward to the backward pass. Of blocks that can be checkpointed, again: operations
    forward; inside: bytes kept; inputs: bytes of their inputs; largest: bytes kept in the largest;
    block_weights: its parameters.
    """

    weights: float = 0.0
    held: float = 0.0
    forward: float = 0.0
    backward: float = 0.0
    kept: float = 0.0
    again: float = 0.0
    inside: float = 0.0
    inputs: float = 0.0
    largest: float = 0.0
    block_weights: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        mine = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        for name in ("largest", "block_weights"):
            mine[name] = max(getattr(self, name), getattr(other, name))
        return Cost(**mine)

    @property
    def flop(self) -> float:
        return self.forward + self.backward

    def kept_checkpointed(self) -> float:
        """Bytes from forward to backward where blocks are made anew."""
        return self.kept - self.inside + self.inputs + self.largest

    def frozen(self) -> Cost:
        """The same without gradient."""
        held = self.weights + self.held
        return Cost(held=held, forward=self.forward, block_weights=self.block_weights)

    def unlearnt(self) -> Cost:
        """The same weights, on no rows."""
        return Cost(weights=self.weights, held=self.held, block_weights=self.block_weights)

    def as_block(self, input_bytes: float) -> Self:
        """A block that can be checkpointed."""
        return replace(
            self, again=self.forward, inside=self.kept, inputs=input_bytes, largest=self.kept,
            block_weights=self.weights,
        )  # fmt: skip


def total(costs: Sequence[Cost]) -> Cost:
    return sum(costs, Cost())


# -- layers ----------------------------------------------------------------------------------------


def linear(
    rows: float, width: float, out: float, *, bias: bool = True, deep: bool = True, kept: float = 0
) -> Cost:
    """(P, D) -> (P, E). deep: whether the gradient goes on to what is before it. kept: bytes of a
    value of its input that are saved."""
    once = 2.0 * rows * width * out
    weights = width * out + (out if bias else 0)
    return Cost(weights, 0.0, once, once * (2 if deep else 1), kept * rows * width)


def attention(k: Kernels, pairs: float, width: float) -> Cost:
    """Of so many (query, key) pairs."""
    return Cost(forward=4 * width * pairs, backward=(10 if k.fused else 8) * width * pairs)


def heard_pairs(k: Kernels, lengths: np.ndarray, reach: int | None = None) -> float:
    """(query, key) pairs of clips of so many tokens that a kernel works on."""
    lengths = np.asarray(lengths, dtype=np.float64)
    if reach is None:
        return float((lengths**2).sum())
    span = 2 * reach + k.granule
    return float(np.where(lengths > span, lengths * span, lengths**2).sum())


def swiglu(k: Kernels, rows: float, width: int, hidden: int) -> Cost:
    """Gate and up, the product of the two, down. Kept: its input, gate and up; with `inner` silu of
    the gate and the product too."""
    kept = rows * k.low * (width + 2 * hidden + (2 * hidden if k.inner else 0))
    up, down = (linear(rows, a, b, bias=False) for a, b in ((width, 2 * hidden), (hidden, width)))
    return up + down + Cost(kept=kept)


def gelu_mlp(k: Kernels, rows: float, width: int, hidden: int) -> Cost:
    """Kept: its input and what goes into the GELU; with `inner` what comes out too."""
    kept = rows * k.low * (width + hidden * (2 if k.inner else 1))
    return linear(rows, width, hidden) + linear(rows, hidden, width) + Cost(kept=kept)


def packed_block(
    k: Kernels, lengths: np.ndarray, width: int, hidden: int, reach: int | None = None
) -> Cost:
    """nn/transformer.Block: RMSNorm, attention with rotary positions, RMSNorm, SwiGLU; no biases.

    Kept: the stream before both norms; the input of qkv; v, in what it is a view of (3 D), and q
    and k turned; the result of attention, which is the input of `out`.
    """
    rows = float(np.sum(lengths))
    weights = linear(rows, width, 3 * width, bias=False) + linear(rows, width, width, bias=False)
    mixed = attention(k, heard_pairs(k, lengths, reach), width)
    kept = rows * width * (2 * FLOAT * k.norm + k.low * (1 + 3 + 2 + 1))
    block = weights + mixed + swiglu(k, rows, width, hidden) + Cost(weights=2 * width, kept=kept)
    return block.as_block(rows * width * FLOAT)


def vit_block(k: Kernels, lengths: np.ndarray, width: int, hidden: int) -> Cost:
    """nn/vit.VitBlock: the same with LayerNorm, biases and GELU, without rotary positions. Kept: q,
    k and v as they come."""
    rows = float(np.sum(lengths))
    weights = linear(rows, width, 3 * width) + linear(rows, width, width)
    mixed = attention(k, heard_pairs(k, lengths), width)
    kept = rows * width * (2 * FLOAT + k.low * (1 + 3 + 1))
    block = weights + mixed + gelu_mlp(k, rows, width, hidden)
    return (block + Cost(weights=4 * width, kept=kept)).as_block(rows * width * FLOAT)


def map_head(k: Kernels, lengths: np.ndarray, width: int, hidden: int, out: int) -> Cost:
    """nn/heads.MapHead: keys and values of all tokens, one query; the rest is of clips. Kept of a
    token: before and after the norm, keys, values, both in float32, and their weighted sum."""
    rows, clips = float(np.sum(lengths)), len(lengths)
    tokens = linear(rows, width, 2 * width, bias=False)
    of_clip = linear(clips, width, width, bias=False) + swiglu(k, clips, width, hidden)
    of_clip += linear(clips, width, out, bias=False)
    wide = 0 if k.low == FLOAT else 2 * FLOAT  # float32 copies of keys and values
    kept = rows * width * (FLOAT * k.norm + k.low * (1 + 2) + wide)
    return tokens + of_clip + Cost(weights=3 * width, kept=kept)


def two_layers(rows: float, width: int, out: int) -> Cost:
    return linear(rows, width, out) + linear(rows, out, out)


# -- memory and traffic ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, by what they are for. working: buffers inside the step."""

    weights: float
    gradients: float
    optimizer: float
    average: float
    activations: float
    scores: float
    working: float

    @property
    def state(self) -> float:
        """What is there between steps."""
        return self.weights + self.optimizer + self.average

    @property
    def peak(self) -> float:
        """Gradients and activations at once, as where gradients are summed up over passes or lie in
        buckets from the start (DDP)."""
        passing = self.activations + self.scores + self.working
        return self.state + self.gradients + passing

    @property
    def peak_alone(self) -> float:
        """Of one process and one pass: activations are freed while gradients come."""
        passing = self.activations + self.scores
        return self.state + max(passing, self.gradients) + self.working


def memory(
    cost: Cost,
    k: Kernels,
    *,
    moments: int,
    average: bool,
    scores: float,
    working: float,
    checkpointed: bool = False,
    shards: int = 1,
) -> Memory:
    """moments: per weight, 2 of AdamW. average: whether one of the weights is kept. shards: among
    so many ranks weights, gradients and moments are divided (FSDP2); of two blocks the weights are
    whole, the one at work and the next. Under autocast the matrices are copied in `low`; so are
    theirs.

    working: what passes; backward there are besides gradients of what the block at work kept.
    """
    cut = FLOAT / shards
    copies = 0.0 if k.low == FLOAT else k.low * (cost.weights + cost.held)
    gathered = 0.0
    if shards > 1:
        gathered = 2 * FLOAT * cost.block_weights
        copies = min(copies, 2 * k.low * cost.block_weights)
    return Memory(
        weights=cut * (cost.weights + cost.held) + gathered + copies,
        gradients=cut * cost.weights,
        optimizer=cut * cost.weights * moments,
        average=cut * cost.weights if average else 0.0,
        activations=cost.kept_checkpointed() if checkpointed else cost.kept,
        scores=scores,
        working=working + cost.largest,
    )


def contrastive_scores(own: float, everyone: float, width: int, form: str) -> tuple[Cost, float]:
    """Own pairs B against all N, both ways: 2 x 2 B N D operations, twice that backward. Bytes of
    the scores: "whole", of each way the logits, their log-softmax and its gradient, and the target;
    in blocks (chunked, ring) some rows at a time, a score made twice and used for both ways."""
    pairs = own * everyone
    if form == "whole":
        return Cost(forward=4 * width * pairs, backward=8 * width * pairs), 7 * FLOAT * pairs
    return Cost(forward=2 * width * pairs, backward=6 * width * pairs), 4.0 * FLOAT * 2**22


def all_reduce_s(size: float, ranks: int, nodes: int, link: float, network: float) -> float:
    """Seconds in which all ranks sum up `size` bytes. Each sends and receives 2 (W - 1) / W of them
    inside its node (`link` bytes/s per device); a node 2 (n - 1) / n to others (`network` bytes/s
    per node). The two overlap."""
    local = ranks // nodes
    inside = 2 * (local - 1) / local * size / link
    return max(inside, 2 * (nodes - 1) / nodes * size / network)


def gather_s(size: float, ranks: int, nodes: int, link: float, network: float) -> float:
    """Seconds in which every rank gets all of `size` bytes that lie in parts on all: half of an
    all-reduce."""
    return all_reduce_s(size, ranks, nodes, link, network) / 2
