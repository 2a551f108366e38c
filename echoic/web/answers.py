"""What the API takes and gives, field by field: what /openapi.json says, and what is checked."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema


def _as_day(told: object) -> date:
    """Pydantic alone would take numbers too."""
    if not isinstance(told, str) or not re.fullmatch(r"\d{4}-\d\d-\d\d", told, re.ASCII):
        raise ValueError("give a day such as 2026-01-31")
    return date.fromisoformat(told)


_SAYS = r"^[^\x00]*[^\x00\s][^\x00]*$"  # something
Text = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=_SAYS)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_SAYS)]
SoundId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
FileId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Weight = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
Step = Annotated[float, Field(ge=0.02, le=60, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Day = Annotated[date, BeforeValidator(_as_day)]
Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
No = SkipJsonSchema[None]  # a field that may be left out; null is not sent


class Answer(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class Question(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _no_null(cls, given: Any) -> Any:
        for name, value in given.items() if isinstance(given, dict) else ():
            if value is None:
                raise ValueError(f"{name} is null; leave it out")
        return given


class Problem(Answer):
    """What went wrong, in one line."""

    error: str


class ModelInfo(Answer):
    name: str
    space_id: str
    rate_hz: int
    longest_s: float = Field(description="what the model hears at once")
    captions: bool = Field(description="whether it writes captions")
    words: bool = Field(description="whether it reads words")


class IndexInfo(Answer):
    name: str
    files: int
    hours: float
    captions: bool = Field(description="whether captions were written into it")


class LimitsInfo(Answer):
    upload_bytes: int
    sound_s: float
    sounds: int
    at_once: int


class Info(Answer):
    version: str
    model: ModelInfo
    index: IndexInfo | None
    index_problem: str | None = Field(None, description="why there is none, where it is damaged")
    limits: LimitsInfo


class SoundInfo(Answer):
    id: str
    name: str = Field(description="as the browser called it, fit to be shown")
    duration_s: float
    rate_hz: int
    channels: int


class Peaks(Answer):
    duration_s: float
    peaks: list[Pair] = Field(description="lowest and highest sample of each part")


class SoundOrFile(Question):
    """One of both."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["sound"]}, {"required": ["file"]}]}
    )
    sound: SoundId | No = Field(None, description="of POST /api/sounds")
    file: FileId | No = Field(None, description="of a hit, or of the map")

    @model_validator(mode="after")
    def _one(self) -> Any:
        if (self.sound is None) == (self.file is None):
            raise ValueError("give one of sound and file")
        return self


class SearchQuestion(Question):
    """With neither words nor an example: all that the filters let through, by path."""

    model_config = ConfigDict(json_schema_extra={"not": {"required": ["sound", "file"]}})
    text: Text | No = None
    without: list[Text] = Field([], max_length=20, description="words of what is not wanted")
    sound: SoundId | No = Field(None, description="an example: of POST /api/sounds")
    file: FileId | No = Field(None, description="an example: of a hit, or of the map")
    text_weight: Weight = 1.0
    sound_weight: Weight = Field(1.0, description="of the example")
    folder: Text | No = Field(None, description="below the indexed one")
    formats: list[Word] = Field([], max_length=50)
    tags: list[Word] = Field([], max_length=50, description="all of them")
    caption: Text | No = Field(None, description="words that a caption of the recording holds")
    shortest_s: Seconds | No = None
    longest_s: Seconds | No = None
    after: Day | No = Field(None, description="day of the file, or later")
    before: Day | No = Field(None, description="day of the file, or earlier")
    top: int = Field(20, ge=1, le=500)

    @model_validator(mode="after")
    def _one(self) -> Any:
        if self.sound is not None and self.file is not None:
            raise ValueError("give one of sound and file")
        return self


class Moment(Answer):
    start_s: float
    end_s: float
    score: float | None
    caption: str | None = None


class Hit(Answer):
    id: str
    path: str = Field(description="below the indexed folder")
    name: str
    score: float | None = Field(description="cosine; null where only filters were given")
    duration_s: float
    format: str
    tags: list[str]
    caption: str | None = None
    moments: list[Moment]


class Hits(Answer):
    hits: list[Hit]
    took_ms: float


class TagQuestion(SoundOrFile):
    labels: list[Word] = Field(min_length=1, max_length=100)
    threshold: float = Field(0.3, ge=0, le=1)
    step_s: Step | No = Field(None, description="none: 0.2, longer if need be")


class TagSpan(Answer):
    label: str
    onset_s: float
    offset_s: float
    score: float


class Tags(Answer):
    labels: list[str]
    step_s: float
    duration_s: float
    scale: str
    scores: list[list[float]] = Field(description="step by step, a number for each label")
    spans: list[TagSpan]


class CaptionSpan(Answer):
    start_s: float
    end_s: float
    text: str


class Caption(Answer):
    text: str
    spans: list[CaptionSpan]


class CompareQuestion(Question):
    a: SoundOrFile
    b: SoundOrFile
    labels: list[Word] = Field([], max_length=100, description="to compare both by")


class LabelScore(Answer):
    label: str
    a: float = Field(description="its cosine with a")
    b: float


class Comparison(Answer):
    cosine: float
    labels: list[LabelScore] | None = None


class MapPoint(Answer):
    id: str
    name: str
    folder: str
    x: float
    y: float


class MapAnswer(Answer):
    explained: Pair = Field(description="shares of the variance along x and y")
    points: list[MapPoint]
