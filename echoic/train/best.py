"""The best weights of a training so far, by a figure of its evaluations; of equals the last."""

from __future__ import annotations

import math
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from echoic.train.checkpoint import fit
from echoic.types import CheckpointError


class Best:
    """The weights of the best evaluation so far, in a file: so they outlive an interruption."""

    def __init__(self, file: Path, *, fresh: bool) -> None:
        self.file, self._score = file, -math.inf
        if fresh:
            file.unlink(missing_ok=True)
        elif file.exists():
            self._score = float(self._read()[0]["score"])

    def offer(self, score: float, task: nn.Module, step: int) -> None:
        """Keep the weights, which `step` steps made, if none so far are better, or they are first.

        Of equals the longest trained are kept: a figure that counts clips ties early, long before
        the loss has stopped falling. Raises CheckpointError when the disk refuses.
        """
        if score >= self._score or not self.file.exists():
            self._score = score if math.isfinite(score) else -math.inf
            tensors = {name: t.detach().cpu().clone() for name, t in task.state_dict().items()}
            header = {"score": repr(self._score), "step": str(step)}
            partial = self.file.with_name(f"{self.file.name}.part")
            try:
                save_file(tensors, partial, metadata=header)
                partial.replace(self.file)
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{self.file}: cannot be written ({error})") from None

    def restore(self, task: nn.Module) -> int:
        """Put them back; returns the number of steps that made them. Raises CheckpointError."""
        header, tensors = self._read()
        fit(task, tensors, where=self.file)
        return int(header["step"])

    def _read(self) -> tuple[dict[str, str], dict[str, Tensor]]:
        try:
            with safe_open(self.file, framework="pt") as opened:
                names = opened.keys()
                tensors = {name: opened.get_tensor(name).clone() for name in names}
                return opened.metadata() or {}, tensors
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.file}: not a whole file ({error})") from None
