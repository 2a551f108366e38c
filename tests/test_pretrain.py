"""From a recipe and a source to a model file: it holds what was trained, goes on where it was
stopped, and has learnt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch

import echoic
from echoic import pretrain as module
from echoic.convert.check import check
from echoic.convert.native import load_model, load_strictly
from echoic.data.clips import SubsetSource
from echoic.data.sources import FileSource, open_source
from echoic.encoders.text import HfTextSpec, published_text
from echoic.eval.retrieval import retrieval_metrics
from echoic.model import build
from echoic.pretrain import pretrain
from echoic.recipes import find_recipe
from echoic.recipes.recipe import Recipe
from echoic.train.checkpoint import Checkpoints
from echoic.train.world import joined
from echoic.types import Batch, ConfigError, DataError, Ragged
from tests.test_model import COMMON
from tests.tiny import RATE, noise, recipe, spec, tokenizer, tones
from tests.train.ranks import in_ranks


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> FileSource:
    return tones(tmp_path_factory.mktemp("tones"))


def saved(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(folder).model.state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# SLAP's three objectives, as small as can be
ALL_THREE = (
    "model.decoder={vocab: 300, depth: 1, width: 32, heads: 2, hidden: 48}",
    "objectives.distillation={head: {layers: 2, hidden: 24, bottleneck: 8, prototypes: 16}}",
    "objectives.captioning=0.5",
)


class Stopping:
    """A source in which a clip cannot be read any more after `reads`: a power cut, a Ctrl-C."""

    def __init__(self, source: FileSource, reads: int) -> None:
        self.source, self.clips, self.left = source, source.clips, reads

    def read(self, i: int, rate_hz: int) -> np.ndarray:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.source.read(i, rate_hz)


def test_a_run_folder_holds_all_that_was_made(source, tmp_path):
    done = pretrain(recipe(eval_every=3), source, tmp_path, valid=source)
    assert done.result.finished
    assert done.model_file == tmp_path / "model.safetensors"
    names = {"recipe.yaml", "tokenizer.json", "log.jsonl", "checkpoints", "model.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == names
    resolved = Recipe.from_yaml(tmp_path / "recipe.yaml")
    content = load_model(done.model_file)
    assert content.model.spec == resolved.model
    assert resolved.model.text.vocab == content.tokenizer.vocab <= 300
    assert content.tokenizer.to_json() == load_model(tmp_path).tokenizer.to_json()
    assert {"recipe": "tiny", "clips": 12, "steps": 6}.items() <= content.card.items()
    assert content.card["metrics"] == done.result.metrics
    assert content.card["losses"] == done.result.losses
    weights = Checkpoints(tmp_path / "checkpoints", 1).latest(print).tensors("task")
    assert same(saved(tmp_path), {k.removeprefix("model."): v for k, v in weights.items()})
    assert check(echoic.load(tmp_path)).ok


def test_the_average_is_exported_where_one_is_kept(source, tmp_path):
    pretrain(recipe().override(["optim.ema=0.9"]), source, tmp_path)
    newest = Checkpoints(tmp_path / "checkpoints", 1).latest(print)
    average, last = newest.tensors("average"), newest.tensors("task")
    weight = "audio.encoder.patch.weight"
    assert torch.equal(saved(tmp_path)[weight], average[f"model.{weight}"])
    assert not torch.equal(average[f"model.{weight}"], last[f"model.{weight}"])


@pytest.mark.parametrize(
    ("precision", "changes"), [("fp32", ()), ("bf16", ()), ("bf16", ALL_THREE)]
)
def test_a_stopped_training_goes_on_as_if_nothing_had_happened(
    source, tmp_path, precision, changes
):
    """Bit for bit, in bf16 too, with changes of waves and frames drawn at random."""
    chosen = recipe(steps=7, precision=precision).override(
        ["wave_augment.speed=0.1", "wave_augment.gain_db=6", "frame_augment.time_share=0.2",
         "frame_augment.warp=0.1", "data.cache_mb=0", *changes]
    )  # fmt: skip
    pretrain(chosen, source, tmp_path / "whole", valid=source)
    with pytest.raises(KeyboardInterrupt):
        pretrain(chosen, Stopping(source, reads=40), tmp_path / "parts", valid=source)
    steps = Checkpoints(tmp_path / "parts" / "checkpoints", 1).steps()
    assert steps
    assert max(steps) < 7
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    done = pretrain(chosen, source, tmp_path / "parts", valid=source, resume=True)
    assert done.result.finished
    assert same(saved(tmp_path / "whole"), saved(tmp_path / "parts"))
    for name in ("recipe.yaml", "tokenizer.json"):
        parts = tmp_path / "parts" / name
        assert parts.read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_captioning_model_holds_its_decoder_and_no_teacher(source, tmp_path):
    done = pretrain(recipe(steps=3).override(ALL_THREE), source, tmp_path, valid=source)
    content = load_model(done.model_file)
    decoder = content.model.spec.decoder
    begin, end = content.tokenizer([""])[0]
    assert (decoder.vocab, decoder.begin_id, decoder.end_id) == (
        content.tokenizer.vocab, begin, end
    )  # fmt: skip
    assert set(decoder.unsaid_ids) == content.tokenizer.special_ids - {begin, end}
    parts = {name.split(".")[0] for name in saved(tmp_path)}
    assert parts == {"audio", "text", "logit_scale", "decoder"}
    assert {"contrastive", "distillation", "captioning"} == done.result.losses.keys()


def test_a_decoder_that_does_not_learn_is_not_kept(source, tmp_path):
    silent = recipe(steps=2).override([*ALL_THREE[:2]])
    done = pretrain(silent, source, tmp_path)
    assert load_model(done.model_file).model.decoder is None


def test_a_training_goes_on_from_a_model_with_its_decoder_or_begins_one(source, tmp_path):
    whole = recipe(steps=2).override(ALL_THREE)
    first = pretrain(whole, source, tmp_path / "first").model_file
    still = "optim.lr=0"
    on = pretrain(
        whole.override([f"start.model={first}", still]), source, tmp_path / "on"
    ).model_file
    assert same(saved(first), saved(on))

    plain = pretrain(recipe(steps=2), source, tmp_path / "plain").model_file
    begun = pretrain(
        whole.override([f"start.model={plain}", still]), source, tmp_path / "begun"
    ).model_file
    heard = {n: t for n, t in saved(begun).items() if not n.startswith("decoder.")}
    assert same(heard, saved(plain))
    assert len(heard) < len(saved(begun))


def test_the_seed_fixes_the_run_and_no_global_generator_moves(source, tmp_path):
    state = torch.get_rng_state()
    for name in "ab":
        pretrain(recipe(steps=3), source, tmp_path / name)
    pretrain(recipe(steps=3, seed=4), source, tmp_path / "c")
    assert same(saved(tmp_path / "a"), saved(tmp_path / "b"))
    assert not same(saved(tmp_path / "a"), saved(tmp_path / "c"))
    assert torch.equal(torch.get_rng_state(), state)


def test_it_learns(source, tmp_path):
    """Twelve tones and their names: chance is one in twelve."""
    chosen = recipe(steps=60).override(["optim.lr=5e-3", "data.budget_tokens=500"])
    done = pretrain(chosen, source, tmp_path)
    listener = echoic.load(done.model_file)
    audio = listener.embed_audio(source.paths).numpy()
    text = listener.embed_text([clip.captions[0] for clip in source.clips]).numpy()
    metrics = retrieval_metrics(audio, text, np.arange(12))
    r_at_1 = [value for name, value in metrics.items() if name.endswith("R@1")]
    assert r_at_1
    assert min(r_at_1) > 0.8


def test_a_finished_run_can_be_asked_for_its_model_again(source, tmp_path):
    """As when the disk was full at the very end."""
    first = pretrain(recipe(), source, tmp_path, valid=source)
    before = saved(tmp_path)
    card = load_model(tmp_path).card
    first.model_file.unlink()
    pretrain(recipe(), source, tmp_path, valid=source, resume=True)
    assert same(saved(tmp_path), before)
    assert load_model(tmp_path).card == card


def test_a_run_folder_is_not_written_over(source, tmp_path):
    pretrain(recipe(), source, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = recipe().override(["name=other", "model.text.vocab=280"])
    with pytest.raises(ConfigError, match="holds a training at step 6"):
        pretrain(other, source, tmp_path)
    with pytest.raises(ConfigError, match="cannot resume with another recipe"):
        pretrain(recipe().override(["optim.lr=1"]), source, tmp_path, resume=True)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert before == after


def test_a_budget_in_clips_is_their_number_however_short_they_are(source):
    chosen = recipe().override(["data={budget_clips: 5, max_s: 2.0}"])
    model = build(chosen.model, seed=0)
    made = module.make_loader(chosen, source, model, tokenizer())
    batches = made.batches(0)
    assert [len(next(batches)) for _ in range(3)] == [5, 5, 2]  # twelve clips of 0.3 to 0.5 s
    batches.close()


def test_no_crop_is_longer_than_what_is_heard_of_it(tmp_path):
    """As where an M2D of a shorter window than the recipe's is trained on."""
    chosen = find_recipe("m2d_clap:nano,m2d").override(
        ["model.audio.frames=64", "data.max_s=6", "data.budget_clips=4"]
    )
    model = build(chosen.model, seed=0)
    for i in range(4):
        sf.write(tmp_path / f"{i}.wav", noise(2.0, i), RATE)
    source = open_source(tmp_path, need_captions=False)
    batches = module.make_loader(chosen, source, model, None).batches(0)
    first = next(batches)
    batches.close()
    assert first.audio.lengths == (630 * 16,) * 4
    columns = [
        model.audio.encoder.columns_in(n) for n in model.audio.front_end(first.audio).lengths
    ]
    assert columns == [8] * 4  # of 8 frames: all of the crop


