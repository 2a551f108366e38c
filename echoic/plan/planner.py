"""From a recipe, a corpus and GPUs to a plan: tokens, operations, memory, shards, loader, days,
cost, and where the bottleneck lies.

The step's clips are divided among the ranks; what a rank cannot hold at once it takes in several
passes (`optim.accumulate`), with gradient caching where the loss is contrastive, so that the
negatives stay those of the whole step. Of all ways that fit the memory, the fastest is planned.
Every clip counts as long as the mean.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from math import inf
from typing import Any, Literal

import numpy as np

from echoic.plan.formulas import (
    FLOAT,
    GPU_BF16,
    GPU_FP32,
    Kernels,
    Memory,
    all_reduce_s,
    gather_s,
    memory,
)
from echoic.plan.machines import (
    CLIP_TEXT_BYTES,
    CLIPS_PER_SHARD,
    CORES_PER_GPU,
    FLAC_SHARE,
    GPUS_PER_NODE,
    HOURS_PER_CORE_S,
    MEMORY_SHARE,
    NETWORK_GBIT_S,
    OPUS_BYTES_PER_S,
    PRICE,
    UTILISATION,
    Gpu,
)
from echoic.plan.parts import Load, StepCost, heard_s, step_cost, tokens_of
from echoic.recipes.recipe import Recipe
from echoic.types import ConfigError

LOADER_RATE_HZ = 16_000  # at which HOURS_PER_CORE_S was measured
_PASSES = tuple(2**i for i in range(13))
_MUCH = 0.1  # of a step


@dataclass(frozen=True)
class Ask:
    """What is to be trained, on what. pairs: clips with captions. epochs, batch (clips of a step of
    all GPUs): None takes the recipe's. utilisation: of the GPU's best rate. cores: per GPU.
    hours_per_core_s: of audio at 16 kHz, that a core of the loader makes in a second."""

    pairs: float
    mean_s: float
    gpus: int
    gpu: Gpu
    nodes: int | None = None
    epochs: float | None = None
    batch: int | None = None
    caption_tokens: int = 20
    utilisation: float = UTILISATION
    price: float = PRICE
    cores: float = CORES_PER_GPU
    hours_per_core_s: float = HOURS_PER_CORE_S
    network_gbit_s: float = NETWORK_GBIT_S

    def __post_init__(self) -> None:
        for name in (
            "pairs", "mean_s", "gpus", "nodes", "epochs", "batch", "utilisation", "cores",
            "hours_per_core_s", "network_gbit_s",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not 0 < value < inf:
                wanted = "finite" if value > 0 else "positive"
                raise ConfigError(f"{name} {value:g} is not {wanted}")
        if self.gpus % self.count_nodes:
            raise ConfigError(f"{self.gpus} GPUs do not divide among {self.count_nodes} nodes")

    @property
    def count_nodes(self) -> int:
        return self.nodes or -(-self.gpus // GPUS_PER_NODE)

    @property
    def network(self) -> float:
        """Bytes/s of a node."""
        return self.network_gbit_s * 1e9 / 8


@dataclass(frozen=True)
class Way:
    """How a step is divided. clips: of a rank's pass; passes: of a step."""

    kind: Literal["ddp", "fsdp"]
    checkpointed: bool
    passes: int
    clips: int


@dataclass(frozen=True)
class Seconds:
    """Of a step. gradients, embeddings: what of their way over the network nothing else hides."""

    compute: float
    optimizer: float
    gradients: float
    embeddings: float
    loader: float

    @property
    def step(self) -> float:
        """The loader works beside the rest."""
        rest = self.compute + self.optimizer + self.gradients + self.embeddings
        return max(rest, self.loader)

    @property
    def bottleneck(self) -> str:
        """The longest of its parts that the step waits for."""
        if self.loader >= self.step:
            return "loader"
        found: dict[str, float] = asdict(self)
        del found["loader"]
        return max(found, key=lambda name: found[name])


@dataclass(frozen=True)
class Option:
    """A way, whether it fits, and what it comes to."""

    way: Way
    memory: Memory
    seconds: Seconds
    flop: float  # of a step on one rank
    fits: bool


