"""Where a training of LAION-CLAP starts: from published encoders, strictly, and the rest fresh."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
import torch.distributed as dist

import echoic
from echoic.audio.frontend import FrontEnd
from echoic.convert.laion import to_laion
from echoic.convert.native import ModelFile, load_model, save_model
from echoic.convert.text import to_published
from echoic.data.clips import Clip
from echoic.data.sources import FileSource
from echoic.encoders.clap_text import ClapTextSpec
from echoic.encoders.m2d import lengthened_positions
from echoic.encoders.text import HfTextSpec
from echoic.model import LanguageAudioModel, build
from echoic.objective import make_task
from echoic.pretrain import pretrain
from echoic.recipes import find_recipe
from echoic.recipes.laion_clap import laion_clap
from echoic.recipes.recipe import DataSpec, Recipe, StartSpec
from echoic.start import Start, measured_front_end, start
from echoic.train.loop import RunSpec
from echoic.train.optim import OptimSpec
from echoic.train.world import World
from echoic.types import CheckpointError, ConfigError, DataError
from tests import m2d, tiny
from tests.test_pretrain import Stopping
from tests.tiny import SENTENCES

RATE_HZ = 48_000
TEXT = ClapTextSpec(
    kind="roberta", vocab=400, positions=80, width=64, depth=1, heads=1, hidden=64, pad_id=0,
    types=1, dropout=0.1,
)  # fmt: skip


def recipe(*options: str, steps: int = 2, start: StartSpec | None = None) -> Recipe:
    """The toy, smaller still."""
    toy = laion_clap("toy", *options)
    audio = toy.model.audio.model_copy(
        update={"width": 8, "depths": (1, 2), "heads": (1, 2), "drop_path": 0.2}
    )
    model = toy.model.model_copy(update={"audio": audio, "text": TEXT, "embed_dim": 16})
    return toy.model_copy(
        update={
            "model": model,
            "start": start or StartSpec(),
            "data": DataSpec(budget_clips=4, max_s=60.0 if options else 10.0, cache_mb=0),
            "optim": OptimSpec(lr=1e-3, warmup_steps=1, steps=steps),
            "run": RunSpec(log_every=1, save_every=1, seed=1),
        }
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> FileSource:
    """Four clips, two of them longer than the window."""
    folder = tmp_path_factory.mktemp("clips")
    clips, paths = [], []
    for i, seconds in enumerate((0.5, 11.0, 3.0, 14.0)):
        time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
        paths.append(folder / f"{i}.wav")
        sf.write(paths[-1], 0.3 * np.sin(2 * np.pi * 200 * 1.7**i * time_s), RATE_HZ)
        clips.append(Clip(f"{i}.wav", (SENTENCES[i],), (), seconds))
    return FileSource(clips, paths)


@pytest.mark.parametrize("options", [(), ("fusion",)])
def test_a_toy_trains_resumes_and_is_read_again(options, source, tmp_path):
    """Drop path, dropout, stripes and views are drawn; a resumed run draws the same."""
    chosen = recipe(*options, steps=4)
    whole = pretrain(chosen, source, tmp_path / "whole", valid=source)
    assert whole.model_file is not None
    vectors = echoic.load(whole.model_file).embed_audio(source.paths)
    assert torch.isfinite(vectors).all()
    with pytest.raises(KeyboardInterrupt):
        pretrain(chosen, Stopping(source, 9), tmp_path / "halted", valid=source)
    resumed = pretrain(chosen, source, tmp_path / "halted", valid=source, resume=True)
    assert resumed.model_file is not None
    assert torch.equal(vectors, echoic.load(resumed.model_file).embed_audio(source.paths))


def published_roberta(folder, model: LanguageAudioModel, tokenizer) -> None:
    """A folder as roberta-base's: config, weights without a pooler, tokenizer."""
    import transformers

    names = to_published("roberta", model.text.encoder.state_dict())
    config = transformers.RobertaConfig(
        vocab_size=TEXT.vocab, hidden_size=64, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=64, max_position_embeddings=80, type_vocab_size=1, layer_norm_eps=1e-5,
        pad_token_id=0,
    )  # fmt: skip
    network = transformers.RobertaModel(config, add_pooling_layer=False)
    own = network.state_dict()
    network.load_state_dict({name: names.get(name, own[name]) for name in own})
    network.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer.to_json(), "utf-8")


