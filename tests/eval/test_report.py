"""The report: well-formed, self-contained, safe with hostile names, and with every number in it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from echoic.eval.bootstrap import Bootstrap, Interval
from echoic.eval.captioning import score_captions
from echoic.eval.heatmap import heat_map
from echoic.eval.plots import Bars, Figure, Line, _ticks, bar_chart, line_chart, row_chart
from echoic.eval.report import Prose, Report, Section, Settings, Tile, Tiles
from echoic.eval.retrieval import retrieve
from echoic.eval.sections import (
    captioning_section,
    classification_section,
    configuration_section,
    headline_section,
    order_section,
    read_log,
    retrieval_section,
    share_tile,
    similarity_section,
    space_section,
    training_section,
)
from echoic.eval.space import measure_space
from echoic.eval.svg import number
from echoic.eval.zeroshot import classify
from echoic.types import DataError

NO_TEXT = "caf\udce9.wav"  # as os.fsdecode reads what is not UTF-8
HOSTILE = '<script>alert("x")</script> & \'"><img src=http://evil.example/a.png onerror=x>'
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Checker(HTMLParser):
    """Every tag is closed in order; nothing is loaded from elsewhere; no script."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self._look(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._look(tag, attrs)

    def _look(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "action", "data"):
                assert value is not None
                assert value.startswith("#"), (tag, value)
                self.links.append(value[1:])
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert not checker.seen & {"script", "iframe", "link", "img", "object", "embed"}
    assert sorted(checker.links) == sorted(checker.ids)
    assert len(set(checker.ids)) == len(checker.ids)
    assert "url(" not in page
    assert "@import" not in page
    return checker


def full_report(label: str = "rain") -> Report:
    rng = np.random.default_rng(0)
    boot = Bootstrap(0, resamples=100)
    owner = np.repeat(np.arange(30), 2)
    audio = rng.standard_normal((30, 8))
    text = audio[owner] + 0.5 * rng.standard_normal((60, 8))
    found = retrieve(audio, text, owner)
    classes = [f"{label} {i}" for i in range(5)]
    labels = rng.integers(0, 4, 50)  # the fifth class has no clip
    result = classify(rng.standard_normal((50, 5)), labels)
    share = result.accuracy_interval(boot)
    log = [{"step": i, "loss": 3 / (i + 1), "lr": 1e-4, "note": label} for i in range(60)]
    names = [f"{label} {i}" for i in range(30)]
    captioned = score_captions(names, [names[:2]] * 30)
    return Report(
        label,
        label,
        [
            headline_section([share_tile(label, share, label)], label),
            training_section(log, lead=label),
            retrieval_section(found, boot, lead=label),
            similarity_section(audio, text[::2], names, names),
            space_section(measure_space(audio, text, owner), lead=label),
            classification_section(label, result, classes, boot, lead=label),
            captioning_section(captioned, names, names, [names[:2]] * 30, boot, lead=label),
            order_section({label: share, "all": share}),
            configuration_section({label: {label: label}}, [label]),
        ],
    )


@pytest.mark.parametrize("label", ["rain", HOSTILE, "", "雨 🌧 ı̈", "$title ${x} %s {y}"])
def test_page_is_well_formed_and_self_contained(label: str) -> None:
    page = full_report(label).html()
    assert {"svg", "table", "details", "section", "title"} <= check(page).seen
    assert "<script" not in page
    assert not re.search(r"\bnan\b", page)


def test_hostile_words_are_shown_not_run() -> None:
    page = full_report(HOSTILE).html()
    assert "<img" not in page
    assert "&lt;script&gt;" in page


def test_a_name_that_is_no_text_is_replaced(tmp_path: Path) -> None:
    page = full_report(NO_TEXT).html()
    assert "caf\N{REPLACEMENT CHARACTER}.wav" in page
    assert Report(NO_TEXT, "", []).write(tmp_path / "t.html").read_text("utf-8")


def test_same_input_same_page() -> None:
    assert full_report().html() == full_report().html()


def test_numbers_are_in_the_tables() -> None:
    rng = np.random.default_rng(1)
    audio = rng.standard_normal((12, 4))
    found = retrieve(audio, audio + rng.standard_normal((12, 4)), np.arange(12))
    boot = Bootstrap(0, resamples=50)
    page = Report("t", "s", [retrieval_section(found, boot)]).html()
    for name in ("text_to_audio_R@1", "audio_to_text_R@5", "audio_to_text_mAP@10"):
        value = found.intervals(boot)[name]
        assert f"<td>{100 * value.value:.1f} ({100 * value.low:.1f} to " in page
    legacy = retrieve(audio, audio, np.arange(12), map10="laion_legacy")
    assert "as LAION computes it" in Report("t", "s", [retrieval_section(legacy, boot)]).html()


