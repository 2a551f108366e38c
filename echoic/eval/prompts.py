"""The sentences and classes of published zero-shot evaluations, by the name of the data set.

LAION-CLAP (2211.06687, section 4.2): the sentences stand in its evaluation code and its README; the
two differ by a full stop, and for GTZAN by more. M2D-CLAP (2406.02032, section 3): one ending for
all, after a wording of the label of its own for some. SLAP (2601.12594) does not say its sentences:
under its name stand M2D-CLAP's, which have a rule for nearly every set that it reports, and that is
ours. Class names are read with spaces for underscores. C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from echoic.config import close_to
from echoic.eval.zeroshot import LAION_TEMPLATE, M2D_TEMPLATE
from echoic.types import ConfigError

LAION_README_TEMPLATE = "This is a sound of {label}"
GTZAN_TEMPLATE = "This is a {label} song."
GTZAN_README_TEMPLATE = "This audio is a {label} song."


@dataclass(frozen=True)
class Prompts:
    """source: where the sentence stands. labels: the classes in the order of the data set's own
    numbers; None: those that the data has, as there are too many to list here. wording: what stands
    in the sentence for a label, where that is not the label.
    """

    template: str
    source: str
    labels: tuple[str, ...] | None = None
    wording: Mapping[str, str] = field(default_factory=dict)

    def worded(self, labels: Sequence[str]) -> list[str]:
        """What to put into the template for each of the classes (C,)."""
        return [self.wording.get(label, label) for label in labels]


ESC50_LABELS = (
    "dog", "rooster", "pig", "cow", "frog", "cat", "hen", "insects", "sheep", "crow",
    "rain", "sea waves", "crackling fire", "crickets", "chirping birds", "water drops", "wind",
    "pouring water", "toilet flush", "thunderstorm",
    "crying baby", "sneezing", "clapping", "breathing", "coughing", "footsteps", "laughing",
    "brushing teeth", "snoring", "drinking sipping",
    "door wood knock", "mouse click", "keyboard typing", "door wood creaks", "can opening",
    "washing machine", "vacuum cleaner", "clock alarm", "clock tick", "glass breaking",
    "helicopter", "chainsaw", "siren", "car horn", "engine", "train", "church bells", "airplane",
    "fireworks", "hand saw",
)  # fmt: skip
US8K_LABELS = (
    "air conditioner", "car horn", "children playing", "dog bark", "drilling", "engine idling",
    "gun shot", "jackhammer", "siren", "street music",
)  # fmt: skip
GTZAN_LABELS = (
    "blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock",
)  # fmt: skip
_CREMAD_WORDING = {
    "anger": "angry person talking",
    "disgust": "someone talking in disgust",
    "fear": "someone talking with a sense of fear",
    "happiness": "someone talking happily and joyfully",
    "neutral": "someone talking calmly",
    "sadness": "someone talking sadly",
}

# calm is a class of its own beside neutral, for which M2D-CLAP's wording already has "calmly"
_RAVDESS_WORDING = {
    **_CREMAD_WORDING,
    "neutral": "someone talking in a neutral voice",
    "calm": "someone talking calmly",
    "surprise": "someone talking with surprise",
}

PAPERS = ("laion", "m2d", "slap")
SETS = (
    "esc50", "us8k", "gtzan", "vggsound", "fsd50k", "spcv2", "cremad", "ravdess", "nsynth",
    "audioset",
)  # fmt: skip
_SCRIPT = "LAION-AI/CLAP, evaluation code"
_README = "LAION-AI/CLAP, README"
_M2D = "M2D-CLAP's zero-shot evaluation (EVAR)"

PROMPTS: dict[str, Prompts] = {
    "esc50": Prompts(LAION_TEMPLATE, _SCRIPT, ESC50_LABELS),
    "us8k": Prompts(LAION_TEMPLATE, _SCRIPT, US8K_LABELS),
    "vggsound": Prompts(LAION_TEMPLATE, _SCRIPT),
    "fsd50k": Prompts(LAION_TEMPLATE, _SCRIPT),
    "audioset": Prompts(LAION_TEMPLATE, _SCRIPT),
    "gtzan": Prompts(GTZAN_TEMPLATE, _SCRIPT, GTZAN_LABELS),
    "esc50_readme": Prompts(LAION_README_TEMPLATE, _README, ESC50_LABELS),
    "us8k_readme": Prompts(LAION_README_TEMPLATE, _README, US8K_LABELS),
    "gtzan_readme": Prompts(GTZAN_README_TEMPLATE, _README, GTZAN_LABELS),
    "m2d/esc50": Prompts(M2D_TEMPLATE, _M2D, ESC50_LABELS),
    "m2d/us8k": Prompts(M2D_TEMPLATE, _M2D, US8K_LABELS),
    "m2d/fsd50k": Prompts(M2D_TEMPLATE, _M2D),
    "m2d/audioset": Prompts(M2D_TEMPLATE, _M2D),
    "m2d/gtzan": Prompts("{label} music can be heard", _M2D, GTZAN_LABELS),
    "m2d/nsynth": Prompts("the musical instrument sound of {label} can be heard", _M2D),
    "m2d/cremad": Prompts(M2D_TEMPLATE, _M2D, tuple(_CREMAD_WORDING), _CREMAD_WORDING),
}


_OURS = {
    "spcv2": Prompts("someone saying {label} can be heard", "ours"),
    "ravdess": Prompts(M2D_TEMPLATE, "ours", tuple(_RAVDESS_WORDING), _RAVDESS_WORDING),
}


def paper_prompts(paper: str, name: str) -> Prompts:
    """How a paper ("laion", "m2d", "slap") asks of a data set, by its name in `PROMPTS`. Where it
    does not, or not that we know, what stands nearest; `source` says so. Raises ConfigError.
    """
    if paper == "laion":
        given = Prompts(LAION_TEMPLATE, "LAION-CLAP's sentence; it reports no figure for this task")
        return PROMPTS.get(name, given)
    if paper not in PAPERS:
        raise ConfigError(f"no paper {paper!r}; there are {', '.join(PAPERS)}")
    own = PROMPTS.get(f"m2d/{name}")
    asked = own or _OURS.get(name) or Prompts(M2D_TEMPLATE, "ours")
    if paper == "slap":
        as_whom = ", as M2D-CLAP asks" if own else ""
        return replace(asked, source=f"ours{as_whom}: SLAP does not say its sentences")
    return own or replace(asked, source="ours: M2D-CLAP reports no figure for this task")


def find_prompts(asked: str) -> Prompts:
    """By a data set's name ("esc50", "ESC-50", "gtzan_readme", "m2d/esc50"), or a sentence with
    {label} as it is. "PAPER/NAME" with one of `SETS` is also what `paper_prompts` says.

    Raises ConfigError that names the known ones.
    """
    if "{label}" in asked:
        return Prompts(asked, "given")
    name = asked.strip().casefold().replace("-", "").replace(" ", "_")
    paper, _, of = name.partition("/")
    if paper in PAPERS and of in SETS:
        return paper_prompts(paper, of)
    if name not in PROMPTS:
        hint = close_to(name, PROMPTS)
        raise ConfigError(f"no prompts {asked!r}, nor a sentence with {{label}} in it; {hint}")
    return PROMPTS[name]
