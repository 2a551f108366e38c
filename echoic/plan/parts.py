"""What each part of a recipe's training step costs: the formulas of `formulas.py`, put together as
the models and objectives are.

B clips, P tokens or patches of a clip, L text tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from echoic.encoders.clap_text import ClapTextSpec
from echoic.encoders.htsat import HtsatSpec
from echoic.encoders.m2d import M2dSpec
from echoic.encoders.pann import PannSpec
from echoic.encoders.slap import SlapSpec
from echoic.encoders.text import HfTextSpec, SmallTextSpec
from echoic.model import ModelSpec, TextSpec
from echoic.nn.masking import MaskingSpec
from echoic.objectives.prototypes import CPU_CHUNK, FEWEST_ROWS, GPU_CHUNK, KEPT
from echoic.plan.formulas import (
    FLOAT,
    Cost,
    Kernels,
    attention,
    contrastive_scores,
    linear,
    map_head,
    packed_block,
    swiglu,
    total,
    two_layers,
    vit_block,
)
from echoic.plan.windows import htsat_cost, pann_cost
from echoic.recipes.recipe import Recipe
from echoic.towers import SentenceTextSpec
from echoic.types import ConfigError

_LOGITS = 2**24  # of a caption's words that are held at once (objectives/captioning.py)
_LABELS = 527  # of a second task on tags, AudioSet's


@dataclass(frozen=True)
class Load:
    """What one rank works on at once. seconds: (B,) of each clip as it is read; text: (B,) tokens
    of each caption. negatives: pairs that it is told from, of all ranks. on_gpu: where."""

    seconds: np.ndarray
    text: np.ndarray
    negatives: int
    on_gpu: bool = True

    @property
    def clips(self) -> int:
        return len(self.seconds)


@dataclass(frozen=True)
class StepCost:
    """parts: by name. scores: bytes of the contrastive loss's; working: of other passing buffers.
    tokens: of sound."""

    parts: dict[str, Cost]
    scores: float
    working: float
    tokens: float

    @property
    def whole(self) -> Cost:
        return total(list(self.parts.values()))


def step_cost(recipe: Recipe, load: Load, k: Kernels) -> StepCost:
    """Of a forward and a backward pass on one rank. Raises ConfigError on what it has no formula
    for."""
    audio = recipe.model.audio
    seconds = np.minimum(load.seconds, heard_s(recipe))
    frames = _frames(recipe.model, seconds)
    parts = {"front end": _front_end(recipe.model, frames, seconds)}
    working = 0.0
    if isinstance(audio, SlapSpec):
        of_audio, tokens, working = _slap(recipe, frames, load, k)
    elif isinstance(audio, M2dSpec):
        of_audio, tokens = _m2d(recipe, frames, k)
    else:
        of_audio, tokens = _window(recipe.model, seconds, k)
    parts |= of_audio
    objectives = recipe.objectives
    text = text_cost(recipe.model.text, load.text, recipe.model.embed_dim, k)
    scores = 0.0
    if objectives.contrastive and recipe.model.text is not None:
        parts["text encoder"] = text
        parts["contrastive"], scores = contrastive_scores(
            load.clips, load.negatives, recipe.model.embed_dim, objectives.scores
        )
        parts["contrastive"] += Cost(weights=1)  # the scale
    else:
        parts["contrastive"] = Cost(held=1) + text.frozen().unlearnt()
    if recipe.model.decoder is not None:
        decoder = _decoder(recipe.model, tokens, load.text, k)
        parts["decoder"] = decoder if objectives.captioning else decoder.frozen().unlearnt()
        if objectives.captioning:
            logits = min(_LOGITS, float(np.sum(load.text)) * recipe.model.decoder.vocab)
            working = max(working, logits * (FLOAT + k.low))
    # samples, as they come and as the front end takes them
    working += 2 * FLOAT * float(np.sum(seconds)) * recipe.model.front_end.rate_hz
    return StepCost(parts, scores, working, float(np.sum(tokens)))


def heard_s(recipe: Recipe) -> float:
    """The longest stretch of a clip that a step hears: as objective.heard_s of the built model."""
    audio, front = recipe.model.audio, recipe.model.front_end
    longest = recipe.model.max_s
    if isinstance(audio, HtsatSpec | PannSpec):
        longest = float("inf") if audio.fusion else audio.window_samples / front.rate_hz
    elif isinstance(audio, M2dSpec):
        objectives = recipe.objectives
        parts = objectives.masked or objectives.visible or objectives.frozen
        if parts or isinstance(recipe.model.text, SentenceTextSpec):
            longest = min((audio.frames - 1) * front.hop_samples / front.rate_hz, longest)
    return min(recipe.data.max_s, longest)


def tokens_of(model: ModelSpec, seconds: np.ndarray) -> np.ndarray:
    """(B,): what each clip costs in the loader's budget: as `tokens_in` of the built tower."""
    audio, front = model.audio, model.front_end
    if isinstance(audio, HtsatSpec):
        return np.full(len(seconds), 4 * (64 >> (len(audio.depths) - 1)))
    if isinstance(audio, PannSpec):
        steps = front.frames(audio.window_samples) // 2**audio.poolings
        return np.full(len(seconds), steps)
    if isinstance(audio, SlapSpec):
        seconds = np.minimum(seconds, model.max_s)
    columns = -(-_frames(model, seconds) // audio.patch_frames)
    return np.asarray(columns * (front.mel_bins // audio.patch_bins))


def _frames(model: ModelSpec, seconds: np.ndarray) -> np.ndarray:
    front = model.front_end
    samples = np.maximum(np.rint(seconds * front.rate_hz), front.shortest_samples)
    return np.asarray(1 + samples.astype(np.int64) // front.hop_samples)


def _front_end(model: ModelSpec, frames: np.ndarray, seconds: np.ndarray) -> Cost:
    """The product with the mel filters. Fixed windows are filled up first."""
    front, audio = model.front_end, model.audio
    heard = (front.fmax_hz - front.fmin_hz) * front.n_fft / front.rate_hz
    if isinstance(audio, HtsatSpec | PannSpec):
        frames = np.maximum(frames, front.frames(audio.window_samples))
    return Cost(forward=2.0 * float(np.sum(frames)) * heard * front.mel_bins)


# -- SLAP ------------------------------------------------------------------------------------------


def _slap(
    recipe: Recipe, frames: np.ndarray, load: Load, k: Kernels
) -> tuple[dict[str, Cost], np.ndarray, float]:
    """Costs, tokens of each clip, and bytes of passing buffers."""
    model, spec = recipe.model, recipe.model.audio
    assert isinstance(spec, SlapSpec)
    rows = model.front_end.mel_bins // spec.patch_bins
    tokens = -(-frames // spec.patch_frames) * rows
    distillation = recipe.objectives.distillation
    views = 2 if distillation and not recipe.objectives.shared_view else 1
    head = map_head(k, tokens, spec.width, spec.hidden, model.embed_dim)
    parts = {"audio encoder": _slap_trunk(spec, rows, tokens, views, k) + head}
    working = 0.0
    if distillation is not None:
        if distillation.teacher == "whole":
            parts["teacher"] = _slap_trunk(spec, rows, tokens, 1, k).frozen()
        hidden = float(np.sum(np.floor(tokens * distillation.mask.ratio)))
        student, teacher, working = _prototypes(recipe, hidden, spec.width, load.on_gpu)
        parts["distillation"] = student + Cost(weights=spec.width)  # the mask token
        parts["teacher"] = parts.get("teacher", Cost()) + teacher
    return parts, tokens, working


def _slap_trunk(spec: SlapSpec, grid_rows: int, tokens: np.ndarray, views: int, k: Kernels) -> Cost:
    """Patch embedding once, blocks and the last norm on each view. grid_rows: of a column."""
    many = np.tile(tokens, views)
    rows = float(np.sum(many))
    patch = linear(
        rows / views, spec.patch_frames * spec.patch_bins, spec.width, bias=False, deep=False,
        kept=k.low,
    )  # fmt: skip
    near = spec.window_columns * grid_rows // 2
    blocks = [
        packed_block(
            k, many, spec.width, spec.hidden, None if (i + 1) % spec.global_every == 0 else near
        )
        for i in range(spec.depth)
    ]
    norm = Cost(weights=spec.width, kept=rows * spec.width * FLOAT * k.norm)
    return patch + total(blocks) + norm


def _prototypes(recipe: Recipe, rows: float, width: int, on_gpu: bool) -> tuple[Cost, Cost, float]:
    """Student and teacher: an MLP into the bottleneck, then scores against all prototypes. The
    student's scores and both of their gradients are made in the forward pass, some rows at a time;
    the teacher's once where they fit, else in each iteration of Sinkhorn-Knopp and at the end."""
    spec = recipe.objectives.distillation
    assert spec is not None
    head = spec.head
    if spec.loss == "all":
        rows = rows / spec.mask.ratio
    widths = [width, *[head.hidden] * (head.layers - 1), head.bottleneck]
    kept = 2 * FLOAT * rows * sum(widths)
    mlp = total([linear(rows, a, b) for a, b in pairwise(widths)])
    mlp += Cost(weights=head.prototypes * head.bottleneck, kept=kept)
    scores = 2.0 * rows * head.prototypes * head.bottleneck
    fits = rows * head.prototypes <= KEPT
    passes = spec.sinkhorn_iterations + 1 if spec.targets == "sinkhorn" and not fits else 1
    held = rows * head.prototypes if fits else 0.0
    chunk = max(FEWEST_ROWS * head.prototypes, GPU_CHUNK if on_gpu else CPU_CHUNK)
    passing = FLOAT * (held + 6 * min(chunk, rows * head.prototypes))
    return (
        mlp + Cost(forward=scores, backward=2 * scores),
        mlp.frozen() + Cost(forward=passes * scores),
        passing,
    )


def _decoder(model: ModelSpec, tokens: np.ndarray, text: np.ndarray, k: Kernels) -> Cost:
    """Captions of L tokens foretell L - 1. Per block: qkv, `out`, query, `sound_out` and SwiGLU on
    words, key and value on what is heard; words attend to those before, and to all that is heard.
    Logits of all words, with their gradients, in the forward pass."""
    spec = model.decoder
    assert spec is not None
    width, heard_width = spec.width, _token_width(model)
    words = np.asarray(text) - 1.0
    rows, heard = float(words.sum()), float(np.sum(tokens))
    matrices = [linear(rows, width, n * width, bias=False) for n in (3, 1, 1, 1)]
    sound = linear(heard, heard_width, 2 * width, bias=False)
    pairs = float((words**2).sum() + (words * tokens).sum())
    kept = rows * width * (3 * FLOAT * k.norm + k.low * 9) + heard * 2 * width * k.low
    block = total(matrices) + sound + attention(k, pairs, width)
    block += swiglu(k, rows, width, spec.hidden) + Cost(weights=3 * width, kept=kept)
    logits = 2.0 * rows * spec.vocab * width
    ends = Cost(
        weights=spec.vocab * width + heard_width + width,
        forward=logits,
        backward=2 * logits,
        kept=heard * heard_width * (FLOAT + k.low) + FLOAT * (rows + spec.vocab) * width,
    )
    # what a block hears is made outside of it, and is an input
    block = block.as_block(rows * width * FLOAT + heard * 2 * width * k.low)
    return total([block] * spec.depth) + ends


def _token_width(model: ModelSpec) -> int:
    audio = model.audio
    if isinstance(audio, SlapSpec):
        return audio.width
    if isinstance(audio, M2dSpec):
        rows = model.front_end.mel_bins // audio.patch_bins
        return audio.width * (1 if audio.projector else rows)
    if isinstance(audio, HtsatSpec):
        return audio.width << (len(audio.depths) - 1)
    return {14: 2048, 10: 1024, 6: 512}[audio.layers]


# -- M2D -------------------------------------------------------------------------------------------


def _m2d(recipe: Recipe, frames: np.ndarray, k: Kernels) -> tuple[dict[str, Cost], np.ndarray]:
    model, spec, objectives = recipe.model, recipe.model.audio, recipe.objectives
    assert isinstance(spec, M2dSpec)
    if not (objectives.masked or objectives.visible or objectives.frozen):
        raise ConfigError("no formula for an M2D that is trained without a mask")
    rows = model.front_end.mel_bins // spec.patch_bins
    columns = np.clip(frames // spec.patch_frames, 1, spec.columns)
    patches = columns * rows
    masking = objectives.masked.mask if objectives.masked else objectives.visible
    seen = _visible(patches, masking)
    embed = linear(
        float(patches.sum()), spec.patch_frames * spec.patch_bins, spec.width, deep=False,
        kept=k.low,
    )  # fmt: skip
    encoder = embed + Cost(weights=spec.width) + _vit(k, seen + 1, spec)
    parts = {"audio encoder": encoder.frozen() if objectives.frozen else encoder}
    projector = _projector(model, spec, seen, k)
    learns = objectives.contrastive and model.text is not None
    parts["audio encoder"] += projector if learns else projector.frozen().unlearnt()
    if objectives.masked is not None:
        parts["teacher"] = _vit(k, patches - seen + 1, spec).frozen()
        parts["predictor"] = _predictor(recipe, patches, seen, k)
    return parts, patches


def _visible(patches: np.ndarray, masking: MaskingSpec | None) -> np.ndarray:
    """Of a structured mask the mean."""
    ratio = masking.ratio if masking is not None else 0.0
    return np.maximum(1, np.floor(patches * (1 - ratio) + 1e-9))


def _vit(k: Kernels, lengths: np.ndarray, spec: M2dSpec) -> Cost:
    hidden = round(spec.width * spec.mlp_ratio)
    norm = Cost(weights=2 * spec.width, kept=float(np.sum(lengths)) * spec.width * FLOAT)
    return total([vit_block(k, lengths, spec.width, hidden)] * spec.depth) + norm


def _projector(model: ModelSpec, spec: M2dSpec, seen: np.ndarray, k: Kernels) -> Cost:
    if spec.projector is None:
        return Cost()
    if spec.projector == "mlp":
        return two_layers(len(seen), spec.width, model.embed_dim)
    block = vit_block(k, seen + 1, spec.width, round(spec.width * spec.projector_mlp_ratio))
    return total([block] * spec.projector_depth) + Cost(weights=3 * spec.width)


def _predictor(recipe: Recipe, patches: np.ndarray, seen: np.ndarray, k: Kernels) -> Cost:
    masked, spec = recipe.objectives.masked, recipe.model.audio
    assert masked is not None
    assert isinstance(spec, M2dSpec)
    own, clips = masked.predictor, len(patches)
    into = linear(float(seen.sum()) + clips, spec.width, own.width, kept=k.low)
    hidden = float((patches - seen).sum())
    out = linear(hidden, own.width, spec.width, kept=k.low)
    block = vit_block(k, patches + 1, own.width, round(own.width * own.mlp_ratio))
    rows = float(patches.sum()) + clips
    # norm's input, what is laid together, and what the loss compares
    kept = FLOAT * (2 * rows * own.width + 4 * hidden * spec.width)
    cost = into + total([block] * own.depth) + out + Cost(weights=3 * own.width, kept=kept)
    if masked.second is not None:
        if masked.second.teacher is not None:
            raise ConfigError("no formula for a second task by a frozen teacher")
        grid = recipe.model.front_end.mel_bins // spec.patch_bins
        width = grid * spec.width
        cost += linear(float(patches.sum()) / grid, width, _LABELS, kept=k.low)
    return cost


# -- windows and text ------------------------------------------------------------------------------


def _window(
    model: ModelSpec, seconds: np.ndarray, k: Kernels
) -> tuple[dict[str, Cost], np.ndarray]:
    audio, front, clips = model.audio, model.front_end, len(seconds)
    assert isinstance(audio, HtsatSpec | PannSpec)
    window_s = audio.window_samples / front.rate_hz
    longer = float((seconds > window_s).sum()) if audio.fusion else 0.0
    if isinstance(audio, HtsatSpec):
        encoder = htsat_cost(audio, clips, longer, k)
    else:
        encoder = pann_cost(audio, clips, longer, front.frames(audio.window_samples), k)
    width = _token_width(model)
    encoder += two_layers(clips, width, model.embed_dim)
    return {"audio encoder": encoder}, tokens_of(model, seconds)


def text_cost(spec: TextSpec | None, text: np.ndarray, embed_dim: int, k: Kernels) -> Cost:
    """Of captions of so many tokens each (B,). Raises ConfigError on an encoder whose shape is not
    known here."""
    if spec is None:
        return Cost()
    text = np.minimum(text, spec.max_tokens)
    if isinstance(spec, SentenceTextSpec):
        if spec.projection == "none":
            return Cost()
        if spec.projection == "linear":
            return linear(len(text), spec.width, embed_dim, deep=False)
        return two_layers(len(text), spec.width, embed_dim)
    if isinstance(spec, SmallTextSpec):
        blocks = [packed_block(k, text, spec.width, spec.hidden)] * spec.depth
        head = map_head(k, text, spec.width, spec.hidden, embed_dim)
        rows = float(np.sum(text))
        table = Cost(weights=(spec.vocab + 1) * spec.width, kept=rows * spec.width * FLOAT)
        return total(blocks) + head + table
    if isinstance(spec, ClapTextSpec):
        return _clap_text(spec, text, embed_dim, k)
    return _hf_text(spec, text, embed_dim, k)


def _clap_text(spec: ClapTextSpec, text: np.ndarray, embed_dim: int, k: Kernels) -> Cost:
    """Products run on the tokens that there are, attention on a grid as wide as the longest."""
    clips, longest = len(text), float(np.max(text))
    if spec.kind == "bart":
        text = np.full(clips, float(spec.max_tokens))
        longest = float(spec.max_tokens)
    rows, width = float(np.sum(text)), spec.width
    grid = clips * longest
    products = linear(rows, width, 3 * width) + linear(rows, width, width)
    products += linear(rows, width, spec.hidden) + linear(rows, spec.hidden, width)
    dropped = 1 if spec.dropout else 0  # a mask of one byte a value, for each of two
    kept = (
        rows
        * (
            width * (2 * FLOAT + 2 * dropped + k.low * 3)
            + spec.hidden * k.low * (2 if k.inner else 1)
        )
        + grid * width * 4 * k.low
    )
    block = products + attention(k, clips * longest**2, width)
    block += Cost(weights=4 * width, kept=kept)
    tables = (spec.vocab + spec.positions + spec.types + 2) * width
    ends = Cost(weights=tables, kept=2 * rows * width * FLOAT)
    if spec.has_pooler:
        ends += linear(clips, width, width)
    if spec.projection == "two_layers":
        ends += two_layers(clips, width, embed_dim)
    return total([block.as_block(rows * width * FLOAT)] * spec.depth) + ends


@dataclass(frozen=True)
class _Published:
    """Of an encoder of `transformers`. gated: GeGLU instead of GELU; reach: of local blocks, all
    but every third; plain: no biases (ModernBERT)."""

    width: int
    depth: int
    hidden: int
    vocab: int
    gated: bool = False
    reach: int | None = None
    tables: int = 0


_MODERN_BERT = _Published(768, 22, 1152, 50_368, gated=True, reach=64)
_KNOWN = {
    "answerdotai/ModernBERT-base": _MODERN_BERT,
    "answerdotai/ModernBERT-large": _Published(1024, 28, 2624, 50_368, gated=True, reach=64),
    "google-bert/bert-base-uncased": _Published(768, 12, 3072, 30_522, tables=514),
    "FacebookAI/roberta-base": _Published(768, 12, 3072, 50_265, tables=515),
}


def _published(spec: HfTextSpec) -> _Published:
    config = spec.config
    if spec.name in _KNOWN and not config:
        return _KNOWN[str(spec.name)]
    modern = config.get("model_type") == "modernbert"
    usual = {"hidden_size": 768, "num_hidden_layers": 22 if modern else 12,
             "intermediate_size": 1152 if modern else 3072,
             "vocab_size": 50_368 if modern else 30_522}  # fmt: skip
    if not config:
        raise ConfigError(
            f"model.text.name {spec.name}: its shape is not known without the network; give "
            f"model.text.config, or plan with one of {', '.join(_KNOWN)}"
        )
    width, depth, hidden, vocab = (int(config.get(name, usual[name])) for name in usual)
    tables = 0 if modern else int(config.get("max_position_embeddings", 512)) + 2
    return _Published(width, depth, hidden, vocab, modern, 64 if modern else None, tables)


def _hf_text(spec: HfTextSpec, text: np.ndarray, embed_dim: int, k: Kernels) -> Cost:
    """Padded to the longest: so all of it is."""
    shape = _published(spec)
    clips, longest = len(text), float(np.max(text))
    rows, width, bias = clips * longest, shape.width, not shape.gated
    up = (2 if shape.gated else 1) * shape.hidden
    products = total([
        linear(rows, a, b, bias=bias)
        for a, b in ((width, 3 * width), (width, width), (width, up), (shape.hidden, width))
    ])  # fmt: skip
    kept = rows * (width * (2 * FLOAT + k.low * 8) + k.low * (up + 2 * shape.hidden))
    block = products + attention(k, clips * longest**2, width)
    norms = (2 if shape.gated else 4) * width
    blocks = total([block + Cost(weights=norms, kept=kept)] * shape.depth)
    # an embedding's norm, the last one (ModernBERT); its first block has no norm before attention
    ends = (shape.vocab + shape.tables) * width + (width if shape.gated else 2 * width)
    head = map_head(k, text, width, 2 * width, embed_dim)
    return blocks + head + Cost(weights=ends, kept=2 * rows * width * FLOAT)
