"""Classification tasks of speech, declared as those of declared.py: words, speakers, languages,
emotions."""

from __future__ import annotations

from echoic.data.tasks.layouts import Lines, Rows, Walk
from echoic.data.tasks.task import OwnSplit, TaskSpec, by_part

_BY_WORD = r"(?P<file>(?P<word>[^/_][^/]*)/[^/]+)"

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
    expected=by_part(84_843, 9_981, 11_005),
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
    expected=by_part(138_361, 6_904, 8_251),
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
