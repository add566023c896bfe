"""Structure-aware mutations of JSON, JSON lines, safetensors, text and any bytes, from a seeded generator."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

BLANK = "0" * 64
#: Values that have broken a reader of something, somewhere.
NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 0.0, -0.0, 0.5, 1e-320, 1e154, 1e308, -1e308, math.nan),
    *(math.inf, -math.inf, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**25),
    *(99_999, 100_000, 100_001, 10**9, 10**12, "", "0", "1", "reuse", "linear", "fitted", "taylor"),
    *("mean-velocity", "nothing", "[/red]", "[red]", "$\\frac$", "a\x00b", "\x1b[2J", "\ud800"),
    *("\udfff\ud800", "\U0001f600", "é", "../../etc/passwd", "</script>", "%s%n{}", "x" * 5000),
    *([], {}, [[]], [{}], {"": ""}, [0], [0, 1], [1, 0], [None], [[0.5]], {"a": {"a": {}}}),
)
Mutate = Callable[[random.Random, bytes], bytes]


def json_file(rng: random.Random, raw: bytes) -> bytes:
    """Change a value or the text of a JSON file."""
    if rng.random() < 0.2:
        return rng.choice((text_of_json, any_bytes))(rng, raw)
    return dump(rng, changed(rng, json.loads(raw)))


def json_lines(rng: random.Random, raw: bytes) -> bytes:
    """Change a line, or the order, number and ends of lines; a changed line may get its digest anew."""
    lines = raw.split(b"\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(8)
    if kind < 4 and lines[at]:
        data = changed(rng, json.loads(lines[at]))
        if isinstance(data, dict) and "digest" in data and rng.random() < 0.8:
            data.pop("digest")
            try:
                text = json.dumps(data).encode()
                data["digest"] = hashlib.sha256(text).hexdigest()[:16]
            except (ValueError, RecursionError):
                pass
        lines[at] = dump(rng, data).replace(b"\n", b" ")
    elif kind == 4:
        lines[at] = any_bytes(rng, lines[at])
    elif kind == 5:
        lines.insert(at, rng.choice(lines))
    elif kind == 6:
        del lines[at]
    else:
        return any_bytes(rng, raw)
    return b"\n".join(lines)


def text_file(rng: random.Random, raw: bytes) -> bytes:
    """Change lines of a text file, or any bytes."""
    if rng.random() < 0.5:
        return any_bytes(rng, raw)
    lines = raw.split(b"\n")
    nasty = (
        b"",
        b"\t",
        b"\ta",
        b"a\tb\tc",
        b"\xff",
        b"\x00",
        b"\xed\xa0\x80",
        b"{}",
        b'"a"',
        b"[1]",
    )
    lines.insert(rng.randrange(len(lines) + 1), rng.choice((*nasty, *lines)))
    return rng.choice((b"\n", b"\r\n", b"\r", b"\x0b", "\u2028".encode())).join(lines)


def safetensors(rng: random.Random, raw: bytes) -> bytes:
    """Change the header, the arrays or any bytes; mostly with the digest made anew, so that it is read."""
    if rng.random() < 0.2:
        return any_bytes(rng, raw)
    length = int.from_bytes(raw[:8], "little")
    header, body = json.loads(raw[8 : 8 + length]), bytearray(raw[8 + length :])
    for _ in range(rng.choice((1, 1, 2))):
        kind = rng.choice(("values", "array", "array", "entry", "header", "facts"))
        if kind == "values" and body:
            _spoil(rng, header, body)
        elif kind == "array":
            header, body = _reshaped(rng, header, body)
        elif kind == "entry":
            name = rng.choice(sorted(header))
            header[name] = changed(rng, header[name])
        elif kind == "facts" and isinstance(header.get("__metadata__"), dict):
            _change_fact(rng, header["__metadata__"])
        elif kind == "header":
            header = changed(rng, header)
    return sealed(header, bytes(body)) if rng.random() < 0.85 else _packed(header, bytes(body))


def sealed(header: Any, body: bytes) -> bytes:
    """Bytes of a file whose digest, if it has one, is right."""
    facts = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(facts, dict) or "sha256" not in facts:
        return _packed(header, body)
    rest = {name: value for name, value in facts.items() if name != "sha256"}
    header = {"__metadata__": {"sha256": BLANK, **rest}} | {
        name: value for name, value in header.items() if name != "__metadata__"
    }
    blank = _packed(header, body)
    return blank.replace(BLANK.encode(), hashlib.sha256(blank).hexdigest().encode(), 1)


def any_bytes(rng: random.Random, raw: bytes) -> bytes:
    """Flip, cut, insert, repeat or replace bytes."""
    data = bytearray(raw)
    at = rng.randrange(len(data) + 1)
    kind = rng.randrange(9)
    if kind == 0:
        return bytes(data[:at])
    if kind == 1:
        return bytes(data[at:])
    if kind in (2, 3) and data:
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(data)
    if kind == 4:
        return bytes(data[:at] + rng.randbytes(rng.choice((1, 8, 100))) + data[at:])
    if kind == 5:
        return bytes(data[:at] + data[max(0, at - 64) :])
    if kind == 6:
        return b"\xef\xbb\xbf" + raw
    if kind == 7:
        return raw.decode("utf-8", "replace").encode("utf-16")
    return raw + rng.choice((b"\x00" * 64, b"\n", b" {}", b"garbage", raw))


def text_of_json(rng: random.Random, raw: bytes) -> bytes:
    """Change what JSON values cannot say: keys given twice, digits without end, nesting, escapes."""
    kind = rng.randrange(6)
    if kind == 0 and b'": ' in raw:
        at = raw.rfind(b'"', 0, raw.find(b'": '))
        return raw[:at] + b'"format": 1, ' * rng.choice((1, 2)) + raw[at:]
    if kind == 1:
        digits = b"9" * rng.choice((20, 30, 400, 5000, 200_000))
        return _with_number(rng, raw, digits)
    if kind == 2:
        return _with_number(rng, raw, b"[" * 100_000 + b"]" * 100_000)
    if kind == 3:
        return _with_number(
            rng, raw, rng.choice((b"1e999", b"-0", b"NaN", b"0x1", b"01", b"1.", b"+1"))
        )
    if kind == 4:
        return _with_number(rng, raw, b'{"a":' * 300 + b"1" + b"}" * 300)
    return raw.replace(b'": "', b'": "\\ud83d', 1)


def changed(rng: random.Random, data: Any) -> Any:
    """Change one to three values somewhere in plain data."""
    box = [copy.deepcopy(data)]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        holder, key = _somewhere(rng, box)
        _change(rng, holder, key)
        if not box:
            return None
    return box[0]


def dump(rng: random.Random, data: Any) -> bytes:
    """Write JSON, now and then as other writers do."""
    try:
        text = json.dumps(data, ensure_ascii=rng.random() < 0.9, indent=rng.choice((None, 1)))
        return text.encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return b"null"


def something_else(rng: random.Random, path: Path) -> str:
    """Put what is not a file, or cannot be read, where a file was; returns what."""
    kind = rng.choice(
        ("pipe", "zero", "folder", "socket", "loop", "nothing", "empty", "full", "link")
    )
    whole = path.read_bytes()
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            here = os.getcwd()
            os.chdir(path.parent)  # the name of a socket is short
            made.bind(path.name)
            os.chdir(here)
    elif kind == "empty":
        path.touch()
    elif kind == "link":
        behind = path.with_name("behind")
        behind.write_bytes(whole)
        path.symlink_to(behind)
    elif kind != "nothing":
        path.symlink_to({"zero": "/dev/zero", "full": "/dev/full", "loop": path}[kind])
    return kind


def _change(rng: random.Random, holder: Any, key: Any) -> None:
    value = holder[key]
    if rng.random() < 0.5 and not isinstance(value, list | dict):
        holder[key] = _of_its_type(rng, value)
        return
    if rng.random() < 0.4 and isinstance(value, list) and value:
        holder[key] = _alike(rng, value)
        return
    kind = rng.randrange(10)
    if kind < 4:
        holder[key] = copy.deepcopy(rng.choice(NASTY))
    elif kind == 4:
        del holder[key]
    elif kind == 5 and isinstance(value, int | float):
        holder[key] = rng.choice((-value, value + 1, value - 1, value * 1000, str(value), [value]))
    elif kind == 6 and isinstance(value, list):
        value.extend(copy.deepcopy(value) * rng.choice((1, 1, 3, 1000 // (len(value) + 1))))
    elif kind == 7 and isinstance(value, list):
        rng.shuffle(value)
    elif kind == 8 and isinstance(holder, dict):
        holder[rng.choice(("surprise", "\ud800", "x" * 300, ""))] = copy.deepcopy(value)
    elif kind == 9 and isinstance(value, dict) and value:
        other = rng.choice(sorted(value, key=str))
        value[rng.choice(("renamed", f"{other} ", "[/x]"))] = value.pop(other)
    else:
        holder[key] = [value] if rng.random() < 0.5 else {"value": value}


def _of_its_type(rng: random.Random, value: Any) -> Any:
    """Another value that a reader takes for the same type."""
    alike = [other for other in NASTY if type(other) is type(value)]
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.6:
        return rng.choice((value + 1, value - 1, value * 2, -value, value * 3))
    return rng.choice(alike or NASTY)


def _alike(rng: random.Random, row: list[Any]) -> list[Any]:
    """Another row that passes for one of its kind: steps that rise from 0, or as many numbers."""
    if all(isinstance(k, int) for k in row):
        most = min(max(1, *map(abs, row)), 10**6)
        return sorted({0, *rng.sample(range(most + 2), min(len(row), 2))})
    if all(isinstance(k, float) for k in row):
        large = rng.choice((1.0, 1e30, 1e154, 1e300, 1.7e308, 1e-300, 1e-320, -1e308, 0.0))
        return [k * large if rng.random() < 0.7 else large for k in row]
    return [_of_its_type(rng, k) if isinstance(k, int | float | str) else k for k in row]


def _somewhere(rng: random.Random, box: list[Any]) -> tuple[Any, Any]:
    """Choose a holder and a key in it: every level as likely to be left as any other."""
    holder, key = box, 0
    while True:
        inner = holder[key]
        keys = (
            list(inner)
            if isinstance(inner, dict)
            else list(range(len(inner)))
            if isinstance(inner, list)
            else []
        )
        if not keys or (rng.random() < 0.25 and holder is not box):
            return holder, key
        holder, key = inner, rng.choice(keys)


def _with_number(rng: random.Random, raw: bytes, put: bytes) -> bytes:
    """Replace one of the numbers of a text."""
    places = [
        i for i in range(1, len(raw)) if raw[i : i + 1].isdigit() and not raw[i - 1 : i].isalnum()
    ]
    if not places:
        return put
    start = stop = rng.choice(places)
    while raw[stop : stop + 1].isdigit():
        stop += 1
    return raw[:start] + put + raw[stop:]


def _packed(header: Any, body: bytes) -> bytes:
    try:
        text = json.dumps(header).encode()
    except (ValueError, RecursionError):
        text = b"{}"
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def _spoil(rng: random.Random, header: Any, body: bytearray) -> None:
    """Set a few numbers of an array to what is none, or to something large."""
    import numpy as np

    value = rng.choice((math.nan, math.inf, -math.inf, 1e300, -1.0, 0.0, 3e38, 1e-310))
    kind = rng.choice(("<f8", "<f4"))
    with np.errstate(all="ignore"):
        packed = np.full(rng.choice((1, 4, 64)), value, kind).tobytes()
    at = rng.randrange(len(body)) // 8 * 8
    body[at : at + len(packed)] = packed[: len(body) - at]


def _reshaped(rng: random.Random, header: Any, body: bytearray) -> tuple[Any, bytearray]:
    """Give an array another type, shape or name, or remove it, and lay the file out anew."""
    if not isinstance(header, dict):
        return header, body
    try:
        parts = {
            name: (entry["dtype"], list(entry["shape"]), bytes(body[slice(*entry["data_offsets"])]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (KeyError, TypeError, ValueError):
        return header, body
    if not parts:
        return header, body
    name = rng.choice(sorted(parts))
    kind, shape, data = parts.pop(name)
    change = rng.randrange(7)
    if change == 0:
        kind = rng.choice(
            ("BF16", "F8_E4M3", "F8_E5M2", "C64", "F4", "I64", "U8", "BOOL", "F16", "F32", "")
        )
    elif change == 1:
        shape = [math.prod(shape)]
    elif change == 2:
        shape = shape[::-1]
    elif change == 3:
        shape, data = rng.choice(([], [0], [0, 3], [1, 0])), b""
        data = data if shape else bytes(8)
    elif change == 4:
        name = rng.choice(
            ("renamed", "", "gains", "full", "0:full", "x:y", "999999999999999999999:m")
        )
    elif change == 5:
        shape = rng.choice(([2**62], [2**31, 2**31], [-1], [1] * 40, [0, 2**62]))
    if change < 6:
        parts[name] = kind, shape, data
    return _laid_out(parts, header)


def _laid_out(parts: dict[str, Any], header: dict[str, Any]) -> tuple[Any, bytearray]:
    made = {"__metadata__": header["__metadata__"]} if "__metadata__" in header else {}
    body = bytearray()
    for name, (kind, shape, data) in parts.items():
        offsets = [len(body), len(body) + len(data)]
        made[name] = {"dtype": kind, "shape": shape, "data_offsets": offsets}
        body += data
    return made, body


def _change_fact(rng: random.Random, facts: dict[str, Any]) -> None:
    names = sorted(set(facts) - {"sha256"})
    if not names:
        return
    name = rng.choice(names)
    try:
        facts[name] = json.dumps(changed(rng, json.loads(facts[name])))
    except (ValueError, RecursionError, TypeError):
        facts[name] = rng.choice(("", "0", "nan", "-1", "\ud800", "x" * 1000, "1x", "{}"))
