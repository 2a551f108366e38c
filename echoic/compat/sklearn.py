"""A model as a scikit-learn transformer: sounds (or texts) in, vectors out.

    from echoic.compat.sklearn import EchoicEmbedder

    probe = make_pipeline(EchoicEmbedder("runs/demo"), LogisticRegression())
    probe.fit(["dog.wav", "rain.wav"], ["dog", "rain"])

It has what scikit-learn asks of a transformer (parameters, clone, pipelines, grid search), and
does not need it. Nothing is learnt: `fit` opens the model. N items, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from echoic.api import EchoicModel, load
from echoic.types import ConfigError


class EchoicEmbedder:
    """model: what `echoic.load` opens, or an opened model. what: "sounds" (paths, bytes, arrays at
    the model's rate, (array, rate_hz)) or "texts". options: of `echoic.load`.

    Parameters are kept as given, and looked at by `fit`. Raises ConfigError, CheckpointError and
    AudioError.
    """

    model_: EchoicModel

    def __init__(
        self,
        model: str | Path | EchoicModel = "runs/demo",
        *,
        what: Literal["sounds", "texts"] = "sounds",
        device: str = "cpu",
        options: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.what, self.device, self.options = model, what, device, options

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Opens the model."""
        if self.what not in ("sounds", "texts"):
            raise ConfigError(f'what {self.what!r}: there are "sounds" and "texts"')
        if isinstance(self.model, EchoicModel):
            self.model_ = self.model
        else:
            self.model_ = load(self.model, device=self.device, **(self.options or {}))
        return self

    def transform(self, X: Sequence[Any]) -> np.ndarray:
        """N items -> (N, D) float32, of length 1. Opens the model where `fit` was not called."""
        model = self._opened()
        items = list(X)  # an array of names would be taken for samples
        vectors = model.embed_audio(items) if self.what == "sounds" else model.embed_text(items)
        return vectors.numpy()

    def fit_transform(self, X: Sequence[Any], y: Any = None) -> np.ndarray:
        return self.fit(X, y).transform(X)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """(D,) names of the columns."""
        return np.array([f"echoic{i}" for i in range(self._opened().embed_dim)], dtype=object)

    def _opened(self) -> EchoicModel:
        return self.model_ if self.__sklearn_is_fitted__() else self.fit().model_

    # -- what scikit-learn asks of any estimator ------------------------------------------------

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {name: getattr(self, name) for name in signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:
        """The model is opened anew. Raises ValueError on an unknown one, as scikit-learn does."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ValueError(f"Invalid parameter {name!r}; there are {', '.join(known)}")
            setattr(self, name, value)
        if params:
            self.__dict__.pop("model_", None)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type="transformer",
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(preserves_dtype=[]),
            input_tags=InputTags(two_d_array=False, string=True),
            requires_fit=False,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without what `fit` opened, which is opened again."""
        return {name: value for name, value in self.__dict__.items() if name != "model_"}

    def __repr__(self) -> str:
        return f"EchoicEmbedder({self.model!r}, what={self.what!r})"
