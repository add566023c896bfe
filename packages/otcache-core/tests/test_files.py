"""Files are written whole or not at all, and read strictly."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from otcache_core import FileError, Policy
from otcache_core.storage.array_files import array, load_arrays, save_arrays
from otcache_core.storage.files import read_bytes, write_bytes

Spoil = Callable[[str, str], Path]


def refusal(path: Path) -> str:
    with pytest.raises(FileError) as caught:
        Policy.load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    return text.removeprefix(f"{path}: ")


def test_a_policy_comes_back_as_it_was(policy: Policy, policy_file: Path) -> None:
    assert Policy.load(policy_file) == policy
    assert os.listdir(policy_file.parent) == [policy_file.name]


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(policy_file: Path, part: float) -> None:
    raw = policy_file.read_bytes()
    kept = raw[: int(part * len(raw))]
    policy_file.write_bytes(kept)
    text = refusal(policy_file)
    assert text.startswith("truncated or not JSON: ")
    assert f"got {len(kept)} bytes" in text


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_none_is_refused_by_field(spoil: Spoil, number: str) -> None:
    text = refusal(spoil("0.01", number))
    assert text.startswith("field 'anchor.weights[0][0]' must be a finite number, got ")


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (
            '"version": 3',
            '"version": 4',
            "field 'version' must be 3, got 4: "
            "write it again with this version of otcache, or update otcache.",
        ),
        ('"version": 3', '"version": true', "field 'version' must be 3, got True"),
        (
            "otcache-policy",
            "otcache-calibration",
            "field 'format' must be 'otcache-policy', got 'otcache-calibration': "
            "this is another kind of file.",
        ),
        ('"forecaster"', '"forcaster"', "Object contains unknown field `forcaster` in 'anchor'."),
        ('"anchor"', '"ancor"', "Object contains unknown field `ancor`."),
        ('"solver": ""', '"solver": 3', "field 'solver': Expected `str`, got `int`."),
        (
            '"resolution": 64',
            '"resolution": -1',
            "field 'provenance': provenance.resolution must be an integer of at least 0, got -1.",
        ),
        (
            '"num_steps": 50',
            '"num_steps": 0',
            "field 'anchor': num_steps must be at least 1, got 0.",
        ),
        (
            '"num_steps": 50',
            '"num_steps": 19',
            "field 'anchor': computed must be distinct increasing steps below 19, "
            "got (0, 1, 7, 20).",
        ),
        (
            '"num_steps": 50',
            '"num_steps": "50"',
            "field 'anchor.num_steps': Expected `int`, got `str`.",
        ),
    ],
)
def test_bad_fields_are_named(spoil: Spoil, old: str, new: str, text: str) -> None:
    assert refusal(spoil(old, new)).startswith(text)


def test_a_field_given_twice_is_refused(spoil: Spoil) -> None:
    assert "'solver' is given twice" in refusal(spoil('"solver": ""', '"solver": "", "solver": ""'))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"[1]", "the file must be one JSON object, got 'list'."),
        (b"\xff\xfe\x00", "the text must be UTF-8 without a byte order mark, got 'UTF-16'"),
        (b"{\n\xe9}", "truncated or not JSON: line 2 holds the byte 0xe9, which is not UTF-8; "),
        (b"[" * 100_000, "truncated or not JSON: "),
    ],
)
def test_what_is_no_json_object_is_refused(policy_file: Path, raw: bytes, text: str) -> None:
    policy_file.write_bytes(raw)
    assert refusal(policy_file).startswith(text)


def test_a_missing_required_field_is_refused(policy_file: Path) -> None:
    data = json.loads(policy_file.read_text())
    del data["provenance"]
    policy_file.write_text(json.dumps(data))
    assert refusal(policy_file) == "Object missing required field `provenance`."


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.otcache").startswith("cannot be read: No such file")
    assert refusal(tmp_path) == "must be a file, got a folder: name a file."


def _fail(code: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_trace(
    policy: Policy, policy_file: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    before = policy_file.read_bytes()
    monkeypatch.setattr(os, where, _fail(errno.ENOSPC))
    with pytest.raises(FileError) as caught:
        policy.save(policy_file)
    assert str(caught.value) == (
        f"{policy_file}: cannot be written: No space left on device; nothing was changed: "
        "free some space, or name another folder."
    )
    assert policy_file.read_bytes() == before
    assert os.listdir(policy_file.parent) == [policy_file.name]


def test_an_interrupt_while_writing_leaves_no_trace(
    policy_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(policy_file, b"new")
    assert os.listdir(policy_file.parent) == [policy_file.name]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_device_without_space_is_a_file_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be written"):
        write_bytes("/dev/full/x", b"data")


def test_a_missing_folder_is_a_file_error(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be written: No such file or directory"):
        write_bytes(tmp_path / "none" / "x", b"data")


def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    usual, ours = tmp_path / "usual", tmp_path / "ours"
    usual.write_bytes(b"")
    write_bytes(ours, b"")
    assert ours.stat().st_mode == usual.stat().st_mode


def test_arrays_and_facts_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    arrays = {"x": np.arange(6.0).reshape(2, 3).T, "k": np.array([1, 2]), "w": np.array([np.inf])}
    save_arrays(path, arrays, {"label": "a cat"})
    back, facts = load_arrays(path)
    assert facts == {"label": "a cat"}
    assert back.keys() == arrays.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(back[name], values)
        assert back[name].dtype == values.dtype
    assert load_arrays(path)[0]["x"].flags.writeable


def test_arrays_with_nan_are_neither_written_nor_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(FileError, match=r"field 'x' must be free of NaN, got 'NaN'"):
        save_arrays(path, {"x": np.array([1.0, np.nan])})
    assert not path.exists()
    save_file({"x": np.array([np.nan])}, path)  # another program's, without a digest
    with pytest.raises(FileError, match=r"field 'x' must be free of NaN, got 'NaN'"):
        load_arrays(path)


@pytest.mark.parametrize("length", [0, 4, 40, -1])
def test_truncated_arrays_are_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.safetensors"
    save_arrays(path, {"x": np.ones(8)})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(FileError) as caught:
        load_arrays(path)
    assert str(caught.value).startswith(f"{path}: truncated or not a safetensors file: ")


def test_missing_arrays_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read: "):
        load_arrays(tmp_path / "none")
    with pytest.raises(FileError, match="cannot be read: "):
        read_bytes(tmp_path / "none")
    with pytest.raises(FileError, match="field 'y' must be among the arrays, got 'x'"):
        array("f", {"x": np.ones(2)}, "y", (2,))
    with pytest.raises(FileError, match=r"field 'x' must be of shape \(3,\), got \(2,\)"):
        array("f", {"x": np.ones(2)}, "x", (3,))
