"""Text encoders under published names: exact both ways, strict, and read from published folders."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartModel,
    BertConfig,
    BertForPreTraining,
    BertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
)

from echoic.convert.text import from_published, published_weights, spec_of_text, to_published
from echoic.encoders.clap_text import ClapTextEncoder, ClapTextSpec
from echoic.types import CheckpointError, ConfigError, Ragged

SIZES = {
    "vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 60,
}  # fmt: skip
ROBERTA = RobertaConfig(**SIZES, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1)
BERT = BertConfig(**SIZES, hidden_dropout_prob=0.2)
BART = BartConfig(
    vocab_size=90, d_model=32, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=48,
    decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16, max_position_embeddings=60,
)  # fmt: skip
WITHOUT_HEAD = {
    "roberta": lambda: RobertaModel(ROBERTA),
    "bert": lambda: BertModel(BERT),
    "bart": lambda: BartModel(BART),
}
WITH_HEAD = {
    "roberta": lambda: RobertaForMaskedLM(ROBERTA),
    "bert": lambda: BertForPreTraining(BERT),
    "bart": lambda: BartForConditionalGeneration(BART),
}


def clip() -> dict[str, Tensor]:
    """LAION's names, written out."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"token_embedding.weight": (90, 32), "positional_embedding": (20, 32)}
    shapes |= {"ln_final.weight": (32,), "ln_final.bias": (32,)}
    for before in ("text_branch.resblocks.0.", "text_branch.resblocks.1."):
        for name, rows, columns in [
            ("attn.in_proj_", 96, 32), ("attn.out_proj.", 32, 32), ("mlp.c_fc.", 128, 32),
            ("mlp.c_proj.", 32, 128), ("ln_1.", 32, None), ("ln_2.", 32, None),
        ]:  # fmt: skip
            shapes[f"{before}{name}weight"] = (rows, columns) if columns else (rows,)
            shapes[f"{before}{name}bias"] = (rows,)
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def published(kind: str) -> dict[str, Tensor]:
    return clip() if kind == "clip" else WITHOUT_HEAD[kind]().state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# -- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["roberta", "bert", "bart", "clip"])
def test_both_directions_are_exact_inverses(kind):
    tensors = published(kind)
    ours = from_published(kind, tensors)
    ClapTextEncoder(spec_of_text(kind, tensors)).load_state_dict(ours)
    back = to_published(kind, ours)
    dropped = tensors.keys() - back.keys()
    assert all(name.startswith("decoder.") or name == "shared.weight" for name in dropped)
    assert bool(dropped) == (kind == "bart")
    assert same(back, {name: tensors[name] for name in back})
    assert same(from_published(kind, back), ours)
    save = {tensor.untyped_storage().data_ptr() for tensor in back.values()}
    assert len(save) == len(back)  # safetensors writes no two that share


def test_buffers_of_older_files_are_left_out():
    tensors = published("roberta")
    older = {
        **tensors,
        "embeddings.position_ids": torch.arange(60)[None],
        "embeddings.token_type_ids": torch.zeros(1, 60),
    }
    assert same(from_published("roberta", older), from_published("roberta", tensors))


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_a_pooler_that_is_not_wanted_is_left_out(pool):
    tensors = published("bert")
    without = {name: t for name, t in tensors.items() if not name.startswith("pooler.")}
    assert len(without) == len(tensors) - 2
    ours = from_published("bert", tensors, pool=pool)
    assert same(ours, from_published("bert", without, pool=pool))
    spec = spec_of_text("bert", tensors, pool=pool)
    assert spec.pool == pool
    ClapTextEncoder(spec).load_state_dict(ours)
    with pytest.raises(CheckpointError, match=r"pooler\.dense\.bias is missing"):
        from_published("bert", without)


def test_bart_whose_table_is_stored_once():
    tensors = published("bart")
    once = {name: tensors[name] for name in tensors if not name.endswith("embed_tokens.weight")}
    assert "shared.weight" in once
    assert same(from_published("bart", once), from_published("bart", tensors))


def test_missing_and_unknown_names_are_told():
    tensors = published("roberta")
    tensors["encoder.layer.0.extra"] = tensors.pop("encoder.layer.1.attention.self.key.bias")
    with pytest.raises(
        CheckpointError,
        match=r"of a roberta text encoder: encoder\.layer\.1\.attention\.self\.key\.bias is "
        r"missing; encoder\.layer\.0\.extra is unknown$",
    ):
        from_published("roberta", tensors)
    with pytest.raises(CheckpointError, match=r"is missing; .* and \d+ more"):
        from_published("bert", {})
    ours = from_published("clip", clip())
    ours["blocks.1.qkv.extra"] = ours.pop("norm.bias")
    with pytest.raises(CheckpointError, match=r"norm\.bias is missing; blocks\.1\.qkv\.extra is"):
        to_published("clip", ours)


def test_a_left_out_block_is_told():
    tensors = published("bert")
    gap = {name.replace("layer.1.", "layer.7."): tensor for name, tensor in tensors.items()}
    with pytest.raises(CheckpointError, match=r"encoder\.layer\.1\.\S+ is missing"):
        from_published("bert", gap)


def test_parts_that_do_not_go_together_are_told():
    tensors = published("roberta")
    name = "encoder.layer.0.attention.self.value.bias"
    with pytest.raises(CheckpointError, match=r"self\.value\.bias differ in shape or type"):
        from_published("roberta", {**tensors, name: torch.zeros(31)})
    with pytest.raises(CheckpointError, match=r"embedding\.token\.weight is \(90,\)"):
        spec_of_text("roberta", {**tensors, "embeddings.word_embeddings.weight": torch.zeros(90)})


