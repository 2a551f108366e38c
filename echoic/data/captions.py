"""Captions made of labels and tags by templates.

A label becomes several differently worded captions, a tag list becomes "The sounds of A, B and C":
the template that LAION-CLAP falls back to for AudioSet and FSD50K (arXiv 2211.06687, section 3.2).
Templates are plain data, `{}` is where the words go, and the same input gives the same captions in
the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from echoic.types import ConfigError

LABEL_TEMPLATES: tuple[str, ...] = (
    "{}",
    "the sound of {}",
    "this is a sound of {}",
    "a recording of {}",
    "{} can be heard",
)
TAG_TEMPLATES: tuple[tuple[str, str], ...] = (("The sound of {}", "The sounds of {}"),)


def words(name: str) -> str:
    """A label or a tag as people write it: `_` and runs of space become one space, the ends are
    cut.
    """
    return " ".join(name.replace("_", " ").split())


def joined(names: Sequence[str]) -> str:
    """`A`, `A and B`, `A, B and C`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def captions_from_label(label: str, templates: Sequence[str] = LABEL_TEMPLATES) -> tuple[str, ...]:
    """One caption per template, in order, none twice; () for a label without words. Raises
    ConfigError.
    """
    return _filled(words(label), templates)


def captions_from_tags(
    tags: Iterable[str], templates: Sequence[tuple[str, str]] = TAG_TEMPLATES
) -> tuple[str, ...]:
    """One caption per (wording for one tag, wording for several); () where no tag has words."""
    names = tuple(dict.fromkeys(filter(None, map(words, tags))))
    return _filled(joined(names), [many if len(names) > 1 else one for one, many in templates])


def _filled(text: str, templates: Sequence[str]) -> tuple[str, ...]:
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigError(f"caption template {template!r}: it must hold {{}} once")
    # str.replace: a label may itself hold braces, which str.format would read as fields
    return tuple(dict.fromkeys(t.replace("{}", text) for t in templates)) if text else ()
