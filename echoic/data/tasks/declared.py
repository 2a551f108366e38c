"""Classification tasks, declared: those of M2D's evaluation (2210.14648, 2406.02032; EVAR, their
package), and VGGSound and RAVDESS of LAION-CLAP's and SLAP's.

Lengths, parts and metrics are M2D's; where lists are not public, that is said in `OwnSplit`. A new
task is one more entry: what the data set's own lists are called and which of their columns say
where a clip lies, what it is and in which part; see `task.TaskSpec` and `layouts`.
"""

from __future__ import annotations

from dataclasses import replace

from echoic.data.tasks.layouts import Csv, Json, Lines, Rows, Walk
from echoic.data.tasks.paper import published
from echoic.data.tasks.task import LabelFile, OwnSplit, TaskSpec

_BY_WORD = r"(?P<file>(?P<word>[^/_][^/]*)/[^/]+)"


def _fixed(train: int, valid: int, test: int) -> dict[str, int]:
    return {"train": train, "valid": valid, "test": test}


ESC50 = TaskSpec(
    name="esc50",
    title="ESC-50",
    home="https://github.com/karolpiczak/ESC-50",
    licence="CC BY-NC 3.0",
    rows=(Rows(Csv("meta/esc50.csv"), "audio/{filename}", "{category}", "{fold}"),),
    clip_s=5.0,
    classes=50,
    folds=5,
    expected={str(fold): 400 for fold in range(1, 6)},
)

US8K = TaskSpec(
    name="us8k",
    title="UrbanSound8K",
    home="https://urbansounddataset.weebly.com/urbansound8k.html",
    licence="CC BY-NC 3.0",
    rows=(
        Rows(
            Csv("metadata/UrbanSound8K.csv"),
            "audio/fold{fold}/{slice_file_name}",
            "{class}",
            "{fold}",
        ),
    ),
    clip_s=4.0,
    classes=10,
    folds=10,
    expected=dict(
        zip(
            map(str, range(1, 11)),
            (873, 888, 925, 990, 936, 823, 838, 806, 816, 837),
            strict=True,
        )
    ),
)

SPCV2 = TaskSpec(
    name="spcv2",
    title="Speech Commands v0.02",
    home="https://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
    licence="CC BY 4.0",
    # a clip on neither list is for training; folders that begin with _ hold noise
    rows=(
        Rows(Lines("validation_list.txt", _BY_WORD), "{file}", "{word}", "valid"),
        Rows(Lines("testing_list.txt", _BY_WORD), "{file}", "{word}", "test"),
        Rows(Walk(".", _BY_WORD), "{file}", "{word}", "train"),
    ),
    clip_s=1.0,
    classes=35,
    expected=_fixed(84_843, 9_981, 11_005),
)

VC1 = TaskSpec(
    name="vc1",
    title="VoxCeleb1 identification",
    home="https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html (with iden_split.txt)",
    licence="CC BY 4.0 (lists); the speech is YouTube's",
    rows=(
        Rows(
            Lines("iden_split.txt", r"(?P<part>train|valid|test|\d) (?P<file>(?P<speaker>\w+)/.+)"),
            ("wav/{file}", "{file}"),
            "{speaker}",
            "{part}",
        ),
    ),
    parts={"1": "train", "2": "valid", "3": "test"},
    clip_s=8.2,
    classes=1251,
    expected=_fixed(138_361, 6_904, 8_251),
)

VOXFORGE = TaskSpec(
    name="voxforge",
    title="VoxForge language identification",
    home="http://www.voxforge.org (the archives of de, en, es, fr, it and ru, unpacked in folders "
    "of these names)",
    licence="GPL 3.0",
    rows=(
        Rows(
            Walk(
                ".",
                # who gave no name is told apart by the recording session alone
                r"(?P<file>(?P<language>de|en|es|fr|it|ru)/"
                r"(?P<speaker>anonymous[^/]*|[^/-]+)[^/]*/wav/[^/]+)",
            ),
            "{file}",
            "{language}",
            "{speaker}",
        ),
    ),
    names={
        "de": "German",
        "en": "English",
        "es": "Spanish",
        "fr": "French",
        "it": "Italian",
        "ru": "Russian",
    },
    own_split=OwnSplit(
        {"train": 0.69, "valid": 0.15, "test": 0.16},
        # differs from the paper: its own lists, of the same shares, are not public
        "parts by a hash of the speaker, 69/15/16 %, not the paper's lists",
    ),
    clip_s=5.8,
    classes=6,
)