def test_published_encoders_are_taken_and_the_rest_is_fresh(source, tmp_path):
    given = build(recipe().model, seed=5)
    tokenizer = start(recipe(), source, tmp_path / "tokenizer.json", fresh=True).tokenizer
    published_roberta(tmp_path / "roberta", given, tokenizer)
    upstream = to_laion(given)
    audio = {
        name.replace("audio_branch.", "sed_model."): tensor
        for name, tensor in upstream.items()
        if name.startswith("audio_branch.")
    }
    torch.save({"state_dict": audio}, tmp_path / "htsat.ckpt")
    begun = recipe(
        "fusion",
        start=StartSpec(text=str(tmp_path / "roberta"), audio=str(tmp_path / "htsat.ckpt")),
    )
    found = start(begun, source, tmp_path / "unused.json", fresh=True)
    model = build(found.spec, seed=0)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for weights in found.weights:
        weights.load_into(model)
    for name, tensor in model.state_dict().items():
        taken = name.startswith(("audio.encoder.", "text.encoder."))
        kept = any(part in name for part in ("mel_conv2d", "fusion_model", "pooler"))
        wanted = given.state_dict()[name] if taken and not kept else fresh[name]
        assert torch.equal(tensor, wanted), name
    assert found.tokenizer(["a dog barks"]) == tokenizer(["a dog barks"])


@pytest.mark.parametrize("classes", [None, 5])
def test_a_tagging_head_is_taken_where_the_model_has_one(source, tmp_path, classes):
    def tagging(count: int | None) -> Recipe:
        made = recipe(start=StartSpec(audio=str(tmp_path / "htsat.ckpt")))
        audio = made.model.audio.model_copy(update={"classes": count})
        return made.model_copy(update={"model": made.model.model_copy(update={"audio": audio})})

    given = build(tagging(5).model, seed=5)
    torch.save(to_laion(given), tmp_path / "htsat.ckpt")
    found = start(tagging(classes), source, tmp_path / "t.json", fresh=True)
    model = build(found.spec, seed=0)
    for weights in found.weights:
        weights.load_into(model)
    wanted = given.audio.encoder.state_dict()
    for name, tensor in model.audio.encoder.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


def test_a_text_encoder_of_transformers_is_named_in_one_place(source, tmp_path):
    chosen = recipe(start=StartSpec(text="another"))
    text = HfTextSpec(name="one")
    chosen = chosen.model_copy(update={"model": chosen.model.model_copy(update={"text": text})})
    with pytest.raises(ConfigError, match=r"start\.text another: .* is of kind"):
        start(chosen, source, tmp_path / "t.json", fresh=True)


def test_a_whole_model_is_trained_on(source, tmp_path):
    """Ours with its tokenizer; LAION's .pt, whose tagging head is left, with a named tokenizer."""
    begun = recipe(steps=1)
    made = pretrain(begun, source, tmp_path / "first")
    on = recipe(start=StartSpec(model=str(made.model_file)))
    found = start(on, source, tmp_path / "unused.json", fresh=True)
    given = load_model(made.model_file)
    assert found.spec == given.model.spec
    assert found.tokenizer.to_json() == given.tokenizer.to_json()
    assert same_weights(found, given.model)
    done = pretrain(on, source, tmp_path / "second")
    assert done.result.finished
    # as a .pt with a tagging head and without a tokenizer
    audio = given.model.spec.audio.model_copy(update={"classes": 7})
    tagging = build(given.model.spec.model_copy(update={"audio": audio}), seed=0)
    tagging.load_state_dict({**tagging.state_dict(), **given.model.state_dict()})
    torch.save({"state_dict": to_laion(tagging)}, tmp_path / "laion.pt")
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "tokenizer.json").write_text(given.tokenizer.to_json(), "utf-8")
    told = StartSpec(model=str(tmp_path / "laion.pt"), text=str(tmp_path / "words"))
    found = start(recipe(start=told), source, tmp_path / "unused.json", fresh=True)
    assert found.spec.audio.classes is None
    assert same_weights(found, given.model)
    assert not (tmp_path / "unused.json").exists()


