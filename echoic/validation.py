"""What a training measures on held-out clips as it goes: retrieval both ways, or, of a model of
sound alone, the loss that it learns by.

N clips, T samples.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from echoic.api import EchoicModel
from echoic.convert.native import ModelFile
from echoic.data.clips import Source, check_audio, read_window
from echoic.eval.retrieval import retrieval_metrics
from echoic.model import LanguageAudioModel
from echoic.objectives.gather import alone
from echoic.reading import Reading
from echoic.types import AudioError, Batch, DataError, Ragged

log = logging.getLogger("echoic.pretrain")

# They hear at most this many clips, and of each what the model hears at once and so many seconds,
# as they are kept in memory; `echoic eval` hears them all, in full.
CLIPS = 300
LONGEST_S = 30.0
_AT_ONCE = 32

Evaluate = Callable[[nn.Module], Mapping[str, float]]


def evaluation(valid: Source, reading: Reading, network: LanguageAudioModel) -> Evaluate:
    """On the first clips of `valid`, heard once. Raises DataError on a source without clips."""
    if not valid.clips:
        raise DataError("the held-out data has no clips")
    heard: dict[int, np.ndarray] = {}

    def evaluate(task: nn.Module) -> Mapping[str, float]:
        if not heard:
            longest_s = min(network.audio.longest_s, LONGEST_S)
            chosen = range(min(CLIPS, len(valid.clips)))
            heard.update(hear(valid, chosen, network.audio.rate_hz, longest_s))
        if reading.tokenize is None:
            return loss_on(task, list(heard.values()))
        captions = [valid.clips[i].captions for i in heard]
        return retrieval_on(network, reading, list(heard.values()), captions)

    return evaluate


def retrieval_on(
    network: LanguageAudioModel,
    reading: Reading,
    waves: Sequence[np.ndarray],
    captions: Sequence[Sequence[str]],
) -> Mapping[str, float]:
    """Both ways; captions: of each wave."""
    listener = EchoicModel(ModelFile(network, reading.tokenizer), sentences=reading.encoder)
    audio = listener.embed_audio(waves)
    text = listener.embed_text([caption for row in captions for caption in row])
    owner = np.repeat(np.arange(len(captions)), [len(row) for row in captions])
    metrics = retrieval_metrics(audio.numpy(), text.numpy(), owner)
    return {name: float(value) for name, value in metrics.items()}


@torch.no_grad()
def loss_on(task: nn.Module, waves: Sequence[np.ndarray]) -> dict[str, float]:
    """Each of the task's losses, the mean over batches of clips; masks by fixed seeds."""
    sums: dict[str, float] = {}
    for seed, first in enumerate(range(0, len(waves), _AT_ONCE)):
        part = [torch.from_numpy(wave) for wave in waves[first : first + _AT_ONCE]]
        nothing = Ragged.from_lengths(torch.zeros(len(part), dtype=torch.int64), [1] * len(part))
        keys = tuple(map(str, range(len(part))))
        batch = Batch(Ragged.from_rows(part), nothing, torch.arange(len(part)), keys, seed)
        with alone():  # the other ranks wait
            losses = task(batch.to(next(task.parameters()).device))
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0.0) + float(loss) * len(part)
    return {f"{name}_loss": total / len(waves) for name, total in sums.items()}


def hear(
    source: Source, chosen: Sequence[int], rate_hz: int, longest_s: float
) -> dict[int, np.ndarray]:
    """The first `longest_s` of some clips by index: (T,) each; one that cannot be heard is named in
    the log and left out.

    Raises DataError where none is left.
    """
    heard: dict[int, np.ndarray] = {}
    for i in chosen:
        key = source.clips[i].key
        try:
            wave = read_window(source, i, rate_hz, 0.0, longest_s)
            check_audio(key, wave)
        except AudioError as error:
            log.warning("held-out clip %s left out: %s", key, error.reason)
        else:
            heard[i] = wave
    if not heard:
        raise DataError(f"none of the {len(chosen)} held-out clips can be heard")
    return heard
