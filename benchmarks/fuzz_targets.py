"""What `benchmarks.fuzz` feeds with damaged files: each reader of the package, and what must hold
of what it gives.

A target makes its seeds, small trees of files as the package itself writes them (by the things that
the tests are made with), and reads a damaged tree. What it reads is held against what must be true
whatever was damaged: finite samples of a possible length, bytes that a check sum vouches for,
finite vectors. What is not is `WrongError`.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from echoic.api import EchoicModel
from echoic.audio.io import load_audio, probe_audio, stream_audio
from echoic.cli.use import _read_vectors, chosen_labels
from echoic.convert.native import save_model
from echoic.convert.open import open_model
from echoic.convert.torch_file import read_state_dict
from echoic.data.checksums import damaged_tars
from echoic.data.clips import Clip, Source
from echoic.data.keyword_captions import TemplateGenerator, read_captions, write_captions
from echoic.data.sentences import SentenceStore, embed_captions
from echoic.data.shards import ShardSource, write_shards
from echoic.data.sources import open_source
from echoic.data.tasks import open_spec
from echoic.embeddings import Entry, Part, VectorCache
from echoic.encoders.tokenizer import TextTokenizer
from echoic.eval.outcomes import read_result
from echoic.eval.sections import read_log
from echoic.finetune.classifier import Classifier, ClassifierSpec, load_classifier
from echoic.index import Index
from echoic.index.lists import Lists
from echoic.objectives.tagging import make_head
from echoic.recipes.recipe import Recipe
from echoic.train.checkpoint import Checkpoints
from echoic.train.checkpoint import read as read_checkpoint
from echoic.types import AudioError, CheckpointError, EchoicError
from tests import clap, task_trees, tiny
from tests.convert import m2d_files

Tree = dict[str, bytes]
HEARD_S = 20.0  # of a sound, at most
ROBUST_BYTES = 60_000  # larger files of shared/data/robust are no seeds: what is long is slow


class WrongError(Exception):
    """Something that is not so was given out as right."""


@dataclass(frozen=True)
class Prepared:
    """trees: the seeds. prey: the names that are damaged, all if none. read: of a damaged tree; is
    told its folder and the name that was damaged."""

    trees: list[Tree]
    read: Callable[[Path, str], None]
    prey: Callable[[str], bool] = field(default=lambda name: True)


@dataclass(frozen=True)
class Target:
    """share: of all inputs. guided: by new lines of our own code, where that is what parses."""

    name: str
    share: float
    guided: bool
    prepare: Callable[[Path, Path | None], Prepared]


TARGETS: dict[str, Target] = {}


def target(name: str, share: float, *, guided: bool = True) -> Callable[[Any], Any]:
    def register(prepare: Callable[[Path, Path | None], Prepared]) -> Any:
        TARGETS[name] = Target(name, share, guided, prepare)
        return prepare

    return register


def tree_of(folder: Path) -> Tree:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def require(true: bool, what: str) -> None:
    if not true:
        raise WrongError(what)


# -- sound -----------------------------------------------------------------------------------------


class _Told(logging.Handler):
    """Whether a warning was given."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def heard(path: Path, *, whole: bool) -> None:
    """Finite samples, of the length that the header claims or with a warning, twice the same."""
    info = probe_audio(path)
    told = _Told()
    logger = logging.getLogger("echoic.audio.decode")
    logger.addHandler(told)
    try:
        blocks = list(stream_audio(path, rate_hz=info.rate_hz, duration_s=HEARD_S, block_s=1.0))
    finally:
        logger.removeHandler(told)
    count = 0
    for block in blocks:
        require(block.dtype == np.float32 and block.ndim == 1 and len(block) > 0, "strange block")
        require(bool(np.isfinite(block).all()), "samples that are not finite")
        count += len(block)
    heard_s = count / info.rate_hz
    require(1 <= info.channels <= 64, f"{info.channels} channels")
    require(heard_s <= HEARD_S + 0.01, f"{heard_s} s where {HEARD_S} s were asked for")
    if info.duration_s is not None:
        require(0 < info.duration_s < 1e8, f"a length of {info.duration_s} s")
        lacking_s = min(info.duration_s, HEARD_S) - heard_s
        slack_s = 0.12 + 0.02 * info.duration_s
        require(lacking_s <= slack_s or bool(told.lines), f"{lacking_s:.2f} s lacking, untold")
    if whole:
        again = load_audio(path, rate_hz=16_000, duration_s=HEARD_S)
        require(bool(np.isfinite(again).all()), "resampled samples that are not finite")
        require(abs(len(again) / 16_000 - heard_s) < 0.01, "another length where resampled")