@dataclass(frozen=True)
class StagePlan:
    """Of one recipe. step: its cost on one rank in one pass; options: the best passes of each kind
    of way; chosen: the fastest that fits."""

    recipe: Recipe
    ask: Ask
    clips: int
    steps: int
    step: StepCost
    chosen: Option
    options: tuple[Option, ...]

    @property
    def days(self) -> float:
        return self.steps * self.chosen.seconds.step / 86_400

    @property
    def cost(self) -> float:
        return self.days * 24 * self.ask.gpus * self.ask.price

    @property
    def audio_s(self) -> float:
        """Of a step on one rank."""
        heard = min(self.ask.mean_s, heard_s(self.recipe))
        return heard * self.chosen.way.clips * self.chosen.way.passes

    @property
    def cores_needed(self) -> float:
        """Per GPU, so that the loader is as quick as the rest."""
        spent = self.chosen.seconds
        rest_s = spent.compute + spent.optimizer + spent.gradients + spent.embeddings
        return self.audio_s / 3600 / _loader_rate(self.recipe, self.ask) / rest_s

    def shards(self) -> dict[str, float]:
        """Number, and bytes of all as 16-bit samples, FLAC and Opus."""
        seconds = self.ask.pairs * self.ask.mean_s
        raw = seconds * 2 * self.recipe.model.front_end.rate_hz
        texts = self.ask.pairs * CLIP_TEXT_BYTES
        return {
            "shards": float(-(-self.ask.pairs // CLIPS_PER_SHARD)),
            "raw_bytes": raw + texts,
            "flac_bytes": raw * FLAC_SHARE + texts,
            "opus_bytes": seconds * OPUS_BYTES_PER_S + texts,
        }

    def traffic(self) -> dict[str, float]:
        """Bytes: of gradients that each rank sends and receives in a step, of embeddings that it
        gathers; and bytes/s of FLAC that a node reads."""
        ranks, whole = self.ask.gpus, self.step.whole
        share = 2 * (ranks - 1) / ranks
        rows = 2 * FLOAT * self.recipe.model.embed_dim * self.clips
        read = self.shards()["flac_bytes"] / self.ask.pairs * self.clips
        return {
            "gradient_bytes": share * FLOAT * whole.weights,
            "embedding_bytes": share * rows if _contrasts(self.recipe) else 0.0,
            "read_bytes_per_s": read / self.ask.count_nodes / self.chosen.seconds.step,
        }

    def to_json(self) -> dict[str, Any]:
        whole, way, rank_flop = self.step.whole, self.chosen.way, self.chosen.flop
        tokens = self.step.tokens * way.passes * self.ask.gpus
        return {
            "recipe": self.recipe.name,
            "asked": asdict(self.ask),
            "clips_per_step": self.clips,
            "steps": self.steps,
            "epochs": self.steps * self.clips / self.ask.pairs,
            "audio_tokens_per_step": tokens,
            "audio_tokens": tokens * self.steps,
            "weights": whole.weights,
            "weights_held": whole.held,
            "flop_per_step": rank_flop * self.ask.gpus,
            "flop": rank_flop * self.ask.gpus * self.steps,
            "flop_by_part": {
                name: {
                    "forward": part.forward * way.passes * self.ask.gpus,
                    "backward": part.backward * way.passes * self.ask.gpus,
                }
                for name, part in self.step.parts.items()
            },
            "chosen": _told(self.chosen),
            "options": [_told(option) for option in self.options],
            "data": self.shards(),
            "traffic": self.traffic(),
            "loader_cores_per_gpu": self.cores_needed,
            "days": self.days,
            "cost": self.cost,
            "bottleneck": self.chosen.seconds.bottleneck,
            "advice": advice(self),
        }


def plan_recipe(recipe: Recipe, ask: Ask) -> StagePlan:
    """Raises ConfigError where there are fewer clips than GPUs, or a part has no formula."""
    clips = _clips_of_step(recipe, ask)
    if clips < 2 * ask.gpus:
        raise ConfigError(
            f"{recipe.name}: a step of {clips} clips is less than two for each of {ask.gpus} GPUs; "
            "give --batch"
        )
    steps = recipe.optim.steps
    if ask.epochs is not None:
        steps = max(1, round(ask.epochs * ask.pairs / clips))
    options = [_best(recipe, ask, clips, *way) for way in _ways(ask)]
    chosen = min(options, key=lambda o: (not o.fits, o.seconds.step if o.fits else o.memory.peak))
    step = _pass_cost(recipe, ask, clips, chosen.way.clips)
    return StagePlan(recipe, ask, clips, steps, step, chosen, tuple(options))


def advice(plan: StagePlan) -> list[str]:
    """What the bottleneck is and what would help, in words."""
    spent, gpu, ask = plan.chosen.seconds, plan.ask.gpu, plan.ask
    found = []
    if not plan.chosen.fits:
        found.append(
            f"does not fit: {plan.chosen.memory.peak / 1e9:.0f} GB at the least in "
            f"{gpu.memory * MEMORY_SHARE / 1e9:.0f} GB; a smaller model or other GPUs"
        )
    share = {name: value / spent.step for name, value in asdict(spent).items()}
    if spent.bottleneck == "loader":
        found.append(
            f"the loader: it needs {plan.cores_needed:.0f} cores per GPU and has {ask.cores:g}; "
            f"the GPUs idle {1 - (share['compute'] + share['optimizer']):.0%} of the time"
        )
    elif spent.bottleneck == "compute":
        found.append(f"the GPUs' products: {share['compute']:.0%} of a step")
        if share["gradients"] > _MUCH:
            found.append(
                f"the network takes {share['gradients']:.0%} more, where gradients outlast the "
                "backward pass; more clips per GPU (--batch), or fewer GPUs"
            )
    else:
        found.append(
            f"{'the optimizer' if spent.bottleneck == 'optimizer' else 'the network'}: "
            f"{spent.bottleneck} take {share[spent.bottleneck]:.0%} of a step; more clips per GPU "
            "(--batch), or fewer GPUs"
        )
    if plan.recipe.optim.precision == "fp32":
        found.append(
            f"the recipe trains in fp32; in bf16 a {gpu.name} multiplies "
            f"{gpu.bf16 / gpu.fp32:.0f} times as fast (optim.precision=bf16)"
        )
    found.append(f"as planned: {' '.join(settings(plan))}")
    largest = max(plan.chosen.memory.scores, 1.0)
    if largest > 0.1 * gpu.memory and plan.recipe.objectives.scores == "whole":
        found.append(
            f"the scores of all pairs take {largest / 1e9:.0f} GB: objectives.scores=chunked"
        )
    return found


def settings(plan: StagePlan) -> list[str]:
    """The changes to the recipe with which a training is as planned; a budget is of one rank's
    batch."""
    way, recipe = plan.chosen.way, plan.recipe
    told = [f"data.budget_clips={way.clips}"]
    if recipe.data.budget_tokens is not None:
        told = [f"data.budget_tokens={round(plan.step.tokens)}"]
    told += [f"optim.accumulate={way.passes}", f"optim.steps={plan.steps}"]
    if way.passes > 1 and _contrasts(recipe):
        told.append("objectives.negatives=step")
    told += ["run.parallel=fsdp"] if way.kind == "fsdp" else []
    return [*told, "run.checkpoint_activations=true"] if way.checkpointed else told


# -- one way ---------------------------------------------------------------------------------------


def _ways(ask: Ask) -> list[tuple[Literal["ddp", "fsdp"], bool]]:
    kinds: tuple[Literal["ddp", "fsdp"], ...] = ("ddp", "fsdp") if ask.gpus > 1 else ("ddp",)
    return list(product(kinds, (False, True)))


def _best(
    recipe: Recipe, ask: Ask, clips: int, kind: Literal["ddp", "fsdp"], checkpointed: bool
) -> Option:
    """With as few passes as fit; else with the most that there can be."""
    option = None
    for passes in _PASSES:
        of_pass = -(-clips // (ask.gpus * passes))
        if passes > 1 and of_pass < 2:
            break
        option = _option(recipe, ask, clips, Way(kind, checkpointed, passes, of_pass))
        if option.fits:
            break
    assert option is not None
    return option


def _option(recipe: Recipe, ask: Ask, clips: int, way: Way) -> Option:
    cost, k = _pass_cost(recipe, ask, clips, way.clips), _kernels(recipe)
    whole, cached = cost.whole, way.passes > 1 and _contrasts(recipe)
    found = memory(
        whole, k, moments=_moments(recipe), average=recipe.optim.ema is not None,
        scores=cost.scores * (way.passes if cached else 1), working=cost.working,
        checkpointed=way.checkpointed, shards=ask.gpus if way.kind == "fsdp" else 1,
    )  # fmt: skip
    flop = whole.flop + (whole.again if way.checkpointed else 0.0)
    if cached:  # a pass without gradient, through what the vectors need
        flop += sum(
            cost.parts[name].forward for name in ("front end", "audio encoder", "text encoder")
            if name in cost.parts
        )  # fmt: skip
    flop *= way.passes
    alone = ask.gpus == 1 and way.passes == 1
    peak = found.peak_alone if alone else found.peak
    spent = _seconds(recipe, ask, clips, way, cost, flop)
    return Option(way, found, spent, flop, peak <= MEMORY_SHARE * ask.gpu.memory)


def _seconds(
    recipe: Recipe, ask: Ask, clips: int, way: Way, cost: StepCost, flop: float
) -> Seconds:
    gpu, whole = ask.gpu, cost.whole
    rate = gpu.bf16 if recipe.optim.precision == "bf16" else gpu.fp32
    compute = flop / (rate * ask.utilisation)
    over = (ask.gpus, ask.count_nodes, gpu.link, ask.network)
    if way.kind == "ddp":  # beside the backward pass of the last batch
        gradients = all_reduce_s(FLOAT * whole.weights, *over)
        hidden = compute / way.passes * whole.backward / whole.flop
        shards = 1
    else:  # weights twice in each pass, gradients once; beside all products
        gradients = way.passes * 3 * gather_s(FLOAT * (whole.weights + whole.held), *over)
        hidden, shards = compute, ask.gpus
    rows = 2 * FLOAT * recipe.model.embed_dim * clips if _contrasts(recipe) else 0.0
    # read and written: weights, gradients, moments, average; teachers are small beside them
    moved = FLOAT * whole.weights / shards * (3 + 2 * _moments(recipe) + 2)
    heard = min(ask.mean_s, heard_s(recipe)) * way.clips * way.passes
    return Seconds(
        compute=compute,
        optimizer=moved / gpu.bandwidth,
        gradients=max(0.0, gradients - hidden),
        embeddings=2 * gather_s(rows, *over),
        loader=heard / 3600 / (_loader_rate(recipe, ask) * ask.cores),
    )


def _loader_rate(recipe: Recipe, ask: Ask) -> float:
    """Hours per core-second at the model's rate: what a core decodes goes by samples."""
    return ask.hours_per_core_s * LOADER_RATE_HZ / recipe.model.front_end.rate_hz


def _pass_cost(recipe: Recipe, ask: Ask, clips: int, own: int) -> StepCost:
    load = Load(np.full(own, ask.mean_s), np.full(own, float(ask.caption_tokens)), negatives=clips)
    return step_cost(recipe, load, _kernels(recipe))


def _clips_of_step(recipe: Recipe, ask: Ask) -> int:
    if ask.batch is not None:
        return ask.batch
    data = recipe.data
    if data.budget_clips is not None:
        return data.budget_clips
    heard = np.array([min(ask.mean_s, heard_s(recipe))])
    return max(2, int((data.budget_tokens or 0) / float(tokens_of(recipe.model, heard)[0])))


def _kernels(recipe: Recipe) -> Kernels:
    return GPU_BF16 if recipe.optim.precision == "bf16" else GPU_FP32


def _moments(recipe: Recipe) -> int:
    optim = recipe.optim
    return (3 if optim.amsgrad else 2) if optim.kind == "adamw" else 1


def _contrasts(recipe: Recipe) -> bool:
    return bool(recipe.objectives.contrastive) and recipe.model.text is not None


def _told(option: Option) -> dict[str, Any]:
    return {
        **asdict(option.way),
        "fits": option.fits,
        "memory_bytes": {**asdict(option.memory), "peak": option.memory.peak},
        "seconds": {**asdict(option.seconds), "step": option.seconds.step},
    }
