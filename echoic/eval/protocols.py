"""How each of the three papers measures, as data: prompts, clips, what is heard of a clip, metrics.

What a paper does not state is said to be ours. Facts of LAION-CLAP (2211.06687) are read off its
evaluation code, those of M2D-CLAP (2406.02032, 2503.22104) off EVAR, its evaluation package; of
SLAP (2601.12594) only the paper is public.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from echoic.config import close_to
from echoic.eval.retrieval import Map10
from echoic.types import ConfigError

MEASURES = ("zero_shot", "linear", "finetune", "retrieval", "captioning", "events")


class Told(NamedTuple):
    """What is done, in one line, and all that a reader must know to hold figures against the
    paper's."""

    line: str
    words: str


@dataclass(frozen=True)
class Protocol:
    """A paper's choices; its sentences stand under its name in `eval.prompts`.

    models: its own models, as `data.tasks.paper` calls them, the best first: whose values stand
    beside ours. encoders: kinds of audio encoder that are its own. whole: is all of a clip that is
    classified by sentences heard, or is it cut or padded to the task's length first? long: how a
    recording longer than the window is heard by its own models, as `echoic.load` takes it; other
    models hear it in their own way. captions: of a clip that count in retrieval, the first ones;
    None: all. map10: audio to text, as in `eval.retrieval`. preset: of fine-tuning; None: that of
    the model's own paper for the task, else ours. told: how, by measure.
    """

    name: str
    title: str
    paper: str
    models: tuple[str, ...]
    encoders: tuple[str, ...]
    whole: bool
    long: str | None
    captions: int | None
    map10: Map10
    preset: str | None
    told: Mapping[str, Told]


LAION = Protocol(
    name="laion",
    title="LAION-CLAP",
    paper="2211.06687",
    models=("LAION-CLAP", "LAION-CLAP + AudioSet K2C, fine-tuned"),
    encoders=("htsat", "pann"),
    whole=True,
    # upstream draws the crop, or fusion's views, with numpy's global generator: here they lie fixed
    long="centred",
    captions=5,  # fixed in the code: sets with other numbers are cut to five
    map10="laion_legacy",
    preset="laion_finetune",
    told={
        "zero_shot": Told(
            "“This is a sound of ...”, folds pooled, whole clips",
            "LAION-CLAP asks “This is a sound of {label}.”, of GTZAN “This is a {label} song.” "
            "(its code). Its own models hear a clip as it is: a shorter one repeated to 10 s, of a "
            "longer one 10 s or fusion's views, here in fixed places, upstream at random ones. Its "
            "figures of ESC-50 and US8K leave out the clips that it was trained on; here all "
            "judge: echoic data leaks says which a model has learnt from.",
        ),
        "linear": Told(
            "M2D's: frozen vectors, one linear layer; the paper has none of its own",
            "LAION-CLAP's paper has no linear evaluation: this is M2D's, in whose table LAION-CLAP"
            " stands.",
        ),
        "finetune": Told(
            "all weights, MLP head, Adam 1e-4, 100 epochs",
            "LAION-CLAP's scripts: all weights, an MLP of 1024 on the clip vector, Adam at 1e-4 "
            "without decay, half a cosine over 100 epochs, 3840 clips a step. The best epoch by "
            "validation.",
        ),
        "retrieval": Told(
            "test part, 5 captions a clip, cosine; audio to text mAP@10 over-counts",
            "LAION-CLAP's code: five captions of each clip, all searched together; its AudioCaps "
            "has 975 clips, its Clotho 1045. Of a long clip its own models hear 10 s or fusion's "
            "views, here in fixed places. Audio to text mAP@10 leaves the ranks in the order of "
            "the captions and over-counts: comparable with its tables only.",
        ),
        "captioning": Told(
            "ours: a beam of 4, all captions; the paper writes none",
            "LAION-CLAP's paper writes no captions: all is echoic's choice.",
        ),
        "events": Told(
            "ours: the paper tags no time lines",
            "LAION-CLAP's paper tags no time lines: all is echoic's choice.",
        ),
    },
)

