from __future__ import annotations

import json
import shutil

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from echoic.data.clips import Clip
from echoic.data.keyword_captions import write_captions
from echoic.keywords import KeywordModel
from echoic.types import ConfigError, DataError

transformers = pytest.importorskip("transformers")

TAGS = [["dog", "bark"], ["rain"], ["church bell", "wind", "dog", "bark", "rain"]]


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A T5 with random weights and a tokenizer of a few words, as a folder."""
    folder = tmp_path_factory.mktemp("k2t")
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    backend.train_from_iterator(["a dog barks in the rain | church bell wind"], trainer)
    backend.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    config = transformers.T5Config(
        vocab_size=backend.get_vocab_size(), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.T5ForConditionalGeneration(config)
        for weights in model.parameters():
            weights.data.normal_(0, 1.0)
    model.save_pretrained(folder)
    return folder


def made(folder, **options) -> KeywordModel:
    return KeywordModel(folder, **{"max_tokens": 8, "beams": 2, **options})


def test_one_sentence_each_and_always_the_same(t5):
    generate = made(t5)
    before = torch.get_rng_state()
    said = generate(TAGS)
    assert len(said) == 3
    assert len(set(said)) == 3
    assert all(said)
    assert not any("<" in sentence for sentence in said)
    assert said == generate(TAGS) == made(t5)(TAGS)
    assert torch.equal(torch.get_rng_state(), before)


def test_neighbours_in_the_batch_do_not_matter(t5):
    generate = made(t5)
    assert generate(TAGS) == [generate([tags])[0] for tags in TAGS]


def test_what_the_model_reads(t5):
    assert made(t5).prompts(TAGS[:2]) == ["dog| bark", "rain"]
    assert made(t5, joint=" ").prompts(TAGS[:1]) == ["dog bark"]
    other = made(t5, prompt="caption: {}", joint=", ")
    assert other.prompts(TAGS[:1]) == ["caption: dog, bark"]
    assert other(TAGS) != made(t5)(TAGS)


def test_models_of_keytotext_are_known_by_name(t5, tmp_path):
    shutil.copytree(t5, tmp_path / "t5-base-finetuned-common_gen")
    assert made(tmp_path / "t5-base-finetuned-common_gen").joint == " "
    assert made(t5).joint == "| "


def test_sampled_with_a_seed(t5):
    generate = made(t5, seed=1, beams=1)
    before = torch.get_rng_state()
    said = generate(TAGS)
    assert [generate([tags])[0] for tags in reversed(TAGS)] == said[::-1]  # whatever else is asked
    assert made(t5, seed=2, beams=1)(TAGS) != said
    assert torch.equal(torch.get_rng_state(), before)


def test_settings_tell_every_difference(t5):
    settings = [
        made(t5).settings,
        made(t5, beams=3).settings,
        made(t5, max_tokens=9).settings,
        made(t5, joint=" ").settings,
        made(t5, prompt="x {}").settings,
        made(t5, seed=0).settings,
        made(t5, no_repeat_ngram=0).settings,
    ]
    assert len({json.dumps(told, sort_keys=True) for told in settings}) == len(settings)
    assert made(t5).settings == settings[0]


def test_other_weights_in_the_same_folder_are_noticed(t5, tmp_path):
    clips = [Clip("a", (), ("dog", "bark"), 5.0)]
    folder = tmp_path / "model"
    shutil.copytree(t5, folder)
    write_captions(clips, made(folder), tmp_path / "out")
    model = transformers.T5ForConditionalGeneration.from_pretrained(folder)
    model.shared.weight.data[3, 3] += 1e-3
    model.save_pretrained(folder)
    with pytest.raises(DataError, match=r'other settings \(weights "\w+", now "\w+"\)'):
        write_captions(clips, made(folder), tmp_path / "out")


def test_refused_in_one_line(t5, tmp_path):
    for name, options, said in (
        (tmp_path / "none", {}, "cannot be loaded"),
        (t5, {"prompt": "no place"}, "it must hold {} once"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            made(name, **options)
        assert "\n" not in str(caught.value)


def test_lacking_weights_are_refused(t5, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(t5, tmp_path / "cut")
    file = tmp_path / "cut/model.safetensors"
    tensors = load_file(file)
    del tensors["encoder.block.0.layer.0.SelfAttention.q.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"its weights lack encoder\.block\.0"):
        made(tmp_path / "cut")
