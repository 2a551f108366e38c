"""/api/search, /api/map, /api/tag, /api/caption, /api/compare: what the model is asked."""

from __future__ import annotations

import math
import time
from datetime import date
from functools import partial
from typing import Annotated, BinaryIO, cast

from fastapi import APIRouter, Query

from echoic.captioning import whole_text
from echoic.index import Hit, Where
from echoic.timeline import Steps
from echoic.types import AudioError, EchoicError
from echoic.web import answers
from echoic.web.errors import RefusedError
from echoic.web.folder import Folder, IndexedFile
from echoic.web.parts import Asking, Subject

router = APIRouter(prefix="/api")

_STEPS, _SCORES = 20_000, 1_000_000  # of one answer
_FIRST_DAY, _LAST_DAY = date(1970, 1, 2), date(2200, 1, 1)  # what file systems know


@router.post("/search")
async def search(question: answers.SearchQuestion, asked: Asking) -> answers.Hits:
    """Recordings of the index by words, by an example, by both, among some of them."""
    folder = asked.parts.need_folder()
    example: Subject | None = None
    if question.sound is not None or question.file is not None:
        named = answers.SoundOrFile.model_construct(sound=question.sound, file=question.file)
        example = await asked.subject(named)
    return await asked.listen(partial(_searched, question, folder, example))


def _searched(
    question: answers.SearchQuestion, folder: Folder, example: Subject | None
) -> answers.Hits:
    began = time.perf_counter()
    found = folder.search(
        _where(question),
        text=question.text,
        like_vector=None if example is None else example.vector(),
        without=question.without,
        top=question.top,
        text_weight=question.text_weight,
        like_weight=question.sound_weight,
    )
    hits = [_hit(hit, file) for hit, file in found]
    return answers.Hits(hits=hits, took_ms=round((time.perf_counter() - began) * 1000, 1))


def _where(asked: answers.SearchQuestion) -> Where:
    if asked.folder is not None and asked.folder.startswith(("/", "\\")):
        raise RefusedError(422, "folder: give one below the indexed folder")
    return Where(
        asked.folder, asked.shortest_s, asked.longest_s, _day(asked.after), _day(asked.before),
        tuple(asked.formats), tuple(asked.tags), asked.caption,
    )  # fmt: skip


def _day(day: date | None) -> date | None:
    return None if day is None else min(max(day, _FIRST_DAY), _LAST_DAY)


def _hit(hit: Hit, file: IndexedFile) -> answers.Hit:
    moments = [
        answers.Moment(start_s=m.start_s, end_s=m.stop_s, score=m.cosine, caption=m.caption)
        for m in hit.moments
    ]
    return answers.Hit(
        id=file.digest, path=file.shown, name=file.name, score=hit.cosine,
        duration_s=hit.duration_s, format=file.format.partition("/")[0], tags=list(hit.tags),
        caption=next((m.caption for m in moments if m.caption), None), moments=moments,
    )  # fmt: skip


@router.get("/map")
async def embedding_map(
    asked: Asking, points: Annotated[int, Query(ge=1, le=20_000)] = 2000
) -> answers.MapAnswer:
    """Where recordings of the index lie, along the first two principal components."""
    folder = asked.parts.need_folder()
    found = await asked.listen(partial(folder.map, points))
    places = [
        answers.MapPoint(
            id=p.file.digest, name=p.file.name, folder=p.file.shown.rpartition("/")[0],
            x=round(p.x, 5), y=round(p.y, 5),
        )
        for p in found.points
    ]  # fmt: skip
    return answers.MapAnswer(explained=list(found.explained), points=places)


@router.post("/tag")
async def tag(question: answers.TagQuestion, asked: Asking) -> answers.Tags:
    """How well each label fits each step of a recording."""
    subject = await asked.subject(question)
    return await asked.listen(partial(_tagged, question, subject))


def _tagged(question: answers.TagQuestion, subject: Subject) -> answers.Tags:
    longest_s = subject.parts.model.network.audio.max_s
    step_s = _step(question, subject.duration_s, longest_s)
    window_s = max(step_s, min(Steps().window_s, longest_s / 3))
    steps = Steps(step_s, window_s)
    with subject.open() as file:
        line = subject.parts.model.timeline(cast(BinaryIO, file), question.labels, steps=steps)
    spans = [
        answers.TagSpan(label=s.label, onset_s=s.onset_s, offset_s=s.offset_s, score=s.score or 0.0)
        for s in line.spans(question.threshold)
    ]
    return answers.Tags(spans=spans, **line.to_json())


def _step(question: answers.TagQuestion, duration_s: float, longest_s: float) -> float:
    """Raises EchoicError on one that the model does not have, or by which an answer would not
    end."""
    least_s = duration_s * max(1 / _STEPS, len(question.labels) / _SCORES)
    least_s, most_s = math.ceil(least_s * 100) / 100, longest_s / 3
    step_s = question.step_s or min(max(Steps().step_s, least_s), most_s)
    if not least_s <= step_s <= most_s:
        raise EchoicError(
            f"step_s: of {len(question.labels)} labels and {duration_s:.0f} s there are steps of "
            f"{least_s:g} to {most_s:.3g} s"
        )
    return step_s


@router.post("/caption")
async def caption(question: answers.SoundOrFile, asked: Asking) -> answers.Caption:
    """What is heard, in words; of a long recording stretch by stretch."""
    subject = await asked.subject(question)
    return await asked.listen(partial(_captioned, subject))


def _captioned(subject: Subject) -> answers.Caption:
    with subject.open() as file:
        ((_, found),) = subject.parts.model.iter_captions([cast(BinaryIO, file)])
    if isinstance(found, AudioError):
        raise found
    spans = [answers.CaptionSpan(start_s=s.start_s, end_s=s.end_s, text=s.text) for s in found]
    return answers.Caption(text=whole_text(found), spans=spans)


@router.post("/compare")
async def compare(question: answers.CompareQuestion, asked: Asking) -> answers.Comparison:
    """How near two recordings are."""
    a, b = await asked.subject(question.a), await asked.subject(question.b)
    return await asked.listen(partial(_compared, a, b, question.labels))


def _compared(a: Subject, b: Subject, labels: list[str]) -> answers.Comparison:
    model = a.parts.model
    classes = model.embed_labels(labels) if labels else None
    first, second = a.vector(), b.vector()
    scores = None
    if classes is not None:
        rows = zip(labels, (classes @ first).tolist(), (classes @ second).tolist(), strict=True)
        scores = [answers.LabelScore(label=name, a=x, b=y) for name, x, y in rows]
    return answers.Comparison(cosine=float(first @ second), labels=scores)
