"""`CLAP_Module` has upstream's names, arguments and results; nothing in it is left to chance."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor

from echoic.audio.views import (
    centred_starts,
    fill_window,
    fusion_views,
    int16_round_trip,
    laion_starts,
)
from echoic.compat import laion_clap
from echoic.compat.laion_clap import CLAP_Module
from echoic.types import AudioError, CheckpointError, ConfigError, DataError, Ragged
from tests import clap
from tests.clap import RATE, WINDOW, sound
from tests.on_disk import save_tiny_model

FUSION = pytest.mark.parametrize("fusion", [False, True], ids=["unfused", "fused"])
LENGTHS_S = (0.3, 4.0, 10.0, 10.005, 12.3, 31.0)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Upstream's sizes are small ones here: tiny is 16 wide, base 32."""

    def spec(size: str, text: str = "roberta", *, fusion: bool = False):
        made = clap.spec(fusion=fusion, width={"base": 32}.get(size, 16))
        described = made.text.model_copy(update={"kind": text})
        return made.model_copy(update={"text": described})

    monkeypatch.setattr(laion_clap, "released_model", spec)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[bool, Path]:
    """A .pt without fusion, and one with it, in folders without a tokenizer."""
    folder = tmp_path_factory.mktemp("pt")
    return {
        fusion: clap.pt_file(folder / f"{fusion}.pt", fusion=fusion) for fusion in (False, True)
    }


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    path.write_text(clap.tokenizer_json())
    return path


@pytest.fixture
def loaded(files, words):
    """(fusion, **options) -> a CLAP_Module with its weights."""

    def make(fusion: bool = False, **options: Any) -> CLAP_Module:
        made = CLAP_Module(enable_fusion=fusion, device="cpu", tokenizer=words, **options)
        made.load_ckpt(files[fusion], verbose=False)
        return made

    return make


@pytest.fixture(scope="module")
def waves() -> list[np.ndarray]:
    """One of each length, two of them louder than full scale or quieter than 16 bits tell."""
    made = [sound(seconds, seed) for seed, seconds in enumerate(LENGTHS_S)]
    made[1] *= 4
    made[2] *= 1e-4
    return made


@torch.no_grad()
def plain(
    module: CLAP_Module, wave: np.ndarray, *, int16: bool, draw: np.random.Generator | None = None
) -> Tensor:
    """(D,) by sections 1.3 to 1.5 of the specification, one step after the other."""
    tower: Any = module.model.audio
    samples = torch.from_numpy(wave)
    if int16:
        samples = int16_round_trip(samples)
    if len(samples) > WINDOW and not module.enable_fusion:
        room = len(samples) - WINDOW
        start = room // 2 if draw is None else int(draw.integers(room + 1))
        samples = samples[start : start + WINDOW]
    if len(samples) < WINDOW:
        samples = fill_window(samples, WINDOW, "repeatpad")
    frames = tower.front_end(Ragged.from_rows([samples])).values
    local = longer = None
    if len(frames) > 1001:
        total = len(frames)
        starts = centred_starts(total, 1001) if draw is None else laion_starts(total, 1001, draw)
        frames, views = fusion_views(frames, 1001, starts)
        local, longer = views[None], torch.tensor([True])
    heard = tower.encoder(frames[None], local, longer)
    return F.normalize(tower.projection(heard.clip), dim=-1)[0]


def close(found: Any, wanted: Tensor | list[Tensor], within: float = 1e-5) -> None:
    rows = torch.stack(wanted) if isinstance(wanted, list) else wanted
    torch.testing.assert_close(torch.as_tensor(found), rows, rtol=0, atol=within)


# -- names and arguments -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("__init__", ["enable_fusion", "device", "amodel", "tmodel"]),
        ("load_ckpt", ["ckpt", "model_id", "verbose"]),
        ("get_audio_embedding_from_filelist", ["x", "use_tensor"]),
        ("get_audio_embedding_from_data", ["x", "use_tensor"]),
        ("get_text_embedding", ["x", "tokenizer", "use_tensor"]),
        ("tokenizer", ["text"]),
    ],
)
def test_arguments_are_upstreams(method, arguments):
    found = list(inspect.signature(getattr(CLAP_Module, method)).parameters.values())[1:]
    taken = [each.name for each in found if each.kind is each.POSITIONAL_OR_KEYWORD]
    assert taken == arguments


