"""index, search: a folder of sounds heard once and kept up to date; finding what is in it, or in
folders that are heard now.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from echoic.cli.caption import clock
from echoic.cli.common import (
    CpuThreads,
    JsonOption,
    LongOption,
    ModelOption,
    Precision,
    PrecisionOption,
    TextEncoderOption,
    TokenizerOption,
    emit,
    messages,
    open_model,
    plain_table,
    say,
    show,
    typed,
    use_cpu,
    writing,
    wrong,
)
from echoic.cli.use import PANEL, hear_files, hits_table, tell_left_out

if TYPE_CHECKING:
    from datetime import date

    from rich.table import Table

    from echoic.api import EchoicModel
    from echoic.index import Hit, Index, Where

_QUESTION = "What is looked for"
_WHICH = "Which recordings of an index"
_LINE_S = 30.0  # between two lines of progress, where there is no terminal for a bar


def add_to(app: typer.Typer) -> None:
    example = "Example: echoic index field-recordings/"
    app.command(rich_help_panel=PANEL, epilog=example)(index)
    example = 'Example: echoic search "rain on a roof" field-recordings/ --top 5'
    app.command(rich_help_panel=PANEL, epilog=example)(search)


def index(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Of recordings.", show_default=False)
    ],
    model: ModelOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where the index lies.", show_default="FOLDER/.echoic"),
    ] = None,
    window_s: Annotated[
        float | None,
        typer.Option(
            "--window-s",
            help="How long the pieces are that a long recording is found by.",
            show_default="10, or what the model hears",
        ),
    ] = None,
    captions: Annotated[
        bool,
        typer.Option(
            "--captions", help="Write a caption of each piece too, by a model with a decoder."
        ),
    ] = False,
    captioner: Annotated[
        str | None,
        typer.Option(
            help="The model that writes captions.", show_default="the same", metavar="MODEL"
        ),
    ] = None,
    tables: Annotated[
        list[Path] | None,
        typer.Option(
            "--table",
            help="CSV, TSV or JSONL with tags and captions of the files; may be repeated.",
            show_default=False,
        ),
    ] = None,
    vectors: Annotated[
        str | None,
        typer.Option(
            help="Keep vectors in LanceDB: a folder, or s3://bucket/path (echoic[index]).",
            show_default=False,
        ),
    ] = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Hear again what could not be heard.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Compare all vectors with their checksums.")
    ] = False,
    as_json: JsonOption = False,
    tokenizer: TokenizerOption = None,
    precision: PrecisionOption = Precision.fp32,
    cpu_threads: CpuThreads = None,
) -> None:
    """Make an index of a folder of recordings, or bring it up to date.

    Only what is new or changed is heard; a file that was moved is not heard again. Stopped at any
    moment, the same command goes on.
    """
    from echoic.index import Index

    use_cpu(cpu_threads)
    with Index.open(folder, out=out) as opened:
        named = model or _maker(opened)
        listener, file = open_model(named, tokenizer=tokenizer, precision=precision)
        writer = None
        if captions or captioner is not None:
            writer = listener if captioner is None else open_model(captioner)[0]
        lasting = str(file.absolute()) if named is None or Path(named).exists() else named
        with _bar() as (progress, captioned):
            report = opened.update(
                listener,
                named=lasting,
                window_s=window_s,
                captions=writer,
                tables=tables or (),
                vectors=vectors,
                retry=retry,
                check=check,
                progress=progress,
                captioned=captioned,
                waiting=lambda: say(
                    f"{opened.folder}: another process is writing to this index; waiting for it "
                    "(Ctrl-C to stop)"
                ),
            )
        if as_json:
            emit({"index": str(opened.folder), **asdict(report)})
        else:
            table = plain_table("files of the index", str(report.files), right=[str(report.files)])
            for name, count in asdict(report).items():
                if isinstance(count, int) and count and name != "files":
                    table.add_row(name.replace("_", " "), str(count))
            show(table)
            place = out or folder
            say(f"search it:  {typed('echoic', 'search', 'rain on a roof', '--index', place)}")
    if report.known_unreadable:
        say(f"{report.known_unreadable} files could not be heard before; try again with --retry")
    errors = [{"file": file, "error": error} for file, error in report.unreadable.items()]
    tell_left_out(errors, done=report.files)


def _maker(opened: Index) -> str | None:
    """The model that made an index, where it is still there."""
    from echoic.index.store import is_index

    named = opened.about.model if is_index(opened.folder) else None
    if named is None or (os.path.isabs(named) and not Path(named).exists()):
        return None
    return named


@contextmanager
def _bar() -> Iterator[tuple[Callable[[int, int, str], None], Callable[[int, int], None]]]:
    """What to call with the progress of hearing, and of captions: a bar on stderr, or lines."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = messages()
    live = console.is_terminal and "CI" not in os.environ
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    said = time.monotonic()
    started: dict[str, float] = {}

    def lines(what: str, done: int, total: int) -> None:
        nonlocal said
        began = started.setdefault(what, said)
        if (now := time.monotonic()) - said >= _LINE_S and done:
            said = now
            left_s = (now - began) * (total - done) / done
            say(f"{what} {done / total:.0%}, {clock(left_s)} left")

    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not live) as shown:
        tasks: dict[str, Any] = {}

        def step(what: str, done: int, total: int) -> None:
            if not live:
                return lines(what, done, total)
            if what not in tasks:
                tasks[what] = shown.add_task(what)
            shown.update(tasks[what], completed=done, total=total)

        yield (
            lambda done, total, _: step("hearing", done, total),
            lambda done, total: step("captions", done, total),
        )