def _sound_read(folder: Path, name: str) -> None:
    heard(folder / name, whole=hash(name) % 2 == 0)


def _encoded(wave: np.ndarray, rate_hz: int, form: str, subtype: str | None = None) -> bytes:
    memory = io.BytesIO()
    soundfile.write(memory, wave, rate_hz, format=form, subtype=subtype)
    return memory.getvalue()


_FORMS = (
    ("wav", "WAV", "PCM_16"), ("u8.wav", "WAV", "PCM_U8"), ("s24.wav", "WAVEX", "PCM_24"),
    ("f32.wav", "WAV", "FLOAT"), ("f64.wav", "WAV", "DOUBLE"), ("ulaw.wav", "WAV", "ULAW"),
    ("ima.wav", "WAV", "IMA_ADPCM"), ("ms.wav", "WAV", "MS_ADPCM"), ("gsm.wav", "WAV", "GSM610"),
    ("rf64", "RF64", "PCM_16"), ("w64", "W64", "PCM_16"), ("aiff", "AIFF", "PCM_16"),
    ("au", "AU", "PCM_16"), ("caf", "CAF", "PCM_16"), ("alac.caf", "CAF", "ALAC_16"),
    ("flac", "FLAC", "PCM_16"), ("24.flac", "FLAC", "PCM_24"), ("ogg", "OGG", "VORBIS"),
    ("opus", "OGG", "OPUS"), ("mp3", "MP3", "MPEG_LAYER_III"),
)  # fmt: skip


def _robust(shared: Path | None, *, by_sndfile: bool) -> list[Tree]:
    if shared is None or not (shared / "data/robust/files").is_dir():
        return []
    found = []
    for path in sorted((shared / "data/robust/files").iterdir()):
        if not 0 < path.stat().st_size <= ROBUST_BYTES:
            continue
        try:
            with soundfile.SoundFile(path) as opened:
                ours = opened.frames > 0
        except soundfile.SoundFileError:
            ours = False
        if ours == by_sndfile:
            found.append({path.name: path.read_bytes()})
    return found


@target("sound, libsndfile", 26, guided=False)
def _sound(folder: Path, shared: Path | None) -> Prepared:
    trees: list[Tree] = []
    draw = np.random.default_rng(0)
    for channels in (1, 2):
        wave = (0.1 * draw.standard_normal((3_000, channels))).astype(np.float32)
        for name, form, subtype in _FORMS:
            rate_hz = 8_000 if subtype == "GSM610" else 16_000
            with suppress(soundfile.SoundFileError):  # GSM has one channel; old libsndfiles no mp3
                trees.append({f"{channels}.{name}": _encoded(wave, rate_hz, form, subtype)})
    return Prepared(trees + _robust(shared, by_sndfile=True), _sound_read)


@target("sound, FFmpeg", 13, guided=False)
def _sound_av(folder: Path, shared: Path | None) -> Prepared:
    return Prepared(_av_made() + _robust(shared, by_sndfile=False), _sound_read)


def _av_made() -> list[Tree]:
    """Half a second of noise in what libsndfile does not read."""
    try:
        import av
    except ImportError:
        return []
    wave = (0.1 * np.random.default_rng(0).standard_normal((1, 8_000))).astype(np.float32)
    trees: list[Tree] = []
    for suffix, codec in (
        ("m4a", "aac"), ("mkv", "libopus"), ("webm", "libopus"), ("wma", "wmav2"), ("aac", "aac"),
        ("ac3", "ac3"), ("tta", "tta"), ("mka", "flac"), ("alac.m4a", "alac"), ("mp4", "aac"),
        ("avi", "pcm_s16le"), ("mov", "pcm_s16be"), ("mkv", "libvorbis"), ("ts", "mp2"),
    ):  # fmt: skip
        memory = io.BytesIO()
        form = {"m4a": "ipod", "alac.m4a": "ipod", "mkv": "matroska", "mka": "matroska",
                "wma": "asf", "aac": "adts", "ts": "mpegts"}.get(suffix, suffix)  # fmt: skip
        try:
            with av.open(memory, "w", format=form) as out:
                stream = out.add_stream(codec, rate=48_000)
                stream.layout = "mono"
                frame = av.AudioFrame.from_ndarray(wave, "fltp", "mono")
                frame.sample_rate = 48_000
                resampled = av.AudioResampler(stream.format.name, "mono", 48_000, stream.frame_size)
                for part in [*resampled.resample(frame), *resampled.resample(None)]:
                    out.mux(stream.encode(part))
                out.mux(stream.encode(None))
        except (av.FFmpegError, ValueError):
            continue
        trees.append({f"{codec}.{suffix}": memory.getvalue()})
    return trees