CREMAD = TaskSpec(
    name="cremad",
    title="CREMA-D",
    home="https://github.com/CheyneyComputerScience/CREMA-D",
    licence="ODbL 1.0",
    rows=(
        Rows(
            Walk(
                "AudioWAV",
                r"(?P<file>(?P<speaker>\d{4})_[^_]+_(?P<emotion>[A-Z]{3})_[^/]+)",
            ),
            "AudioWAV/{file}",
            "{emotion}",
            "{speaker}",
        ),
    ),
    names={
        "ANG": "anger",
        "DIS": "disgust",
        "FEA": "fear",
        "HAP": "happiness",
        "NEU": "neutral",
        "SAD": "sadness",
    },
    own_split=OwnSplit(
        {"train": 5155, "valid": 732, "test": 1551},
        # differs from the paper: its own lists of 7438 clips are not public
        "parts by a hash of the speaker, in the paper's shares, not its lists",
    ),
    clip_s=2.5,
    classes=6,
    notes="The paper has 5155, 732 and 1551 clips, of 7442 that are distributed.",
)

_ACTORS = range(1, 25)
RAVDESS = TaskSpec(
    name="ravdess",
    title="RAVDESS, speech",
    home="https://zenodo.org/record/1188976 (Audio_Speech_Actors_01-24.zip)",
    licence="CC BY-NC-SA 4.0",
    # modality-channel-emotion-intensity-statement-repetition-actor; 03-01: sound alone, speech
    rows=(
        Rows(
            Walk(
                ".",
                r"(?P<file>Actor_\d\d/03-01-(?P<emotion>\d\d)-\d\d-\d\d-\d\d-(?P<actor>\d\d)\.\w+)",
            ),
            "{file}",
            "{emotion}",
            "{actor}",
        ),
    ),
    names={
        "01": "neutral",
        "02": "calm",
        "03": "happiness",
        "04": "sadness",
        "05": "anger",
        "06": "fear",
        "07": "disgust",
        "08": "surprise",
    },
    # odd actors are men: pairs keep as many women in each fold
    parts={f"{actor:02}": str((actor - 1) // 2 % 4 + 1) for actor in _ACTORS},
    clip_s=5.0,
    classes=8,
    folds=4,
    expected={str(fold): 360 for fold in range(1, 5)},
    notes="Folds and length are ours: four times six actors, of which no paper says any; all clips "
    "judge. SLAP does not say whether it asks for speech alone.",
)

_GENRE = r"(?P<file>(?P<genre>[a-z]+)/[^/]+)"
GTZAN = TaskSpec(
    name="gtzan",
    title="GTZAN, fault-filtered",
    home="http://marsyas.info/downloads/datasets.html; the lists of Kereliuk et al. 2015 beside it "
    "(train_filtered.txt and so on, as blues/blues.00029.wav)",
    licence="none stated",
    rows=tuple(
        Rows(
            Lines(f"{part}_filtered.txt", _GENRE),
            ("genres/{file}", "genres_original/{file}", "{file}"),
            "{genre}",
            part,
        )
        for part in ("train", "valid", "test")
    ),
    clip_s=30.0,
    classes=10,
    expected=_fixed(443, 197, 290),
)

NSYNTH = TaskSpec(
    name="nsynth",
    title="NSynth instrument family",
    home="https://magenta.withgoogle.com/datasets/nsynth (the json/wav archives)",
    licence="CC BY 4.0",
    rows=tuple(
        Rows(
            Json(f"nsynth-{part}/examples.json"),
            f"nsynth-{part}/audio/{{key}}.wav",
            "{instrument_family_str}",
            part,
        )
        for part in ("train", "valid", "test")
    ),
    clip_s=4.0,
    classes=11,
    expected=_fixed(289_205, 12_678, 4_096),
)

SURGE = TaskSpec(
    name="surge",
    title="Surge pitch",
    home="https://zenodo.org/record/4677097 (your lists beside it: split.csv with the columns "
    "file, label and split)",
    licence="see the record",
    # which tones judge stands in a file of the paper's authors: so the user's file says it here
    rows=(Rows(Csv("split.csv"), "{file}", "{label}", "{split}"),),
    clip_s=4.0,
    classes=88,
    notes="label: the MIDI note; split: train, valid or test, parted by preset.",
)

_FSD50K_LISTS = "FSD50K.ground_truth"
FSD50K = TaskSpec(
    name="fsd50k",
    title="FSD50K",
    home="https://zenodo.org/record/4060432",
    licence="CC BY 4.0 (each clip has its own: CC0, BY, BY-NC, Sampling+)",
    rows=(
        Rows(
            Csv(f"{_FSD50K_LISTS}/dev.csv"),
            "FSD50K.dev_audio/{fname}.wav",
            "{labels}",
            "{split}",
            separator=",",
        ),
        Rows(
            Csv(f"{_FSD50K_LISTS}/eval.csv"),
            "FSD50K.eval_audio/{fname}.wav",
            "{labels}",
            "test",
            separator=",",
        ),
    ),
    parts={"val": "valid"},
    labels=LabelFile(
        Csv(f"{_FSD50K_LISTS}/vocabulary.csv", ("index", "label", "mid")), "label", "label"
    ),
    clip_s=7.6358,
    classes=200,
    per_clip="many",
    expected=_fixed(36_796, 4_170, 10_231),
)


def _segments(list_name: str, part: str) -> Rows:
    names = ("{ytid}", "Y{ytid}", "{ytid}_{start}")
    return Rows(
        Csv(f"{list_name}.csv", ("ytid", "start", "end", "mids")),
        tuple(f"{list_name}/{name}.wav" for name in names),
        "{mids}",
        part,
        separator=",",
    )


AS20K = TaskSpec(
    name="as20k",
    title="AudioSet, balanced training part",
    home="https://research.google.com/audioset/download.html (lists, and "
    "class_labels_indices.csv; the sound is YouTube's)",
    licence="CC BY 4.0 (lists)",
    rows=(
        _segments("balanced_train_segments", "train"),
        _segments("eval_segments", "test"),
    ),
    labels=LabelFile(Csv("class_labels_indices.csv"), "mid", "display_name"),
    clip_s=10.0,
    classes=527,
    per_clip="many",
    may_lack=True,
    prompts="audioset",
    notes="Sound in folders named as the lists, as YTID.wav, YYTID.wav or YTID_START.wav.",
)

AS = replace(
    AS20K,
    name="as",
    title="AudioSet",
    rows=(*AS20K.rows, _segments("unbalanced_train_segments", "train")),
)

_VGG_NAMES = ("{ytid}_{start:0>6}", "{ytid}_{start}", "{ytid}", "Y{ytid}")
VGGSOUND = TaskSpec(
    name="vggsound",
    title="VGGSound",
    home="https://www.robots.ox.ac.uk/~vgg/data/vggsound (vggsound.csv; the sound is YouTube's)",
    licence="CC BY 4.0 (list)",
    rows=(
        Rows(
            Csv("vggsound.csv", ("ytid", "start", "label", "part")),
            tuple(
                f"{place}/{name}.wav"
                for place in ("audio", "video", "{part}")
                for name in _VGG_NAMES
            ),
            "{label}",
            "{part}",
        ),
    ),
    clip_s=10.0,
    classes=309,
    expected={"train": 183_730, "test": 15_446},
    may_lack=True,
    notes="Sound in audio, video, or train and test, as YTID_000030.wav (the start in six digits; "
    "also .mp4), YTID_30.wav, YTID.wav or YYTID.wav.",
)

DECLARED: tuple[TaskSpec, ...] = tuple(
    replace(spec, paper=published(spec.name), prompts=spec.prompts or spec.name)
    for spec in (
        ESC50, US8K, SPCV2, VC1, VOXFORGE, CREMAD, RAVDESS, GTZAN, NSYNTH, SURGE, FSD50K, VGGSOUND,
        AS20K, AS,
    )
)  # fmt: skip
