"""LAION-CLAP in the form of `transformers`: the same vectors as ClapModel's, and round trips that
change no bit."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from echoic.convert.huggingface import load_huggingface, save_huggingface, to_huggingface
from echoic.convert.native import ModelFile, load_model, save_model
from echoic.convert.open import open_model
from echoic.encoders.htsat import HtsatSpec
from echoic.encoders.pann import PannSpec
from echoic.types import CheckpointError, ConfigError, Ragged
from tests import tiny
from tests.convert.published import (
    TINY,
    clap_model,
    huggingface_folder,
    laion_file,
    laion_state,
    model,
)

transformers = pytest.importorskip("transformers")
FUSED = pytest.mark.parametrize("fused", [False, True], ids=["unfused", "fused"])
RATE = 48_000


@pytest.fixture(autouse=True)
def quiet_bars():
    """No progress bars; transformers' own way."""
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[bool, tuple[Path, object]]:
    """(folder, ClapModel) without and with fusion; tests only read them."""
    found = {}
    for fused in (False, True):
        made = clap_model(fused=fused)
        folder = tmp_path_factory.mktemp("hf") / str(fused)
        found[fused] = (huggingface_folder(folder, made, fused=fused), made)
    return found


def sounds(rng: np.random.Generator, seconds: tuple[float, ...]) -> list[np.ndarray]:
    """Noise whose loudness goes up and down, each its own way."""
    made = []
    for i, each in enumerate(seconds):
        time_s = np.arange(round(each * RATE)) / RATE
        swing = 1.1 + np.sin(2 * np.pi * (0.3 + 0.4 * i) * time_s)
        tone = np.sin(2 * np.pi * 200 * (i + 1) * time_s)
        made.append((0.1 * swing * (tone + 0.3 * rng.standard_normal(len(time_s)))).astype("f4"))
    return made


@torch.no_grad()
def theirs(clap, folder: Path, waves: list[np.ndarray]) -> tuple[Tensor, Tensor, Tensor]:
    """ClapModel's vectors, and its feature extractor's output; a row is longer where its clip
    is."""
    extractor = transformers.ClapFeatureExtractor.from_pretrained(folder)
    features = extractor(waves, sampling_rate=RATE, return_tensors="pt")
    longer = torch.tensor([len(wave) >= 480_480 for wave in waves])
    inputs = features["input_features"].float()
    heard = clap.get_audio_features(input_features=inputs, is_longer=longer[:, None])
    return heard.pooler_output, inputs, longer


def vectors(towered, waves: list[np.ndarray]) -> Tensor:
    with torch.no_grad():
        heard = towered.audio(Ragged.from_rows([torch.from_numpy(wave) for wave in waves]))
    return F.normalize(heard.clip, dim=-1)


