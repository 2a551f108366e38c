"""echoic: pretrain, evaluate and use language-audio models.

What is named here is imported when it is first used, so that `import echoic` and `echoic --help` do
not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from echoic.api import EchoicModel, load
    from echoic.types import AudioError, CheckpointError, ConfigError, DataError, EchoicError

__version__ = "0.1.0"
__all__ = [
    "AudioError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "EchoicError",
    "EchoicModel",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "echoic.api" if name in ("EchoicModel", "load") else "echoic.types"
    return getattr(import_module(module), name)
