"""The public checkpoints of M2D, M2D-X, M2D-AS, M2D-S, MSM-MAE and M2D-CLAP (2210.14648,
2404.06095, 2305.14079; 2406.02032, 2503.22104), read.

Sizes, projector, text side and head are read off the tensors; the sample rate too, where the file
holds its front end. What no tensor says (the rate else, the frames beyond the last whole patch)
stands in the name that the file or its folder was published under, and is taken from there, the
frames only if they fit. The report says what was taken for granted. What only a training needs is
dropped by name; every other name must be known and fit.

Written from the papers and from lists of names and shapes. Upstream's weights are for evaluation
and non-commercial use.

R patch rows of a column, D width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from echoic.audio.frontend import FrontEndSpec, m2d, mel_filters
from echoic.convert.known import M2D_LICENCE
from echoic.convert.native import give, require_fit, unfilled
from echoic.convert.shapes import depth_of, shape_of
from echoic.convert.text import from_published, spec_of_text
from echoic.encoders.clap_text import ClapTextSpec
from echoic.encoders.m2d import M2dSpec, fresh_positions
from echoic.model import LanguageAudioModel, ModelSpec
from echoic.towers import SentenceTextSpec
from echoic.types import CheckpointError, EchoicError

READ = "read off its tensors"
INITIAL_SCALE = math.log(1 / 0.07)  # of a model that was trained without text
HEAD_WIDTH = 64
_RATES_HZ = (16_000, 32_000)
_SAME_POSITIONS = 1e-6

# What stands before the encoder's names: DistributedDataParallel's, then those of a fine-tuning
# for evaluation, then that of the stages of M2D-CLAP that keep the encoder as it is.
_WRAPPERS = re.compile(r"(module\.)?(ar\.runtime\.)?(?P<kept>backbone\.)?")
# Names that a model computes without, by the reason.
_DROPPED = {
    "predictor, of the training": re.compile(r"mask_token|decoder_.*"),
    "target encoder, of the training": re.compile(r"target_(blocks|norm)\..*"),
    "predictor of a second task, of the training": re.compile(r"offline_predictor\..*"),
    "front end, made anew": re.compile(r"to_spec\..*"),
    "pooler of BERT, unused": re.compile(r"text_encoder\.\w+\.pooler\..*"),
    "tables of indices": re.compile(r"text_encoder\..*\.(position_ids|token_type_ids)"),
}
_EARLIER = "text side of an earlier stage"
_EARLIER_NAMES = re.compile(r"logit_scale|text_proj\..*")
# Our names and theirs; the audio encoder's are the same, those below text_encoder. are BERT's.
_PARTS = (
    ("audio.projection.", "audio_proj."),
    ("audio.tagger.norm.", "head.norm."),
    ("audio.tagger.linear.", "head.mlp.mlp.0."),
    ("text.projection.", "text_proj."),
    ("text.encoder.", "text_encoder."),
    ("audio.encoder.", ""),
)
# How a text encoder inside a file is wrapped, and what its vector then is: BERT's first token
# (2025), the mean of GTE's tokens (2024).
_POOLS = {"text_encoder": "cls", "model": "mean"}
# Sentence encoders by the letter of the name and the width of their vectors. Other letters mean
# different encoders in different places of upstream's.
_SENTENCES = {("A", 768): "thenlper/gte-base", ("N", 4096): "st:nvidia/NV-Embed-v2"}
_SIZES = {(768, 12): "ViT-B", (1024, 24): "ViT-L"}


def is_m2d(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict holds a ViT over spectrograms, as M2D's are named."""
    found = {_plain(name): tensor for name, tensor in state.items()}
    patch = found.get("patch_embed.proj.weight")
    a_vit = {"cls_token", "pos_embed", "norm.weight", "blocks.0.attn.qkv.weight"} <= found.keys()
    return a_vit and patch is not None and patch.ndim == 4 and patch.shape[1] == 1


def m2d_model(
    state: Mapping[str, Tensor], where: str, *, name: str = ""
) -> tuple[LanguageAudioModel, dict[str, Any]]:
    """The model that a state dict holds, and the report: what it is, what was dropped, and what no
    tensor says.

    `state` as `read_state_dict` gives it. name: of the file and its folder, as published. Raises
    CheckpointError with the names that do not fit.
    """
    try:
        kept, dropped = _sorted_out(state)
        spec, notes = _spec(state, kept, name)
        given = _ours(spec, kept)
    except EchoicError as error:
        raise CheckpointError(f"{where}: {error}") from None
    model = unfilled(spec)
    wanted = model.state_dict()
    given = {n: t for n, t in _need_not_be_there().items() if n in wanted} | given
    require_fit(_by_their_names(wanted), _by_their_names(given), where)
    give(model, given)
    assert isinstance(spec.audio, M2dSpec)
    report = {
        "kind": "m2d",
        "architecture": m2d_words(spec.audio, spec.front_end),
        "text": spec.text_kind,
        "tensors": len(kept),
        "dropped": dropped,
        "notes": notes,
    }
    return model.eval(), report


