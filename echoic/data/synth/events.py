"""What a scene is made of: events on a time line, their audible attributes, and the splits."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

SPLITS = ("train", "valid", "test")
RELATIONS = ("single", "sequence", "overlap", "during", "backdrop")

# Each axis has two poles; an event carries at most one of them, and none means "not remarkable".
AXES: dict[str, tuple[str, str]] = {
    "loudness": ("loud", "soft"),
    "distance": ("near", "far"),
    "tempo": ("fast", "slow"),
    "pitch": ("high", "low"),
    "pitch motion": ("rising", "falling"),
    "level motion": ("growing", "fading"),
}
OPPOSITE: dict[str, str] = {
    one: other for pair in AXES.values() for one, other in (pair, pair[::-1])
}


@dataclass(frozen=True)
class Event:
    """One sound on the time line; its energy lies between onset and offset.

    attributes: poles of AXES that were given to it and can be heard, e.g. ("loud", "fast").
    """

    onset_s: float
    offset_s: float
    label: str
    attributes: tuple[str, ...] = ()

    @property
    def duration_s(self) -> float:
        return self.offset_s - self.onset_s


@dataclass(frozen=True)
class Scene:
    """A scene with known content; `render` turns it into samples.

    events: by the role that they have in the relation (see RELATIONS): in order of time for single
    and sequence; the two at once for overlap; the long one first for during and backdrop.
    captions: at least four truthful wordings, the first of which says all the attributes.
    """

    key: str
    events: tuple[Event, ...]
    relation: str
    duration_s: float
    captions: tuple[str, ...]
    tags: tuple[str, ...]
    split: str
    entropy: tuple[int, ...]  # seeds every random draw of the render
    background_db: float  # level of the faint noise floor, dB RMS re full scale

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(event.label for event in self.events)

    @property
    def meaning(self) -> int:
        """Equal for scenes that the same caption describes: relation, labels and attributes."""
        said = [(event.label, *sorted(event.attributes)) for event in self.events]
        if self.relation == "overlap":
            said.sort()
        return zlib.crc32(repr((self.relation, said)).encode())
