"""What encoders of fixed windows cost: HTSAT and PANN, with feature fusion (LAION-CLAP,
2211.06687).

B clips, K of them longer than the window, D width, C channels.
"""

from __future__ import annotations

from echoic.encoders.htsat import GRID, MEL_BINS, PATCH, HtsatSpec
from echoic.encoders.pann import PannSpec
from echoic.nn.fusion import FusionKind
from echoic.nn.swin import WINDOW
from echoic.plan.formulas import FLOAT, Cost, Kernels, gelu_mlp, linear, total

_LOCAL, _REDUCTION = 3, 4
_PANN_WIDTHS = {
    14: (64, 128, 256, 512, 1024, 2048), 10: (64, 128, 256, 512, 1024), 6: (64, 128, 256, 512)
}  # fmt: skip


def htsat_cost(spec: HtsatSpec, clips: int, longer: float, k: Kernels) -> Cost:
    """The image's 4096 patches; blocks on a quarter as many of twice the width each stage; between
    stages four tokens become one."""
    views = 4 if spec.fusion == "channel_map" else 1
    patches, width = float(GRID**2), spec.width
    patch = linear(clips * patches, views * PATCH**2, width, deep=False, kept=k.low)
    parts = [patch, _fusion(spec.fusion, width, longer, patches)]
    parts += [Cost(weights=2 * MEL_BINS + 2 * width, kept=clips * patches * width * FLOAT)]
    if spec.fusion in ("daf_2d", "aff_2d", "iaff_2d"):
        third = GRID * (GRID // _LOCAL)
        parts.append(linear(longer * _LOCAL * third, PATCH**2 * _LOCAL, width, deep=False))
    for stage, (depth, heads) in enumerate(zip(spec.depths, spec.heads, strict=True)):
        rows = clips * patches
        parts += [_swin_block(k, rows, width, heads, int(width * spec.mlp_ratio))] * depth
        if stage < len(spec.depths) - 1:
            merged = linear(rows / 4, 4 * width, 2 * width, bias=False)
            kept = rows / 4 * 4 * width * (FLOAT + k.low)
            parts.append(merged + Cost(weights=8 * width, kept=kept))
            patches, width = patches / 4, 2 * width
    return total([*parts, Cost(weights=2 * width, kept=clips * patches * width * FLOAT)])


def _swin_block(k: Kernels, rows: float, width: int, heads: int, hidden: int) -> Cost:
    """Attention of 64 keys each; the scores are kept: written out they are needed backward, and
    fused the bias that is added to them is as large."""
    pairs = rows * WINDOW**2
    products = linear(rows, width, 3 * width) + linear(rows, width, width)
    products += gelu_mlp(k, rows, width, hidden)
    mixed = Cost(forward=4 * width * pairs, backward=8 * width * pairs)
    kept = rows * width * (2 * FLOAT + k.low * (1 + 3 + 1)) + pairs * heads * k.low
    weights = 4 * width + (2 * WINDOW - 1) ** 2 * heads
    return (products + mixed + Cost(weights=weights, kept=kept)).as_block(rows * width * FLOAT)


def _fusion(kind: FusionKind | None, channels: int, longer: float, area: float) -> Cost:
    """Two maps become one: attention nets of two 1 x 1 convolutions with batch norms, local ones on
    the whole map, global ones on its mean."""
    if kind is None or kind == "channel_map" or kind.startswith("daf"):
        return Cost()
    inner = channels // _REDUCTION
    net = 2 * channels * inner + 3 * inner + 3 * channels
    local, whole = (1, 1) if kind.startswith("aff") else (2, 1)
    flop = 2.0 * 2 * channels * inner * longer * (local * area + whole)
    held = net if kind.startswith("iaff") else 0  # its second global net is never used
    kept = FLOAT * longer * area * local * (6 * channels + 3 * inner)
    return Cost((local + whole) * net, held, flop, 2 * flop, kept)


def pann_cost(spec: PannSpec, clips: int, longer: float, frames: int, k: Kernels) -> Cost:
    """Convolutions of 3 x 3 (CNN6: 5 x 5) at each place of a map that is halved both ways after
    each of the first blocks."""
    widths, kernel = _PANN_WIDTHS[spec.layers], 25 if spec.layers == 6 else 9
    inputs = 4 if spec.fusion == "channel_map" else 1
    time, bins = frames, MEL_BINS
    costs = [Cost(weights=2 * MEL_BINS)]
    two_d = spec.fusion is not None and spec.fusion.endswith("2d")
    for i, width in enumerate(widths):
        area = clips * time * bins
        costs.append(_conv(area, kernel * inputs, width, k, deep=i > 0))
        if spec.layers != 6:
            costs.append(_conv(area, kernel * width, width, k, deep=True))
        inputs = width
        time, bins = (time // 2, bins // 2) if i < spec.poolings else (time, bins)
        if i == 0 and two_d:
            costs.append(_fusion(spec.fusion, width, longer, time * bins))
            local = longer * _LOCAL * (frames // 6) * (MEL_BINS // 2)
            costs.append(linear(local, 25, width, deep=False) + Cost(weights=2 * width))
        # dropout before the next: what comes out, and its mask
        costs.append(Cost(kept=clips * time * bins * width * (k.low + 1)))
    return total([*costs, linear(clips, widths[-1], widths[-1])])


def _conv(area: float, inputs: int, width: int, k: Kernels, *, deep: bool) -> Cost:
    """inputs: kernel places times channels. Kept: what goes into the norm, and what comes out of
    the ReLU, the next one's input."""
    kept = area * width * (FLOAT + k.low)
    return linear(area, inputs, width, bias=False, deep=deep) + Cost(weights=2 * width, kept=kept)
