"""Damage for `benchmarks.fuzz`: bytes, texts and known formats changed by a drawn hand.

`damaged` picks by a file's name what can be done with it. Where a format guards itself by check
sums (tar headers, Ogg pages, zip entries) they are made right again, so that what lies behind them
is met too; JSON, SQLite and the headers of safetensors are changed as what they say.
"""

from __future__ import annotations

import io
import json
import random
import sqlite3
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import Any

_TEXT = (".csv", ".tsv", ".jsonl", ".txt", ".yaml", "SUMS")
_JSON = (".json", "tar.index.json")
_OGG = (".ogg", ".opus", ".oga", ".spx")
_WHOLE = (0, 1, 2, 3, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0xFFFFFF, 2**31 - 1, 2**31)
_WIDE = (*_WHOLE, 2**32 - 1, 2**32, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
_NUMBERS = (
    "1e309", "-1e309", "1e-400", "-1", "0", "-0.0", "NaN", "Infinity", "-Infinity", "nan", "inf",
    str(2**31), str(2**63), str(2**64), str(-(2**63) - 1), "1" * 400, "1" * 5000, "0x10", "1_000",
    "0.1.2", "١٢", "1e5", "2147483647.5", "true", "null",
)  # fmt: skip
_TOKENS = (
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3", b"\xed\xa0\x80", b"\\ud800", "\u2028".encode(),
    b"\r", b"\n", b"\r\n", b'"', b"'", b",", b";", b"\t", b"\\", b"../", b"/etc/passwd", b"%s%n",
    b"{}", b"[]", b"[[", b"]", b"null", b"\x1a", b"\x85", b"a" * 2000, b'"' * 99, b"*a", b"&a ",
    b"!!python/object/apply:os.system ['true']", "Ａ́".encode(), b"=cmd|' /C calc'!A0",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, -0.5, 1e300, float("nan"), float("inf"), 2**31, 2**63, 2**64,
    -(2**63) - 1, 10**400, "", "a", "\0", "\ud800", "../../x", "x" * 3000, [], {}, [[]], [None],
    [-1], {"a": {}}, ["a", 1], "1e309", "NaN", [0] * 50, "\u2028\n",
)  # fmt: skip

_LONGEST_BYTES = 2**23  # repeats of repeats would only tell that large files need memory

Draw = random.Random


def damaged(draw: Draw, name: str, raw: bytes, others: Sequence[bytes]) -> bytes:
    """`raw`, a file of this name, with one to four changes. others: to splice with."""
    for _ in range(draw.choice((1, 1, 1, 2, 2, 4))):
        ways = _ways(name)
        if not ways or draw.random() < 0.4:
            raw = _bytes(draw, raw, others)
            continue
        with suppress(Exception):  # damaged before, or repeats of repeats that have no room
            raw = draw.choice(ways)(draw, raw)[:_LONGEST_BYTES]
    return raw[:_LONGEST_BYTES]


def _ways(name: str) -> tuple[Callable[[Draw, bytes], bytes], ...]:
    lower = name.lower()
    for ends, ways in (
        (_JSON, (json_changed, text_changed)),
        ((".jsonl", ".ndjson"), (lines_changed, text_changed)),
        (_TEXT, (text_changed,)),
        (_OGG, (ogg_changed,)),
        ((".tar",), (tar_changed,)),
        ((".safetensors",), (safetensors_changed,)),
        ((".pt", ".pth", ".ckpt", ".bin", ".npz"), (zip_changed,)),
        ((".sqlite",), (sqlite_changed,)),
    ):
        if lower.endswith(tuple(end.lower() for end in ends)):
            return ways
    return ()


# -- bytes -----------------------------------------------------------------------------------------


def _bytes(draw: Draw, raw: bytes, others: Sequence[bytes]) -> bytes:
    if not raw:
        return draw.randbytes(draw.randint(1, 64))
    way = draw.randrange(10)
    if way == 0:
        return raw[: draw.randint(0, len(raw))]
    at = _place(draw, len(raw))
    if way == 1 and others:
        other = draw.choice(others)
        return raw[:at] + other[_place(draw, len(other)) :]
    size = min(draw.choice((1, 2, 4, 16, 64, 512, 4096)), len(raw) - at)
    if way == 2:
        return raw[:at] + raw[at + size :]
    if way == 3:
        return raw[:at] + raw[at : at + size] * draw.choice((2, 2, 3, 64)) + raw[at + size :]
    if way == 4:
        return raw[:at] + draw.randbytes(size) + raw[at + draw.choice((0, size)) :]
    held = bytearray(raw)
    if way == 5:
        for _ in range(draw.choice((1, 1, 3, 30))):
            held[_place(draw, len(held))] ^= 1 << draw.randrange(8)
    elif way == 6:
        other_at = _place(draw, len(held))
        held[other_at : other_at + size] = held[at : at + size]
    elif way == 7:
        held[at : at + size] = bytes([draw.choice((0, 255))]) * size
    else:
        wide = draw.choice(("B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
        value = draw.choice(_WIDE) & (256 ** struct.calcsize(wide) - 1)
        held[at : at + struct.calcsize(wide)] = struct.pack(wide, value)
    return bytes(held)


def _place(draw: Draw, size: int) -> int:
    """Headers and ends hold what lies about the rest."""
    if not size:
        return 0
    if (where := draw.random()) < 0.5:
        return draw.randrange(min(size, 256))
    return size - 1 - draw.randrange(min(size, 256)) if where < 0.6 else draw.randrange(size)


# -- texts -----------------------------------------------------------------------------------------


def text_changed(draw: Draw, raw: bytes) -> bytes:
    way = draw.randrange(6)
    if way == 0:
        return _number_changed(draw, raw)
    if way == 1:
        at = _place(draw, len(raw) + 1)
        return raw[:at] + draw.choice(_TOKENS) + raw[at:]
    if way == 2:
        lines = raw.split(b"\n")
        i, j = draw.randrange(len(lines)), draw.randrange(len(lines))
        lines[i : i + draw.randrange(2)] = [lines[j]] * draw.choice((0, 1, 2, 300))
        return b"\n".join(lines)
    if way == 3:
        return _deep(draw)
    if way == 4:
        with suppress(UnicodeDecodeError):
            return raw.decode("utf-8").encode(
                draw.choice(("utf-16", "utf-16-be", "utf-32", "cp1252", "utf-8-sig")), "replace"
            )
        return raw
    cut = draw.choice((b",", b"\t", b'"', b"\n", b":", b" "))
    parts = raw.split(cut)
    i = draw.randrange(len(parts))
    parts[i] = draw.choice((b"", *_TOKENS, parts[draw.randrange(len(parts))]))
    return cut.join(parts)


def _number_changed(draw: Draw, raw: bytes) -> bytes:
    places = [i for i, c in enumerate(raw) if 48 <= c < 58]
    if not places:
        return raw
    start = stop = draw.choice(places)
    while stop < len(raw) and raw[stop : stop + 1] in b"0123456789.e-":
        stop += 1
    return raw[:start] + draw.choice(_NUMBERS).encode() + raw[stop:]


def _deep(draw: Draw) -> bytes:
    count = draw.choice((500, 5_000, 100_000))
    opening, closing_ = draw.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"- ", b""), (b"(", b")")))
    return opening * count + (b"1" + closing_ * count if draw.random() < 0.5 else b"")