def search(
    query: Annotated[
        str | None, typer.Argument(help="What to look for, in words.", show_default=False)
    ] = None,
    sounds: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FOLDERS|FILES",
            help="Where: folders, recordings, or .npz files of echoic embed, heard now. None: an "
            "index.",
            show_default=False,
        ),
    ] = None,
    model: ModelOption = None,
    top: Annotated[int, typer.Option(min=1, help="How many hits to show.")] = 10,
    as_json: JsonOption = False,
    index: Annotated[
        Path | None,
        typer.Option(
            "--index",
            "-i",
            help="An index, or the folder that was indexed.",
            show_default="ECHOIC_INDEX, else that of this folder or of one above",
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            help="An example of how it sounds.", show_default=False, rich_help_panel=_QUESTION
        ),
    ] = None,
    like_from: Annotated[
        float | None,
        typer.Option(
            min=0, help="Second of the example.", show_default="0", rich_help_panel=_QUESTION
        ),
    ] = None,
    like_to: Annotated[
        float | None,
        typer.Option(
            min=0, help="Second of the example.", show_default="its end", rich_help_panel=_QUESTION
        ),
    ] = None,
    like_weight: Annotated[
        float,
        typer.Option(
            min=0, help="Of the example, beside 1 for the words.", rich_help_panel=_QUESTION
        ),
    ] = 1.0,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--not",
            help="Words of what is not wanted; may be repeated.",
            show_default=False,
            rich_help_panel=_QUESTION,
        ),
    ] = None,
    folder: Annotated[
        str | None,
        typer.Option(help="Below the indexed folder.", show_default=False, rich_help_panel=_WHICH),
    ] = None,
    min_s: Annotated[
        float | None, typer.Option("--min-s", help="Their length.", rich_help_panel=_WHICH)
    ] = None,
    max_s: Annotated[
        float | None, typer.Option("--max-s", help="Their length.", rich_help_panel=_WHICH)
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Day of the file: 2026-01-31, or later.", rich_help_panel=_WHICH),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(help="Day of the file: 2026-01-31, or earlier.", rich_help_panel=_WHICH),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="wav, flac, ...; may be repeated.", rich_help_panel=_WHICH),
    ] = None,
    tags: Annotated[
        list[str] | None,
        typer.Option("--tag", help="All of those given.", rich_help_panel=_WHICH),
    ] = None,
    caption: Annotated[
        str | None,
        typer.Option("--caption", help="Words of their captions.", rich_help_panel=_WHICH),
    ] = None,
    m3u: Annotated[
        Path | None, typer.Option("--m3u", help="Write the hits as a play list.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--csv", help="Write the moments as a table.")
    ] = None,
    tokenizer: TokenizerOption = None,
    text_encoder: TextEncoderOption = None,
    long: LongOption = None,
    precision: PrecisionOption = Precision.fp32,
    cpu_threads: CpuThreads = None,
) -> None:
    """Find recordings by words, and, in an index (echoic index), by an example.

    Without FOLDERS it searches the index, at once, with the times of the best moments. FOLDERS are
    heard now: for a search that is done once.
    """
    if query is not None and not query.strip():
        raise wrong("search: the query is empty")
    use_cpu(cpu_threads)
    opened = {"tokenizer": tokenizer, "text_encoder": text_encoder}

    def listener(named: str | None) -> EchoicModel:
        return open_model(named, **opened, long=long, precision=precision)[0]

    where = _where(folder, min_s, max_s, since, until, formats, tags, caption)
    only_index = (index, like, without, where, m3u, table)
    if sounds:
        if any(only_index):
            raise wrong(
                "search: with FOLDERS there are words alone; index them first: echoic index"
            )
        _tell_of_quotes(query or "", sounds)
        _tell_of_an_index(query or "", sounds)
        return _search_now(listener(model), query or "", sounds, top, as_json)
    from echoic.index import Index

    place = _index_place(index)
    Index.open(place).about  # noqa: B018 (where there is none, that is told before all else)
    asks = query is not None or like is not None or without
    hearing = listener(model or _maker(Index.open(place))) if asks else None
    with Index.open(place, model=hearing) as held:
        hits = held.search(
            query,
            like=None if like is None else _example(held, like, like_from, like_to),
            without=without or (),
            where=where,
            top=top,
            like_weight=like_weight,
        )
        if not hits:
            say(_why_none(held, where))
    if m3u is not None:
        _write_m3u(m3u, hits)
    if table is not None:
        _write_csv(table, hits)
    if as_json:
        emit({"query": query, "index": str(held.folder), "hits": [hit.to_json() for hit in hits]})
    else:
        show(_moments_table(hits))


