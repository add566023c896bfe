"""Recorded steps on the disk: the same rows back, nothing left behind, errors that say what to do."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from otcache_core.errors import FileError, OtcacheError
from otcache_core.storage.recordings import (
    RecordedSteps,
    RecordingStorage,
    StepsInMemory,
    StepsOnDisk,
    check_space,
    gigabytes,
    mapped,
    release,
    slabs,
)
from otcache_core.trajectory import Trajectory

ROWS = np.random.default_rng(0).standard_normal((4, 3, 7)).astype(np.float32)


def _filled(steps: RecordedSteps) -> RecordedSteps:
    for row in ROWS:
        steps.append(row)
    return steps


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_every_sample_comes_back_whole(where: str, tmp_path: Path) -> None:
    steps = StepsInMemory(4, (3, 7)) if where == "memory" else StepsOnDisk((3, 7), tmp_path)
    found = _filled(steps).samples()
    assert len(found) == 3
    for n, sample in enumerate(found):
        assert sample.dtype == np.float32
        assert mapped(sample) == (where == "disk")
        np.testing.assert_array_equal(sample, ROWS[:, n])


def test_a_row_may_be_overwritten_by_its_owner_afterwards(tmp_path: Path) -> None:
    for steps in (StepsInMemory(1, (3, 7)), StepsOnDisk((3, 7), tmp_path)):
        row = ROWS[0].copy()
        steps.append(row)
        row[:] = 0
        np.testing.assert_array_equal(np.stack(steps.samples()), ROWS[0][:, None])


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes the file when it is closed")
def test_the_file_has_no_name_and_its_room_is_free_once_it_is_unused(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    sample = _filled(StepsOnDisk((3, 7), tmp_path)).samples()[1]
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(sample, ROWS[:, 1])
    del sample
    gc.collect()
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before


def test_pages_that_were_given_back_are_read_again(tmp_path: Path) -> None:
    sample = _filled(StepsOnDisk((3, 7), tmp_path)).samples()[2]
    for _ in range(2):
        parts = [slab.copy() for slab in slabs(sample, 3)]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), ROWS[:, 2])
        release(sample[1:, 2:])


def test_a_map_that_may_be_written_keeps_what_was_written(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS[0])
    private = np.load(tmp_path / "a.npy", mmap_mode="c")
    private[:] = 5
    release(private)
    assert (private == 5).all()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_says_what_to_do(tmp_path: Path) -> None:
    steps = StepsOnDisk((3, 7), tmp_path)
    steps._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115  # closed below
    with pytest.raises(
        FileError, match=r"No space left on device: name another folder with RecordingStorage\("
    ):
        steps.append(ROWS[0])
    steps._file.close()


def test_a_folder_that_is_not_there_is_an_error_before_anything_runs(tmp_path: Path) -> None:
    for make in (lambda p: StepsOnDisk((3, 7), p), lambda p: check_space(p, 1)):
        with pytest.raises(FileError, match="none: recorded runs cannot be written here: No such"):
            make(tmp_path / "none")


def test_too_little_room_is_an_error_with_both_sizes(tmp_path: Path) -> None:
    check_space(tmp_path, 1)
    with pytest.raises(
        FileError, match=r"take 1000000000.00 GB, [\d.]+ [GM]B are free: name another"
    ):
        check_space(tmp_path, 10**18)


def test_sizes_are_for_people() -> None:
    assert [gigabytes(n) for n in (3_000_000_000, 100_000_000, 4_200_000, 0)] == [
        "3.00 GB",
        "0.10 GB",
        "4.2 MB",
        "0.0 MB",
    ]


def test_a_trajectory_does_not_read_a_map(tmp_path: Path) -> None:
    x = np.full((4, 7), np.nan, np.float32)
    grid = np.linspace(1, 0, 4)
    with pytest.raises(OtcacheError, match=r"Trajectory.states of '' holds NaN"):
        Trajectory(grid, x, x[:3])
    x.tofile(tmp_path / "x")
    on_disk = np.memmap(tmp_path / "x", np.float32, "r", shape=(4, 7))
    assert Trajectory(grid, on_disk, on_disk[:3]).num_steps == 3
    with pytest.raises(OtcacheError, match=r"Trajectory.grid must be of shape \(4,\)"):
        Trajectory(grid[1:], on_disk, on_disk[:3])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            {"memory_bytes": -1},
            "RecordingStorage.memory_bytes must be an integer of at least 0, got -1",
        ),
        (
            {"coordinates": 0},
            "RecordingStorage.coordinates must be an integer of at least 1, got 0",
        ),
        (
            {"coordinates": 2.0},
            "RecordingStorage.coordinates must be an integer of at least 1, got 2.0",
        ),
        ({"folder": 3}, "RecordingStorage.folder must be a path, or None, got 3"),
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, int], message: str) -> None:
    with pytest.raises(OtcacheError, match=message):
        RecordingStorage(**bad)  # type: ignore[arg-type]  # a test of what goes wrong
