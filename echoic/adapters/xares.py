"""Our models as encoders of X-ARES (2505.16369): a vector per step of a sound.

    ECHOIC_MODEL=/path/of/model.safetensors python -m xares.run --max-jobs 0 \\
        echoic/adapters/xares.py src/tasks/esc50_task.py

in a clone of X-ARES, which makes a module's name of the path; echoic need not lie there. A small
model of each family passes `check_audio_encoder` of xares 0.1.3, the newest, and one went through a
task, from tar files to its two scores. What a step's vector is says `echoic.adapters.steps`; X-ARES
learns on their mean, or on each.

X-ARES wants exactly one name here that ends in "Encoder", and makes it without arguments.

B sounds, T samples, S steps, W width of a step.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from echoic.adapters.steps import StepModel
from echoic.api import EchoicModel


class EchoicEncoder(StepModel):
    """Sounds (B, T), or one (T,), at `sampling_rate` -> (B, S, W) float32 on their device. S is
    T / hop, rounded up. Any length is heard in full. Raises EchoicError, AudioError."""

    def __init__(
        self, model: EchoicModel | str | Path | None = None, *, hop_ms: float | None = None
    ) -> None:
        """As StepModel."""
        super().__init__(model, hop_ms=hop_ms)
        # X-ARES keeps vectors under the name of the class, and takes those it finds there for this
        # model's: each model has a class of its own.
        name = f"Echoic_{self.model.space_id}_{self.hop_size_in_ms:g}ms_Encoder"
        self.__class__ = type(name, (type(self),), {})

    @property
    def sampling_rate(self) -> int:
        """In Hz."""
        return self.model.rate_hz

    @property
    def output_dim(self) -> int:
        return self.step_width

    @property
    def hop_size_in_ms(self) -> float:
        return self.hop_s * 1000

    def forward(self, audio: Tensor) -> Tensor:
        return self.steps(audio).vectors.to(audio.device)
