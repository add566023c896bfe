"""What an error advises is done here, and the error is gone."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from otcache_core import (
    MismatchError,
    OtcacheError,
    OtcacheNotice,
    Policy,
    Provenance,
    Schedule,
)
from otcache_core.calibration import Calibration
from otcache_core.contracts import Evaluator
from otcache_core.errors import ExecutionError, FileError, ScheduleError
from otcache_core.loop import Loop
from otcache_core.loop_run import finished
from otcache_core.storage.array_files import load_arrays, save_arrays
from otcache_core.storage.files import make_folder, read_bytes, write_bytes
from otcache_core.storage.json_files import load_json, save_json
from otcache_core.storage.recordings import RecordingStorage, check_space
from otcache_core.testing import ToyEvaluator, ToySampler

GRID = tuple(np.linspace(1.0, 0.0, 7).tolist())


def policy(**facts: Any) -> Policy:
    given = {"model_class": "Toy", "guidance": 3.5, "num_steps": 6, "grid": GRID}
    ends = Schedule(6, (0, 3)), Schedule(6, (0, 1, 3, 4))
    return Policy(*ends, Provenance.from_dict({**given, **facts}))


@pytest.mark.remedy(
    "so nothing shows that it measures what the probe recorded: implement Evaluator.repl"
)
def test_an_evaluator_of_ones_own_implements_replay() -> None:
    class Without(ToyEvaluator):
        replay = Evaluator.replay

    sampler = ToySampler(num_steps=4)
    with pytest.raises(OtcacheError, match=r"implement Evaluator\.replay"):
        Without(sampler).replay([0])
    assert ToyEvaluator(sampler).replay([0]).shape == (1,)


@pytest.mark.remedy("{}: calibrate again, or leave strict off to map it")
@pytest.mark.remedy("{} under strict: calibrate again, or leave strict off to map it")
@pytest.mark.remedy("a policy holds for the model it was measured on; calibrate again")
def test_a_policy_is_calibrated_again_or_mapped() -> None:
    with pytest.raises(MismatchError, match="leave strict off to map it"):
        policy().schedule(3, num_steps=9, strict=True)
    with pytest.warns(OtcacheNotice, match="the schedule is mapped"):
        assert policy().schedule(3, num_steps=9).num_steps == 9
    again = policy(num_steps=6)
    assert again.schedule(3, num_steps=6, strict=True).budget == 3
    with pytest.raises(MismatchError, match="under strict: calibrate again"):
        policy().check({"guidance": 7.5}, strict=True)
    assert len(policy().check({"guidance": 7.5})) == 1
    assert policy(guidance=7.5).check({"guidance": 7.5}, strict=True) == []
    with pytest.raises(MismatchError, match="measured on; calibrate again"):
        policy().check({"model_class": "Other"})
    assert policy(model_class="Other").check({"model_class": "Other"}) == []


@pytest.mark.remedy(
    "this loop is already accelerated or recorded by otcache: leave that context first"
)
def test_a_loop_is_left_before_it_is_entered_again() -> None:
    class Observer:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

    loop = Loop(lambda: None, lambda x: x)
    loop.observe(Observer())
    with pytest.raises(ExecutionError, match="leave that context first"):
        loop.observe(Observer())
    loop.observe(None)
    loop.observe(Observer())


@pytest.mark.remedy("call this in another, by await asyncio.to_thread(...)")
def test_a_sampler_that_is_a_coroutine_runs_in_another_thread() -> None:
    async def sample() -> int:
        return 3

    async def here() -> int:
        with pytest.raises(ExecutionError, match=r"by await asyncio\.to_thread"):
            finished(sample())
        made: int = await asyncio.to_thread(finished, sample())
        return made

    assert asyncio.run(here()) == 3


# -- files -------------------------------------------------------------------------------------------


def written(path: Path, words: str = "") -> None:
    """Write a file: refused with these words, or whole if there are none."""
    if words:
        with pytest.raises(FileError, match=words):
            write_bytes(path, b"x")
        return
    write_bytes(path, b"x")
    assert path.read_bytes() == b"x"


@pytest.mark.remedy("make the folder first, or name one that exists")
@pytest.mark.remedy("name a folder that exists")
@pytest.mark.remedy("give it a shorter name")
@pytest.mark.remedy("remove the symbolic link, or name another file")
@pytest.mark.remedy("give the file another name")
def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    written(tmp_path / "new/x", "make the folder first, or name one that exists")
    (tmp_path / "new").mkdir()
    written(tmp_path / "new/x")
    written(tmp_path / "x")
    written(tmp_path / "x/y", r"Not a directory.*: name a folder that exists\.")
    written(tmp_path / "new/y")
    written(tmp_path / ("y" * 300), "give it a shorter name")
    written(tmp_path / ("y" * 30))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    written(tmp_path / "loop", "remove the symbolic link, or name another file")
    written(tmp_path / "other")
    (tmp_path / "loop").unlink()
    written(tmp_path / "loop")
    written(tmp_path / "a\0b", "give the file another name")
    written(tmp_path / "ab")


@pytest.mark.remedy("free some space, or name another folder")
@pytest.mark.remedy("allow writing there, or name another file")
@pytest.mark.remedy("name a folder that may be written")
def test_disks_that_do_not_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, advised = (
        os.replace,
        {
            errno.ENOSPC: "free some space, or name another folder",
            errno.EACCES: "allow writing there, or name another file",
            errno.EROFS: "name a folder that may be written",
        },
    )

    def refuse(number: int, source: Path, target: Path) -> None:
        if "full" in str(target):
            raise OSError(number, os.strerror(number))
        replace(source, target)

    (tmp_path / "full").mkdir()
    for number, words in advised.items():
        monkeypatch.setattr(os, "replace", partial(refuse, number))
        written(tmp_path / "full/x", words)
        written(tmp_path / "x")  # elsewhere
    monkeypatch.undo()  # as if there were room, or writing were allowed
    written(tmp_path / "full/x")


@pytest.mark.remedy("cannot be made: {}: name another folder")
@pytest.mark.remedy("must be a file, got {}: name a file")
def test_what_is_a_folder_and_what_a_file(tmp_path: Path) -> None:
    written(tmp_path / "x")
    with pytest.raises(FileError, match=r"cannot be made: .*: name another folder"):
        make_folder(tmp_path / "x")
    make_folder(tmp_path / "y")
    with pytest.raises(FileError, match="got a folder: name a file"):
        read_bytes(tmp_path / "y")
    assert read_bytes(tmp_path / "x") == b"x"


@pytest.mark.remedy("write it again with this version of otcache, or update otcache")
@pytest.mark.remedy("the text must be {}, got {}: save it as UTF-8")
def test_a_file_of_another_version_or_encoding(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    save_json(path, "kind", 2, {"x": 1})
    with pytest.raises(FileError, match="or update otcache"):
        load_json(path, "kind", 1, dict[str, int])
    assert load_json(path, "kind", 2, dict[str, int]) == {"x": 1}  # by the otcache that wrote it
    save_json(path, "kind", 1, {"x": 1})
    assert load_json(path, "kind", 1, dict[str, int]) == {"x": 1}
    text = path.read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-16")
    with pytest.raises(FileError, match="save it as UTF-8"):
        load_json(path, "kind", 1, dict[str, int])
    path.write_text(text, encoding="utf-8")
    assert load_json(path, "kind", 1, dict[str, int]) == {"x": 1}


@pytest.mark.remedy("convert it to F32")
def test_arrays_of_types_that_numpy_lacks(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_arrays(path, {"x": np.zeros(2, np.float16)}, {})
    path.write_bytes(path.read_bytes().replace(b'"F16"', b'"F8 "', 1))
    with pytest.raises(FileError, match="convert it to F32"):
        load_arrays(path)
    save_arrays(path, {"x": np.zeros(2, np.float32)}, {})
    assert load_arrays(path)[0]["x"].dtype == np.float32


@pytest.mark.remedy(
    "name another folder with RecordingStorage(folder=...), record fewer samples, or keep a sketch with"
)
def test_a_disk_without_room_for_recorded_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def usage(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(free=10**6 if folder == tmp_path else 10**9)

    monkeypatch.setattr("otcache_core.storage.recordings.shutil.disk_usage", usage)
    size = 4 * 100 * 10_000  # samples, of so many numbers
    with pytest.raises(FileError, match=r"record fewer samples, or keep a sketch"):
        check_space(tmp_path, size)
    check_space(tmp_path / "other", size)
    check_space(tmp_path, size // 10)
    check_space(tmp_path, 4 * 100 * (RecordingStorage(coordinates=1000).coordinates or 0))


@pytest.mark.remedy("weights must be finite, got NaN or infinity: fit them again")
@pytest.mark.remedy("Calibration.{} holds NaN or infinity: calibrate again")
def test_what_was_measured_again_is_finite(calibration: Calibration) -> None:
    with pytest.raises(ScheduleError, match="fit them again"):
        Schedule(6, (0, 3)).with_weights([(), (np.nan,)])
    assert Schedule(6, (0, 3)).with_weights([(), (0.5,)]).weights
    with pytest.raises(OtcacheError, match="calibrate again"):
        dataclasses.replace(calibration, gram=np.full((6, 6), np.nan))
    assert dataclasses.replace(calibration, gram=calibration.gram).num_steps == 6