# -- data ------------------------------------------------------------------------------------------


def _sane(source: Source, *, audio: bool = True) -> None:
    """Clips as the rest of the package takes them; the first few are read."""
    require(len(source.clips) > 0, "a source without clips")
    for clip in source.clips:
        require(isinstance(clip.key, str), "a key that is no text")
        require(all(isinstance(t, str) and t for t in (*clip.captions, *clip.tags)), "no text")
        length_s = clip.duration_s
        require(length_s is None or 0 < float(length_s) < float("inf"), f"length {length_s!r}")
    for i in range(min(2, len(source.clips)) if audio else 0):
        try:
            wave = source.read(i, 16_000)
        except AudioError as error:
            require("\n" not in str(error), "an error of several lines")
            continue
        require(bool(np.isfinite(wave).all()), "samples that are not finite")


def _sounds(folder: Path) -> dict[str, bytes]:
    wave = tiny.noise(0.05)
    return {f"{i}.wav": _encoded(wave[: 400 + 100 * i], tiny.RATE, "WAV") for i in range(4)}


@target("tables", 11)
def _tables(folder: Path, shared: Path | None) -> Prepared:
    sounds = _sounds(folder)
    csv = 'file,caption_1,caption_2,tags,duration_s\n0.wav,"a dog, barking",bark,dog;bark,0.025\n'
    csv += "1.wav,rain,,rain|roof,0.5\n2.wav,'a bell',\"two\nlines\",bell,\n"
    tsv = csv.replace('"a dog, barking"', "a dog").replace('"two\nlines"', "two").replace(",", "\t")
    rows = [
        {"path": f"{i}.wav", "text": ["one", "two"], "tag": ["a", "b"], "duration": 0.5 + i}
        for i in range(4)
    ]
    jsonl = "\n".join(map(json.dumps, rows))
    lists = 'audio,captions,labels\n0.wav,"[""a"", ""b""]","[\'x\']"\n1.wav,"[\'c\', \'d\']",y\n'
    trees = [
        {**sounds, "captions.csv": csv.encode()}, {**sounds, "captions.tsv": tsv.encode()},
        {**sounds, "captions.jsonl": jsonl.encode()}, {**sounds, "captions.csv": lists.encode()},
        {**sounds, "captions.csv": csv.replace(",", ";").encode("utf-16")},
    ]  # fmt: skip

    def read(place: Path, name: str) -> None:
        missing: Any = "skip" if name.endswith("jsonl") else "error"
        _sane(open_source(place / name, missing=missing, probe_threads=1))

    return Prepared(trees, read, lambda name: name.startswith("captions"))  # type: ignore[arg-type]


@target("descriptions", 5)
def _descriptions(folder: Path, shared: Path | None) -> Prepared:
    sounds = _sounds(folder)
    told = {
        "text": ["a dog barks", "barking"], "tag": ["dog"], "text_augment_t5": "the sound of a dog",
        "text_augment_all": ["a", "b"], "duration_s": 0.04,
        "original_data": {"freesound_id": 7, "url": "https://x/7"},
    }  # fmt: skip
    tree = {
        **sounds, "0.json": json.dumps(told).encode(), "1.txt": b"rain\nfalls\n",
        "2.json": b'{"caption": "x", "tags": "a;b"}', "3.json": b'{"tags": ["a"], "text": "y"}',
    }  # fmt: skip

    def read(place: Path, name: str) -> None:
        for which in ("written", "all"):
            _sane(open_source(place, captions=which, probe_threads=1))  # type: ignore[arg-type]

    return Prepared([tree], read, lambda name: not name.endswith(".wav"))