M2D = Protocol(
    name="m2d",
    title="M2D-CLAP",
    paper="2503.22104",
    models=("M2D-CLAP 2025", "M2D-CLAP 2025, fine-tuned", "M2D-CLAP 2024"),
    encoders=("m2d",),
    whole=False,
    long="m2d",
    captions=5,  # fixed in WavCaps' metrics, which EVAR uses
    map10="sorted",
    preset=None,
    told={
        "zero_shot": Told(
            "“... can be heard”, folds pooled, the task's length from the start",
            "M2D-CLAP asks “{label} can be heard” after its wording of some labels; where the "
            "paper does not ask for a task, the same ending stands after the label. A clip is cut,"
            " or padded with zeros, to the task's length.",
        ),
        "linear": Told(
            "frozen vectors, one linear layer by Adam 3e-5, mean over folds and seeds",
            "M2D-CLAP's. Of an M2D the mean of its stacked columns, not projected.",
        ),
        "finetune": Told(
            "all weights; an M2D by the paper's settings, others by their own",
            "An M2D by the paper's settings for the task, another model by its own; three seeds. "
            "Where a data set brings no validation part, the paper chooses the best epoch on the "
            "test part. Here it is chosen by held-out training clips, so figures are lower than "
            "with such a choice.",
        ),
        "retrieval": Told(
            "test part, 5 captions a clip, whole clips, cosine",
            "M2D-CLAP's: whole clips, one by one; five captions of each; its AudioCaps has 957 "
            "clips, Clotho is v2.1's evaluation part. mAP@10 with the ranks in order.",
        ),
        "captioning": Told(
            "ours: a beam of 4, all captions; the paper's are another model's (EnCLAP)",
            "M2D-CLAP's captions were written by EnCLAP with its features in the place of CLAP's, "
            "so they are not the model's alone; how captions are written here is echoic's choice.",
        ),
        "events": Told(
            "ours: the paper tags no time lines",
            "M2D-CLAP's papers tag no time lines: all is echoic's choice.",
        ),
    },
)

# What its paper's public record says of evaluation: the figures, little of how they were found.
SLAP = Protocol(
    name="slap",
    title="SLAP",
    paper="2601.12594",
    models=("SLAP", "SLAP, fine-tuned"),
    encoders=("slap",),
    whole=True,  # "native variable duration", up to 30 s
    long=None,
    captions=None,
    map10="sorted",
    preset=None,
    told={
        "zero_shot": Told(
            "prompt not stated (here “... can be heard”), folds pooled, whole clips",
            "SLAP's paper does not state its sentences or folds: M2D-CLAP's are asked, with which "
            "it compares itself, all folds pooled. Its best values are of the model tuned on "
            "WavCaps. Clips are heard whole, as the paper has them, windows of 30 s at most.",
        ),
        "linear": Told(
            "M2D's: frozen vectors, one linear layer; the paper has none of its own",
            "SLAP's paper has no linear evaluation: this is M2D's.",
        ),
        "finetune": Told(
            "settings not stated (here ours)",
            "SLAP's paper does not state how it tunes: the settings are echoic's.",
        ),
        "retrieval": Told(
            "test part, all captions, whole clips, cosine; variants not stated",
            "SLAP's paper does not state which captions, which test clips or which mAP@10 it "
            "takes: here all captions of the test part, ranks in order.",
        ),
        "captioning": Told(
            "search not stated (here a beam of 4), all captions",
            "SLAP's paper does not state how captions are searched for or which test clips it "
            "takes: here a beam of 4, the test part.",
        ),
        "events": Told(
            "ours: the paper tags no time lines",
            "SLAP's paper tags no time lines: all is echoic's choice.",
        ),
    },
)

PROTOCOLS: dict[str, Protocol] = {each.name: each for each in (LAION, M2D, SLAP)}


def find_protocol(name: str) -> Protocol:
    """Raises ConfigError that names the known ones."""
    if name not in PROTOCOLS:
        raise ConfigError(f"no protocol {name!r}; {close_to(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def family_protocol(encoder: str) -> Protocol:
    """That of the paper whose kind of audio encoder it is; M2D's, which has most tasks, for
    another."""
    return next((each for each in PROTOCOLS.values() if encoder in each.encoders), M2D)
