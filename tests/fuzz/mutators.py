"""Edits of a file's bytes: blind ones, and ones that know JSON, zip archives, pickles, safetensors and text."""

from __future__ import annotations

import contextlib
import io
import json
import pickletools
import random
import re
import struct
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

Mutator = Callable[[bytes, random.Random], bytes]

_INTEGERS = (0, 1, 2, 3, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63)
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 1.5, 1e308, -0.0, 2**31, 2**63, 10**30, 10**400, float("inf"), float("nan"),
    "", "x", "1", "\0", "\ud800", "../../x", "con", "x" * 5000, "é中", [], {}, [[]], [None], {"": {}}, [1, 2, 3],
)  # fmt: skip
_TOKENS = (
    "", "0", "-1", "1", "1e9", "99999999999", "1e999", "NaN", "-inf", ".nan", "true", "null", "~", "{}", "[]", '"', "'",
    "[" * 200, "{" * 200, "9" * 5000, "x" * 5000, "&a", "*a", "!!python/name:os.system", "<<", "2026-99-99", ":", "\t",
    "\0", "<", "&#0;", "../..", "%s",
)  # fmt: skip


def mutate(data: bytes, rng: random.Random, others: Sequence[bytes] = (), more: Sequence[Mutator] = ()) -> bytes:
    """One to three edits of ``data``; half of the time by an edit that knows the format, where there is one."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        aware = [*more, *_aware(data)]
        if aware and rng.random() < 0.6:
            with contextlib.suppress(Exception):  # an earlier edit may have left nothing to understand
                data = rng.choice(aware)(data, rng)
                continue
        edit = rng.choice(_BLIND)
        data = _splice(data, rng.choice(others), rng) if edit is None and others else (edit or _flip)(data, rng)
    return data


def _aware(data: bytes) -> list[Mutator]:
    if data.startswith(b"PK\x03\x04"):
        return [edit_zip]
    if data[:1] == b"\x80":
        return [edit_pickle]
    if data[8:9] == b"{":
        return [edit_safetensors]
    if data.lstrip()[:1] in (b"{", b"["):
        return [edit_json, edit_text]
    return [edit_text] if _is_text(data) else []


def _is_text(data: bytes) -> bool:
    try:
        return b"\0" not in data[:1000] and bool(data[:1000].decode())
    except UnicodeDecodeError:
        return False


# -- blind edits


def _place(data: bytes, rng: random.Random) -> int:
    """A place in the file: a third of the time near its beginning, a third near its end."""
    last = max(len(data) - 1, 0)
    return rng.choice((rng.randint(0, last), rng.randint(0, min(400, last)), rng.randint(max(0, last - 1500), last)))


def _flip(data: bytes, rng: random.Random) -> bytes:
    spoiled = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8)) if data else 0):
        spoiled[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(spoiled)


def _byte(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))]) + data[at + 1 :]


def _number(data: bytes, rng: random.Random) -> bytes:
    layout, at = rng.choice(("<H", "<I", ">I", "<Q", ">Q")), _place(data, rng)
    size = struct.calcsize(layout)
    return data[:at] + struct.pack(layout, rng.choice(_INTEGERS) % (1 << 8 * size)) + data[at + size :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: _place(data, rng)]


def _run(data: bytes, rng: random.Random) -> tuple[int, int]:
    at = _place(data, rng)
    return at, at + rng.choice((1, 4, 16, 100, 1000))


def _remove(data: bytes, rng: random.Random) -> bytes:
    start, end = _run(data, rng)
    return data[:start] + data[end:]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    start, end = _run(data, rng)
    return data[:start] + data[start:end] * rng.choice((2, 3, 20)) + data[end:]


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.randbytes(rng.choice((1, 4, 16))) + data[at:]


def _splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    start, end = _run(other, rng)
    at = _place(data, rng)
    return data[:at] + other[start:end] + data[at + rng.choice((0, end - start)) :]


_BLIND: tuple[Mutator | None, ...] = (_flip, _flip, _byte, _number, _number, _cut, _remove, _repeat, _insert, None)


# -- edits that know the format


def edit_json(data: bytes, rng: random.Random) -> bytes:
    """Replace, delete, rename or repeat a value of a JSON document, or nest it deep."""
    return json.dumps(edit_value(json.loads(data), rng)).encode()


def edit_value(document: Any, rng: random.Random) -> Any:
    """As :func:`edit_json`, on a document of lists, dictionaries and plain values; it is changed in place."""
    holders = [node for node in _nodes(document) if isinstance(node, dict | list) and node]
    if not holders:
        return rng.choice(_VALUES)
    holder = rng.choice(holders)
    key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    match rng.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[rng.choice(("", "x" * 3000, "\ud800", "__proto__", key + "_"))] = holder.pop(key)
        case 1 | 2 if isinstance(holder, list):
            holder.extend(holder[key : key + 1] * rng.choice((1, 50)))
        case 3:
            for _ in range(rng.choice((5, 40, 200))):
                holder[key] = [holder[key]]
        case 4 if isinstance(holder[key], int | float):
            holder[key] = rng.choice((-holder[key], holder[key] + 1, holder[key] * 1000, str(holder[key])))
        case 5:
            holder[key] = rng.choice(list(_nodes(document))[:200])
            holder[key] = json.loads(json.dumps(holder[key])) if isinstance(holder[key], dict | list) else holder[key]
        case _:
            holder[key] = rng.choice(_VALUES)
    return document


def _nodes(document: Any) -> list[Any]:
    """All values of a document, itself among them."""
    nodes = [document]
    for node in nodes:
        if isinstance(node, dict | list):
            nodes.extend(node.values() if isinstance(node, dict) else node)
    return nodes


def edit_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Edit the header's JSON, and make its length right again (or leave it wrong, at times)."""
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length]
    header = edit_json(header, rng) if rng.random() < 0.7 else edit_text(header, rng)
    return (len(header) if rng.random() < 0.9 else length).to_bytes(8, "little") + header + data[8 + length :]