def with_changes(folder: Path, to: Path, **changes) -> Path:
    """A copy of a folder with another config.json (`top`), parts of it (`audio`, `text`), or
    preprocessor (`sound`); a value of None removes the key."""
    to.mkdir(exist_ok=True)
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    config = json.loads((to / "config.json").read_text())
    sound = json.loads((to / "preprocessor_config.json").read_text())
    trees = {"top": config, "audio": config["audio_config"], "text": config["text_config"]}
    for part, change in changes.items():
        tree = sound if part == "sound" else trees[part]
        tree.update(change)
        for key in [key for key, value in change.items() if value is None]:
            del tree[key]
    (to / "config.json").write_text(json.dumps(config))
    (to / "preprocessor_config.json").write_text(json.dumps(sound))
    return to


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_model(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- the same vectors ----------------------------------------------------------------------------


@FUSED
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"width": 24, "depths": [2, 2, 4, 2], "heads": [3, 6, 12, 24]},
        {"depths": [1, 2], "heads": [2, 4]},
    ],
    ids=["small", "wider", "two-stages"],
)
def test_the_vectors_are_clap_models(tmp_path, rng, fused, sizes):
    clap = clap_model(fused=fused, **sizes)
    folder = huggingface_folder(tmp_path / "hf", clap, fused=fused)
    read = open_model(folder).model
    seconds = (0.02, 1.3, 4.0, 10.0) + ((10.005, 13.1, 31.0) if fused else ())
    wanted, inputs, longer = theirs(clap, folder, sounds(rng, seconds))
    assert (wanted @ wanted.T - torch.eye(len(wanted))).max() < 0.9999  # clips differ
    local = inputs[longer][:, 1:]
    with torch.no_grad():
        heard = read.audio.encoder(
            inputs[:, 0], local if longer.any() else None, longer if longer.any() else None
        )
        found = F.normalize(read.audio.projection(heard.clip), dim=-1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@FUSED
def test_so_they_are_from_samples(folders, rng, fused):
    folder, clap = folders[fused]
    waves = sounds(rng, (0.5, 3.3, 10.0))
    wanted, _, _ = theirs(clap, folder, waves)
    torch.testing.assert_close(vectors(open_model(folder).model, waves), wanted, atol=1e-5, rtol=0)


@FUSED
def test_the_text_vectors_are_clap_models(folders, generator, fused):
    folder, clap = folders[fused]
    ids = torch.randint(3, 120, (4, 20), generator=generator)
    mask = torch.arange(20) < torch.tensor([20, 7, 3, 12])[:, None]
    ids[~mask] = 1
    with torch.no_grad():
        wanted = clap.get_text_features(input_ids=ids, attention_mask=mask.long()).pooler_output
        rows = [row[kept] for row, kept in zip(ids, mask, strict=True)]
        found = F.normalize(open_model(folder).model.text(Ragged.from_rows(rows)).clip, dim=-1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


# -- round trips ---------------------------------------------------------------------------------


@FUSED
def test_there_and_back_changes_no_bit(tmp_path, folders, fused):
    folder, clap = folders[fused]
    read = load_huggingface(folder)
    assert save_huggingface(read, tmp_path / "again") == (
        "the tokenizer: this model brought none, so ClapProcessor will not load",
    )
    before = load_file(folder / "model.safetensors")
    after = load_file(tmp_path / "again" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
        assert tensor.dtype == after[name].dtype, name
    loaded, told = transformers.ClapModel.from_pretrained(
        tmp_path / "again", output_loading_info=True
    )
    assert not any(told.values()), told
    strange = ("_name_or_path", "dtype", "architectures", "transformers_version")
    configs = [each.config.to_dict() for each in (clap, loaded)]
    for tree in configs:
        for part in (tree, tree["audio_config"], tree["text_config"]):
            for key in strange:
                part.pop(key, None)
    assert configs[0] == configs[1]


@FUSED
def test_by_way_of_our_own_file_too(tmp_path, folders, rng, fused):
    folder, _ = folders[fused]
    read = open_model(folder)
    save_model(tmp_path / "m.safetensors", read)
    again = load_model(tmp_path / "m.safetensors")
    assert again.card == read.card
    waves = sounds(rng, (1.0, 12.0) if fused else (1.0,))
    assert torch.equal(vectors(again.model, waves), vectors(read.model, waves))
    save_huggingface(again, tmp_path / "out")
    before = load_file(folder / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@FUSED
def test_from_laions_file_by_the_golden_key_map(tmp_path, shared, fused):
    described = json.loads((shared / "golden" / "clap_key_map.json").read_text())
    names = described["map"] | (described["map_fusion_extra"] if fused else {})
    audio = HtsatSpec(
        width=16, depths=(2, 2, 6, 2), heads=(1, 2, 4, 8), classes=527,
        fusion="aff_2d" if fused else None,
    )  # fmt: skip
    state = laion_state(model(audio))
    read = open_model(laion_file(tmp_path / "a.pt", state))
    left = save_huggingface(read, tmp_path / "hf", without_int16=True)
    assert [line.partition(" ")[0] for line in left] == ["the", "samples", "the"]
    found = load_file(tmp_path / "hf" / "model.safetensors")
    seen = set()
    for upstream, port in names.items():
        if port is None or "relative_position_index" in upstream or upstream not in state:
            continue
        parts = port if isinstance(port, list) else [port]
        whole = torch.cat([found[name] for name in parts]) if len(parts) > 1 else found[port]
        assert torch.equal(whole, state[upstream]), upstream
        seen.update(parts)
    counted = {name for name in found if name.endswith(("_ids", "_index"))}
    assert found.keys() == seen | counted
    clap, told = transformers.ClapModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(told.values()), told
    assert clap.config.text_config.layer_norm_eps == 1e-5


def test_the_processor_loads_and_cuts_words_as_ours_does(tmp_path, folders):
    folder, _ = folders[False]
    read = open_model(folder)
    made = ModelFile(read.model, tiny.tokenizer(), read.card)
    # tiny's ids: 0 pads, 1 begins, 2 ends
    text = read.model.spec.text.model_copy(update={"pad_id": 0})
    made.model.spec = made.model.spec.model_copy(update={"text": text})
    assert save_huggingface(made, tmp_path / "hf") == ()
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "hf")
    assert type(processor).__name__ == "ClapProcessor"
    texts = ["a dog barks", "rain falls on a roof", ""]
    given = processor(text=texts, padding=True, return_tensors="pt")
    rows = tiny.tokenizer()(texts)
    for ids, mask, row in zip(given["input_ids"], given["attention_mask"], rows, strict=True):
        assert ids[mask.bool()].tolist() == row
    assert processor.tokenizer.pad_token_id == 0
    assert processor.tokenizer.model_max_length == 32
    assert processor.feature_extractor.frequency_min == 50
    config = json.loads((tmp_path / "hf" / "config.json").read_text())["text_config"]
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)
    again = open_model(tmp_path / "hf")
    assert again.tokenizer is not None
    assert again.tokenizer(texts) == rows
    assert again.model.spec.text.max_tokens == 32


def test_without_a_word_of_the_scale_both_are_the_same():
    made = model(HtsatSpec(width=16, depths=(2, 2), heads=(1, 2), int16=False))
    named = to_huggingface(made)
    assert torch.equal(named["logit_scale_a"], named["logit_scale_t"])
    assert named["logit_scale_a"].shape == ()


# -- what it reads -------------------------------------------------------------------------------


def test_a_pickled_folder_is_read_too(tmp_path, folders):
    folder, clap = folders[False]
    to = with_changes(folder, tmp_path / "p")
    (to / "model.safetensors").unlink()
    torch.save(clap.state_dict(), to / "pytorch_model.bin")
    one, other = open_model(to), open_model(folder)
    assert one.model.space_id() == other.model.space_id()
    assert one.card["source"]["file"] == "p/pytorch_model.bin"
    named = open_model(to / "pytorch_model.bin")  # with its folder around it: all of it
    assert named.model.space_id() == one.model.space_id()


def test_the_configuration_adds_what_tensors_cannot_say(tmp_path, folders):
    to = with_changes(
        folders[False][0],
        tmp_path / "p",
        text={"layer_norm_eps": 1e-5, "num_attention_heads": 8, "hidden_dropout_prob": 0.2},
        audio={"drop_path_rate": 0.3},
        sound={"frequency_min": None, "frequency_max": 8000, "padding": "pad", "max_length_s": 5},
    )
    spec = open_model(to).model.spec
    assert (spec.text.norm_eps, spec.text.heads, spec.text.dropout) == (1e-5, 8, 0.2)
    assert (spec.audio.drop_path, spec.audio.mlp_dropout) == (0.3, 0.1)
    assert (spec.front_end.fmin_hz, spec.front_end.fmax_hz) == (50, 8000)
    assert (spec.audio.fill, spec.max_s, spec.audio.int16) == ("pad", 5, False)


def test_the_feature_extractor_may_lie_in_the_processor(tmp_path, folders):
    to = with_changes(folders[True][0], tmp_path / "p", sound={"frequency_max": 9000})
    sound = json.loads((to / "preprocessor_config.json").read_text())
    (to / "processor_config.json").write_text(json.dumps({"feature_extractor": sound}))
    (to / "preprocessor_config.json").unlink()
    assert open_model(to).model.spec.front_end.fmax_hz == 9000
    (to / "processor_config.json").unlink()  # neither: the released values
    assert open_model(to).model.spec.front_end.fmax_hz == 14_000


@FUSED
def test_a_truncation_that_does_not_fit_is_noted(tmp_path, folders, fused):
    wrong = "rand_trunc" if fused else "fusion"
    read = open_model(with_changes(folders[fused][0], tmp_path / "p", sound={"truncation": wrong}))
    assert read.model.spec.front_end.mel_scale == ("htk" if fused else "slaney")
    (note,) = read.card["source"]["notes"]
    assert wrong in note


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"top": {"model_type": "clip"}}, "is of model_type 'clip', not clap"),
        ({"top": {"projection_hidden_act": "gelu"}}, "projection_hidden_act is 'gelu'; only"),
        ({"top": {"projection_dim": 32}}, "projection_dim is 32, but the tensors have 24"),
        ({"text": {"num_hidden_layers": 3}}, "num_hidden_layers is 3, but the tensors have 2"),
        ({"text": {"hidden_act": "relu"}}, "text_config.hidden_act is 'relu'; only 'gelu'"),
        ({"text": {"num_attention_heads": 5}}, "width 32 is not a multiple of 5 heads"),
        ({"text": {"layer_norm_eps": "small"}}, "norm_eps: input should be a valid number"),
        ({"text": {"pad_token_id": [1]}}, "pad_id: input should be a valid integer"),
        ({"audio": {"depths": [2, 2, 6, 2]}}, "audio_config.depths is [2, 2, 6, 2], but"),
        ({"audio": {"enable_fusion": True}}, "enable_fusion is True, but the tensors have False"),
        ({"audio": {"window_size": 7}}, "audio_config.window_size is 7; only 8"),
        ({"audio": {"layer_norm_eps": 1e-6}}, "audio_config.layer_norm_eps is 1e-06"),
        ({"sound": {"padding": "mirror"}}, "padding 'mirror' is none of repeatpad, repeat, pad"),
        ({"sound": {"max_length_s": "ten"}}, "max_length_s is 'ten', not a length"),
        ({"sound": {"hop_length": "long"}}, "hop_samples: input should be a valid integer"),
        ({"sound": {"sampling_rate": 10**400}}, "rate_hz: too large a number"),
    ],
)
def test_a_configuration_that_contradicts_is_refused(tmp_path, folders, changes, wanted):
    assert wanted in refusal(with_changes(folders[False][0], tmp_path / "p", **changes))


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"logit_scale_a": None}, "logit_scale_a is missing"),
        ({"extra": torch.ones(1)}, "extra is unknown"),
        ({"audio_model.audio_encoder.norm.weight": torch.ones(3)},
         "audio_model.audio_encoder.norm.weight is (3,), wanted (128,)"),
        ({"audio_model.audio_encoder.layers.0.blocks.0.attention.self.key.weight": None},
         "attention.self.key.weight is missing"),
        ({"audio_model.audio_encoder.layers.0.blocks.0.attention.self.key.bias": torch.ones(3)},
         "attention.self.key.bias is (3,), wanted (16,)"),
        ({"audio_model.audio_encoder.patch_embed.proj.weight": None}, "has neither HTSAT's"),
        ({"text_model.pooler.dense.weight": None}, "pooler.dense.weight is missing"),
        ({"audio_projection.linear1.bias": None}, "audio_projection.linear1.bias is missing"),
        ({"audio_projection.linear2.weight": None}, "audio_projection.linear2.weight is missing"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(tmp_path, folders, change, wanted):
    to = with_changes(folders[False][0], tmp_path / "p")
    state = load_file(to / "model.safetensors") | change
    save_file({n: t for n, t in state.items() if t is not None}, to / "model.safetensors")
    assert wanted in refusal(to)


def test_a_folder_that_is_not_whole_is_told(tmp_path, folders):
    to = with_changes(folders[False][0], tmp_path / "p")
    whole = (to / "model.safetensors").read_bytes()
    (to / "model.safetensors").write_bytes(whole[:-100])
    assert "not a whole safetensors file" in refusal(to)
    (to / "model.safetensors").unlink()
    assert "has neither model.safetensors nor pytorch_model.bin" in refusal(to)
    (to / "config.json").write_text("{")
    assert "config.json: cannot be read as JSON" in refusal(to)
    (to / "config.json").write_text("[]")
    assert "config.json: not a table of settings" in refusal(to)
    (to / "config.json").write_text('{"model_type": "clap", "text_config": 3}')
    assert "text_config is not a table" in refusal(to)


def test_its_weights_alone_are_known_for_what_they_are(tmp_path, folders):
    folder, _ = folders[False]
    inside = open_model(folder / "model.safetensors")  # with its folder around it: all of it
    other = with_changes(folder, tmp_path / "more") / "adapter.safetensors"
    save_file({"adapter.weight": torch.zeros(2)}, other)
    with pytest.raises(CheckpointError, match=r"adapter\.safetensors: .* not a model of echoic's"):
        open_model(other)
    assert inside.card["source"]["kind"] == "huggingface"
    (tmp_path / "m.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert "LAION-CLAP as transformers has it, without its config.json" in refusal(
        tmp_path / "m.safetensors"
    )


# -- what it does not write ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        ((PannSpec(layers=6), "roberta"), "an audio encoder of kind pann; only HTSAT"),
        ((TINY, "bert"), "a text encoder of kind bert; only RoBERTa"),
        ((TINY, "clip"), "a text encoder of kind clip; only RoBERTa"),
        ((TINY.model_copy(update={"fusion": "iaff_2d"}), "roberta"), "feature fusion iaff_2d"),
        ((TINY.model_copy(update={"fusion": "aff_1d"}), "roberta"), "feature fusion aff_1d"),
        ((TINY.model_copy(update={"norm_eps": 1e-6}), "roberta"), "an epsilon of 1e-06"),
        ((TINY.model_copy(update={"window_samples": 470_000}), "roberta"), "only whole seconds"),
    ],
)
def test_what_clap_model_has_no_place_for_is_refused(tmp_path, made, wanted):
    with pytest.raises(ConfigError, match="ClapModel has no place for") as caught:
        save_huggingface(ModelFile(model(*made)), tmp_path / "out")
    assert wanted in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_other_models_of_ours_are_refused_too(tmp_path):
    with pytest.raises(ConfigError, match="kind slap"):
        save_huggingface(tiny.content(), tmp_path / "out")
    odd = model(TINY.model_copy(update={"int16": False}), mel_scale="htk")
    with pytest.raises(ConfigError, match="this front end"):
        save_huggingface(ModelFile(odd), tmp_path / "out")


def test_rounded_samples_are_left_behind_only_knowingly(tmp_path):
    made = ModelFile(model())
    with pytest.raises(ConfigError, match="rounds samples to 16 bits") as caught:
        save_huggingface(made, tmp_path / "out")
    assert "without_int16" in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert len(save_huggingface(made, tmp_path / "out", without_int16=True)) == 3


def test_a_place_that_cannot_be_written_is_named(tmp_path, folders):
    (tmp_path / "file").write_text("here")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_huggingface(open_model(folders[False][0]), tmp_path / "file")
