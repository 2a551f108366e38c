"""Time lines as drawings: what lies where, at any length, and nothing that is not escaped."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from echoic.eval.events import Span
from echoic.eval.svg import WIDTH
from echoic.eval.time_chart import clock, highest, spans_table, ticks_s, time_chart

LABELS = ("rain & <wind>", "dog")


def chart(count: int = 50, step_s: float = 0.2):
    scores = np.zeros((count, 2))
    scores[count // 2 :, 0] = 1.0
    edges_s = np.arange(count + 1) * step_s
    spans = [Span(count * step_s / 2, count * step_s, LABELS[0], 1.0)]
    return time_chart("Time line", LABELS, edges_s, scores, spans, note="And so on.")


def boxes(path: str) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in re.findall(r"M([\d.]+) [\d.]+H([\d.]+)v", path)]


def test_shades_and_bars_lie_at_their_times():
    drawn = ElementTree.fromstring(chart().svg)
    (shade,) = drawn.findall(".//path[@class='heat']")  # the zeros are not drawn
    ends = boxes(shade.get("d"))
    left, right = ends[0][0], ends[-1][1]
    (bar,) = (each for each in drawn.iter("rect") if each.get("class") == "bar s1")
    assert (left, right) == pytest.approx(
        (float(bar.get("x")), float(bar.get("x")) + float(bar.get("width"))), abs=0.15
    )
    plate = drawn.find(".//rect[@class='plate']")
    start, width = float(plate.get("x")), float(plate.get("width"))
    assert left == pytest.approx(start + width / 2, abs=0.15)
    assert right == pytest.approx(start + width, abs=0.15)
    assert right < WIDTH


def test_names_are_escaped_and_said():
    made = chart()
    assert "rain &amp; &lt;wind&gt;" in made.svg
    assert 'role="img"' in made.svg
    assert made.table.rows == [(LABELS[0], "1", "5.0", "1"), ("dog", "0", "0.0", "0")]
    assert made.note == "The fullest shade is 1, the palest 0; bars are the spans. And so on."


def test_an_hour_is_no_bigger_than_a_minute():
    assert len(chart(18_000).svg) < 1.5 * len(chart(300).svg) < 60_000


def test_one_loud_step_of_an_hour_is_seen():
    scores = np.zeros((18_000, 1))
    scores[12_345] = 0.9
    starts, cells = highest(scores, 240)
    assert len(starts) == len(cells) == 240
    place = int(cells[:, 0].argmax())
    assert cells[place, 0] == 0.9
    assert starts[place] <= 12_345 < starts[place + 1]
    assert highest(scores[:7], 240)[0].tolist() == list(range(7))


def test_scores_below_nothing_are_drawn_too():
    scores = np.linspace(-0.3, 0.2, 10)[:, None]
    made = time_chart("x", ["a"], np.arange(11.0), scores, [])
    assert "0.2, the palest -0.3" in made.note
    with pytest.raises(ValueError, match="nothing to draw"):
        time_chart("x", ["a"], np.zeros(1), scores[:0], [])


@pytest.mark.parametrize(
    ("end_s", "shown"),
    [
        (0.3, ["0", "0.1", "0.2", "0.3"]),
        (4.2, ["0", "1", "2", "3", "4"]),
        (300, ["0:00", "1:00", "2:00", "3:00", "4:00", "5:00"]),
        (3600, ["0:00:00", "0:10:00", "0:20:00", "0:30:00", "0:40:00", "0:50:00", "1:00:00"]),
        (200_000, ["0:00:00", "10:00:00", "20:00:00", "30:00:00", "40:00:00", "50:00:00"]),
    ],
)
def test_the_axis_has_round_times(end_s, shown):
    assert [clock(time_s, end_s) for time_s in ticks_s(end_s, 6)] == shown


def test_a_table_of_spans():
    table = spans_table([Span(1.0, 2.345, "dog", 0.5)], "Spans")
    assert table.rows == [("dog", "1.00", "2.35", "0.50")]
