"""Frozen teachers, whose features a student of masked modelling also predicts: another M2D (M2D-X,
2404.06095) or HuBERT (M2D-S, 2305.14079).

A teacher hears the student's samples as they are, so both must hear at one rate; nothing is
resampled within a step. Of each clip it hears the stretch that the student's columns lie on, no
more: whole columns of the student's first window. Its features are averaged to these columns. Where
both have columns of one length that changes nothing; where a student's column is not whole columns
of the teacher's, nor the other way round, they meet to within one of the teacher's. Only a clip
shorter than a single column leaves it part filling, and of that one the teacher hears what there
is.

B clips, T samples, N frames, C columns of all clips, E width of the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echoic.convert.native import read_tensors
from echoic.convert.open import open_model
from echoic.convert.torch_file import read_state_dict
from echoic.encoders.published import published_file, published_json, without_bar
from echoic.hub import find_model
from echoic.objectives.masked_duo import at_columns
from echoic.towers import M2dTower
from echoic.types import Batch, CheckpointError, ConfigError, Ragged, first_line

_HUBERT = "hubert:"
_LAYER = 9
_AT_ONCE_S = 120.0  # HuBERT's convolutions take 7 MB a second


class Teacher(Protocol):
    """width: E. It is no module: neither trained nor saved with the student, and goes to the device
    of what it hears."""

    @property
    def width(self) -> int: ...

    def __call__(self, batch: Batch, columns: Sequence[int]) -> Tensor:
        """How many columns of each clip the student sees -> (C, E) float32."""
        ...


def open_teacher(name: str, student: M2dTower) -> Teacher:
    """By name: "hubert:NAME" or "hubert:NAME@LAYER", NAME being a folder or a name on the Hub;
    else an M2D, in any form and under any name that `echoic.load` takes.

    Raises ConfigError, CheckpointError.
    """
    if not name.startswith(_HUBERT):
        return M2dTeacher(name, student)
    rest = name.removeprefix(_HUBERT)
    where, at, layer = rest.rpartition("@")
    if not at:
        where, layer = rest, str(_LAYER)
    if not where or not layer.isdecimal():
        raise ConfigError(f"teacher {name}: wanted {_HUBERT}NAME@LAYER, such as {_HUBERT}NAME@9")
    return HubertTeacher(where, student, int(layer))


class M2dTeacher:
    """The stacked columns of an M2D, as `echoic.load` gives them of the same stretch.

    name: a file, a folder, a known name or one on the Hub. student: only looked at.
    Raises ConfigError where it is no M2D or hears at another rate; CheckpointError.
    """

    def __init__(self, name: str, student: M2dTower) -> None:
        tower = open_model(find_model(name)).model.audio
        if not isinstance(tower, M2dTower):
            raise ConfigError(f"teacher {name}: not an M2D, whose stacked columns are the targets")
        _check_rate(name, tower.rate_hz, student)
        self._column_samples = _column_samples(student)
        self.width = tower.encoder.rows * tower.encoder.width
        self._tower = tower
        _freeze(tower)

    def __call__(self, batch: Batch, columns: Sequence[int]) -> Tensor:
        tower = self._tower
        _move(tower, batch.audio.values.device)
        hop = tower.front_end.spec.hop_samples
        spans = [-(-count * self._column_samples // hop) for count in columns]
        frames = tower.front_end(batch.audio)  # of whole clips: the last ones too are the student's
        stretch = Ragged.from_rows([x[:n] for x, n in zip(frames, spans, strict=True)])
        heard = tower.encoder.hear(stretch).stacked()
        return at_columns(Ragged(heard.tokens.float(), heard.offsets), columns)


class HubertTeacher:
    """What a HuBERT of `transformers` has after one of its layers, the first being 1.

    name: a folder or a name on the Hub. student: only looked at. The samples are brought to zero
    mean and unit variance, over the stretch that is heard, where its preprocessor does so. Clips
    are never padded to a common length, which would change what HuBERT makes of them; only what the
    last frame lacks of samples, some milliseconds, is 0.

    Raises ConfigError where it has no such layer, hears at another rate, or transformers is not
    installed; CheckpointError.
    """

    def __init__(self, name: str, student: M2dTower, layer: int = _LAYER) -> None:
        model = _hubert(name)
        config = model.config
        if not 1 <= layer <= config.num_hidden_layers:
            raise ConfigError(
                f"teacher {name}: has no layer {layer}, but 1 to {config.num_hidden_layers}"
            )
        hears = published_json(name, "preprocessor_config.json")
        _check_rate(name, hears.get("sampling_rate", 16_000), student)
        self._normalise = bool(hears.get("do_normalize", True))
        self._at_once_samples = round(_AT_ONCE_S * student.rate_hz)
        self._column_samples = _column_samples(student)
        self.width: int = config.hidden_size
        self._reach, self._stride = _geometry(config.conv_kernel, config.conv_stride)
        _cut_after(model, layer)
        _freeze(model)
        self._model = model

    def __call__(self, batch: Batch, columns: Sequence[int]) -> Tensor:
        _move(self._model, batch.audio.values.device)
        waves = [self._heard(x, count) for x, count in zip(batch.audio, columns, strict=True)]
        features: dict[int, Tensor] = {}
        for rows in self._alike([len(wave) for wave in waves]):
            made = self._model(torch.stack([waves[i] for i in rows])).last_hidden_state
            features.update(zip(rows, made.float(), strict=True))
        return at_columns(Ragged.from_rows([features[i] for i in range(len(waves))]), columns)

    def _heard(self, clip: Tensor, columns: int) -> Tensor:
        """Samples (T,) of a clip -> those of that many columns (T',), of which come whole
        frames."""
        span = min(columns * self._column_samples, len(clip))
        frames = max(1, -(-span // self._stride))
        needed = (frames - 1) * self._stride + self._reach
        wave = clip[:needed].float()
        if self._normalise:
            variance, mean = torch.var_mean(wave, correction=0)
            wave = (wave - mean) / (variance + 1e-7).sqrt()
        return F.pad(wave, (0, needed - len(wave)))

    def _alike(self, lengths: Sequence[int]) -> list[list[int]]:
        """Rows of equal length, so many at once as memory allows."""
        groups: dict[int, list[int]] = {}
        for row, length in enumerate(lengths):
            groups.setdefault(length, []).append(row)
        parts = []
        for length, rows in groups.items():
            most = max(1, self._at_once_samples // length)
            parts += [rows[at : at + most] for at in range(0, len(rows), most)]
        return parts


# -- HuBERT as transformers has it ---------------------------------------------------------------


def _hubert(name: str) -> Any:
    """In float32. Raises ConfigError, CheckpointError."""
    try:
        import transformers
    except ImportError:
        raise ConfigError(f'teacher {name}: needs transformers: pip install "echoic[hf]"') from None
    told = published_json(name, "config.json")
    if (kind := told.get("model_type")) != "hubert":
        raise CheckpointError(f"teacher {name}: a model of kind {kind}, not a HuBERT")
    file = published_file(name, "model.safetensors", "pytorch_model.bin")
    tensors = read_state_dict(file) if file.suffix == ".bin" else read_tensors(file)[1]
    hubert: Any = transformers.HubertModel
    try:
        config = transformers.HubertConfig.from_dict(told)
        with without_bar(), torch.random.fork_rng(devices=[]):  # what they lack is drawn, refused
            model, found = hubert.from_pretrained(
                None, config=config, state_dict=tensors, output_loading_info=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"teacher {name}: cannot be loaded ({first_line(error)})") from None
    # the embedding of what is masked in its own training is not asked for
    if lacking := sorted(set(found["missing_keys"]) - {"masked_spec_embed"}):
        raise CheckpointError(f"teacher {name}: its weights lack {', '.join(lacking[:5])}")
    return model.float()


def _geometry(kernels: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """How many samples a frame is made of, and how many lie between frames."""
    reach, stride = 1, 1
    for kernel, step in zip(kernels, strides, strict=True):
        reach += (kernel - 1) * stride
        stride *= step
    return reach, stride


def _cut_after(model: Any, layer: int) -> None:
    """What comes after that layer would be computed for nothing."""
    encoder = model.encoder
    if layer < len(encoder.layers):
        encoder.layers = encoder.layers[:layer]
        if model.config.do_stable_layer_norm:  # its norm follows the last layer; others' is before
            encoder.layer_norm = nn.Identity()


# -- shared --------------------------------------------------------------------------------------


def _column_samples(student: M2dTower) -> int:
    return student.front_end.spec.hop_samples * student.spec.patch_frames


def _check_rate(name: str, rate_hz: int, student: M2dTower) -> None:
    if rate_hz != student.rate_hz:
        raise ConfigError(
            f"teacher {name}: hears at {rate_hz} Hz and the student at {student.rate_hz} Hz; it is "
            "handed the student's samples, so both must hear at one rate"
        )


def _freeze(network: nn.Module) -> None:
    network.eval().requires_grad_(False)


def _move(network: nn.Module, device: torch.device) -> None:
    if next(network.parameters()).device != device:
        network.to(device)