def edit_zip(data: bytes, rng: random.Random) -> bytes:
    """Edit a record of a zip archive, its pickle most often, and store it with the right check sum."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    pickles = [at for at, (name, _) in enumerate(members) if name.endswith(".pkl")]
    at = rng.choice(pickles) if pickles and rng.random() < 0.7 else rng.randrange(len(members))
    name, content = members[at]
    match rng.randrange(10):
        case 0:
            del members[at]
        case 1:
            members[at] = (rng.choice(("", "/", "../x", name + "x", members[0][0])), content)
        case 2:
            members[at] = (name, rng.choice(members)[1])
        case _:
            members[at] = (name, mutate(content, rng))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", rng.choice((zipfile.ZIP_STORED,) * 9 + (zipfile.ZIP_DEFLATED,))) as archive:
        for name, content in {name: content for name, content in members if name}.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return packed.getvalue()


def edit_pickle(data: bytes, rng: random.Random) -> bytes:
    """Remove, repeat, swap or rewrite instructions of the first pickle in ``data``."""
    starts = [place or 0 for _, _, place in pickletools.genops(data)]
    parts = [data[start:end] for start, end in zip(starts, [*starts[1:], starts[-1] + 1], strict=True)]
    rest = data[starts[-1] + 1 :]
    at = rng.randrange(len(parts))
    numbers = [n for n, part in enumerate(parts) if part[:1] in (b"K", b"M", b"J")]
    match rng.randrange(6):
        case 0:
            del parts[at]
        case 1:
            parts.insert(at, rng.choice(parts))
        case 2 if numbers:
            size = rng.choice((1, 5, 9))
            value = rng.choice((*_INTEGERS, -1, -5)) % (1 << 8 * size - 1)
            parts[rng.choice(numbers)] = b"\x8a" + bytes([size]) + value.to_bytes(size, "little")
        case 3:
            parts[at] = rng.choice((b"N", b"\x88", b"]", b"}", b")", b"(", b"0", b"2", b"X\1\0\0\0x", b"G" + bytes(8)))
        case 4:
            names = [n for n, part in enumerate(parts) if part[:1] == b"c"]
            globals_ = [b"ctorch\nCharStorage\n", b"ctorch\nfloat8_e5m2\n", b"cos\nsystem\n", b"ctorch\ncomplex64\n"]
            if names:
                parts[rng.choice(names)] = rng.choice([*globals_, *(parts[n] for n in names)])
        case _:
            parts[at] = rng.choice(parts)
    return b"".join(parts) + rest


def edit_text(data: bytes, rng: random.Random) -> bytes:
    """Replace, remove or repeat a word, a number or a line of a text."""
    pieces = re.split(rb"([A-Za-z_][\w.]*|-?\d[\d.eE+-]*|\n)", data)
    if len(pieces) < 3:
        return rng.choice(_TOKENS).encode()
    at = rng.randrange(len(pieces) // 2) * 2 + 1
    pieces[at] = rng.choice(
        (rng.choice(_TOKENS).encode(), rng.choice(pieces[1::2]), b"", pieces[at] * 2, pieces[at] + b" " + pieces[at])
    )
    return b"".join(pieces)