def json_changed(draw: Draw, raw: bytes) -> bytes:
    try:
        tree = json.loads(raw)
    except (ValueError, RecursionError):
        return text_changed(draw, raw)
    tree = _tree_changed(draw, tree)
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def lines_changed(draw: Draw, raw: bytes) -> bytes:
    lines = raw.split(b"\n")
    i = draw.randrange(len(lines))
    lines[i] = json_changed(draw, lines[i])
    return b"\n".join(lines)


def _tree_changed(draw: Draw, tree: Any) -> Any:
    """One node of it is another value, gone, under another name, or there twice."""
    if not isinstance(tree, dict | list) or not tree or draw.random() < 0.15:
        return draw.choice(_VALUES)
    keys: Any = list(tree) if isinstance(tree, dict) else range(len(tree))
    key = draw.choice(keys)
    way = draw.random()
    if way < 0.1:
        del tree[key]
    elif way < 0.2 and isinstance(tree, dict):
        tree[draw.choice(("", "a", "0", key + "s"))] = tree.pop(key)
    elif way < 0.25:
        other = tree[draw.choice(keys)]
        tree[key] = [other, other] if draw.random() < 0.5 else other
    else:
        tree[key] = _tree_changed(draw, tree[key])
    return tree


# -- formats ---------------------------------------------------------------------------------------