def test_no_held_out_clips_is_told_at_once(source, tmp_path):
    with pytest.raises(DataError, match="held-out data has no clips"):
        pretrain(recipe(), source, tmp_path, valid=SubsetSource(source, []))


def test_a_place_that_cannot_be_written_is_named(source, tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(ConfigError, match=r"file.*cannot be written"):
        pretrain(recipe(), source, tmp_path / "file" / "run")


# published text encoders


def published(folder: Path, kind: str, **changes: object) -> Path:
    """A tiny encoder as its makers would publish it."""
    transformers = pytest.importorskip("transformers")
    names = {
        "bert": ("BertConfig", "BertModel"),
        "bert masked": ("BertConfig", "BertForMaskedLM"),
        "roberta": ("RobertaConfig", "RobertaModel"),
        "modernbert": ("ModernBertConfig", "ModernBertForMaskedLM"),
    }
    config_name, model_name = names[kind]
    special = {"cls_token_id": None, "sep_token_id": 2} if kind == "modernbert" else {}
    config = getattr(transformers, config_name)(**COMMON, **special, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        encoder = getattr(transformers, model_name)(config)
    encoder.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer().backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    return folder


def with_text(name: Path | None, steps: int = 2) -> Recipe:
    text = HfTextSpec(name=None if name is None else str(name), max_tokens=32)
    return recipe(steps=steps).model_copy(update={"model": spec(text=text)})


@pytest.mark.parametrize("kind", ["bert", "bert masked", "roberta", "modernbert"])
def test_a_published_text_encoder_is_trained_on(source, tmp_path, kind):
    folder = published(tmp_path / "published", kind)
    state = torch.get_rng_state()
    done = pretrain(with_text(folder), source, tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), state)
    for path in folder.iterdir():
        path.unlink()  # a trained model needs it no more
    content = load_model(done.model_file)
    assert content.model.spec.text.config["hidden_size"] == 32
    assert content.tokenizer(["a dog barks"]) == tokenizer()(["a dog barks"])
    listener = echoic.load(done.model_file)
    assert torch.isfinite(listener.embed_text(["tone number one"])).all()


def test_published_weights_are_taken_over_in_float32(tmp_path):
    import transformers

    folder = published(tmp_path / "half", "bert")
    half = transformers.BertModel.from_pretrained(folder).to(torch.bfloat16)
    half.save_pretrained(folder)
    taken = published_text(HfTextSpec(name=str(folder)))
    assert {w.dtype for w in taken.weights.values()} == {torch.float32}
    wanted = half.float().state_dict()
    assert all(torch.equal(w, wanted[name]) for name, w in taken.weights.items())
    built = module.build(spec(text=taken.spec), seed=0)
    assert {p.dtype for p in built.parameters()} == {torch.float32}
    load_strictly(built.text.encoder, taken.weights, "text")


def test_a_published_encoder_that_cannot_be_used_is_one_line(source, tmp_path):
    folder = published(tmp_path / "published", "bert")
    with pytest.raises(ConfigError, match=r"model\.text\.name: a training needs"):
        pretrain(with_text(None), source, tmp_path / "run")

    def refusal() -> str:
        with pytest.raises(ConfigError) as caught:
            pretrain(with_text(folder), source, tmp_path / "run")
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "cannot be loaded" in refusal()
    weights.rename(folder / "pytorch_model.bin")  # a pickle, to judge by its name
    assert "cannot be loaded" in refusal()
    weights.write_bytes(whole)
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    missing = "encoder.layer.0.attention.self.query.weight"
    save_file({k: v for k, v in tensors.items() if k != missing}, weights, {"format": "pt"})
    assert f"its weights lack {missing}" in refusal()
    for path in folder.iterdir():
        path.unlink()
    assert "cannot be loaded" in refusal()


# -- several processes ---------------------------------------------------------------------------

CUT = ("run.parallel=fsdp", "run.checkpoint_activations=true")
UNEVEN = "data.budget_tokens=120"
SLOWLY = ("optim.eps=1e-3", UNEVEN)  # or rounding decides where a gradient of nearly 0 points


def two_processes(folder: Path) -> None:
    with joined(timeout_s=60):
        source = tones(folder / f"tones{torch.distributed.get_rank()}")
        for way, changes in (("whole", SLOWLY), ("cut", SLOWLY + CUT)):
            made = pretrain(
                recipe(eval_every=3).override(changes), source, folder / way, valid=source
            )
            assert made.result.metrics
            assert made.model_file == folder / way / "model.safetensors"
            assert made.model_file.exists()


class Together:
    """The batches that two processes have at once, as one."""

    def __init__(self, loader: Any) -> None:
        self.loader, self.bad = loader, loader.bad
        self.state_dict, self.load_state_dict = loader.state_dict, loader.load_state_dict

    def batches(self, first: int) -> Iterator[Batch]:
        made = self.loader.batches(2 * first)
        while True:
            a, b = next(made), next(made)
            self.sizes = (*getattr(self, "sizes", ()), (len(a), len(b)))
            yield Batch(
                Ragged.from_rows([*a.audio, *b.audio]),
                Ragged.from_rows([*a.text, *b.text]),
                torch.cat([a.meaning, b.meaning]),
                a.keys + b.keys,
            )


def test_two_processes_make_the_model_that_one_makes_of_their_batches_together(
    source, tmp_path, monkeypatch
):
    """The contrastive loss, on clips and batches of uneven length, over the end of the epoch; and
    from the weights cut in two the same."""
    in_ranks(two_processes, 2, tmp_path, within_s=90)
    loaders = []

    def together(*args: Any, **options: Any) -> Together:
        loaders.append(Together(make_loader(*args, **options)))
        return loaders[-1]

    make_loader = module.make_loader
    monkeypatch.setattr(module, "make_loader", together)
    pretrain(recipe(eval_every=3).override(SLOWLY), source, tmp_path / "one", valid=source)
    assert any(one != other for one, other in loaders[0].sizes)
    ours = saved(tmp_path / "one")
    for way in ("whole", "cut"):
        for name, tensor in saved(tmp_path / way).items():
            torch.testing.assert_close(tensor, ours[name], rtol=0, atol=2e-6, msg=f"{way} {name}")
    assert check(echoic.load(tmp_path / "cut")).ok