def _tell_of_quotes(query: str, sounds: Sequence[Path]) -> None:
    """For `search rain on a roof field/`: words that name no files. A single one may as well be a
    folder with a slip in it."""
    words = [str(each) for each in takewhile(_is_word, sounds)]
    if not words or len(sounds) == 1:
        return
    asked = typed("echoic", "search", " ".join([query, *words]), *sounds[len(words) :])
    say(f"{', '.join(words)}: no such file; put the words in quotes:  {asked}")


def _is_word(given: Path) -> bool:
    return not given.suffix and len(given.parts) == 1 and not given.exists()


def _tell_of_an_index(query: str, sounds: Sequence[Path]) -> None:
    from echoic.index.store import FOLDER_NAME, is_index

    for folder in sounds:
        if is_index(folder / FOLDER_NAME):
            say(f"at once, in its index:  {typed('echoic', 'search', query, '--index', folder)}")


def _search_now(
    listener: EchoicModel, query: str, sounds: list[Path], top: int, as_json: bool
) -> None:
    listener.require_text()  # where there is none, that is told before hours of listening
    heard = hear_files(listener, sounds)
    cosines = heard.vectors @ listener.embed_text(query)[0]
    best = cosines.argsort(descending=True, stable=True)[:top].tolist()
    hits = [(heard.files[i], float(cosines[i])) for i in best]
    if as_json:
        found = [{"file": str(file), "cosine": cosine} for file, cosine in hits]
        searched = len(heard.files)
        emit({"query": query, "searched": searched, "hits": found, "errors": heard.errors})
    else:
        show(hits_table(hits))
    heard.finish()


def _index_place(named: Path | None) -> Path:
    from echoic.index.store import find_index

    if named is None and (told := os.environ.get("ECHOIC_INDEX")):
        named = Path(told)
    found = named or find_index(Path())
    if found is None:
        raise wrong(
            "search: say where: a FOLDER, or --index of one; no folder from here up has an index "
            "(echoic index FOLDER makes one)"
        )
    return found


def _example(held: Index, file: Path, from_s: float | None, to_s: float | None) -> Any:
    from echoic.audio.io import load_audio

    start_s = from_s or 0.0
    if to_s is not None and to_s <= start_s:
        raise wrong(f"search: the example ends at {to_s:g} s and begins at {start_s:g} s")
    if from_s is None and to_s is None:
        return file
    rate_hz, duration_s = held.model.rate_hz, None if to_s is None else to_s - start_s
    return load_audio(file, rate_hz=rate_hz, start_s=start_s, duration_s=duration_s), rate_hz