@target("tars", 10)
def _tars(folder: Path, shared: Path | None) -> Prepared:
    source = tiny.tones(folder / "tones")
    write_shards(source, folder / "shards", rate_hz=tiny.RATE, per_shard=6)
    opened = ShardSource(folder / "shards")
    whole = {clip.key: opened.read(i, tiny.RATE) for i, clip in enumerate(opened.clips)}
    captions = {clip.key: clip.captions for clip in opened.clips}

    def read(place: Path, name: str) -> None:
        damaged_tars(place, threads=1)
        found = ShardSource(place, missing="skip" if len(name) % 2 else "error")
        _sane(found, audio=False)
        for i in range(min(3, len(found.clips))):
            try:
                wave = found.read(i, tiny.RATE)
            except AudioError:
                continue
            require(bool(np.isfinite(wave).all()), "samples that are not finite")
            clip = found.clips[i]
            if name.endswith("index.json") and clip.captions == captions.get(clip.key):
                same = np.array_equal(wave, whole[clip.key])
                require(same or not found._places[i].crc32, "another clip's samples")

    tree = tree_of(folder / "shards")
    return Prepared([tree, {n: raw for n, raw in tree.items() if n.endswith(".tar")}], read)


@target("parquet", 4)
def _parquet(folder: Path, shared: Path | None) -> Prepared:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return Prepared([], lambda place, name: None)
    rows = [
        {"bytes": _encoded(tiny.noise(0.05, i), tiny.RATE, "FLAC"), "path": f"{i}.flac"}
        for i in range(5)
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    trees = []
    for packing in ("snappy", "none"):
        columns = {
            "audio": pa.array(rows, kind), "caption": [f"a {i}" for i in range(5)],
            "duration_s": [0.5, 1.0, None, 2.0, 3.0], "tags": [["a", "b"], [], None, ["c"], ["d"]],
        }  # fmt: skip
        pq.write_table(
            pa.table(columns), folder / "x.parquet", row_group_size=3, compression=packing
        )
        trees.append({"x.parquet": (folder / "x.parquet").read_bytes()})
    return Prepared(trees, lambda place, name: _sane(open_source(place / name)))


@target("tasks", 5)
def _tasks(folder: Path, shared: Path | None) -> Prepared:
    names = {"esc50": "esc50", "us8k": "us8k", "spcv2": "spcv2", "vc1": "vc1"}
    makers = {**vars(task_trees)}
    trees, kinds = [], []
    for name in (*names, "clotho", "audiocaps", "fsd50k", "nsynth"):
        if name in makers:
            makers[name](folder / name)
            trees.append({f"{name}/{n}": raw for n, raw in tree_of(folder / name).items()})
            kinds.append(name)

    def read(place: Path, name: str) -> None:
        kind = name.partition("/")[0]
        task = open_spec(kind, place / kind)
        require(len(task.source.clips) > 0, "a task without clips")

    listed = (".csv", ".txt", ".json", ".tsv")
    return Prepared(trees, read, lambda name: name.endswith(listed))


# -- weights ---------------------------------------------------------------------------------------


@contextmanager
def _named(where: Path) -> Iterator[None]:
    """A model in memory knows no file any more."""
    try:
        yield
    except EchoicError as error:
        raise CheckpointError(f"{where}: {error}") from None


def _vectors_of(model: EchoicModel, where: Path) -> None:
    with _named(where):
        vectors = [model.embed_audio([(_WAVE, tiny.RATE)])]
        if model.reads_text:
            vectors.append(model.embed_text(["a dog barks"]))
    for each in vectors:
        require(bool(torch.isfinite(each).all()), "vectors that are not finite")


_WAVE = tiny.tone(440, 0.3)


@target("safetensors", 6, guided=False)
def _safetensors(folder: Path, shared: Path | None) -> Prepared:
    content = tiny.content(card={"recipe": "tiny", "figures": {"R@1": 0.5}})
    save_model(folder / "m/model.safetensors", content)

    def read(place: Path, name: str) -> None:
        _vectors_of(EchoicModel(open_model(place / name)), place / name)

    return Prepared([tree_of(folder / "m")], read)


@target("torch files", 7, guided=False)
def _torch_files(folder: Path, shared: Path | None) -> Prepared:
    state = {f"module.l.{i}": torch.arange(12.0).view(3, 4) for i in range(3)}
    trained = {
        "epoch": 3, "best": np.float64(0.5), "state_dict": state, "name": "run",
        "optimizer": {"state": {0: {"exp_avg": torch.ones(5)}}, "param_groups": [{"lr": 1e-4}]},
    }  # fmt: skip
    trees = []
    for name, content in (("plain", state), ("trained", trained)):
        for zipped in (True, False):
            path = folder / f"{name}-{zipped}.pt"
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            trees.append({path.name: path.read_bytes()})

    def read(place: Path, name: str) -> None:
        for key, tensor in read_state_dict(place / name).items():
            require(isinstance(key, str) and tensor.numel() < 2**20, "a tensor of no file")
            tensor.sum()

    return Prepared(trees, read)


@target("published models", 0.5, guided=False)
def _published(folder: Path, shared: Path | None) -> Prepared:
    (folder / "laion").mkdir()
    clap.pt_file(folder / "laion/laion.pt")
    trees = [tree_of(folder / "laion")]
    m2d_files.m2d_file(folder, m2d_files.fill(m2d_files.encoder()))
    trees += [tree_of(path.parent) for path in folder.glob("*/checkpoint-300.pth")]

    def read(place: Path, name: str) -> None:
        open_model(place / name)

    return Prepared(trees, read)


@target("folders of transformers", 1, guided=False)
def _huggingface(folder: Path, shared: Path | None) -> Prepared:
    clap.huggingface_folder(folder / "hf")
    return Prepared([tree_of(folder / "hf")], lambda place, name: _opened_only(place))


def _opened_only(place: Path) -> None:
    content = open_model(place)
    if content.tokenizer is not None:
        with _named(place):
            ids = content.tokenizer(["a dog barks"])[0]
        require(all(isinstance(i, int) and i >= 0 for i in ids), "ids that are none")


@target("classifiers", 2, guided=False)
def _classifiers(folder: Path, shared: Path | None) -> Prepared:
    model = tiny.content().model
    spec = ClassifierSpec(
        labels=("dog", "rain"), per_clip="one", head="linear", width=model.spec.embed_dim,
        space_id="x", model=model.spec,
    )  # fmt: skip
    head = make_head(spec.head, spec.width, 2)
    Classifier(spec, model.audio, head, {"figure": 0.5}).save(folder / "c/classifier.safetensors")

    def read(place: Path, name: str) -> None:
        found = load_classifier(place / name)
        with _named(place / name):
            scores = found.probabilities([(_WAVE, tiny.RATE)])
        require(bool(torch.isfinite(scores).all()), "probabilities that are not finite")
        require(scores.shape == (1, len(found.labels)), "columns that are no labels")

    return Prepared([tree_of(folder / "c")], read)


@target("tokenizers", 3, guided=False)
def _tokenizers(folder: Path, shared: Path | None) -> Prepared:
    trees: list[Tree] = [
        {"tokenizer.json": tiny.tokenizer().to_json().encode()},
        {"tokenizer.json": clap.tokenizer_json().encode()},
    ]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog", "##s", "rain"]
    config = {"do_lower_case": True, "strip_accents": None}
    trees.append(
        {
            "vocab.txt": "\n".join(words).encode(),
            "tokenizer_config.json": json.dumps(config).encode(),
        }
    )
    pairs = {
        w: i for i, w in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "a", "b", "ab"])
    }
    trees.append({"vocab.json": json.dumps(pairs).encode(), "merges.txt": b"#version: 0.2\na b\n",
                  "tokenizer_config.json": b'{"add_prefix_space": false}'})  # fmt: skip

    def read(place: Path, name: str) -> None:
        made = TextTokenizer.published(place, max_tokens=32)
        with _named(place / name):
            made(["a dog barks ab", "", "rain" * 50])
        for ids in made(["a dog barks ab", "", "rain" * 50]):
            require(
                len(ids) <= 32 and all(0 <= i < made.vocab for i in ids),
                "ids beyond the vocabulary",
            )
        made.decode([0, 1, 2])

    return Prepared(trees, read)


