"""A training step of M2D-CLAP (2406.02032) beside a plain one (m2d_plain.py): the same weights,
clips, masks and optimizer, side by side.

    python -m benchmarks.m2d_speed             # about 5 minutes on two cores
    python -m benchmarks.m2d_speed --quick     # a minute: the small size, fewer rounds

From samples to moved weights: log-mel, both losses, backward, clipping, fused AdamW, the target
that follows. 6.07 s clips, two threads. A ratio is the median over rounds, in each of which all
take their turn, so that a busy machine is as busy for one as for the other.

B clips, P patches.
"""

from __future__ import annotations

import argparse
import gc
import math
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.m2d_plain import PlainM2d
from benchmarks.output import finish, show
from benchmarks.timing import (
    in_own_process,
    in_turns,
    matmul_rate,
    operations,
    ratio,
    resident_mib,
    shares,
    short,
)
from echoic.audio.frontend import m2d
from echoic.encoders.m2d import M2dEncoder, M2dSpec
from echoic.model import ModelSpec, build
from echoic.nn.masking import RandomMask, take
from echoic.nn.vit import Vit
from echoic.objectives.masked_duo import DecaySpec, MaskedDuo, Predictor, PredictorSpec
from echoic.objectives.masked_duo_task import M2dTask, SentenceContrast
from echoic.towers import M2dTower, SentenceTextSpec
from echoic.train.optim import OptimSpec, make_optimizer
from echoic.types import Batch, Ragged

RATIO, DECAY, CLIP_NORM, CLAP_WEIGHT = 0.7, 0.99995, 3.0, 0.01
OPTIM = OptimSpec(lr=1e-5, betas=(0.9, 0.95), weight_decay=0.05, clip_norm=CLIP_NORM, steps=1000)
FRONT_END = m2d()
_CHILD = "--child"


@dataclass(frozen=True)
class Size:
    """Networks and clips of a step."""

    encoder: M2dSpec
    predictor: PredictorSpec
    clips: int