def same_weights(found: Start, given: LanguageAudioModel) -> bool:
    model = build(found.spec, seed=9)
    for weights in found.weights:
        weights.load_into(model)
    wanted = given.state_dict()
    return all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())


def test_a_model_of_another_kind_is_refused(source, tmp_path):
    made = pretrain(recipe(steps=1), source, tmp_path / "first")
    on = recipe("fusion", start=StartSpec(model=str(made.model_file)))
    with pytest.raises(ConfigError, match=r"start\.model .*no fusion.*the recipe is .*aff_2d"):
        start(on, source, tmp_path / "unused.json", fresh=True)
    torch.save({"state_dict": to_laion(load_model(made.model_file).model)}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match=r"brings no tokenizer; start\.text names one"):
        start(recipe(start=StartSpec(model=str(tmp_path / "a.pt"))), source, tmp_path / "unused",
              fresh=True)  # fmt: skip


def test_what_does_not_fit_is_one_line(source, tmp_path):
    other = build(
        recipe().model.model_copy(
            update={"audio": recipe().model.audio.model_copy(update={"width": 16})}
        ),
        seed=0,
    )
    torch.save({"state_dict": {
        name.replace("audio_branch.", "sed_model."): tensor
        for name, tensor in to_laion(other).items() if name.startswith("audio_branch.")
    }}, tmp_path / "wide.ckpt")  # fmt: skip
    file = tmp_path / "tokenizer.json"
    with pytest.raises(ConfigError, match=r"start\.audio .*another encoder .*width 16"):
        start(recipe(start=StartSpec(audio=str(tmp_path / "wide.ckpt"))), source, file, fresh=True)
    with pytest.raises(CheckpointError, match=r"none\.ckpt"):
        start(recipe(start=StartSpec(audio=str(tmp_path / "none.ckpt"))), source, file, fresh=True)
    with pytest.raises(ConfigError, match=r"start\.text: .*nowhere"):
        start(recipe(start=StartSpec(text=str(tmp_path / "nowhere"))), source, file, fresh=True)


def test_the_released_recipes_name_what_they_start_from():
    for options in ((), ("fusion",), ("fusion", "stage1")):
        made = laion_clap("tiny", *options)
        assert made.start.text == "FacebookAI/roberta-base"
        assert made.optim.weight_decay == 0
        assert made.optim.clip_norm is None
        assert (made.model.audio.fusion == "aff_2d") == ("fusion" in options)


def norms() -> set[str]:
    """The kinds of batch norm in the task of a training."""
    task = make_task(recipe(), build(recipe().model, seed=0))
    return {type(module).__name__ for module in task.modules() if "BatchNorm" in str(type(module))}


def test_batch_norms_share_their_statistics_over_gpus(monkeypatch):
    assert norms() == {"BatchNorm1d"}
    several = World(size=2, store=dist.HashStore())
    monkeypatch.setattr("echoic.objective.current", lambda: several)
    assert norms() == {"BatchNorm1d"}  # torch has no SyncBatchNorm on CPU
    on_gpus = replace(several, device=torch.device("cuda"))
    monkeypatch.setattr("echoic.objective.current", lambda: on_gpus)
    assert norms() == {"SyncBatchNorm"}


# -- M2D -------------------------------------------------------------------------------------------


def m2d_recipe(stage: str, *changes: str, **audio: int) -> Recipe:
    sizes = {"width": m2d.WIDTH, "depth": 2, "heads": 2, "frames": m2d.WINDOW} | audio
    small = [f"model.audio.{name}={value}" for name, value in sizes.items()]
    chosen = find_recipe(f"m2d_clap:nano,{stage}")
    width = m2d.EMBED_DIM[chosen.model.audio.projector]
    return chosen.override([*small, f"model.embed_dim={width}", *changes])


def written(folder: Path, network: LanguageAudioModel) -> str:
    file = folder / "model.safetensors"
    save_model(file, ModelFile(network))
    return str(file)


