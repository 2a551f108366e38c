"""What captions must beat: sentences that no model wrote for the clip.

    most_frequent_caption   the same for every clip: hears nothing
    nearest_tags            a training caption of the clip whose tags are most alike
    tag_sentence            the tags themselves in a sentence

The tags are told: by a zero-shot classifier, or known. A tag is the same in both places only where
it is written alike.

Shapes: N clips to caption, M training clips.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from echoic.data.captions import TAG_TEMPLATES, captions_from_tags
from echoic.eval.caption_words import tokenize
from echoic.types import DataError


def most_frequent_caption(training: Iterable[str]) -> str:
    """Of all captions of the training set, read without case and punctuation; of equals the first.
    Raises DataError where there is none."""
    written = list(training)
    if not written:
        raise DataError("the most frequent caption of a training set without captions")
    counts = Counter(" ".join(tokenize(caption)) for caption in written)
    best = counts.most_common(1)[0][0]
    return next(caption for caption in written if " ".join(tokenize(caption)) == best)


def nearest_tags(
    tags: Sequence[Iterable[str]],
    training_tags: Sequence[Iterable[str]],
    training_captions: Sequence[str],
) -> list[str]:
    """(N,) captions: of the training clip with most tags in common, of equals the one with fewest
    other tags, of these the first; where no tag is in common, the most frequent caption.

    tags: of N clips. training_tags, training_captions: of M clips, one caption each. Raises
    DataError where M is 0, ValueError where there are not as many captions as tags.
    """
    if len(training_tags) != len(training_captions):
        raise ValueError(f"{len(training_captions)} captions for {len(training_tags)} clips")
    usual = most_frequent_caption(training_captions)
    known = [frozenset(each) for each in training_tags]
    clips_of: dict[str, list[int]] = {}
    for clip, names in enumerate(known):
        for name in names:
            clips_of.setdefault(name, []).append(clip)
    clips_with = {name: np.array(clips) for name, clips in clips_of.items()}
    sizes = np.array([len(names) for names in known])
    found = []
    for wanted in map(frozenset, tags):
        common = np.zeros(len(known), dtype=np.int64)
        for name in wanted & clips_with.keys():
            common[clips_with[name]] += 1
        best = int((common * (sizes.max() + 1) - sizes).argmax())
        found.append(training_captions[best] if common[best] else usual)
    return found


def tag_sentence(tags: Iterable[str], template: tuple[str, str] = TAG_TEMPLATES[0]) -> str:
    """All tags of a clip in one sentence, by the wording for (one tag, several); "" without tags.
    Raises ConfigError where a wording has no one place for them."""
    return next(iter(captions_from_tags(tags, [template])), "")
