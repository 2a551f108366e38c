"""The few strokes that the plots are made of, as inline SVG: every text in them is escaped here.

Colours are CSS classes that the page defines for light and dark: s0 s1 s2 s3 are the series (told
apart by lightness and dash too), "heat" is one hue whose opacity is the value: safe for the
colour-blind, and right on either background.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH = 480  # of a drawing; it scales to its place on the page, so text is legible on a phone too


def number(value: float) -> str:
    """Three significant digits, integers and thousands in full: 0.0123, 4.56, 1200; 5e-4."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) or abs(value) >= 1000:
        return f"{value:.0f}"
    if abs(value) >= 1e-3:
        return f"{value:.3g}"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def short(name: str, most: int) -> str:
    """At most `most` characters of it."""
    return name if len(name) <= most else name[: most - 1].rstrip() + "…"


def text(x: float, y: float, words: str, kind: str, anchor: str, size: float | None = None) -> str:
    """Set at (x, y); `kind` is its CSS class, `anchor` start, middle or end, `size` in units."""
    font = "" if size is None else f' style="font-size:{size:.1f}px"'
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{font}>'
        f"{escape(words)}</text>"
    )


def turned(x: float, y: float, words: str, size: float) -> str:
    """A label that reads upwards from (x, y)."""
    return (
        f'<text class="label" style="font-size:{size:.1f}px" text-anchor="start" '
        f'transform="translate({x + size * 0.35:.1f} {y:.1f}) rotate(-90)">{escape(words)}</text>'
    )


def stroke(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A stroke of CSS class `kind`."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def drawing(parts: Sequence[str], height: float, title: str) -> str:
    """The whole, WIDTH by `height`; `title` is what a screen reader says."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
