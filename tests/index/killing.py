"""Kills a writing of an index for real, and looks at what it left.

    python -m tests.index.killing FOLDER steps EVERY    # before and after each EVERYth step that
                                                        # reaches the disk, then two writers at
                                                        # once, one of them killed
    python -m tests.index.killing FOLDER moments N      # at N drawn moments

Each time: search works on what is there, the next update goes on, and then all is as if nothing had
happened. Ends with 0, or a traceback. The processes are forks of this one, which is fast.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import soundfile as sf
import torch

from echoic.index import Index, catalog, store, update
from tests import tiny

torch.set_num_threads(1)


class Killer:
    """Counts steps; at the one that is chosen the process is no more. begun: an open file that is
    told of step 10, after which the process stands still for a moment."""

    def __init__(self, at: int) -> None:
        self.at, self.count, self.begun = at, 0, -1

    def step(self) -> None:
        self.count += 1
        if self.count == 10 and self.begun >= 0:
            os.write(self.begun, b".")
            time.sleep(0.2)
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: object, name: str) -> None:
        real = getattr(owner, name)

        def call(*arguments: object, **options: object) -> object:
            self.step()
            done = real(*arguments, **options)
            self.step()
            return done

        setattr(owner, name, call)


def arm(at: int) -> Killer:
    killer = Killer(at)
    for owner, name in (
        (os, "fsync"), (os, "truncate"), (Path, "replace"), (Path, "unlink"),
        (catalog.Catalog, "do"), (catalog.Catalog, "set_state"),
    ):  # fmt: skip
        killer.around(owner, name)
    return killer


def small() -> None:
    """So that few sounds take all the ways that many would."""
    update._BATCH_ROWS = 2
    store._DEAD_ROWS, store._DEAD_SHARE = 0, 0.2
    store.LEAST_ROWS = 4


def tone(path: Path, i: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, tiny.tone(150 * 1.3**i, 0.3), tiny.RATE)


def begin(sounds: Path, model: object) -> None:
    """An index of some sounds, which are then changed in all ways."""
    shutil.rmtree(sounds, ignore_errors=True)
    for i in range(6):
        tone(sounds / f"old{i}.wav", i)
    with Index.open(sounds, model=model) as index:
        index.update()
    (sounds / "old0.wav").unlink()
    (sounds / "old1.wav").unlink()
    (sounds / "sub").mkdir()
    (sounds / "old2.wav").rename(sounds / "sub/moved.wav")
    tone(sounds / "old3.wav", 10)
    for i in range(6, 9):
        tone(sounds / f"new{i}.wav", i)
    shutil.copy(sounds / "new6.wav", sounds / "copy.wav")
    (sounds / "bad.wav").write_bytes(b"RIFF")


def state(index: Index) -> list[tuple[str, float]]:
    hits = index.search("rain", top=99)
    return sorted((name, round(h.cosine or 0.0, 2)) for h in hits for name in (h.path, *h.copies))


def writing(index_of: Callable[[], Index], at: int = 0, begun: int = -1) -> int:
    """A fork that updates; its process."""
    child = os.fork()
    if not child:
        code = 1
        try:
            killer = arm(at)
            killer.begun = begun
            with index_of() as index:
                index.update()
            code = 0 if killer.count >= at else 3
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    """0 or a code; 9 where it was killed."""
    status = os.waitpid(child, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def main() -> None:
    folder, how, number = sys.argv[1:]
    warnings.simplefilter("error")
    small()
    model, sounds, kept = tiny.model(), Path(folder) / "sounds", Path(folder) / "kept"
    begin(sounds, model)
    shutil.copytree(sounds, kept)

    def index_of() -> Index:
        return Index.open(sounds, model=model)

    def fresh() -> None:
        shutil.rmtree(sounds)
        shutil.copytree(kept, sounds)

    def look(what: object) -> None:
        with index_of() as index:
            index.search("rain", top=99)  # works on whatever is there
            report = index.update(check=True)
            assert report.mended == 0, (what, report)
            assert state(index) == wanted, what
            again = index.update()
            assert (again.same, again.heard, again.known_unreadable) == (8, 0, 1), (what, again)
        names = [path.name for path in (sounds / ".echoic").iterdir()]
        assert len([n for n in names if n.startswith("vectors-")]) == 1, (what, names)

    with index_of() as index:
        index.update()
        wanted = state(index)
    assert len(wanted) == 8
    killed = 0
    if how == "steps":
        at, every = 1, int(number)
        while True:
            fresh()
            code = ended(writing(index_of, at))
            look(at)
            if code == 3:
                break
            assert code == 9, (at, code)
            at, killed = at + every, killed + 1
        fresh()
        heard, told = os.pipe()
        first = writing(index_of, at=30, begun=told)
        os.read(heard, 1)  # else the second may be done before the first begins
        codes = ended(writing(index_of)), ended(first)
        assert codes == (0, 9), codes
        with index_of() as index:
            assert state(index) == wanted
        look("together")
    elif how == "moments":
        draw = random.Random(0)
        for _ in range(int(number)):
            fresh()
            child = writing(index_of)
            time.sleep(draw.uniform(0.0, 0.3))
            os.kill(child, signal.SIGKILL)
            killed += ended(child) == 9
            look("moment")
    print(killed)


if __name__ == "__main__":
    main()