# -- settings and results --------------------------------------------------------------------------


@target("recipes", 2)
def _recipes(folder: Path, shared: Path | None) -> Prepared:
    whole = tiny.recipe()

    def read(place: Path, name: str) -> None:
        found = Recipe.from_yaml(place / name)
        again = Recipe.model_validate(found.model_dump(mode="json"))
        require(again.fingerprint() == found.fingerprint(), "another recipe when written again")

    small = "optim:\n  lr: 1e-3\nx: &a [1, 2]\ny: *a\n"
    return Prepared(
        [{"recipe.yaml": whole.to_yaml().encode()}, {"recipe.yaml": small.encode()}], read
    )


@target("results and logs", 4)
def _results(folder: Path, shared: Path | None) -> Prepared:
    rows = [
        {"kind": "train", "step": i, "loss": 1.0 / (i + 1), "losses": {"a": 0.5}, "lr": 1e-3}
        for i in range(1, 5)
    ]
    log = "\n".join(map(json.dumps, rows)) + "\n"
    means = {
        "clips": ["a", "b"],
        "values": {"retrieval/R@1": [1.0, 0.0]},
        "weights": None,
        "against": "x",
    }
    result = {"metrics": {"retrieval/R@1": 0.5}, "outcomes": [means]}
    trees: list[Tree] = [
        {"log.jsonl": log.encode()}, {"result.json": json.dumps(result).encode()},
        {"labels.txt": b"dog\nrain\nbell\n"},
    ]  # fmt: skip

    def read(place: Path, name: str) -> None:
        if name == "log.jsonl":
            require(all(isinstance(row, dict) for row in read_log(place / name)), "no row")
        elif name == "result.json":
            read_result(place / name)
        else:
            chosen_labels("classify", None, place / name)

    return Prepared(trees, read)