def test_defaults_are_upstreams():
    made = CLAP_Module()
    assert isinstance(made, torch.nn.Module)
    assert (made.enable_fusion, made.amodel, made.tmodel) == (False, "HTSAT-tiny", "roberta")
    assert not made.model.training
    assert made.device == next(made.parameters()).device


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"amodel": "HTSAT-huge"}, "amodel 'HTSAT-huge': there are HTSAT-tiny, HTSAT-base, "),
        ({"tmodel": "t5"}, "tmodel 't5': there are roberta, bert, bart, transformer"),
    ],
)
def test_what_there_is_not_is_one_line(options, line):
    with pytest.raises(ConfigError, match=line):
        CLAP_Module(**options)


# -- load_ckpt -----------------------------------------------------------------------------------


@FUSION
def test_a_checkpoint_of_upstreams_training_is_loaded(files, fusion, capsys):
    made = CLAP_Module(enable_fusion=fusion)
    made.load_ckpt(str(files[fusion]))
    wanted = clap.model(fusion=fusion).state_dict()
    found = made.model.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in wanted.items())
    out = capsys.readouterr().out
    assert out.startswith(f"{files[fusion]}: HTSAT of width 16")
    assert f"all {len(wanted)} tensors loaded" in out
    made.load_ckpt(files[fusion], verbose=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "asked", "file"),
    [
        ({}, {}, "630k-audioset-best.pt"),
        ({"enable_fusion": True}, {}, "630k-audioset-fusion-best.pt"),
        ({}, {"model_id": 0}, "630k-best.pt"),
        ({"enable_fusion": True}, {"model_id": 2}, "630k-fusion-best.pt"),
    ],
)
def test_upstreams_numbers(files, monkeypatch, capsys, options, asked, file):
    named = []

    def find(name):
        named.append(name)
        return files[options.get("enable_fusion", False)]

    monkeypatch.setattr(laion_clap, "find_model", find)
    CLAP_Module(**options).load_ckpt(**asked)
    assert named == [f"lukewys/laion_clap/{file}"]


def refusal(module: CLAP_Module, *arguments: Any, **named: Any) -> str:
    before = module.model
    with pytest.raises(CheckpointError) as caught:
        module.load_ckpt(*arguments, **named)
    assert module.model is before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_number_that_there_is_not():
    assert refusal(CLAP_Module(), model_id=4) == "model_id 4: there are 0 to 3"


def test_another_size_fusion_or_text_is_named(files, tmp_path):
    other = "give it another amodel, tmodel or enable_fusion"
    line = refusal(CLAP_Module(amodel="HTSAT-base"), files[False])
    assert line == (
        f"{files[False]}: holds HTSAT of width 16, depths 2-2, no fusion, text roberta; this "
        f"CLAP_Module was made for HTSAT of width 32, depths 2-2, no fusion, text roberta: {other}"
    )
    assert "fusion aff_2d" in refusal(CLAP_Module(), files[True])
    assert "text bert" in refusal(CLAP_Module(tmodel="bert"), files[False])
    ours = save_tiny_model(tmp_path / "model.safetensors")
    assert "holds an audio encoder of kind slap" in refusal(CLAP_Module(), ours)
    assert "no such file or folder" in refusal(CLAP_Module(), "nowhere.pt")


# -- audio ---------------------------------------------------------------------------------------


@FUSION
def test_data_are_heard_as_the_specification_says(loaded, waves, fusion):
    module = loaded(fusion)
    found = module.get_audio_embedding_from_data(waves)
    assert (type(found), found.dtype, found.shape) == (np.ndarray, np.float32, (len(waves), 24))
    close(found, [plain(module, wave, int16=True) for wave in waves])
    equal_lengths = np.stack([wave[:14_400] for wave in waves])
    close(
        module.get_audio_embedding_from_data(x=equal_lengths),
        [plain(module, wave, int16=True) for wave in equal_lengths],
    )


@FUSION
def test_tensors_are_not_rounded(loaded, waves, fusion):
    module = loaded(fusion)
    given = [torch.from_numpy(wave) for wave in waves]
    found = module.get_audio_embedding_from_data(given, use_tensor=True)
    assert isinstance(found, Tensor)
    assert found.requires_grad
    wanted = torch.stack([plain(module, wave, int16=False) for wave in waves])
    close(found.detach(), wanted)
    rounded = torch.from_numpy(module.get_audio_embedding_from_data(given))
    assert (rounded - wanted)[2].abs().max() > 1e-3  # the quiet one


