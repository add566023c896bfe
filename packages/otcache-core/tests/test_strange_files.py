"""What a name may lead to besides a file, and what a file may hold besides what it should."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from otcache_core import FileError, Policy, Schedule, ScheduleError, ScheduleTable
from otcache_core.calibration import Calibration
from otcache_core.errors import expected
from otcache_core.storage import files
from otcache_core.storage.array_files import load_arrays, map_arrays, save_arrays
from otcache_core.storage.files import read_bytes, write_bytes
from otcache_core.storage.json_files import (
    MAX_DEPTH,
    check_values,
    parse_json,
    read_json,
    save_json,
)

READERS: list[Callable[[Any], object]] = [
    *(Policy.load, Schedule.load, ScheduleTable.load, Calibration.load),
    *(read_json, load_arrays, map_arrays, read_bytes),
]
posix = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")


def refusal(read: Callable[[Any], object], path: object) -> str:
    with pytest.raises(FileError) as caught:
        read(path)
    text = str(caught.value)
    text.encode()  # can be printed
    assert len(text) < 10_000
    return text


@posix
@pytest.mark.parametrize("read", READERS)
def test_what_is_no_file_is_refused_at_once(read: Callable[[Any], object], tmp_path: Path) -> None:
    path = tmp_path / "calibration.json" if read == Calibration.load else tmp_path / "f"
    given_path = tmp_path if read == Calibration.load else path
    os.mkfifo(path)
    assert "must be a file, got a named pipe" in refusal(read, given_path)
    path.unlink()
    path.symlink_to("/dev/zero")
    assert "must be a file, got a device" in refusal(read, given_path)
    path.unlink()
    path.symlink_to(path)
    assert "Too many levels of symbolic links" in refusal(read, given_path)
    path.unlink()
    path.mkdir()
    assert "must be a file, got a folder" in refusal(read, given_path)


@posix
def test_a_socket_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("s")
        assert refusal(read_bytes, "s").startswith("s: must be a file, got a socket")
        with pytest.raises(FileError, match="got a socket"):
            write_bytes("s", b"x")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "\ud800", "", "x/" * 3000])
def test_a_name_that_can_be_none_is_refused(read: Callable[[Any], object], name: str) -> None:
    refusal(read, name)
    with pytest.raises(FileError):
        write_bytes(name, b"x")


@pytest.mark.parametrize("name", [None, 0, b"x", 1.5])
def test_what_is_no_name_is_refused(name: object) -> None:
    for load in (read_bytes, Calibration.load, Policy.load):
        refusal(load, name)
    with pytest.raises(FileError):
        write_bytes(name, b"x")  # type: ignore[arg-type]  # on purpose


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no room
    assert f"its size must be at most {2**26} bytes, got {2**40}" in refusal(read_json, path)
    assert "truncated or not a safetensors file" in refusal(load_arrays, path)


@posix
def test_a_file_that_does_not_say_its_size_is_read() -> None:
    if os.path.exists("/proc/self/status"):
        assert b"Name:" in read_bytes("/proc/self/status")


@posix
def test_a_file_that_has_no_byte_yet_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """As /proc/kmsg: regular, and a read that may not wait returns None."""
    end, other = os.pipe()
    os.set_blocking(end, False)
    monkeypatch.setattr(files, "open_file", lambda _: os.fdopen(end, "rb"))
    assert read_bytes("x") == b""
    os.close(other)


# -- writing -------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755])
def test_saving_writes_through_a_link_and_keeps_the_mode(tmp_path: Path, mode: int) -> None:
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "p", tmp_path / "link"
    real.write_bytes(b"old")
    real.chmod(mode)
    link.symlink_to(tmp_path / "hop")
    (tmp_path / "hop").symlink_to("real/p")
    write_bytes(link, b"new")
    assert real.read_bytes() == b"new"
    assert stat.S_IMODE(real.stat().st_mode) == mode
    assert link.is_symlink()
    assert os.listdir(tmp_path / "real") == ["p"]
    save_arrays(link, {"x": np.ones(2)})
    assert stat.S_IMODE(real.stat().st_mode) == mode
    assert load_arrays(real)[0]["x"].tolist() == [1, 1]


@posix
def test_a_link_to_nothing_yet_makes_the_file_behind_it(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "real").read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()


@posix
def test_a_new_file_follows_the_umask_and_a_long_name_is_fine(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / ("y" * 255), b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / ("y" * 255)).stat().st_mode) == 0o640


@posix
def test_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("/dev/null", tmp_path / "pipe", tmp_path):
        with pytest.raises(FileError, match="must be a file, got"):
            write_bytes(name, b"x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_file_that_may_not_be_written_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everything
    with pytest.raises(FileError, match="Permission denied; nothing was changed"):
        write_bytes(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"


# -- JSON ----------------------------------------------------------------------------------------

STRANGE = [
    ('{"a": "\\ud83d"}', "field 'a' must be text without lone surrogates"),
    ('{"\\udc00": [1]}', "must be text without lone surrogates"),
    ('{"a": [0, {"b": 18446744073709551616}]}', "field 'a[1].b' must be an integer of 64 bits"),
    ('{"a": -9223372036854775809}', "field 'a' must be an integer of 64 bits"),
    ('{"a": ' + "9" * 10**6 + "}", "an integer of 1000000 digits"),
    ('{"a": NaN}', "field 'a' must be a finite number, got nan"),
    ('{"a": 1e999}', "field 'a' must be a finite number, got inf"),
    ("[" * 100 + "]" * 100, "must be at most 64 levels deep"),
    ('{"a":' * 10**5 + "1" + "}" * 10**5, "lists and objects are nested too deeply"),
    ('{"a": 1, "b": 2, "a": 3}', "field 'a' is given twice"),
    ("", "got 0 bytes"),
    ("\x00" * 100, "truncated or not JSON"),
    ("[1] [2]", "Extra data"),
    ("[" + "0," * 4_000_001 + "0]", "the number of its values must be at most 4000000, got"),
    ("\ufeff{}", "UTF-8 without a byte order mark, got 'UTF-8 with a byte order mark'"),
]


@pytest.mark.parametrize(("text", "reason"), STRANGE, ids=[str(n) for n in range(len(STRANGE))])
def test_what_json_can_say_and_little_else_takes(text: str, reason: str) -> None:
    with pytest.raises(FileError) as caught:
        parse_json("f.json", text.encode())
    assert str(caught.value).startswith("f.json: ")
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 1000


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text()
    | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(PLAIN)
def test_what_is_taken_is_what_json_says(data: Any) -> None:
    text = json.dumps(data)
    try:
        json.dumps(data, allow_nan=False)
    except ValueError:
        with pytest.raises(FileError, match="a finite number"):
            parse_json("f", text.encode())
    assert parse_json("f", text.encode(), finite=False) == data


class Facts(msgspec.Struct):
    a: Any


@pytest.mark.parametrize("value", ["\ud800", 2**64, float("nan"), {"x": ["\udfff"]}])
def test_what_would_not_be_read_is_not_written(tmp_path: Path, value: object) -> None:
    with pytest.raises(FileError, match="field 'a"):
        save_json(tmp_path / "f", "kind", 1, Facts(value))
    assert not os.listdir(tmp_path)


def test_values_are_checked_without_recursion() -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH):
        deep = [deep]
    check_values("f", deep)
    with pytest.raises(FileError, match="levels deep"):
        check_values("f", [deep])


def test_a_message_is_short_whatever_it_shows() -> None:
    for value in ("x" * 10**6, list(range(10**5)), 10**5000, "\ud800"):
        text = expected("it", value, "small")
        text.encode()
        assert len(text) < 1000


# -- arrays --------------------------------------------------------------------------------------


def header(path: Path, **entries: Any) -> None:
    text = json.dumps(entries).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))


@pytest.mark.parametrize("kind", ["BF16", "F8_E4M3", "F8_E5M2", "F4", "C64", "nothing"])
@pytest.mark.parametrize("read", [load_arrays, map_arrays])
def test_types_that_numpy_lacks_are_named(
    tmp_path: Path, kind: str, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "a"
    header(path, x={"dtype": kind, "shape": [8], "data_offsets": [0, 16]})
    text = refusal(read, path)
    assert "field 'x' must be of real numbers that NumPy knows" in text
    assert f"got '{kind}'" in text


@pytest.mark.parametrize(
    ("shape", "offsets"),
    [
        ([2**62], [0, 16]),
        ([2**40, 2**40], [0, 16]),
        ([0, 2**62], [0, 0]),
        ([-1, -4], [0, 16]),
        ([1] * 100, [0, 4]),
        ([4], [4, 20]),
        ([4], [0, 2**63]),
        ([4], [16, 0]),
        ([2], [0, 8]),
    ],
)
@pytest.mark.parametrize("read", [load_arrays, map_arrays])
def test_shapes_that_the_file_does_not_hold_cost_nothing(
    tmp_path: Path, shape: list[int], offsets: list[int], read: Callable[[Path], object]
) -> None:
    path = tmp_path / "a"
    header(path, x={"dtype": "F32", "shape": shape, "data_offsets": offsets})
    assert "x" in refusal(read, path) or "bytes of arrays" in refusal(read, path)


def test_complex_numbers_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="field 'x' must be of real numbers that NumPy knows"):
        save_arrays(tmp_path / "a", {"x": np.ones(2, dtype=np.complex64)})


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_found(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped"
    arrays = {
        "x": np.arange(6.0).reshape(2, 3),
        "k": np.array([1, 2], np.int8),
        "b": np.ones(3, bool),
    }
    digest = save_arrays(path, arrays, {"label": "a"})
    assert load_arrays(path, digest=digest)[1] == {"label": "a"}
    spoilt = bytearray(path.read_bytes())
    spoilt[place % len(spoilt)] ^= 1 << bit
    path.write_bytes(spoilt)
    for read in (load_arrays, map_arrays):
        with pytest.raises(FileError):
            read(path, sealed=True)


def test_a_file_of_another_program_has_no_digest_and_may_need_one(tmp_path: Path) -> None:
    save_file({"x": np.ones(2, np.float32)}, tmp_path / "a")
    assert load_arrays(tmp_path / "a")[0]["x"].tolist() == [1, 1]
    for read in (load_arrays, map_arrays):
        with pytest.raises(FileError, match="digest must be among its facts"):
            read(tmp_path / "a", sealed=True)


# -- schedules -----------------------------------------------------------------------------------


def test_a_span_has_no_more_weights_than_outputs_before_it() -> None:
    rows = ((0.1,), (0.1, 0.2))
    assert Schedule(6, (0, 3), "fitted", rows).memory == 2
    with pytest.raises(ScheduleError, match=r"weights\[0\] must be at most 1 numbers"):
        Schedule(6, (0, 3), "fitted", ((0.1, 0.2), ()))
    with pytest.raises(ScheduleError, match=r"branch 'cond': weights\[1\] must be at most 2"):
        Schedule(6, (0, 3), "fitted", rows, (), (("cond", ((), (1.0, 2.0, 3.0))),))


@pytest.mark.remedy("{} must be {}, got {}: fit them again.")
@pytest.mark.parametrize("weight", [1.1e30, -1e308])
def test_a_weight_that_no_forecast_can_hold_is_refused(weight: float) -> None:
    with pytest.raises(ScheduleError, match=r"weights must be at most 1e\+30 in size, got"):
        Schedule(4, (0, 2), "fitted", ((0.5,), (weight,)))
    assert Schedule(4, (0, 2), "fitted", ((1e30,), (-1e30,))).memory == 1


@pytest.mark.parametrize("make", [lambda n: Schedule(n, (0,)), Schedule.full])
def test_a_run_beyond_any_is_refused_at_once(make: Callable[[int], Schedule]) -> None:
    assert Schedule(100_000, (0, 99_999)).num_steps == 100_000
    for n in (100_001, 2**31, 10**30):
        with pytest.raises(ScheduleError, match=r"num_steps must be .* 100000, got"):
            make(n)


def test_what_would_be_too_much_to_read_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("otcache_core.storage.json_files.MAX_VALUES", 20)
    save_json(tmp_path / "f", "kind", 1, Facts([1] * 10))
    assert read_json(tmp_path / "f")["a"] == [1] * 10
    with pytest.raises(FileError, match="the number of its values must be at most 20"):
        save_json(tmp_path / "f", "kind", 1, Facts([1] * 30))
    assert read_json(tmp_path / "f")["a"] == [1] * 10