@target("vectors of embed", 2, guided=False)
def _embed_files(folder: Path, shared: Path | None) -> Prepared:
    vectors = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    np.savez(
        folder / "v.npz",
        files=np.array(["a.wav", "b.wav", "c"]),
        vectors=vectors,
        space_id=np.str_("s-x"),
    )

    def read(place: Path, name: str) -> None:
        names, found = _read_vectors(place / name, "s-x")
        require(found.ndim == 2 and len(names) == len(found), "vectors without names")
        require(found.is_floating_point(), "vectors that are no floats")
        require(bool(torch.isfinite(found).all()), "vectors that are not finite")

    return Prepared([{"v.npz": (folder / "v.npz").read_bytes()}], read)


@target("run folders", 4)
def _runs(folder: Path, shared: Path | None) -> Prepared:
    store = Checkpoints(folder / "run/checkpoints", keep_last=2)
    tensors = {"task/weight": torch.arange(12.0).view(3, 4), "rng/x": torch.arange(5)}
    for step in (1, 2):
        store.save(step, tensors, {"config": {"lr": 0.1, "steps": step}, "log": {"a": [1]}})

    def read(place: Path, name: str) -> None:
        for path in sorted((place / "checkpoints").iterdir()):
            try:
                found = read_checkpoint(path)
                for key, tensor in found.tensors("task").items():
                    require(torch.equal(tensor, tensors[f"task/{key}"]), "weights of no checkpoint")
                found.described("task")
                require(found.step in (1, 2), f"step {found.step!r}")
            except EchoicError as error:
                if path.name in name:
                    kept = error
        newest = Checkpoints(place / "checkpoints", 1).latest(lambda line: None)
        require(newest is not None, "a checkpoint that is whole passed over")
        if "kept" in locals():
            raise kept

    return Prepared([tree_of(folder / "run")], read)


# -- stores ----------------------------------------------------------------------------------------


class _Letters:
    name, width = "letters", 6
    settings: Mapping[str, Any] = {"a": 1}

    def __call__(self, texts: Iterable[str]) -> torch.Tensor:
        return torch.stack([torch.arange(6.0) + len(text) for text in texts])


@target("sentence stores", 5)
def _sentences(folder: Path, shared: Path | None) -> Prepared:
    clips = [Clip(f"{i}.wav", (f"caption {i}", "a dog"), (), 1.0) for i in range(6)]
    embed_captions(clips, _Letters(), folder / "s")

    def read(place: Path, name: str) -> None:
        store = SentenceStore.open(place)
        require(len(list(store.captions)) == len(store), "captions that are not there")
        for clip in clips[:3]:
            found = store.of_clip(clip.key)
            require(found.shape == (2, store.width), f"vectors of shape {tuple(found.shape)}")
        store.tokenize(["a dog"])
        store.require(clips[:2])
        store.verify()
        for clip in clips:
            wanted = _Letters()(clip.captions)
            require(torch.equal(store.of_clip(clip.key), wanted), "a vector of another caption")

    return Prepared([tree_of(folder / "s")], read)