def safetensors_changed(draw: Draw, raw: bytes) -> bytes:
    """What the header says, with its length made right; that length; or the values."""
    size = int.from_bytes(raw[:8], "little")
    try:
        header = json.loads(raw[8 : 8 + size])
    except (ValueError, RecursionError):
        return raw
    way, body = draw.randrange(6), raw[8 + size :]
    if way == 0:
        return struct.pack("<Q", draw.choice((*_WIDE, size + 1, size - 1))) + raw[8:]
    if way == 1 and len(body) >= 4:
        strange = struct.pack("<f", draw.choice((float("nan"), float("inf"), 3e38, 1e-45)))
        at = 4 * draw.randrange(len(body) // 4)
        count = draw.choice((1, 1, 16, 4096))
        return raw[: 8 + size] + (body[:at] + strange * count + body[at + 4 * count :])[: len(body)]
    named = [name for name in header if name != "__metadata__"]
    if way == 2 and isinstance(header.get("__metadata__"), dict):
        told = header["__metadata__"]
        key = draw.choice(list(told) or [""])
        told[key] = str(json_changed(draw, str(told.get(key, "")).encode()), "utf-8", "replace")
    elif named:
        entry = header[name := draw.choice(named)]
        if way == 3 and isinstance(entry, dict):
            entry["dtype"] = draw.choice(
                ("F64", "F32", "F16", "BF16", "I8", "BOOL", "U64", "F4", "")
            )
        elif way == 4 and isinstance(entry, dict) and len(named) > 1:
            entry["data_offsets"] = header[draw.choice(named)]["data_offsets"]
        else:
            header[name] = _tree_changed(draw, entry)
    return _safetensors(header, body)


def _safetensors(header: Any, body: bytes) -> bytes:
    told = json.dumps(header).encode("utf-8", "surrogatepass")
    told += b" " * (-len(told) % 8)
    return struct.pack("<Q", len(told)) + told + body


def zip_changed(draw: Draw, raw: bytes) -> bytes:
    """One entry of it is other bytes, gone, there twice or of another name; all sums are right."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            held = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        return raw
    described = [i for i, (name, _) in enumerate(held) if name.endswith(("data.pkl", ".npy"))]
    i = draw.choice(described) if described and draw.random() < 0.7 else draw.randrange(len(held))
    name, content = held[i]
    way = draw.random()
    if way < 0.75:
        held[i] = name, _bytes(draw, content, [other for _, other in held])
    elif way < 0.85:
        del held[i]
    elif way < 0.92:
        held.append((name, content[: draw.randint(0, len(content))]))
    else:
        held[i] = draw.choice(("../x", name + "x", "/abs", "", "archive/data.pkl")), content
    memory = io.BytesIO()
    packing = zipfile.ZIP_DEFLATED if draw.random() < 0.03 else zipfile.ZIP_STORED
    with zipfile.ZipFile(memory, "w", packing) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in held:
            archive.writestr(name or "x", content)
    return memory.getvalue()


def tar_changed(draw: Draw, raw: bytes) -> bytes:
    """A field of a header is another, with its check sum made right; or what a .json in it says."""
    starts = _tar_headers(raw)
    if not starts:
        return raw
    held = bytearray(raw)
    at = draw.choice(starts)
    if draw.random() < 0.4:
        size = int(bytes(held[at + 124 : at + 135]).strip(b"\0 ") or b"0", 8)
        body = bytes(held[at + 512 : at + 512 + size])
        fresh = json_changed(draw, body) if body[:1] == b"{" else _bytes(draw, body, ())
        room = -(-size // 512) * 512
        fresh = fresh[:room]
        held[at + 512 : at + 512 + room] = fresh + bytes(room - len(fresh))
        held[at + 124 : at + 136] = b"%011o\0" % len(fresh)
    else:
        first, length = draw.choice(
            ((0, 100), (100, 8), (124, 12), (124, 12), (136, 12), (156, 1), (157, 100), (345, 155))
        )
        value = draw.choice((
            b"", b"%011o" % draw.choice(_WIDE[:20]), b"\xff" * 12, b"\x80" + draw.randbytes(11),
            b"77777777777", b"-1", b"x" * 155, b"../../x.wav", b"/x.flac", b"a\0b", b"\xff.wav",
            *(bytes([c]) for c in b"0125xgLKSVD7"),
        ))  # fmt: skip
        held[at + first : at + first + length] = value[:length].ljust(length, b"\0")
    held[at + 148 : at + 156] = b" " * 8
    held[at + 148 : at + 156] = b"%06o\0 " % sum(held[at : at + 512])
    return bytes(held)


def _tar_headers(raw: bytes) -> list[int]:
    with (
        suppress(tarfile.TarError, ValueError, OverflowError, OSError),
        tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as tar,
    ):
        return [info.offset for info in tar]
    return []


def ogg_changed(draw: Draw, raw: bytes) -> bytes:
    """A page with other bytes in it, and the check sum of these."""
    starts = [i for i in range(len(raw) - 27) if raw.startswith(b"OggS", i)]
    if not starts:
        return raw
    i = draw.randrange(len(starts))
    start, stop = starts[i], starts[i + 1] if i + 1 < len(starts) else len(raw)
    page = bytearray(raw[start:stop])
    for _ in range(draw.choice((1, 1, 2, 8))):
        at = 4 + draw.randrange(min(len(page), 400) - 4)
        page[at] = draw.choice((0, 1, 255, 127, 128, draw.randrange(256)))
    page[22:26] = bytes(4)
    page[22:26] = struct.pack("<I", _ogg_sum(page))
    return raw[:start] + bytes(page) + raw[stop:]


def _ogg_sum(page: bytes | bytearray) -> int:
    found = 0
    for byte in page:
        found = (found << 8 & 0xFFFFFFFF) ^ _OGG_SUMS[found >> 24 ^ byte]
    return found


def _ogg_table() -> list[int]:
    table = []
    for i in range(256):
        found = i << 24
        for _ in range(8):
            found = (found << 1 ^ (0x04C11DB7 if found & 1 << 31 else 0)) & 0xFFFFFFFF
        table.append(found)
    return table


_OGG_SUMS = _ogg_table()


def sqlite_changed(draw: Draw, raw: bytes) -> bytes:
    """A cell holds another value; or rows, a column or a table are gone."""
    plain = raw[:18] + b"\1\1" + raw[20:]  # without a log, which memory has no room for
    with suppress(sqlite3.Error, IndexError), closing(sqlite3.connect(":memory:")) as db:
        db.deserialize(plain)
        asked = "SELECT name FROM sqlite_master WHERE type = 'table'"
        table = draw.choice([name for (name,) in db.execute(asked)])
        column = draw.choice([row[1] for row in db.execute(f"PRAGMA table_info('{table}')")])
        way = draw.random()
        if way < 0.06:
            db.execute(f"DROP TABLE '{table}'")
        elif way < 0.12:
            db.execute(f"ALTER TABLE '{table}' RENAME COLUMN '{column}' TO other")
        elif way < 0.2:
            db.execute(f"DELETE FROM '{table}' WHERE rowid % 2")
        else:
            value = draw.choice((
                None, 0, -1, 1, 7, 2**31, 2**62, 2**63 - 1, -(2**63), 1e308, 0.5, "", "x",
                b"", b"\0", b"x" * 32, draw.randbytes(32), "NaN", "\0", float("inf"),
            ))  # fmt: skip
            rows = f"WHERE rowid % {draw.choice((1, 1, 2, 3))} = 0"
            db.execute(f"UPDATE '{table}' SET '{column}' = ? {rows}", (value,))
        db.commit()
        return bytes(db.serialize())
    return raw
