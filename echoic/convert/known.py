"""Known public checkpoints: their names, what each is, and what it was trained on.

Facts are those that their pages and authors state (LAION-AI/CLAP's README and threads, the models'
pages); None where they do not say. Files carry no check sum here: none is published.
"""

from __future__ import annotations

from dataclasses import dataclass

SEE_PAGE = "see the model page"
PT_REPO = "lukewys/laion_clap"

# The published tokenizer of each kind of text encoder.
KNOWN_TOKENIZERS = {
    "roberta": "FacebookAI/roberta-base",
    "bert": "google-bert/bert-base-uncased",
    "bart": "facebook/bart-base",
    "clip": "openai/clip-vit-base-patch32",
}


@dataclass(frozen=True)
class KnownModel:
    """name: short, unique. file: in the repository; None: all of the repository is the model.

    fusion: kind, or None for none. warning: what a user should know before trusting it.
    """

    name: str
    repo: str
    file: str | None
    architecture: str
    fusion: str | None
    text: str
    trained_on: str | None
    licence: str = SEE_PAGE
    same_as: str | None = None
    warning: str | None = None
    sha256: str | None = None

    @property
    def full_name(self) -> str:
        """owner/repository, or owner/repository/file."""
        return self.repo if self.file is None else f"{self.repo}/{self.file}"


def _pt(name: str, architecture: str, fusion: str | None, **facts: str | None) -> KnownModel:
    trained_on, same_as, warning = (facts.get(x) for x in ("trained_on", "same_as", "warning"))
    return KnownModel(
        name, PT_REPO, f"{name}.pt", architecture, fusion, "roberta", trained_on,
        same_as=same_as, warning=warning,
    )  # fmt: skip


def _hub(name: str, architecture: str, fusion: str | None, **facts: str | None) -> KnownModel:
    trained_on, same_as, warning = (facts.get(x) for x in ("trained_on", "same_as", "warning"))
    return KnownModel(
        name, f"laion/{name}", None, architecture, fusion, "roberta", trained_on,
        same_as=same_as, warning=warning,
    )  # fmt: skip


_630K = "LAION-Audio-630K"
_630K_AUDIOSET = "LAION-Audio-630K, AudioSet"

KNOWN_MODELS = (
    _pt("630k-best", "HTSAT-tiny", None, trained_on=_630K),
    _pt(
        "630k-audioset-best", "HTSAT-tiny", None, trained_on=_630K_AUDIOSET,
        same_as="clap-htsat-unfused",
    ),
    _pt("630k-fusion-best", "HTSAT-tiny", "aff_2d", trained_on=_630K),
    _pt(
        "630k-audioset-fusion-best", "HTSAT-tiny", "aff_2d", trained_on=_630K_AUDIOSET,
        same_as="clap-htsat-fused",
    ),
    _pt(
        "music_audioset_epoch_15_esc_90.14", "HTSAT-base", None,
        trained_on="music, AudioSet, LAION-Audio-630K",
    ),
    _pt(
        "music_speech_epoch_15_esc_89.25", "HTSAT-base", None,
        trained_on="music, speech, LAION-Audio-630K",
    ),
    _pt(
        "music_speech_audioset_epoch_15_esc_89.98", "HTSAT-base", None,
        trained_on="music, speech, AudioSet, LAION-Audio-630K (about 4 million pairs)",
    ),
    _hub(
        "clap-htsat-unfused", "HTSAT-tiny", None, trained_on=_630K_AUDIOSET,
        same_as="630k-audioset-best",
    ),
    _hub(
        "clap-htsat-fused", "HTSAT-tiny", "aff_2d", trained_on=_630K_AUDIOSET,
        same_as="630k-audioset-fusion-best",
    ),
    _hub("larger_clap_general", "HTSAT-base", None),
    _hub(
        "larger_clap_music", "HTSAT-base", None,
        warning="its text tower is collapsed (all texts within a cosine of 0.9993, mteb#5069): do "
        "not use it",
    ),
    _hub("larger_clap_music_and_speech", "HTSAT-base", None),
)  # fmt: skip


def known_model(name: str) -> KnownModel | None:
    """By its short name, with or without .pt, or by owner/repository[/file]."""
    for model in KNOWN_MODELS:
        if name in (model.name, f"{model.name}.pt", model.full_name):
            return model
    return None