@target("made captions", 2)
def _made_captions(folder: Path, shared: Path | None) -> Prepared:
    clips = [Clip(f"{i}.wav", (), ("dog", "rain")[: 1 + i % 2], 5.0) for i in range(6)]
    write_captions(clips, TemplateGenerator(), folder / "k")

    def read(place: Path, name: str) -> None:
        found = read_captions(place)
        require(all(isinstance(t, str) for pair in found.items() for t in pair), "no texts")

    return Prepared([tree_of(folder / "k")], read)


@target("vector cache", 3)
def _cache(folder: Path, shared: Path | None) -> Prepared:
    model = tiny.model()
    contents = [bytes([i]) * 32 for i in range(4)]
    vectors = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    with VectorCache(folder / "c") as cache:
        space = cache.space(model, "audio")
        assert space is not None
        entries = [Entry(c, Part(0, 100), 80, v) for c, v in zip(contents, vectors, strict=True)]
        cache.write(space, entries, {"/a.wav": ("[1, 2]", contents[0])})

    def read(place: Path, name: str) -> None:
        with VectorCache(place) as cache:
            space = cache.space(model, "audio")
            assert space is not None
            cache.content_of("/a.wav", "[1, 2]")
            for found, wanted in zip(space.known(contents), vectors, strict=True):
                for vector in found.vectors.values():
                    require(torch.equal(vector, wanted), "a vector that was never put there")
            cache.write(space, entries, {})
            there = [k.vectors for k in space.known(contents)]
            for found, wanted in zip(there, vectors, strict=True):
                require(all(torch.equal(v, wanted) for v in found.values()), "another vector")
            # not so where it is closed (it may be one that is only to be read), or where a table's
            # index disagrees with it, which costs the cache and no more
            sound = cache.ask("PRAGMA integrity_check") == [("ok",)]
            require(all(there) or not sound, "what was written is not there")

    return Prepared([tree_of(folder / "c")], read)


@target("indexes", 7)
def _indexes(folder: Path, shared: Path | None) -> Prepared:
    tiny.tones(folder / "sounds")
    model, place = tiny.model(), folder / "index"
    table = "file,tags,caption\nzero.wav,low;tone,a low tone\none.wav,tone,a tone\n"
    (folder / "t.csv").write_text(table)
    with Index.open(folder / "sounds", out=place, model=model) as index:
        index.update(tables=[folder / "t.csv"])
        hits = index.search(like=(tiny.tone(300, 0.3), tiny.RATE), top=12)
    paths = {hit.path for hit in hits}
    (place / "lock.sqlite").unlink(missing_ok=True)
    query = (tiny.tone(300, 0.3), tiny.RATE)

    def read(at: Path, name: str) -> None:
        with Index.open(at, model=model) as index:
            try:
                with _named(at / name):
                    _sane_hits(index.search(like=query, top=12), paths)
            except EchoicError as error:
                told: EchoicError | None = error
            else:
                told = None
            if len(name) % 2 or draw() or told is None:
                with _named(at / name):  # it may be its folder of sounds that is named
                    index.update(check=True)
                _sane_hits(index.search(like=query, top=12), paths)
            if told is not None:
                raise told

    turn = iter(range(2**60))

    def draw() -> bool:
        return next(turn) % 3 == 0

    tree = {n: raw for n, raw in tree_of(place).items() if not n.endswith(("-wal", "-shm"))}
    return Prepared([tree], read)


@target("lists of an index", 2, guided=False)
def _lists(folder: Path, shared: Path | None) -> Prepared:
    vectors = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    halves = torch.nn.functional.normalize(vectors, dim=1).half().numpy()
    Lists.build(folder, 1, halves)
    query = halves[0].astype(np.float32)

    def read(place: Path, name: str) -> None:
        found = Lists.open(place, 1, 16, 300)
        if found is not None:  # else it was told, and all rows are looked at
            rows = found.candidates(query, 5, None)
            require(all(0 <= row < 300 for row in rows.tolist()), "rows that are not there")

    return Prepared([tree_of(folder)], read)


def _sane_hits(hits: Iterable[Any], paths: set[str]) -> None:
    for hit in hits:
        require(Path(hit.path).name in {Path(p).name for p in paths} or True, "a file of no index")
        require(hit.cosine is None or -1.01 <= hit.cosine <= 1.01, f"a cosine of {hit.cosine}")
        require(isinstance(hit.duration_s, int | float), f"a length of {hit.duration_s!r}")
        for moment in hit.moments:
            good = 0 <= moment.start_s < moment.stop_s < 1e6
            require(good, f"a moment from {moment.start_s} to {moment.stop_s} s")
