"""Built models: the same spec and seed give the same weights, and space_id names them."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch

from echoic.convert.native import ModelFile, load_model, save_model
from echoic.encoders.decoder import DecoderSpec
from echoic.encoders.text import HfTextSpec
from echoic.model import ModelSpec, build
from echoic.objectives.task import ContrastiveTask
from echoic.recipes.laion_clap import released_model
from echoic.towers import SentenceTextSpec
from echoic.types import Batch, ConfigError, Ragged
from tests import clap, m2d
from tests.tiny import noise, spec, tokenizer

COMMON = {
    "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
WRAPPED = {
    "bert": {"model_type": "bert", **COMMON},
    "roberta": {"model_type": "roberta", **COMMON},
    "modernbert": {
        "model_type": "modernbert", **COMMON, "cls_token_id": 1, "sep_token_id": 2,
    },
}  # fmt: skip


def batch(count: int = 4) -> Batch:
    waves = [torch.from_numpy(noise(0.3 + 0.2 * i, seed=i)) for i in range(count)]
    texts = [torch.tensor(ids) for ids in tokenizer()([f"sound {i}" for i in range(count)])]
    keys = tuple(map(str, range(count)))
    return Batch(
        Ragged.from_rows(waves), Ragged.from_rows(texts), torch.arange(count), keys, seed=1
    )


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    ("audio", "front_end", "max_s", "wanted"),
    [
        ({"kind": "htsat", "window_samples": 960_000}, {}, 20, "window of 2001 frames of 64 mel"),
        ({"kind": "htsat"}, {"mel_bins": 128}, 10, "HTSAT hears at most 1024 frames, of 64 mel"),
        ({"kind": "pann"}, {"mel_bins": 31}, 10, "CNN14 hears at least 32 of either"),
        ({"kind": "pann", "window_samples": 4800}, {}, 0.1, "window of 11 frames"),
        ({"kind": "pann", "window_samples": 0}, {}, 10, "audio.window_samples: input should be"),
        ({"kind": "htsat", "mlp_ratio": 0.001}, {}, 10, "mlp_ratio 0.001 of width 96"),
    ],
)
def test_what_an_encoder_cannot_hear_is_told_before_it_is_built(audio, front_end, max_s, wanted):
    tree = released_model("tiny").model_dump() | {"audio": audio, "max_s": max_s}
    tree["front_end"] |= front_end
    with pytest.raises(ConfigError, match=wanted):
        ModelSpec.parse(tree, where="model")


def test_same_seed_same_weights_other_seed_others():
    assert torch.equal(weights(build(spec(), seed=1)), weights(build(spec(), seed=1)))
    assert not torch.equal(weights(build(spec(), seed=1)), weights(build(spec(), seed=2)))


@pytest.mark.parametrize("text", [None, "bert"])
def test_no_global_generator_moves(text):
    chosen = spec() if text is None else spec(text=HfTextSpec(config=WRAPPED[text]))
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    build(chosen, seed=1)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_space_id_changes_with_every_weight():
    model = build(spec(), seed=0)
    first = model.space_id()
    assert len(first) == 16
    assert model.space_id() == first
    for name, parameter in model.named_parameters():
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter.view(-1)[-1] += 1e-3
        assert model.space_id() != first, name
        with torch.no_grad():
            parameter.copy_(before)
    assert model.space_id() == first


def test_space_id_changes_with_the_description():
    model = build(spec(), seed=0)
    seen = {model.space_id()}
    for changed in (
        spec(max_s=3.0),
        spec().override(["front_end.mean=-19"]),
        spec().override(["audio.rope_base=5000"]),
    ):
        other = build(changed, seed=0)
        other.load_state_dict(model.state_dict())
        seen.add(other.space_id())
    assert len(seen) == 4


def test_space_id_does_not_change_with_file_type_or_strides(tmp_path):
    model = build(spec(), seed=0)
    first = model.space_id()
    assert copy.deepcopy(model).double().space_id() == first
    save_model(tmp_path / "m.safetensors", ModelFile(model, tokenizer()))
    assert load_model(tmp_path / "m.safetensors").model.space_id() == first
    turned = model.audio.encoder.patch.weight
    turned.data = turned.data.T.contiguous().T
    assert model.space_id() == first


@pytest.mark.parametrize(
    ("described", "name"), [(spec, "efb2cdff5f7e8586"), (clap.spec, "d75a143468ada046")]
)
def test_a_later_version_gives_the_same_name(described, name):
    """By it vectors are known that were made before: a new field may not change it."""
    model = build(described(), seed=0)
    for tensor in model.state_dict().values():
        tensor.zero_()
    assert model.space_id() == name


@pytest.mark.parametrize("change", [{"pool": "cls"}, {"projection": "none", "width": 24}])
def test_a_new_field_names_another_space_where_it_is_used(change):
    text = clap.spec().text.model_copy(update={"kind": "bert", "heads": 1} | change)
    plain = text.model_copy(update={"pool": "pooler", "projection": "two_layers"})
    names = set()
    for each in (text, plain):
        made = build(clap.spec().model_copy(update={"text": each}), seed=0)
        names.add(made.space_id())
    assert len(names) == 2


def test_space_id_of_a_model_with_a_scalar_buffer():
    """Batch norm counts its batches in a tensor without dimensions."""
    model = build(spec(), seed=0)
    model.register_buffer("count", torch.tensor(3))
    first = model.space_id()
    model.count += 1
    assert model.space_id() != first


def test_forward_gives_unit_vectors():
    given = batch()
    audio, text = build(spec(), seed=0)(given.audio, given.text)
    assert audio.shape == text.shape == (4, 16)
    torch.testing.assert_close(audio.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(text.norm(dim=1), torch.ones(4))


def test_tokens_in_counts_what_the_encoder_makes():
    tower = build(spec(max_s=2.0), seed=0).audio
    for seconds in (0.01, 0.16, 0.161, 1.0, 1.999, 2.0):
        wave = torch.zeros(round(seconds * 16_000))
        heard = tower(Ragged.from_rows([wave]))
        assert tower.tokens_in(seconds) == len(heard.tokens), seconds
    assert tower.tokens_in(100.0) == tower.tokens_in(2.0)


@pytest.mark.filterwarnings("default:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", WRAPPED)
def test_a_wrapped_text_encoder_trains_and_round_trips(tmp_path, kind):
    model = build(spec(text=HfTextSpec(config=WRAPPED[kind], max_tokens=32)), seed=0)
    task, given = ContrastiveTask(model).train(), batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = weights(model.text)
    loss = task(given)["contrastive"]
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []
    optimizer.step()
    assert not torch.equal(before, weights(model.text))

    model.eval()
    save_model(tmp_path / "m.safetensors", ModelFile(model, tokenizer()))
    again = load_model(tmp_path / "m.safetensors").model
    assert again.space_id() == model.space_id()
    with torch.no_grad():
        assert torch.equal(again.text(given.text).clip, model.text(given.text).clip)


# -- M2D; sound alone; vectors of sentences ------------------------------------------------------

SENTENCE = {"kind": "sentence", "width": 64}


@pytest.mark.parametrize(
    ("projector", "change", "wanted"),
    [
        (None, {"embed_dim": 32}, "embed_dim 32: this M2D gives vectors of 160"),
        ("tokens", {"embed_dim": 24}, "embed_dim 24: this M2D gives vectors of 32"),
        ("mlp", {"text": SENTENCE}, "text vectors of 64 in a space of 24"),
        ("tokens", {"text": SENTENCE}, "text vectors of 64 in a space of 32"),
        ("mlp", {"text": SENTENCE | {"colour": 1}}, "model: text.colour: no such key"),
    ],
)
def test_what_does_not_meet_in_one_space_is_told(projector, change, wanted):
    with pytest.raises(ConfigError, match=wanted):
        ModelSpec.parse(m2d.spec(projector).model_dump() | change, where="model")


def test_mel_bins_that_are_no_patches_are_told():
    tree = m2d.spec().model_dump()
    tree["audio"]["patch_bins"] = 24
    with pytest.raises(ConfigError, match="80 mel bins are not whole patches of 24 bins"):
        ModelSpec.parse(tree, where="model")


@pytest.mark.parametrize("width", [24, 100])
def test_an_mlp_projects_to_any_width(width):
    tree = m2d.spec("mlp").model_dump() | {"embed_dim": width}
    described = ModelSpec.parse(tree, where="model")
    assert build(described, seed=0).audio.projection[2].out_features == width


@pytest.mark.parametrize("text", ["none", "sentence", "small"])
@pytest.mark.parametrize("projector", [None, "mlp", "tokens"])
def test_every_m2d_is_described_and_built(projector, text):
    described = m2d.spec(projector, text=text, classes=5)
    assert ModelSpec.parse(described.model_dump(mode="json"), where="model") == described
    assert described.text_kind == text
    assert described.max_tokens == {"none": 77, "sentence": 512, "small": 32}[text]
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    made, again = build(described, seed=3), build(described, seed=3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.equal(weights(made), weights(again))
    assert made.space_id() == again.space_id() != build(described, seed=4).space_id()


def test_any_encoder_may_stand_without_words():
    alone = ModelSpec.parse(spec().model_dump() | {"text": None}, where="model")
    assert (alone.text_kind, alone.max_tokens) == ("none", 77)
    made = build(alone, seed=0)
    assert not list(made.text.parameters())
    with pytest.raises(ValueError, match="a model of sound alone reads no text"):
        made(batch().audio, batch().text)


def test_vectors_of_sentences_are_projected(generator):
    given = torch.randn(3, 64, generator=generator)
    made = m2d.network("mlp", text="sentence")
    found = made.project_sentence(given)
    p = dict(made.text.named_parameters())
    torch.testing.assert_close(found, given @ p["projection.weight"].T + p["projection.bias"])
    bare = ModelSpec.parse(
        m2d.spec("mlp").model_dump()
        | {"text": SentenceTextSpec(width=24).model_dump(), "embed_dim": 24},
        where="model",
    )
    assert torch.equal(build(bare, seed=0).project_sentence(given[:, :24]), given[:, :24])
    with pytest.raises(ValueError, match="vectors of sentences: call project_sentence"):
        made(batch().audio, batch().text)
    for text in ("none", "small"):
        with pytest.raises(ValueError, match="reads no vectors of sentences"):
            m2d.network("mlp", text=text).project_sentence(given)


def test_the_space_of_an_m2d_changes_with_what_it_computes():
    seen = set()
    for change in ({}, {"projector": "mlp"}, {"classes": 3}, {"frames": 80}, {"heads": 4}):
        given = dict(change)
        seen.add(build(m2d.spec(given.pop("projector", None), **given), seed=0).space_id())
    tagged = m2d.network(classes=3)
    seen.add(tagged.space_id())
    tagged.audio.tagger.norm.running_mean += 1.0
    seen.add(tagged.space_id())
    assert len(seen) == 7


# -- with a decoder --------------------------------------------------------------------------------

DECODER = DecoderSpec(vocab=300, depth=1, width=32, heads=2, hidden=48)


def test_a_decoder_changes_neither_the_other_weights_nor_the_name_of_the_space():
    plain, captioning = build(spec(), seed=1), build(spec(decoder=DECODER), seed=1)
    own = captioning.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in plain.state_dict().items())
    assert any(name.startswith("decoder.") for name in own)
    assert captioning.space_id() == plain.space_id()


def test_a_decoder_is_saved_and_read_with_its_model(tmp_path):
    made = build(spec(decoder=DECODER), seed=1)
    save_model(tmp_path / "model.safetensors", ModelFile(made, tokenizer(), {}))
    read = load_model(tmp_path / "model.safetensors").model
    assert read.spec == made.spec
    assert torch.equal(weights(read), weights(made))


@pytest.mark.parametrize("encoder", ["slap", "laion", "m2d"])
def test_a_decoder_hears_any_encoders_tokens(encoder):
    towers = {"slap": spec(), "laion": clap.spec(), "m2d": m2d.spec("mlp", text="small")}
    model = build(towers[encoder].model_copy(update={"decoder": DECODER}), seed=0)
    given = batch()
    heard = model.audio(given.audio)
    logits = model.decoder(Ragged(heard.tokens, heard.offsets), given.text)
    assert logits.shape == (len(given.text.values), 300)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"text": None, "embed_dim": 16}, "decoder: writes the words that a text tower reads"),
        ({"decoder": {"vocab": 300, "width": 30, "heads": 4}}, "width 30 is not a multiple of"),
        ({"decoder": {"vocab": 2}}, "id 2 is not in a vocabulary of 2"),
    ],
)
def test_a_decoder_that_cannot_be_built_is_told(changes, wanted):
    tree = spec(decoder=DECODER).model_dump() | changes
    with pytest.raises(ConfigError, match=wanted):
        ModelSpec.parse(tree, where="model")