def test_a_decoder_needs_a_tokenizer_that_frames_its_texts(source, tmp_path):
    """Else no caption would end."""
    plain = tiny.recipe().override(["objectives.captioning=0.5"])
    model = plain.model.model_copy(update={"decoder": tiny.decoder()})
    chosen = plain.model_copy(update={"model": model})
    file = tmp_path / "tokenizer.json"
    file.write_text(tiny.tokenizer().to_json(), "utf-8")
    decoder = start(chosen, source, file, fresh=False).spec.decoder
    assert (decoder.begin_id, decoder.end_id, decoder.unsaid_ids) == (1, 2, (0,))
    tree = json.loads(tiny.tokenizer().to_json())
    file.write_text(json.dumps(tree | {"post_processor": None}), "utf-8")
    with pytest.raises(ConfigError, match="does not put a begin and an end around a text"):
        start(chosen, source, file, fresh=False)


def test_the_audio_encoder_of_an_m2d_is_taken_and_nothing_else(source, tmp_path):
    """With its own front end; the head is the recipe's, fresh, and the text side too."""
    spec = m2d.spec("mlp", text="sentence", classes=3)
    front_end = spec.front_end.model_copy(update={"mean": -5.0, "std": 3.0})
    given = build(spec.model_copy(update={"front_end": front_end}), seed=5)
    chosen = m2d_recipe("stage2", f"start.encoder={written(tmp_path, given)}")
    found = start(chosen, source, tmp_path / "tokenizer.json", fresh=True)
    assert found.spec.front_end == front_end
    assert (found.spec.audio.projector, found.spec.audio.classes) == ("tokens", None)
    assert found.spec.text.kind == "small"
    assert found.spec.text.vocab == found.tokenizer.vocab
    model = build(found.spec, seed=0)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for weights in found.weights:
        weights.load_into(model)
    for name, tensor in model.state_dict().items():
        taken = name.startswith("audio.encoder.") and not name.endswith("pos_embed")
        assert torch.equal(tensor, given.state_dict()[name] if taken else fresh[name]), name


@pytest.mark.parametrize(
    ("frames", "found_frames"), [(64, 64), (70, 64), (32, 64), (101, 101)], ids=str
)
def test_a_longer_window_gets_positions_of_the_encoders(source, tmp_path, frames, found_frames):
    given = m2d.network()
    chosen = m2d_recipe("stage2", f"start.encoder={written(tmp_path, given)}", frames=frames)
    found = start(chosen, source, tmp_path / "t.json", fresh=True)
    assert found.spec.audio.frames == found_frames
    model = build(found.spec, seed=0)
    for weights in found.weights:
        weights.load_into(model)
    own, table = given.audio.encoder.pos_embed, model.audio.encoder.pos_embed
    longer = found_frames > 64
    assert found.spec.audio.positions == ("stored" if longer else "sin_cos")
    wanted = lengthened_positions(own, 5, 6) if longer else own
    assert torch.equal(table, wanted)
    assert table.shape[1] == 1 + 5 * (6 if longer else 4)


def test_an_encoder_that_does_not_fit_is_one_line(source, tmp_path):
    def refused(chosen: Recipe) -> str:
        with pytest.raises(ConfigError) as caught:
            start(chosen, source, tmp_path / "t.json", fresh=True)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    slap = tmp_path / "slap"
    save_model(slap / "model.safetensors", tiny.content())
    line = refused(m2d_recipe("stage2", f"start.encoder={slap}"))
    assert "is slap of 2 x 32, text small; the recipe is m2d of 2 x 32" in line
    assert "both must be M2D" in line
    wide = written(tmp_path, m2d.network(width=64))
    line = refused(m2d_recipe("stage2", f"start.encoder={wide}"))
    assert "embed_dim 32: this M2D gives vectors of 64" in line
    line = refused(m2d_recipe("stage2", f"start.model={wide}"))
    assert "take the one that fits, such as m2d_clap:base,m2d or m2d_clap:base,stage2.1" in line


