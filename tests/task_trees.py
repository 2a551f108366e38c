"""Small folders laid out as the published data sets are, with tones for sound."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import soundfile

from tests import tiny

SECONDS = 0.1


def wavs(folder: Path, names: Sequence[str], seconds: float = SECONDS) -> None:
    """A tone in each file; its pitch goes by the order of the names."""
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        wave = tiny.tone(150.0 * 1.06 ** (i % 40), seconds)
        kind = {".wav": "WAV", ".au": "AU", ".flac": "FLAC"}[path.suffix]
        soundfile.write(path, wave, tiny.RATE, format=kind, subtype="PCM_16")


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", "utf-8")


def esc50(folder: Path, per_class: int = 2) -> None:
    """Two classes, `per_class` clips of each in each of the five folds; a class has its pitch."""
    rows = []
    for fold in range(1, 6):
        for target, name in enumerate(("dog", "sea_waves")):
            for take in range(per_class):
                file = f"{fold}-{take}-A-{target}.wav"
                wave = tiny.tone((200.0, 3000.0)[target] + 20 * take + fold, SECONDS)
                (folder / "audio").mkdir(parents=True, exist_ok=True)
                soundfile.write(folder / "audio" / file, wave, tiny.RATE)
                rows.append(f"{file},{fold},{target},{name},True,{take},A")
    text(folder / "meta/esc50.csv", "filename,fold,target,category,esc10,src_file,take", *rows)


def us8k(folder: Path) -> None:
    rows, files = [], []
    for fold in range(1, 11):
        for number, name in ((3, "dog_bark"), (8, "siren")):
            file = f"{fold}00-{number}-0-0.wav"
            files.append(f"audio/fold{fold}/{file}")
            rows.append(f"{file},{fold}00,0.0,4.0,1,{fold},{number},{name}")
    wavs(folder, files)
    header = "slice_file_name,fsID,start,end,salience,fold,classID,class"
    text(folder / "metadata/UrbanSound8K.csv", header, *rows)


def spcv2(folder: Path) -> None:
    heard = ("aa_nohash_0", "bb_nohash_0", "cc_nohash_0")
    wavs(folder, [f"{word}/{name}.wav" for word in ("yes", "no") for name in heard])
    wavs(folder, ["_background_noise_/white_noise.wav"])
    text(folder / "validation_list.txt", "yes/aa_nohash_0.wav", "no/aa_nohash_0.wav")
    text(folder / "testing_list.txt", "yes/bb_nohash_0.wav", "no/bb_nohash_0.wav")


def vc1(folder: Path) -> None:
    files = [f"id1000{who}/video{i}/00001.wav" for who in (1, 2) for i in range(3)]
    wavs(folder / "wav", files)
    text(folder / "iden_split.txt", *(f"{i % 3 + 1} {file}" for i, file in enumerate(files)))


def voxforge(folder: Path) -> None:
    sessions = [f"speaker{i}-20100101-abc" for i in range(20)]
    sessions += [f"anonymous-20080425-x{i}" for i in range(20)]
    names = [f"{lang}/{session}/wav/a1.wav" for lang in ("de", "ru") for session in sessions]
    wavs(folder, [*names, "de/speaker0-20100101-xyz/wav/b7.wav"])
    text(folder / "de/speaker0-20100101-abc/etc/README", "nothing that sounds")


def cremad(folder: Path) -> None:
    emotions = ("ANG", "SAD", "NEU")
    names = [f"{1001 + i}_DFA_{emotion}_XX.wav" for i in range(30) for emotion in emotions]
    wavs(folder / "AudioWAV", names)


def ravdess(folder: Path) -> None:
    """Every actor says two sentences, calm and angry; a song and a film are no clips."""
    for actor in range(1, 25):
        takes = [f"03-01-0{emotion}-01-0{sentence}-01" for emotion in (2, 5) for sentence in (1, 2)]
        wavs(folder / f"Actor_{actor:02}", [f"{take}-{actor:02}.wav" for take in takes])
    wavs(folder, ["Actor_01/03-02-02-01-01-01-01.wav", "Actor_01/01-01-02-01-01-01-01.wav"])


def gtzan(folder: Path) -> None:
    """As .au files, while the lists say .wav: so it is distributed."""
    parts = {"train": (0, 1), "valid": (2,), "test": (3,)}
    genres = ("blues", "hiphop")
    files = {p: [f"{g}/{g}.{i:05}.wav" for g in genres for i in n] for p, n in parts.items()}
    for part, names in files.items():
        text(folder / f"{part}_filtered.txt", *names)
        wavs(folder / "genres", [name.replace(".wav", ".au") for name in names])
    wavs(folder / "genres", ["blues/blues.00099.au"])  # a faulty one, on no list


def nsynth(folder: Path) -> None:
    for part, takes in (("train", 3), ("valid", 1), ("test", 1)):
        families = ("bass", "synth_lead") if part == "train" else ("bass", "mallet")
        keys = [f"{family}_synthetic_{i:03}-060-050" for family in families for i in range(takes)]
        examples = {
            key: {"instrument_family_str": key.split("_synthetic")[0], "pitch": 60, "qualities": []}
            for key in keys
        }
        wavs(folder / f"nsynth-{part}/audio", [f"{key}.wav" for key in keys])
        text(folder / f"nsynth-{part}/examples.json", json.dumps(examples))


def surge(folder: Path) -> None:
    rows = [
        f"preset{preset}/{note}.wav,{note},{part}"
        for preset, part in enumerate(("train", "train", "valid", "test"))
        for note in (40, 41)
    ]
    wavs(folder, [row.split(",")[0] for row in rows])
    text(folder / "split.csv", "file,label,split", *rows)


def fsd50k(folder: Path) -> None:
    truth = folder / "FSD50K.ground_truth"
    text(
        truth / "dev.csv",
        "fname,labels,mids,split",
        '1,"Electric_guitar,Music","/m/02sgy,/m/04rlf",train',
        "2,Bark,/m/05tny_,train",
        '3,"Bark,Music","/m/05tny_,/m/04rlf",val',
    )
    text(truth / "eval.csv", "fname,labels,mids", "4,Bark,/m/05tny_", "5,Music,/m/04rlf")
    vocabulary = ("0,Bark,/m/05tny_", "1,Electric_guitar,/m/02sgy", "2,Music,/m/04rlf")
    text(truth / "vocabulary.csv", *vocabulary)
    wavs(folder / "FSD50K.dev_audio", ["1.wav", "2.wav", "3.wav"])
    wavs(folder / "FSD50K.eval_audio", ["4.wav", "5.wav"])


def audioset(folder: Path) -> None:
    """Named in the three ways that are met; one clip of each list can't be had any more."""
    heads = ("# Segments csv created Sun Mar  5 10:54:31 2017", "# num_ytids=3, num_segs=3")
    columns = "# YTID, start_seconds, end_seconds, positive_labels"
    for name in ("balanced_train_segments", "eval_segments", "unbalanced_train_segments"):
        mark = name[0]
        rows = [
            f'--a.{mark}, 30.000, 40.000, "/m/05zppz,/m/09x0r"',
            f'-b#{mark}, 0.000, 10.000, "/m/0bt9lr"',
            f'c{mark}, 20.000, 30.000, "/m/09x0r"',
            f'd{mark}, 20.000, 30.000, "/m/09x0r"',
        ]
        text(folder / f"{name}.csv", *heads, columns, *rows)
        files = [f"--a.{mark}.wav", f"Y-b#{mark}.flac", f"c{mark}_20.000.wav"]
        wavs(folder / name, files)
    text(
        folder / "class_labels_indices.csv",
        "index,mid,display_name",
        '0,/m/09x0r,"Speech"',
        '1,/m/05zppz,"Male speech, man speaking"',
        '2,/m/0bt9lr,"Dog"',
        '3,/m/04rlf,"Music"',
    )


