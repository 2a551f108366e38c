"""METEOR and SPICE come from other people's programs: what is missing is said in one line, and what
they answer is read right."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from subprocess import CalledProcessError
from types import ModuleType

import pytest

from echoic.eval import caption_judges
from echoic.eval.caption_judges import lacking_for_meteor, meteor, spice
from echoic.eval.captioning import Judge
from echoic.types import ConfigError
from tests.golden import Golden

CAPTIONS, REFERENCES = ["rain", "a dog"], [["rain falls"], ["a dog barks", "dog"]]


class FakeMeteor:
    def compute_score(self, wanted, said):
        assert said == {0: ["rain"], 1: ["a dog"]}
        assert wanted == {0: ["rain falls"], 1: ["a dog barks", "dog"]}
        return 0.4, [0.25, 0.5]


class FakeSpice:
    def compute_score(self, wanted, said):
        return 0.3, [{"All": {"f": 0.2}}, {"All": {"f": 0.4}}]


class FailingSpice:
    def compute_score(self, wanted, said):
        raise CalledProcessError(1, ["java"])


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A stand-in for pycocoevalcap, with Java; SPICE's parser is not there yet."""
    found = ModuleSpec("pycocoevalcap", None, is_package=True)
    found.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(caption_judges, "find_spec", lambda name: found)
    monkeypatch.setattr(caption_judges.shutil, "which", lambda name: f"/usr/bin/{name}")
    for part, scorer in {"meteor": FakeMeteor, "spice": FakeSpice}.items():
        module = ModuleType(part)
        setattr(module, part.capitalize(), scorer)
        monkeypatch.setitem(sys.modules, f"pycocoevalcap.{part}.{part}", module)
    return tmp_path


def with_parser(package: Path) -> None:
    folder = package / "spice" / "lib"
    folder.mkdir(parents=True)
    for jar in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        (folder / jar).touch()


@pytest.mark.parametrize("judge", [meteor, spice])
def test_all_that_is_missing_is_said_at_once(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_judges, "find_spec", lambda name: None)
    monkeypatch.setattr(caption_judges.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install pycocoevalcap\) and Java") as error:
        judge(CAPTIONS, REFERENCES)
    assert judge.__name__.upper() in str(error.value)
    assert "\n" not in str(error.value)


def test_meteor_of_the_set_is_not_the_mean(package: Path) -> None:
    found = meteor(CAPTIONS, REFERENCES)
    assert found.clips.tolist() == [0.25, 0.5]
    assert found.value == 0.4


def test_spice_asks_for_its_parser_and_downloads_nothing(package: Path) -> None:
    with pytest.raises(ConfigError, match=r"SPICE needs Stanford CoreNLP 3\.6\.0"):
        spice(CAPTIONS, REFERENCES)
    with_parser(package)
    found = spice(CAPTIONS, REFERENCES)
    assert found.clips.tolist() == [0.2, 0.4]
    assert found.value == pytest.approx(0.3)


def test_a_program_that_fails_is_told(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_parser(package)
    monkeypatch.setattr(sys.modules["pycocoevalcap.spice.spice"], "Spice", FailingSpice)
    with pytest.raises(ConfigError, match="exit code 1"):
        spice(CAPTIONS, REFERENCES)


def test_meteor_equals_the_golden(shared: Path) -> None:
    """By the real program, where it is installed."""
    if missing := lacking_for_meteor():
        pytest.skip(f"METEOR needs {' and '.join(missing)}")
    golden = Golden(shared, "captioning")
    items = golden.spec["items"]
    found = meteor(
        [item["hypothesis_tokens"] for item in items], [item["reference_tokens"] for item in items]
    )
    golden.check("meteor", found.clips)
    assert found.value == pytest.approx(golden.spec["corpus"]["meteor"], abs=1e-4)