def m2d_words(spec: M2dSpec, front_end: FrontEndSpec) -> str:
    """M2D ViT-B 80x608p16x16, projector tokens: what people call it, in the terms of the published
    names."""
    other = f"of width {spec.width}, depth {spec.depth},"
    size = _SIZES.get((spec.width, spec.depth), other)
    grid = f"{front_end.mel_bins}x{spec.frames}p{spec.patch_bins}x{spec.patch_frames}"
    words = [f"M2D {size} {grid}"]
    if front_end.rate_hz != _RATES_HZ[0]:
        words.append(f"{front_end.rate_hz / 1000:g} kHz")
    if spec.projector:
        words.append(f"projector {spec.projector}")
    if spec.classes:
        words.append(f"head of {spec.classes} labels")
    return ", ".join(words)


# -- names ---------------------------------------------------------------------------------------


def _plain(name: str) -> str:
    """Without what wraps it."""
    return _WRAPPERS.sub("", name, count=1)


def _sorted_out(
    state: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """What is kept, by plain names, and the names of what is dropped by the reason."""
    reads = any(_plain(name).startswith("text_encoder.") for name in state)
    kept: dict[str, Tensor] = {}
    dropped: dict[str, list[str]] = {}
    for name, tensor in state.items():
        plain, wrapped = _plain(name), _WRAPPERS.match(name)
        reason = next((why for why, names in _DROPPED.items() if names.fullmatch(plain)), None)
        if reads and wrapped and wrapped["kept"] and _EARLIER_NAMES.fullmatch(plain):
            reason = _EARLIER
        if reason is not None:
            dropped.setdefault(reason, []).append(name)
        elif plain in kept:
            raise CheckpointError(f"{plain} is there twice, the second time as {name}")
        else:
            kept[plain] = tensor
    return kept, dropped


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _by_their_names(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For what is said of names that do not fit."""
    named = {}
    for name, tensor in ours.items():
        mine, theirs = next((pair for pair in _PARTS if name.startswith(pair[0])), ("", ""))
        named[theirs + name.removeprefix(mine)] = tensor
    return named


def _ours(spec: ModelSpec, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names of what is kept; the statistics and fresh positions are in the description."""
    named: dict[str, Tensor] = {}
    for name, tensor in kept.items():
        if name == "logit_scale":
            named[name] = tensor.reshape(1) if tensor.numel() == 1 else tensor
        elif name != "norm_stats" and not name.startswith("text_encoder."):
            ours, theirs = next(pair for pair in _PARTS if name.startswith(pair[1]))
            named[ours + name.removeprefix(theirs)] = tensor
    assert isinstance(spec.audio, M2dSpec)
    if spec.audio.positions == "sin_cos":
        del named["audio.encoder.pos_embed"]
    pool, text = _text_encoder(kept)
    if pool is not None:
        read = from_published("bert", text, pool=pool)
        named |= {f"text.encoder.{n}": t for n, t in read.items()}
    return named


def _need_not_be_there() -> dict[str, Tensor]:
    """A scale, where no text was trained on; a count that nothing computes with."""
    return {
        "logit_scale": torch.full((1,), INITIAL_SCALE),
        "audio.tagger.norm.num_batches_tracked": torch.tensor(0),
    }


# -- the description -----------------------------------------------------------------------------


def _spec(
    state: Mapping[str, Tensor], kept: Mapping[str, Tensor], name: str
) -> tuple[ModelSpec, list[str]]:
    """And what it says without a tensor to show for it."""
    grid = _grid(kept)
    names = list(_names_in(name))
    fitting = [each for each in names if each.fits(grid)]
    named = next(iter([*fitting, *names]), None)  # a window made longer may keep its name
    inside = _below({_plain(n): tensor for n, tensor in state.items()}, "to_spec.")
    front_end, notes = _front_end(inside, kept, named)
    frames = fitting[0].frames if fitting else grid.columns * grid.patch_frames
    if not fitting:
        notes.append(f"window: {frames} frames, whole patches, for want of a name that fits")
    audio = _audio(kept, grid, frames)
    embed_dim = grid.rows * audio.width if audio.projector is None else audio.width
    if audio.projector == "mlp":
        embed_dim = shape_of(kept, "audio_proj.2.weight", 2)[0]
    text = _text(kept, audio, embed_dim, named.letter if named else None)
    if isinstance(text, SentenceTextSpec):
        which = f": {text.encoder}" if text.encoder else f", of {text.width} values"
        notes.append(f"text: vectors of a sentence encoder that is not in the file{which}")
    if audio.classes == 527:
        notes.append("labels: AudioSet's, by their ids (/m/...) sorted as strings; sigmoid")
    tree = {
        "front_end": front_end.model_dump(),
        "audio": audio.model_dump(),
        "text": text.model_dump() if text else None,
        "embed_dim": embed_dim,
    }
    return ModelSpec.parse(tree, where=READ), [*notes, f"licence: {M2D_LICENCE}"]


@dataclass(frozen=True)
class _Grid:
    """Patches of a window, and the size of one."""

    mel_bins: int
    columns: int
    patch_bins: int
    patch_frames: int

    @property
    def rows(self) -> int:
        return self.mel_bins // self.patch_bins


def _grid(kept: Mapping[str, Tensor]) -> _Grid:
    mel_bins = m2d().mel_bins
    _, channels, patch_bins, patch_frames = shape_of(kept, "patch_embed.proj.weight", 4)
    places = shape_of(kept, "pos_embed", 3)[1] - 1
    if channels != 1 or mel_bins % patch_bins:
        raise CheckpointError(
            f"patch_embed.proj.weight takes {patch_bins} mel bins of {channels} channels; M2D's "
            f"takes a divisor of {mel_bins}, of one"
        )
    columns, rest = divmod(places, mel_bins // patch_bins)
    if rest or not columns:
        raise CheckpointError(
            f"pos_embed has {places} places after the class token's, not whole columns of "
            f"{mel_bins // patch_bins} patches: M2D hears {mel_bins} mel bins"
        )
    return _Grid(mel_bins, columns, patch_bins, patch_frames)


@dataclass(frozen=True)
class _Name:
    """What a published name says: 80x1001p16x16p32kpB. letter: of the text encoder."""

    mel_bins: int
    frames: int
    patch_bins: int
    patch_frames: int
    rate_hz: int | None
    letter: str | None

    def fits(self, grid: _Grid) -> bool:
        columns = self.frames // max(1, self.patch_frames)
        return grid == _Grid(self.mel_bins, columns, self.patch_bins, self.patch_frames)


def _names_in(name: str) -> Iterator[_Name]:
    for found in re.finditer(r"(\d+)x(\d+)p(\d+)x(\d+)(?:p([A-Za-z0-9]+))?", name, re.ASCII):
        mel_bins, frames, patch_bins, patch_frames = map(int, found.groups()[:4])
        more = (found[5] or "").split("p")
        rates = [int(each[:-1]) * 1000 for each in more if re.fullmatch(r"\d{1,3}k", each)]
        letters = [each for each in more if re.fullmatch("[A-Z]", each)]
        yield _Name(
            mel_bins, frames, patch_bins, patch_frames,
            rate_hz=next(iter(rates), None), letter=next(iter(letters), None),
        )  # fmt: skip


def _front_end(
    inside: Mapping[str, Tensor], kept: Mapping[str, Tensor], named: _Name | None
) -> tuple[FrontEndSpec, list[str]]:
    """inside: the tensors of the file's own, which is made anew."""
    notes = []
    rate_hz = _rate(inside)
    if rate_hz is None and named and named.rate_hz:
        rate_hz = named.rate_hz
        if rate_hz not in _RATES_HZ:
            raise CheckpointError(f"its name says {rate_hz} Hz; M2D hears at 16000 or 32000 Hz")
    if rate_hz is None:
        rate_hz = _RATES_HZ[0]
        why = "as of a name that says none" if named else "for want of a tensor or name that says"
        notes.append(f"rate: {rate_hz} Hz, {why}")
    front_end = m2d(rate_hz)
    if "norm_stats" not in kept:
        told = f"{front_end.mean:g} and {front_end.std:g}"
        notes.append(f"normalisation: {told}, of the models whose files have no norm_stats")
        return front_end, notes
    (count,) = shape_of(kept, "norm_stats", 1)
    stats = [float(value) for value in kept["norm_stats"]]
    if count != 2 or not all(map(math.isfinite, stats)) or stats[1] <= 0:
        raise CheckpointError(f"norm_stats is {stats}, not a mean and a deviation")
    return front_end.model_copy(update={"mean": stats[0], "std": stats[1]}), notes


def _rate(inside: Mapping[str, Tensor]) -> int | None:
    """By the mel bank of a front end, or its kernels; None where there is neither."""
    bank, kernel = inside.get("mel_basis"), inside.get("stft.wsin")
    if bank is not None:
        for rate_hz in _RATES_HZ:
            if _same(bank, mel_filters(m2d(rate_hz)).T, rtol=1e-4, atol=1e-6):
                return rate_hz
        raise CheckpointError("to_spec.mel_basis is none of M2D's mel banks")
    lengths = {m2d(rate_hz).n_fft: rate_hz for rate_hz in _RATES_HZ}
    return None if kernel is None else lengths.get(kernel.shape[-1] if kernel.ndim else 0)


def _same(found: Tensor, ours: Tensor, *, rtol: float, atol: float) -> bool:
    same_shape = found.shape == ours.shape
    return same_shape and torch.allclose(found.float(), ours, rtol=rtol, atol=atol)


def _audio(kept: Mapping[str, Tensor], grid: _Grid, frames: int) -> M2dSpec:
    width = shape_of(kept, "patch_embed.proj.weight", 4)[0]
    heads, rest = divmod(width, HEAD_WIDTH)
    if rest:
        raise CheckpointError(f"width {width} is not whole heads of {HEAD_WIDTH}")
    head = "head.mlp.mlp.0.weight"
    tree = {
        "width": width,
        "depth": depth_of("blocks.", kept),
        "heads": heads,
        "mlp_ratio": shape_of(kept, "blocks.0.mlp.fc1.weight", 2)[0] / width,
        "frames": frames,
        "patch_frames": grid.patch_frames,
        "patch_bins": grid.patch_bins,
        "classes": shape_of(kept, head, 2)[0] if head in kept else None,
        "positions": "stored",
    }
    if any(name.startswith("audio_proj.sem_") for name in kept):
        hidden = shape_of(kept, "audio_proj.sem_blocks.0.mlp.fc1.weight", 2)[0]
        tree |= {"projector": "tokens", "projector_depth": depth_of("audio_proj.sem_blocks.", kept)}
        tree |= {"projector_mlp_ratio": hidden / width}
    elif any(name.startswith("audio_proj.") for name in kept):
        tree |= {"projector": "mlp"}
    spec = M2dSpec.parse(tree, where=READ)
    if _same(kept["pos_embed"], fresh_positions(spec, grid.rows), rtol=0, atol=_SAME_POSITIONS):
        return spec.model_copy(update={"positions": "sin_cos"})
    return spec


def _text(
    kept: Mapping[str, Tensor], audio: M2dSpec, embed_dim: int, letter: str | None
) -> SentenceTextSpec | ClapTextSpec | None:
    """None: an encoder alone, or one of 2025 that was tuned further without its text side."""
    pool, tensors = _text_encoder(kept)
    if pool is not None:
        positions = shape_of(tensors, "embeddings.position_embeddings.weight", 2)[0]
        known = {"pool": pool, "projection": "none", "max_tokens": positions}
        return spec_of_text("bert", tensors, **known)
    projection, width = "none", embed_dim
    if "text_proj.weight" in kept:
        projection, width = "linear", shape_of(kept, "text_proj.weight", 2)[1]
    elif "text_proj.0.weight" in kept:
        projection, width = "mlp", shape_of(kept, "text_proj.0.weight", 2)[1]
    elif audio.projector is None or (audio.projector == "tokens" and letter is None):
        return None
    fitting = [e for (x, w), e in _SENTENCES.items() if w == width and letter in (x, None)]
    tree = {"width": width, "projection": projection, "encoder": next(iter(fitting), None)}
    return SentenceTextSpec.parse(tree, where=READ)


def _text_encoder(kept: Mapping[str, Tensor]) -> tuple[str | None, dict[str, Tensor]]:
    """How its vectors are pooled, and its tensors by their published names; None and none where the
    file has no text encoder. Raises CheckpointError where it is not known."""
    inside = _below(kept, "text_encoder.")
    if not inside:
        return None, {}
    for wrapper, pool in _POOLS.items():
        tensors = _below(inside, f"{wrapper}.")
        types = tensors.get("embeddings.token_type_embeddings.weight")
        if len(tensors) == len(inside) and types is not None and len(types) == 2:
            return pool, tensors
    raise CheckpointError(f"its text encoder is not a BERT (text_encoder.{min(inside)})")
