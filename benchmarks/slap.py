"""What a training step of SLAP (2601.12594) costs: packed beside padded, per second of audio, with
one objective and with three.

    python -m benchmarks.slap             # 12 minutes on two quiet cores
    python -m benchmarks.slap --quick     # a minute: nano, few clips, one round

Clips of lengths like those of AudioCaps, Clotho and WavCaps (clip_lengths.py). Two threads, sides
in turns in one run, medians over rounds.

packed_vs_30s, packed_vs_longest: seconds of the plain padded step (slap_plain.py: the same weights,
    norms, matrices and front end) over ours, from samples to moved weights by the contrastive loss,
    for the same clips. Theirs come 16 at a time as they are drawn; ours by the loader's packing
    into batches of as many tokens as 16 have on average. Both with glibc's own ways of memory,
    which cost the larger tensors more; with `keep_memory` on both sides it is a fifth less.
cost_per_second_spread: forward and backward of the audio tower on clips of one length, 1 to 30 s,
    as many as give the same number of tokens; seconds per second of audio, most over least, less 1.
    per_token_spread: the same per token. One second is 101 frames, so 7 columns, not 6.25.
    operations_spread: of the floating-point operations per second of audio, what is to be expected.
attention_memory_growth: peak memory of forward and backward of two local blocks and a global one
    on clips of 30 s, per token: of 32 k tokens over 4 k.
auxiliary_cost_vs_flops: seconds of the step with three objectives over those of the contrastive one
    alone, over the same of the floating-point operations of their products and attention, as
    counted while they run: both towers, teacher, heads, prototypes, decoder.

B clips, P tokens.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import cast

import torch
from torch import Tensor, nn

from benchmarks.clip_lengths import quantiles
from benchmarks.output import finish, show
from benchmarks.slap_plain import PaddedTask
from benchmarks.timing import in_own_process, in_turns, operations, ratio, resident_mib, shares
from benchmarks.timing import short as type_name
from echoic.data.pack import plan_epoch
from echoic.encoders.slap import SlapEncoder, SlapSpec
from echoic.encoders.text import SmallTextSpec
from echoic.model import LanguageAudioModel, build
from echoic.objective import make_task
from echoic.objectives.task import ContrastiveTask
from echoic.recipes import find_recipe
from echoic.recipes.recipe import ObjectiveSpec, Recipe
from echoic.towers import PackedTower
from echoic.train.optim import OptimSpec, make_optimizer
from echoic.train.process import keep_memory
from echoic.types import Batch, Ragged

MOST_S = 30.0
LENGTHS_S = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
MEMORY_TOKENS = (4096, 8192, 16_384, 32_768)
TOKENS_10_S = 252
_CHILD = "--child"


@dataclass(frozen=True)
class Amount:
    """clips: of an epoch; together: of a padded batch. tokens: of the clips of one length."""

    clips: int
    together: int
    rounds: int
    tokens: int


WHOLE = Amount(clips=48, together=16, rounds=3, tokens=12 * TOKENS_10_S)
KINDS = (("small", torch.float32), ("nano", torch.bfloat16))
QUICK_KINDS = (("nano", torch.float32),)
QUICK = Amount(clips=16, together=8, rounds=1, tokens=4 * TOKENS_10_S)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(_CHILD, nargs=2, metavar=("SIZE", "TOKENS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(2)
    if args.child:
        size, tokens = args.child
        print(kib_per_token(size, int(tokens)))
        return
    if args.quick:
        finish(figures(QUICK_KINDS, QUICK, MEMORY_TOKENS[:2]))
    else:
        finish(figures(KINDS, WHOLE, MEMORY_TOKENS))


def figures(
    kinds: Sequence[tuple[str, torch.dtype]], amount: Amount, memory_tokens: Sequence[int]
) -> dict[str, object]:
    """Measure all and show it, of each size and type; by name, and without a prefix those of the
    first."""
    found: dict[str, object] = {}
    measured = (packing, lengths_cost, auxiliary)
    for measure in measured:
        if measure is not packing:
            keep_memory()  # as echoic train does; a plain padded step has what glibc gives it
        for size, dtype in kinds:
            own = measure(size, amount, dtype)
            found |= {f"{size}_{type_name(dtype)}_{name}": value for name, value in own.items()}
            _tell(f"{size} {type_name(dtype)}: {measure.__name__.replace('_', ' ')}", own)
    size, dtype = kinds[0]
    memory = attention_memory(size, memory_tokens)
    _tell(f"{size} fp32: attention memory", memory)
    first = f"{size}_{type_name(dtype)}_"
    headline = (
        "packed_vs_30s", "packed_vs_longest", "cost_per_second_spread", "auxiliary_cost_vs_flops",
    )  # fmt: skip
    return {name: found[first + name] for name in headline} | memory | found


def _tell(title: str, found: dict[str, float]) -> None:
    show(title, ("figure", ""), list(found.items()))


# -- steps -----------------------------------------------------------------------------------------


class Step:
    """A training step of whichever task."""

    def __init__(self, task: nn.Module, optim: OptimSpec, dtype: torch.dtype) -> None:
        self.task, self.dtype = task, dtype
        self.optimizer = make_optimizer(task, optim)
        self.weights = [p for group in self.optimizer.param_groups for p in group["params"]]

    def __call__(self, batch: Batch) -> None:
        self.backward(batch)
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if after_step := getattr(self.task, "after_step", None):
            after_step(0)

    def backward(self, batch: Batch) -> Tensor:
        """The loss, and its gradients."""
        with _autocast(self.dtype):
            losses: dict[str, Tensor] = self.task(batch)
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        return loss.detach()


def _autocast(dtype: torch.dtype) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)


def contrastive_only(recipe: Recipe) -> Recipe:
    """The recipe with its contrastive loss alone."""
    model = recipe.model.model_copy(update={"decoder": None})
    return recipe.model_copy(update={"model": model, "objectives": ObjectiveSpec()})


# -- clips -----------------------------------------------------------------------------------------


class Clips:
    """Noise of those lengths, in an order that says nothing, with captions of random words: 4 to 20
    tokens, frame included."""

    def __init__(self, durations_s: Sequence[float], rate_hz: int, vocab: int) -> None:
        draw = torch.Generator().manual_seed(0)
        order = torch.randperm(len(durations_s), generator=draw).tolist()
        self.durations_s = [durations_s[i] for i in order]
        self.samples = [
            0.1 * torch.randn(round(s * rate_hz), generator=draw) for s in self.durations_s
        ]
        counts = torch.randint(4, 21, (len(order),), generator=draw).tolist()
        self.texts = [torch.randint(3, vocab, (n,), generator=draw) for n in counts]

    def batch(self, members: Sequence[int]) -> Batch:
        return Batch(
            Ragged.from_rows([self.samples[i] for i in members]),
            Ragged.from_rows([self.texts[i] for i in members]),
            torch.tensor(members),
            tuple(map(str, members)),
        )

    def drawn(self, together: int) -> list[Batch]:
        """As a plain loader gives them."""
        everyone = range(len(self.samples))
        return [self.batch(everyone[i : i + together]) for i in everyone[::together]]

    def packed(self, together: int, tokens_in: Callable[[float], int]) -> list[Batch]:
        """As ours does, with the tokens of as many average clips."""
        costs = [tokens_in(s) for s in self.durations_s]
        budget = round(together * sum(costs) / len(costs))
        plan = plan_epoch(costs, budget=budget, epoch=0, seed=0, min_clips=2)
        return [self.batch(members) for members in plan]


# -- what is measured ------------------------------------------------------------------------------


def packing(size: str, amount: Amount, dtype: torch.dtype) -> dict[str, float]:
    """Ours beside the padded twins; where the time of ours goes. All train one model."""
    recipe = contrastive_only(find_recipe(f"slap:{size}"))
    model, tower = _built(recipe)
    clips = _clips(amount.clips, recipe)
    longest_frames = tower.front_end.spec.frames(round(MOST_S * tower.rate_hz))
    packed = clips.packed(amount.together, tower.tokens_in)
    drawn = clips.drawn(amount.together)
    ours = Step(ContrastiveTask(model), recipe.optim, dtype)
    to_longest = Step(PaddedTask(model), recipe.optim, dtype)
    to_30_s = Step(PaddedTask(model, longest_frames), recipe.optim, dtype)
    laps = in_turns(
        {
            "ours": partial(_epoch, ours, packed),
            "longest": partial(_epoch, to_longest, drawn),
            "30_s": partial(_epoch, to_30_s, drawn),
            "front_end": lambda: [tower.front_end(batch.audio) for batch in packed],
        },
        amount.rounds,
    )
    outside, attention = shares(partial(ours, packed[0]))
    return {
        "packed_vs_30s": ratio(laps["30_s"], laps["ours"]),
        "packed_vs_longest": ratio(laps["longest"], laps["ours"]),
        "clips_per_s": amount.clips / median(laps["ours"]),
        "outside_products": outside,
        "fused_attention": attention,
        "front_end_share": ratio(laps["front_end"], laps["ours"]),
        "mean_clip_s": sum(clips.durations_s) / amount.clips,
        "packed_batches": len(packed),
    }


def _epoch(step: Step, batches: Sequence[Batch]) -> None:
    for batch in batches:
        step(batch)


def lengths_cost(size: str, amount: Amount, dtype: torch.dtype) -> dict[str, float]:
    """Of the audio tower, by the length of its clips."""
    _, tower = _built(contrastive_only(find_recipe(f"slap:{size}")))
    counts = {s: max(1, amount.tokens // tower.tokens_in(s)) for s in LENGTHS_S}
    draw = torch.Generator().manual_seed(0)
    clips = {
        s: Ragged.from_rows(
            [0.1 * torch.randn(round(s * tower.rate_hz), generator=draw) for _ in range(n)]
        )
        for s, n in counts.items()
    }
    laps = in_turns(
        {f"{s:g}": partial(_forward_backward, tower, clips[s], dtype) for s in LENGTHS_S},
        amount.rounds,
    )
    per_second, per_token = (
        {s: median(laps[f"{s:g}"]) / (n * unit(s)) for s, n in counts.items()}
        for unit in (lambda s: s, tower.tokens_in)
    )
    counted = {
        s: operations(partial(_forward_backward, tower, clips[s], dtype)) / (n * s)
        for s, n in counts.items()
    }
    by_length = {f"ms_per_second_at_{s:g}s": 1e3 * cost for s, cost in per_second.items()}
    spreads = {
        "cost_per_second_spread": spread(list(per_second.values())),
        "per_token_spread": spread(list(per_token.values())),
        "operations_spread": spread(list(counted.values())),
    }
    return spreads | by_length


def spread(costs: Sequence[float]) -> float:
    """Most over least, less 1."""
    return max(costs) / min(costs) - 1


def _forward_backward(tower: PackedTower, audio: Ragged, dtype: torch.dtype) -> None:
    with _autocast(dtype):
        clip = tower(audio).clip
    clip.backward(torch.ones_like(clip))
    tower.zero_grad()


def auxiliary(size: str, amount: Amount, dtype: torch.dtype) -> dict[str, float]:
    """The step with three objectives beside that with the contrastive one, on one packed batch."""
    whole = find_recipe(f"slap:{size}")
    model, _ = _built(whole)
    batch = _clips(amount.together, whole).batch(range(amount.together))
    steps = {"three": Step(make_task(whole, model), whole.optim, dtype)}
    alone = contrastive_only(whole)
    steps["one"] = Step(make_task(alone, _built(alone)[0]), alone.optim, dtype)
    laps = in_turns({name: partial(step, batch) for name, step in steps.items()}, amount.rounds)
    counted = {name: operations(partial(step.backward, batch)) for name, step in steps.items()}
    cost, flops = ratio(laps["three"], laps["one"]), counted["three"] / counted["one"]
    outside, _ = shares(partial(steps["three"], batch))
    return {
        "auxiliary_cost_vs_flops": cost / flops,
        "auxiliary_cost": cost,
        "auxiliary_flops": flops,
        "three_objectives_outside_products": outside,
    }


def attention_memory(size: str, tokens: Sequence[int]) -> dict[str, float]:
    """Each number of tokens in a process of its own."""
    found = {n: in_own_process("benchmarks.slap", _CHILD, size, str(n)) for n in tokens}
    by_tokens = {f"kib_per_token_at_{n // 1024}k": kib for n, kib in found.items()}
    return {"attention_memory_growth": found[tokens[-1]] / found[tokens[0]]} | by_tokens


def kib_per_token(size: str, tokens: int) -> float:
    """By how much forward and backward of one period of blocks raise this process's peak; as many
    clips of 30 s as come to `tokens`."""
    spec = cast(SlapSpec, find_recipe(f"slap:{size}").model.audio)
    spec = spec.model_copy(update={"depth": spec.global_every})
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        encoder = SlapEncoder(spec, mel_bins=64, frame_s=0.01, embed_dim=spec.width)
    clip = encoder.columns(round(MOST_S * 100) + 1) * encoder.rows
    _encode(encoder, [TOKENS_10_S])  # what every process needs once
    gc.collect()
    before = resident_mib("VmRSS")
    lengths = [clip] * round(tokens / clip)
    _encode(encoder, lengths)
    return 1024 * (resident_mib("VmHWM") - before) / sum(lengths)


def _encode(encoder: SlapEncoder, lengths: Sequence[int]) -> None:
    given = Ragged.from_lengths(torch.zeros(sum(lengths), encoder.spec.width), lengths)
    tokens = encoder.encode(given).values
    tokens.backward(torch.ones_like(tokens))
    encoder.zero_grad()


def _clips(count: int, recipe: Recipe) -> Clips:
    text = cast(SmallTextSpec, recipe.model.text)
    return Clips(quantiles(count), recipe.model.front_end.rate_hz, text.vocab)


def _built(recipe: Recipe) -> tuple[LanguageAudioModel, PackedTower]:
    model = build(recipe.model, seed=0)
    assert isinstance(model.audio, PackedTower)
    return model, model.audio


if __name__ == "__main__":
    main()
