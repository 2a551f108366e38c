"""Caption figures that other people's programs compute: METEOR and SPICE, by pycocoevalcap.

METEOR 1.5 (Denkowski and Lavie 2014) and SPICE 1.0 (1607.08822) are Java programs with word lists
and a parser of their own. Nothing here is needed by echoic: what is missing is said, not installed.

Shapes: N clips.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import numpy as np

from echoic.eval.captioning import Scores
from echoic.types import ConfigError

_PACKAGE = "pycocoevalcap"
_PARSER = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


def meteor(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """Of tokenised texts. That of the set is not the mean over clips. Raises ConfigError where
    pycocoevalcap or Java is missing."""
    require("METEOR", lacking_for_meteor())
    whole, clips = _asked(_scorer("meteor", "Meteor"), captions, references)
    return Scores(np.array(clips, dtype=np.float64), float(whole))


def spice(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """Of tokenised texts. Raises ConfigError where pycocoevalcap, Java or SPICE's parser is
    missing, or where its program fails."""
    require("SPICE", lacking_for_spice())
    try:
        _, clips = _asked(_scorer("spice", "Spice"), captions, references)
    except CalledProcessError as error:
        raise ConfigError(
            f"SPICE's program ended with exit code {error.returncode}; it is made for Java 1.8"
        ) from error
    return Scores(np.array([clip["All"]["f"] for clip in clips], dtype=np.float64))


def lacking_for_meteor() -> list[str]:
    """What METEOR would need beside what is here, and how it is had."""
    missing = [] if find_spec(_PACKAGE) else [f"{_PACKAGE} (pip install {_PACKAGE})"]
    return missing + ([] if shutil.which("java") else ["Java (`java` on the PATH)"])


def lacking_for_spice() -> list[str]:
    """The same of SPICE."""
    return lacking_for_meteor() + _missing_parser()


def _scorer(module: str, name: str) -> Callable[[], Any]:
    scorer: Callable[[], Any] = getattr(import_module(f"{_PACKAGE}.{module}.{module}"), name)
    return scorer


def _asked(
    scorer: Callable[[], Any], captions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[Any, Any]:
    """What pycocoevalcap says of the set and of each clip."""
    said = {clip: [caption] for clip, caption in enumerate(captions)}
    wanted = {clip: list(texts) for clip, texts in enumerate(references)}
    program = scorer()
    try:
        whole, clips = program.compute_score(wanted, said)
    finally:
        # METEOR's process ends with `program`, its pipes do not
        if running := getattr(program, "meteor_p", None):
            running.stdout.close()
            running.stderr.close()
    return whole, clips


def require(figure: str, missing: list[str]) -> None:
    """Raises one ConfigError that names all that is missing."""
    if missing:
        raise ConfigError(f"{figure} needs {' and '.join(missing)}")


def _missing_parser() -> list[str]:
    """pycocoevalcap would download it unasked."""
    package = find_spec(_PACKAGE)
    if package is None or not package.submodule_search_locations:
        return []
    folder = Path(package.submodule_search_locations[0]) / "spice" / "lib"
    if all((folder / jar).exists() for jar in _PARSER):
        return []
    get = f"python -m {_PACKAGE}.spice.get_stanford_models"
    return [f"Stanford CoreNLP 3.6.0 in {folder} ({get} downloads it)"]