def _where(
    folder: str | None,
    min_s: float | None,
    max_s: float | None,
    since: str | None,
    until: str | None,
    formats: Sequence[str] | None,
    tags: Sequence[str] | None,
    caption: str | None,
) -> Where | None:
    given = (folder, min_s, max_s, since, until, formats or None, tags or None, caption)
    if all(each is None for each in given):
        return None
    from echoic.index import Where

    if min_s is not None and max_s is not None and min_s > max_s:
        raise wrong(f"search: --min-s {min_s:g} is above --max-s {max_s:g}")
    days = first, last = _day("--since", since), _day("--until", until)
    if first and last and first > last:
        raise wrong(f"search: --since {first} is after --until {last}")
    return Where(folder, min_s, max_s, *days, tuple(formats or ()), tuple(tags or ()), caption)


def _day(option: str, text: str | None) -> date | None:
    from datetime import date

    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise wrong(f"search: {option} {text!r} is no day such as 2026-01-31") from None


def _why_none(held: Index, where: Where | None) -> str:
    """The line for a search without hits: a filter that nothing fits by itself is named."""
    from echoic.index import Where

    def any_fits(**filters: Any) -> bool:
        return bool(held.search(where=Where(**filters), top=1))

    sounds = held.about.sounds
    if where is None or not any_fits():
        return f"no hits: no recording is in the index: {typed('echoic', 'index', sounds)}"
    if where.caption is not None and not held.has_captions:
        made = typed("echoic", "index", sounds, "--captions")
        return f"no hits: the index has no captions: {made}"
    given = {name: value for name, value in vars(where).items() if value not in (None, ())}
    alone = [name for name, value in given.items() if not any_fits(**{name: value})]
    told = ", ".join(_option(name, given[name]) for name in alone or given)
    return f"no hits: no recording of the index fits {told}{'' if alone else ' together'}"


def _option(name: str, value: object) -> str:
    """A filter as one would type it."""
    many = {"formats": "format", "tags": "tag"}
    option = f"--{many.get(name, name.replace('_', '-'))}"
    values = value if isinstance(value, tuple) else (value,)
    return typed(*(word for each in values for word in (option, each)))


def _moments_table(hits: Sequence[Hit]) -> Table:
    said = any(moment.caption for hit in hits for moment in hit.moments)
    columns = ["place", "cosine", "file", "best moments", *(["caption"] if said else [])]
    table = plain_table(*columns, right=["place", "cosine"])
    for place, hit in enumerate(hits, start=1):
        cosine = "" if hit.cosine is None else f"{hit.cosine:.3f}"
        times = ", ".join(f"{clock(m.start_s)}-{clock(m.stop_s)}" for m in hit.moments)
        caption = next((m.caption for m in hit.moments if m.caption), "")
        table.add_row(str(place), cosine, hit.path, times, *([caption] if said else []))
    return table


def _write_m3u(path: Path, hits: Sequence[Hit]) -> None:
    """Each hit from its best moment on, for players that know where to begin."""
    lines = ["#EXTM3U"]
    for hit in hits:
        lines.append(f"#EXTINF:{round(hit.duration_s)},{Path(hit.path).name}")
        if hit.moments and hit.moments[0].start_s > 0:
            lines.append(f"#EXTVLCOPT:start-time={hit.moments[0].start_s:g}")
        lines.append(str(Path(hit.path).absolute()))
    with writing(path) as beside:
        beside.write_text("\n".join([*lines, ""]), "utf-8", "surrogateescape")


def _write_csv(path: Path, hits: Sequence[Hit]) -> None:
    with (
        writing(path) as beside,
        beside.open("w", encoding="utf-8", errors="surrogateescape", newline="") as opened,
    ):
        rows = csv.writer(opened)
        rows.writerow(["file", "start_s", "end_s", "cosine", "caption"])
        for hit in hits:
            for each in hit.moments:
                rows.writerow([hit.path, each.start_s, each.stop_s, each.cosine, each.caption])