# -- the description -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("roberta", {"types": 1, "pad_id": 1, "norm_eps": 1e-5, "max_tokens": 58}),
        ("bert", {"types": 2, "pad_id": 0, "norm_eps": 1e-12, "max_tokens": 60}),
        ("bart", {"types": 0, "pad_id": 1, "positions": 62, "max_tokens": 60}),
        ("clip", {"types": 0, "positions": 20, "hidden": 128, "max_tokens": 20, "dropout": 0.0}),
    ],
)
def test_the_description_is_read_off_the_tensors(kind, told):
    spec = spec_of_text(kind, published(kind))
    sizes = {"kind": kind, "vocab": 90, "positions": 60, "width": 32, "depth": 2, "hidden": 48}
    found = spec.model_dump()
    assert {**sizes, "heads": 1, "dropout": 0.1, **told}.items() <= found.items()


def test_what_is_known_wins():
    spec = spec_of_text("roberta", published("roberta"), heads=4, norm_eps=1e-12, max_tokens=9)
    assert (spec.heads, spec.norm_eps, spec.max_tokens) == (4, 1e-12, 9)
    with pytest.raises(ConfigError, match="is not a multiple of 5 heads"):
        spec_of_text("roberta", published("roberta"), heads=5)


# -- published folders ---------------------------------------------------------------------------


def output(spec: ClapTextSpec, weights: dict[str, Tensor], lacking: tuple[str, ...]) -> Tensor:
    encoder = ClapTextEncoder(spec).eval()
    fresh = encoder.state_dict()
    assert fresh.keys() - weights.keys() == set(lacking)
    encoder.load_state_dict({**fresh, **weights})
    return encoder(Ragged.from_rows([torch.tensor([0, 5, 9, 2])])).tokens


def hidden(model: PreTrainedModel) -> Tensor:
    model = model.eval()
    encoder = getattr(model, model.base_model_prefix, model)
    encoder = encoder.encoder if isinstance(encoder, BartModel) else encoder
    return encoder(input_ids=torch.tensor([[0, 5, 9, 2]])).last_hidden_state[0]


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("kind", ["roberta", "bert", "bart"])
def test_a_published_folder_gives_description_and_weights(tmp_path, kind, head):
    model = (WITH_HEAD if head else WITHOUT_HEAD)[kind]()
    model.save_pretrained(tmp_path)
    found = published_weights(tmp_path, max_tokens=50)
    assert (found.spec.heads, found.spec.max_tokens, found.spec.kind) == (4, 50, kind)
    assert found.spec.dropout == (0.2 if kind == "bert" else 0.1)
    lacks_pooler = kind == "roberta" and head
    assert found.lacking == (("pooler.weight", "pooler.bias") if lacks_pooler else ())
    torch.testing.assert_close(
        output(found.spec, found.weights, found.lacking), hidden(model), rtol=0, atol=1e-5
    )


def test_a_published_encoder_is_taken_without_its_pooler(tmp_path):
    model = WITHOUT_HEAD["bert"]()
    model.save_pretrained(tmp_path)
    found = published_weights(tmp_path, max_tokens=50, pool="cls")
    assert found.spec.pool == "cls"
    assert found.lacking == ()
    torch.testing.assert_close(
        output(found.spec, found.weights, ()), hidden(model), rtol=0, atol=1e-5
    )


def test_half_precision_and_the_old_names_of_norms_are_read(tmp_path):
    model = WITH_HEAD["bert"]()
    model.save_pretrained(tmp_path)
    mapped = published_weights(tmp_path, max_tokens=50).weights
    wanted = {name: tensor.clone() for name, tensor in mapped.items()}  # the file is overwritten
    file = tmp_path / "model.safetensors"
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor.half()
        for name, tensor in load_file(file).items()
    }
    assert any(name.startswith("bert.") and name.endswith("gamma") for name in old)
    save_file(old, file)
    found = published_weights(tmp_path, max_tokens=50).weights
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert same(found, {name: tensor.half().float() for name, tensor in wanted.items()})


def changed_config(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"model_type": "t5"}, "model_type is 't5'; roberta, bert and bart can be read"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; only 'gelu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is"),
        ({"num_attention_heads": 5}, "width 32 is not a multiple of 5 heads"),
    ],
)
def test_an_encoder_that_computes_something_else_is_refused(tmp_path, values, told):
    WITHOUT_HEAD["roberta"]().save_pretrained(tmp_path)
    changed_config(tmp_path, **values)
    with pytest.raises(CheckpointError, match=told) as error:
        published_weights(tmp_path, max_tokens=50)
    assert str(tmp_path) in str(error.value)


def test_wrong_files_are_one_clear_line(tmp_path):
    WITHOUT_HEAD["roberta"]().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    whole = load_file(file)
    save_file({**whole, "qa_outputs.weight": torch.zeros(2)}, file)
    with pytest.raises(CheckpointError, match=r"qa_outputs\.weight is unknown"):
        published_weights(tmp_path, max_tokens=50)
    save_file({name: x for name, x in whole.items() if name != "pooler.dense.bias"}, file)
    with pytest.raises(CheckpointError, match=r"pooler\.dense\.bias is missing"):
        published_weights(tmp_path, max_tokens=50)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        published_weights(tmp_path, max_tokens=50)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        published_weights(tmp_path, max_tokens=50)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds no description"):
        published_weights(tmp_path, max_tokens=50)


def test_a_name_is_fetched_from_the_hub(tmp_path, monkeypatch):
    WITHOUT_HEAD["bert"]().save_pretrained(tmp_path)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda repo, revision, allow_patterns: str(tmp_path)
    )
    found = published_weights("bert-base-uncased", max_tokens=50)
    assert same(found.weights, published_weights(tmp_path, max_tokens=50).weights)