@FUSION
def test_files_are_rounded_in_either_form(loaded, waves, fusion, tmp_path):
    module = loaded(fusion)
    paths = [tmp_path / f"{i}.wav" for i in range(len(waves))]
    for path, wave in zip(paths, waves, strict=True):
        soundfile.write(path, wave, RATE, subtype="FLOAT")
    wanted = [plain(module, wave, int16=True) for wave in waves]
    found = module.get_audio_embedding_from_filelist(x=[str(path) for path in paths])
    assert (type(found), found.dtype) == (np.ndarray, np.float32)
    close(found, wanted)
    kept = module.get_audio_embedding_from_filelist(paths, use_tensor=True)
    assert kept.requires_grad
    close(kept.detach(), wanted)
    with torch.no_grad():
        given = module.get_audio_embedding_from_filelist(paths, use_tensor=True)
    assert isinstance(given, Tensor)
    assert torch.equal(given, torch.from_numpy(found))


@FUSION
def test_gradients_reach_samples_and_weights(loaded, fusion):
    module = loaded(fusion)
    long, short = (torch.from_numpy(sound(s)).requires_grad_() for s in (12.3, 1.0))
    found = module.get_audio_embedding_from_data([long, short], use_tensor=True)
    found[:, 0].sum().backward()
    for wave in (long, short):
        assert wave.grad.isfinite().all()
        assert (wave.grad[RATE // 2 :: 4800] != 0).any()
    weight = module.model.audio.encoder.patch_embed.proj.weight
    assert weight.grad.abs().sum() > 0
    slope, direction = float(short.grad @ short.detach()), short.detach()
    step = 1e-2
    with torch.no_grad():
        up, down = (
            module.get_audio_embedding_from_data([direction * (1 + s)], use_tensor=True)[0, 0]
            for s in (step, -step)
        )
    assert slope == pytest.approx(float(up - down) / (2 * step), rel=0.05, abs=1e-4)


def test_a_text_can_be_trained_on(loaded):
    module = loaded()
    module.get_text_embedding(["rain", "dog bark"], use_tensor=True)[0, 0].backward()
    assert module.model.text.encoder.embedding.token.weight.grad.abs().sum() > 0


@FUSION
def test_the_same_file_gives_the_same_vector_unless_a_generator_is_passed(loaded, waves, fusion):
    long = waves[-1]
    calls = [loaded(fusion).get_audio_embedding_from_data([long]) for _ in range(2)]
    assert np.array_equal(*calls)
    for use_tensor in (False, True):
        module = loaded(fusion, generator=np.random.default_rng(3))
        given = [torch.from_numpy(long)] if use_tensor else [long]
        with torch.no_grad():
            found = [module.get_audio_embedding_from_data(given, use_tensor) for _ in range(2)]
        draw = np.random.default_rng(3)
        wanted = [plain(module, long, int16=not use_tensor, draw=draw) for _ in range(2)]
        close(torch.cat([torch.as_tensor(row) for row in found]), wanted)
        assert (wanted[0] - wanted[1]).abs().max() > 1e-4


def test_the_mode_of_the_module_changes_nothing(loaded, waves, tmp_path):
    module = loaded()
    soundfile.write(tmp_path / "a.wav", waves[0], RATE)
    calls = {
        "get_audio_embedding_from_data": [torch.from_numpy(waves[0])],
        "get_audio_embedding_from_filelist": [tmp_path / "a.wav"],
        "get_text_embedding": ["rain"],
    }
    for name, given in calls.items():
        for use_tensor in (False, True):
            call = getattr(module, name)
            wanted = call(given, use_tensor=use_tensor)
            module.train()
            assert (call(given, use_tensor=use_tensor) == wanted).all(), name


@pytest.mark.parametrize("use_tensor", [False, True])
def test_what_cannot_be_heard_is_named(loaded, use_tensor):
    wrong = torch.zeros(0) if use_tensor else np.zeros(0, np.float32)
    good = torch.ones(100)
    with pytest.raises(AudioError, match=r"^item 1: "):
        loaded().get_audio_embedding_from_data([good, wrong], use_tensor)
    with pytest.raises(AudioError, match=r"^item 0: "):  # one wave instead of a list
        loaded().get_audio_embedding_from_data(good, use_tensor)
    with pytest.raises(AudioError, match=r"nowhere\.wav: no such file"):
        loaded().get_audio_embedding_from_filelist(["nowhere.wav"], use_tensor)


def test_tensors_must_be_tensors(loaded, waves):
    with pytest.raises(AudioError, match=r"item 0: use_tensor wants tensors .*a ndarray"):
        loaded().get_audio_embedding_from_data(waves[:1], use_tensor=True)


def test_nothing_gives_no_rows(loaded):
    module = loaded()
    assert module.get_audio_embedding_from_data([]).shape == (0, 24)
    assert module.get_audio_embedding_from_data([], use_tensor=True).shape == (0, 24)
    assert module.get_text_embedding([]).shape == (0, 24)


# -- text ----------------------------------------------------------------------------------------

TEXTS = ["This is a sound of rain.", "dog", "rain " * 100]


def test_texts_are_cut_and_padded_to_77(loaded):
    given = loaded().tokenizer(TEXTS)
    assert given.keys() == {"input_ids", "attention_mask"}
    ids, mask = given["input_ids"], given["attention_mask"]
    assert ids.shape == mask.shape == (3, 77)
    assert ids.dtype == mask.dtype == torch.int64
    assert ids[1].tolist() == [0, 11, 2] + [1] * 74
    assert mask.sum(1).tolist() == [9, 3, 77]
    assert ids[2, -1] == 2  # the end of the text is kept
    assert loaded().tokenizer("dog")["input_ids"].shape == (77,)  # one text: upstream's form
    assert loaded().tokenizer(["dog"])["input_ids"].shape == (77,)


@pytest.mark.parametrize("use_tensor", [False, True])
def test_text_vectors(loaded, use_tensor):
    module = loaded()
    found = module.get_text_embedding(TEXTS, use_tensor=use_tensor)
    assert isinstance(found, Tensor if use_tensor else np.ndarray)
    with torch.no_grad():
        rows = [torch.tensor(ids) for ids in clap.tokenizer()(TEXTS)]
        wanted = F.normalize(module.model.text(Ragged.from_rows(rows)).clip, dim=-1)
    close(found.detach() if use_tensor else found, wanted)
    for one in ("dog", ["dog"]):
        close(torch.as_tensor(module.get_text_embedding(one)), wanted[1:2])


@pytest.mark.parametrize("shape", [(1, 5), (5,)])
def test_a_tokenizer_of_ones_own(loaded, shape):
    module = loaded()

    def tokenize(texts):
        assert texts == ["bark"]
        ids, mask = torch.tensor([0, 12, 2, 1, 1]), torch.tensor([1, 1, 1, 0, 0])
        return {"input_ids": ids.view(shape), "attention_mask": mask.view(shape)}

    found = module.get_text_embedding(["bark"], tokenizer=tokenize)
    close(found, torch.from_numpy(module.get_text_embedding("bark")))

    def empty(texts):
        return {name: torch.zeros(1, 4).long() for name in ("input_ids", "attention_mask")}

    with pytest.raises(DataError, match="a text without a token"):
        module.get_text_embedding(["bark"], tokenizer=empty)


def test_where_the_tokenizer_comes_from(files, words, monkeypatch):
    """The one named, else the published one, fetched when the first text comes."""
    asked = []

    def published(name, *, max_tokens):
        asked.append((name, max_tokens))
        return clap.tokenizer()

    monkeypatch.setattr("echoic.compat.laion_clap.TextTokenizer.published", published)
    module = CLAP_Module()
    module.load_ckpt(files[False], verbose=False)
    assert asked == []
    module.get_text_embedding("dog")
    module.get_text_embedding("dog")
    assert asked == [("FacebookAI/roberta-base", 77)]
    named = CLAP_Module(tokenizer=words)
    named.load_ckpt(files[False], verbose=False)
    named.get_text_embedding("dog")
    assert asked[1:] == [(words, 77)]


# -- against transformers ------------------------------------------------------------------------


@FUSION
def test_the_vectors_are_clap_models(loaded, waves, fusion, tmp_path):
    """As tensors, which upstream does not round, and transformers neither."""
    transformers = pytest.importorskip("transformers")
    folder = clap.huggingface_folder(tmp_path / "hf", fusion=fusion)
    theirs = transformers.ClapModel.from_pretrained(folder).eval()
    extract = transformers.ClapFeatureExtractor.from_pretrained(folder)
    module = loaded(fusion)
    short = waves[:3]
    with torch.no_grad():
        given = extract(short, sampling_rate=RATE, return_tensors="pt")
        given["is_longer"] = torch.zeros(len(short), 1, dtype=torch.bool)
        heard = theirs.get_audio_features(**given).pooler_output
        close(module.get_audio_embedding_from_data(list(map(torch.from_numpy, short)), True), heard)
        ready = module.tokenizer(TEXTS)
        read = theirs.get_text_features(**ready).pooler_output
    close(module.get_text_embedding(TEXTS), read)
    beside = CLAP_Module(enable_fusion=fusion)
    beside.load_ckpt(folder, verbose=False)  # a Hugging Face folder is not rounded either way
    close(beside.get_audio_embedding_from_data(short), heard)
    close(beside.get_text_embedding(TEXTS), read)  # by the folder's own tokenizer