def test_without_a_projector_the_space_is_as_wide_as_the_columns(source, tmp_path):
    wide = written(tmp_path, m2d.network(width=64))
    chosen = m2d_recipe("m2d", f"start.encoder={wide}")
    found = start(chosen, source, tmp_path / "t.json", fresh=True)
    assert (chosen.model.embed_dim, found.spec.embed_dim) == (160, 320)


@pytest.mark.parametrize(("stage", "projector", "text"), [
    ("m2d", None, "none"), ("stage1", "tokens", "sentence"), ("2024", "mlp", "sentence"),
])  # fmt: skip
def test_an_m2d_is_trained_on_whole_but_for_its_head(source, tmp_path, stage, projector, text):
    """Without a tokenizer, as it reads no words."""
    given = m2d.network(projector, text=text, classes=3)
    chosen = m2d_recipe(stage, f"start.model={written(tmp_path, given)}")
    found = start(chosen, source, tmp_path / "t.json", fresh=True)
    assert found.tokenizer is None
    audio = given.spec.audio.model_copy(update={"classes": None})
    assert found.spec == given.spec.model_copy(update={"audio": audio})
    assert same_weights(found, given)


def test_an_m2d_of_another_kind_is_refused(source, tmp_path):
    file = written(tmp_path, m2d.network("tokens", text="sentence"))
    with pytest.raises(
        ConfigError, match=r"projector tokens, text sentence; the recipe is .* none"
    ):
        start(m2d_recipe("m2d", f"start.model={file}"), source, tmp_path / "t.json", fresh=True)


def test_the_log_mel_is_measured_once(source, tmp_path):
    chosen = m2d_recipe("m2d", "data.max_s=20", "data.measured_clips=4")
    file = tmp_path / "statistics.json"
    spec = measured_front_end(chosen, source, file, fresh=True)
    plain = FrontEnd(spec.model_copy(update={"mean": 0.0, "std": 1.0}))
    waves = [torch.from_numpy(source.read(i, 16_000)) for i in range(4)]
    frames = plain.of_clips(waves).values.double()
    assert spec.mean == pytest.approx(frames.mean().item())
    assert spec.std == pytest.approx(frames.std().item(), rel=1e-4)
    file.write_text('{"mean": 1.0, "std": 2.0}')
    again = measured_front_end(chosen, source, file, fresh=False)
    assert (again.mean, again.std) == (1, 2)
    assert again.model_copy(update={"mean": spec.mean, "std": spec.std}) == spec


def test_the_log_mel_is_measured_over_crops_of_clips_that_the_seed_draws(source, tmp_path):
    def measured(**changes: object) -> tuple[float, float]:
        told = [f"{name.replace('__', '.')}={value}" for name, value in changes.items()]
        chosen = m2d_recipe("m2d", "data.max_s=0.5", "data.measured_clips=2", *told)
        spec = measured_front_end(chosen, source, tmp_path / "s.json", fresh=True)
        return spec.mean, spec.std

    state = torch.get_rng_state()
    assert measured() == measured()
    assert measured() != measured(run__seed=8)
    assert measured() != measured(data__measured_clips=99)
    assert torch.equal(torch.get_rng_state(), state)


def test_of_a_recording_of_hours_a_window_alone_is_decoded(tmp_path):
    class Hours:
        clips = (Clip("long", ("hum",), (), 7200.0),)

        def read(self, i: int, rate_hz: int) -> np.ndarray:
            raise AssertionError("the whole was asked for")

        def read_window(
            self, i: int, rate_hz: int, start_s: float, duration_s: float
        ) -> np.ndarray:
            assert 0 <= start_s <= 7200 - duration_s
            return tiny.noise(duration_s)

    chosen = m2d_recipe("m2d", "data.max_s=0.5", "data.measured_clips=3")
    spec = measured_front_end(chosen, Hours(), tmp_path / "s.json", fresh=True)
    assert spec.std > 0.1


def test_a_source_that_cannot_be_heard_has_no_mean(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    broken = FileSource([Clip("a", (), (), 1.0)], [tmp_path / "a.wav"])
    with pytest.raises(DataError, match="none of 1 clips can be heard"):
        measured_front_end(m2d_recipe("m2d"), broken, tmp_path / "s.json", fresh=True)