SIZES = {
    "base": Size(M2dSpec(projector="mlp"), PredictorSpec(), clips=8),
    "small": Size(
        M2dSpec(width=192, depth=6, heads=3, projector="mlp"),
        PredictorSpec(width=128, depth=4, heads=4),
        clips=32,
    ),
}


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(_CHILD, nargs=3, metavar=("WHO", "SIZE", "TYPE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(2)
    if args.child:
        print(peak_mib(*args.child))
        return
    finish(figures(quick=args.quick))


def figures(*, quick: bool) -> dict[str, object]:
    """Measure all and show it; the figures by name, `step_vs_plain` that of ViT-base in float32
    (of the small size if `quick`)."""
    names = ("small",) if quick else ("base", "small")
    rows = [
        measured(name, dtype, 3 if quick else 5)
        for name in names
        for dtype in (torch.float32, torch.bfloat16)
    ]
    show(
        f"A training step of M2D-CLAP: plain over ours, {FRONT_END.rate_hz // 1000} kHz, 6.07 s",
        ("step", "plain, s", "ours, s", "ratio", "outside products", "fused attention", "front end",
         "over floor", "visible cost", "plain, MiB", "ours, MiB"),
        [row.cells() for row in rows],
    )  # fmt: skip
    found: dict[str, object] = {"step_vs_plain": rows[0].ratio}
    for row in rows:
        found |= row.figures()
    return found


# -- both programs ---------------------------------------------------------------------------------


class Clips:
    """Noise, and vectors of sentences: the same for both."""

    def __init__(self, size: Size) -> None:
        draw = torch.Generator().manual_seed(0)
        frames = size.encoder.columns * size.encoder.patch_frames
        samples = (frames - 1) * FRONT_END.hop_samples
        self.samples = 0.1 * torch.randn(size.clips, samples, generator=draw)
        self.sentences = torch.randn(size.clips, size.encoder.width, generator=draw)

    def batch(self) -> Batch:
        n = len(self.samples)
        text = Ragged.from_lengths(torch.arange(n), [1] * n)
        names = tuple(map(str, range(n)))
        return Batch(Ragged.from_rows(list(self.samples)), text, torch.arange(n), names)


class Step:
    """A training step, of whichever task."""

    def __init__(self, task: nn.Module, dtype: torch.dtype) -> None:
        self.task, self.dtype = task, dtype
        self.optimizer = make_optimizer(task, OPTIM)
        self.weights = [p for group in self.optimizer.param_groups for p in group["params"]]

    def __call__(self) -> None:
        self.backward()
        nn.utils.clip_grad_norm_(self.weights, CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.follow()

    def backward(self) -> Tensor:
        """The loss, and its gradients."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            loss = self.loss()
        loss.backward()
        return loss.detach()

    def loss(self) -> Tensor:
        raise NotImplementedError

    def follow(self) -> None:
        """The target after the online encoder."""
        raise NotImplementedError


class OurStep(Step):
    """echoic's."""

    def __init__(self, size: Size, dtype: torch.dtype = torch.float32) -> None:
        clips, width = Clips(size), size.encoder.width
        spec = ModelSpec(
            front_end=FRONT_END,
            audio=size.encoder,
            text=SentenceTextSpec(width=width),
            embed_dim=width,
            max_s=10.0,
        )
        model: Any = build(spec, seed=0)
        self.tower: M2dTower = model.audio
        task = M2dTask(
            model,
            _duo(self.tower.encoder, size),
            masking=RandomMask(ratio=RATIO),
            decay=DecaySpec(first=DECAY, last=DECAY),
            steps=OPTIM.steps,
            contrast=SentenceContrast(lambda batch: clips.sentences, CLAP_WEIGHT),
        )
        self.batch = clips.batch()
        super().__init__(task, dtype)
        self.duo_task = task

    def loss(self) -> Tensor:
        losses = self.task(self.batch)
        return losses["masked"] + losses["contrastive"]

    def follow(self) -> None:
        self.duo_task.after_step(0)

    def front_end(self) -> None:
        self.tower.front_end(self.batch.audio)


def _duo(encoder: M2dEncoder, size: Size) -> MaskedDuo:
    spec = size.encoder
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        duo = MaskedDuo(
            Vit(width=spec.width, depth=spec.depth, heads=spec.heads),
            Predictor(size.predictor, width=spec.width, rows=encoder.rows, columns=encoder.columns),
        )
        for p in duo.target.parameters():  # another network than the online one: their loss counts
            p.add_(0.02 * torch.randn(p.shape))
    return duo


class PlainStep(Step):
    """The plain one, with the weights of ours."""

    def __init__(self, size: Size, dtype: torch.dtype = torch.float32) -> None:
        self.clips = Clips(size)
        task = PlainM2d(FRONT_END, size.encoder, size.predictor)
        task.load_state_dict(plain_names(OurStep(size).task))
        patches = size.encoder.columns * FRONT_END.mel_bins // size.encoder.patch_bins
        self.shape = (size.clips, patches)
        super().__init__(task, dtype)
        self.plain = task

    def loss(self) -> Tensor:
        draw = torch.Generator().manual_seed(0)
        noise = torch.rand(self.shape, dtype=torch.float64, generator=draw)
        masked, contrast = self.plain(self.clips.samples, self.clips.sentences, noise, RATIO)
        return masked + CLAP_WEIGHT * contrast

    def follow(self) -> None:
        self.plain.follow(DECAY)
        with torch.no_grad():
            self.plain.logit_scale.clamp_(0, math.log(100))


def plain_names(task: nn.Module, *, gradients: bool = False) -> dict[str, Tensor]:
    """Our parameters, or their gradients, by the plain network's names."""
    named = dict(task.named_parameters())
    found = {}
    for name, p in named.items():
        tensor = p.grad if gradients else p.detach()
        if tensor is not None:
            short = name.removeprefix("model.").removeprefix("duo.").removeprefix("audio.")
            found[short] = tensor
    return found


# -- what is measured ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One size in one type. ratio, floor: the plain step's seconds, and those that the products
    would take at this machine's rate of large ones, to ours."""

    name: str
    plain_s: float
    ours_s: float
    ratio: float
    outside: float
    attention: float
    front_end: float
    over_floor: float
    visible_cost: float
    plain_mib: float
    ours_mib: float

    def cells(self) -> tuple[object, ...]:
        shares = (self.outside, self.attention, self.front_end)
        return (
            self.name, self.plain_s, self.ours_s, f"{self.ratio:.2f}",
            *(f"{100 * share:.1f} %" for share in shares), f"{self.over_floor:.2f}",
            f"{self.visible_cost:.2f}", f"{self.plain_mib:.0f}", f"{self.ours_mib:.0f}",
        )  # fmt: skip

    def figures(self) -> dict[str, object]:
        return {
            f"{self.name}_step_vs_plain": self.ratio,
            f"{self.name}_step_s": self.ours_s,
            f"{self.name}_outside_products": self.outside,
            f"{self.name}_fused_attention": self.attention,
            f"{self.name}_front_end_share": self.front_end,
            f"{self.name}_step_over_floor": self.over_floor,
            f"{self.name}_visible_cost": self.visible_cost,
            f"{self.name}_memory_vs_plain": self.ours_mib / self.plain_mib,
        }


def measured(name: str, dtype: torch.dtype, rounds: int) -> Row:
    """All figures of a size in a type."""
    size = SIZES[name]
    ours, plain = OurStep(size, dtype), PlainStep(size, dtype)
    laps = in_turns({"plain": plain, "ours": ours, "front_end": ours.front_end}, rounds)
    outside, attention = shares(ours)
    floor_s = operations(plain.backward) / matmul_rate(dtype)
    del plain
    return Row(
        f"{name}_{short(dtype)}",
        median(laps["plain"]),
        median(laps["ours"]),
        ratio(laps["plain"], laps["ours"]),
        outside,
        attention,
        ratio(laps["front_end"], laps["ours"]),
        min(laps["ours"]) / floor_s,
        visible_cost(ours, rounds),
        *(
            in_own_process("benchmarks.m2d_speed", _CHILD, who, name, short(dtype))
            for who in ("plain", "ours")
        ),
    )


def visible_cost(step: OurStep, rounds: int) -> float:
    """Seconds, forward and backward, of encoding the visible patches over those of encoding all,
    over the same of their operations: 1 is what the tokens say."""
    encoder = step.tower.encoder
    with torch.no_grad():
        patches = encoder.patches(step.tower.front_end(step.batch.audio))
    draw = torch.Generator().manual_seed(0)
    visible = take(
        patches, RandomMask(ratio=RATIO).draw(patches.lengths, encoder.rows, draw).visible
    )

    def encode(given: Ragged) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=step.dtype == torch.bfloat16):
            encoded = encoder.encode(given).values
        encoded.backward(torch.ones_like(encoded))
        encoder.zero_grad()

    laps = in_turns({"visible": lambda: encode(visible), "all": lambda: encode(patches)}, rounds)
    few, many = (encoder_operations(encoder.width, given.lengths) for given in (visible, patches))
    return ratio(laps["visible"], laps["all"]) / (few / many)


def encoder_operations(width: int, patches: tuple[int, ...]) -> int:
    """Multiplications of a block: those of the matrices go with the tokens, attention's with their
    square."""
    tokens = [n + 1 for n in patches]  # and the class token
    return sum(12 * width**2 * n + 2 * width * n**2 for n in tokens)


def peak_mib(who: str, size: str, type_name: str) -> float:
    """Largest resident memory of this process, after two steps."""
    dtype = torch.bfloat16 if type_name == "bf16" else torch.float32
    step = {"ours": OurStep, "plain": PlainStep}[who](SIZES[size], dtype)
    gc.collect()
    for _ in range(2):
        step()
    return resident_mib("VmHWM")


if __name__ == "__main__":
    main()