def test_captions_stand_beside_what_people_wrote() -> None:
    said = ["rain falls", "a dog barks loudly", "wind in trees", "nothing"]
    people = [["rain falls"], ["a dog barks"], ["wind blows"], ["a bell"]]
    found = score_captions(said, people)
    section = captioning_section(found, "abcd", said, people, Bootstrap(0, resamples=50))
    figures, examples = section.blocks
    assert ("BLEU-4", f"{100 * found.metrics()['bleu_4']:.1f}") in [
        (name, value.split()[0]) for name, value in figures.rows
    ]
    assert [row[0] for row in examples.rows] == ["a", "b", "c", "d"]  # from the best to the worst
    assert examples.rows[1][1:3] == ("a dog barks loudly", "a dog barks")
    many = captioning_section(
        score_captions(said * 9, people * 9), "abcd" * 9, said * 9, people * 9, Bootstrap(0)
    )
    shown = [row[0] for row in many.blocks[1].rows]
    assert (len(shown), shown[0], shown[-1]) == (12, "a", "d")


def test_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "deep" / "report.html"
    report = Report(
        "first", "", [Section("x", [Prose("y"), Tiles([Tile("a", "1")]), Settings({})])]
    )
    assert report.write(target) == target
    check(target.read_text("utf-8"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(DataError, match=r"report\.html: cannot be written \(disk full\)"):
            Report("second", "", []).write(target)
    assert "first" in target.read_text("utf-8")
    assert list(target.parent.iterdir()) == [target]


def test_log_is_read_up_to_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n\n{"step": 2, "loss": NaN}\n{"step": 3, "lo')
    records = read_log(path)
    assert [r.get("step") for r in records] == [1, None, 2]
    check(Report("t", "s", [training_section(records)]).html())
    path.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"log\.jsonl, line 2: not JSON"):
        read_log(path)
    path.write_bytes(b'{"step": 1}\n{"note": "caf\xc3')  # torn inside a letter
    assert read_log(path) == [{"step": 1}]
    path.write_text("[1]\n[2]\n")
    with pytest.raises(DataError, match="line 1: expected an object"):
        read_log(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_log(tmp_path / "absent.jsonl")


def test_each_loss_and_every_sign_of_collapse_is_drawn() -> None:
    rows = [
        {"step": s, "loss": 3.0, "lr": 0.1, "losses": {"contrastive": 2.0, "captioning": 1.0},
         "metrics": {"audio_spread": 0.5, "audio_dims": 3.0, "prototype_use": 0.9, "scale": 14.0}}
        for s in (1, 2, 3)
    ]  # fmt: skip
    section = training_section(rows)
    titles = [block.title for block in section.blocks if isinstance(block, Figure)]
    assert titles == [
        "Losses", "Vectors of a batch", "Directions that share the variance", "Prototypes",
        "Learning rate",
    ]  # fmt: skip
    page = Report("t", "s", [section]).html()
    assert "captioning loss" in page
    assert "audio spread" in page
    alone = training_section([{"step": 1, "loss": 3.0, "losses": {"contrastive": 3.0}}])
    assert "contrastive" not in Report("t", "s", [alone]).html()


def test_a_log_without_losses_says_so() -> None:
    for records in ([], [{"lr": 1, "note": "x"}], [{"step": 1, "loss": float("nan")}]):
        section = training_section(json.loads(json.dumps(records)))
        assert section.blocks == [Prose("The log holds no loss.")]


def test_plots_refuse_what_they_cannot_draw() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        line_chart("t", [Line("a", [1.0], [float("nan")])], x_label="x", y_label="y")
    with pytest.raises(ValueError, match="do not fit"):
        heat_map("t", np.zeros((2, 2)), ["a"], ["b", "c"], row_axis="r", column_axis="c")


def test_degenerate_values_are_drawn_inside() -> None:
    same = Interval(0.5, 0.5, 0.5, 0.95)
    figures = [
        line_chart("t", [Line("a", [3.0], [2.0])], x_label="x", y_label="y"),
        line_chart("t", [Line("a", [0.0, 1e9], [-1e-9, 1e-9])], x_label="x", y_label="y"),
        bar_chart("t", ["g"], [Bars("a", [Interval(0, 0, 0, 0.9)], [0.1])], y_label="y"),
        row_chart("t", [("a", same)], x_label="x"),
        heat_map("t", np.zeros((2, 3)), ["a", "b"], ["c", "d", "e"], row_axis="r", column_axis="c"),
    ]
    for figure in figures:
        width, height = (float(v) for v in figure.svg.split('"')[1].split()[2:])
        for name, bound in (("x", width), ("y", height), ("cx", width), ("cy", height)):
            found = [float(v) for v in re.findall(rf' {name}="(-?[\d.]+)"', figure.svg)]
            assert all(0 <= v <= bound for v in found), (figure.title, name)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.3, 0.31), (-5, 7.2), (1e-5, 3e-4), (9, 9)])
def test_ticks_enclose_and_are_few(low: float, high: float) -> None:
    ticks = _ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 8


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (3.0, "3"), (0.01234, "0.0123"), (1234.5, "1234"), (5e-4, "5e-4"), (-0.5, "-0.5")],
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text