def vggsound(folder: Path) -> None:
    """Named in the four ways that are met, in the three places; the last can't be had any more."""
    text(
        folder / "vggsound.csv",
        "---g-f_I2yQ,1,people marching,test",
        '--0PQM4-hqg,30,"bird chirping, tweeting",train',
        "-A_b,170,people marching,train",
        'f_c-d,7,"bird chirping, tweeting",test',
        "eeeeeeeeeee,10,people marching,test",
    )
    names = ("audio/---g-f_I2yQ_000001.wav", "audio/--0PQM4-hqg_30.flac", "train/-A_b.wav")
    wavs(folder, [*names, "video/Yf_c-d.wav"])


def audiocaps(folder: Path) -> None:
    """Named in the four ways that are met, in the three places; a training clip can't be had any
    more, and two captions of a test clip are the same."""
    columns = "audiocap_id,youtube_id,start_time,caption"
    text(
        folder / "train.csv",
        columns,
        "91139,r1nicOVtvkQ,130,A woman talks nearby as water pours",
        "58146,UDGBjjwyaqE,20,Multiple clanging and clanking sounds",
    )
    ducks = "Rustling occurs, ducks quack"
    text(folder / "val.csv", columns, *(f'{i},vfY_TJq7n_U,0,"{ducks} ({i})"' for i in range(5)))
    said = ("rattles", "rattles", "vibrates", "shakes", "buzzes")
    text(
        folder / "test.csv",
        columns,
        *(f"{2 * i},7fmOlUlwoNg,20,Something {said[i]}" for i in range(5)),
        *(f"{2 * i + 1},-6BJ455B1_a,0,A rocket {said[i]}" for i in range(5)),
    )
    wavs(folder, ["train/Yr1nicOVtvkQ.wav", "audio/val/vfY_TJq7n_U_0.flac"])
    wavs(folder / "audio", ["7fmOlUlwoNg_000020.wav", "-6BJ455B1_a.wav"])


def clotho(folder: Path) -> None:
    """One name begins with a space, as some of Clotho's do."""
    columns = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5"
    files = {
        "development": (" Ambience Birds.wav", "Paper_Parchment_Rustling.wav"),
        "validation": ("FR.CTC.08.CoyuyoS.001.wav",),
        "evaluation": ("Santa Motor.wav", "Radio Garble.wav"),
    }
    for part, names in files.items():
        wavs(folder / part, names)
        rows = [f'{name},"One, of {name}",Two,Three,Four,Five' for name in names]
        text(folder / f"clotho_captions_{part}.csv", columns, *rows)


TREES: dict[str, Callable[[Path], None]] = {
    "esc50": esc50, "us8k": us8k, "spcv2": spcv2, "vc1": vc1, "voxforge": voxforge,
    "cremad": cremad, "gtzan": gtzan, "nsynth": nsynth, "surge": surge, "fsd50k": fsd50k,
    "as20k": audioset, "as": audioset, "vggsound": vggsound, "ravdess": ravdess,
}  # fmt: skip
CAPTIONED_TREES: dict[str, Callable[[Path], None]] = {"audiocaps": audiocaps, "clotho": clotho}
