"""Every video metric, with every classic defect planted in it: its kit must notice.

A defect sits behind the metric's own checks, so that refusing bad videos alone does not catch it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from otcache_core import OtcacheError
from otcache_core.contracts import VideoMetric

sys.path.insert(0, str(Path(__file__).parent))
import video_kits

Array = NDArray[np.floating]
Change = Callable[[Array, Array], tuple[Array, Array]]


# -- defects ---------------------------------------------------------------------------------------


def wrapped_difference(x: Array, y: Array) -> tuple[Array, Array]:
    """Take the difference of two videos in bytes, where 3 - 5 is 254."""
    a, b = (np.round(255 * v).astype(np.uint8) for v in (x, y))
    return np.clip(y + (a - b) / 255.0, 0.0, 1.0), y


def white_to_black(x: Array, y: Array) -> tuple[Array, Array]:
    """Videos are made bytes by a factor of 256, and white becomes 256, which is 0."""
    return ((256 * x).astype(np.int64) % 256) / 255.0, y


def another_range(x: Array, y: Array) -> tuple[Array, Array]:
    """Values in [0, 1] are judged as if white were 255."""
    return x / 255.0, y / 255.0


def blue_first(x: Array, y: Array) -> tuple[Array, Array]:
    """One video comes from a library that puts blue first."""
    return x[..., ::-1], y


def blue_first_in_both(x: Array, y: Array) -> tuple[Array, Array]:
    """Both do."""
    return x[..., ::-1], y[..., ::-1]


def videos_off_by_one(x: Array, y: Array) -> tuple[Array, Array]:
    """Each video meets the partner of the one before it."""
    return np.roll(x, 1, axis=0), y


def frames_off_by_one(x: Array, y: Array) -> tuple[Array, Array]:
    """Each frame meets the partner of the one before it."""
    return np.roll(x, 1, axis=1), y


def time_as_batch(x: Array, y: Array) -> tuple[Array, Array]:
    """Take the axis of videos for time, and time for the axis of videos."""
    return x.swapaxes(0, 1), y.swapaxes(0, 1)


def time_into_batch(x: Array, y: Array) -> tuple[Array, Array]:
    """Return the same, flattened and folded again: a video is made of frames of others."""
    return x.swapaxes(0, 1).reshape(x.shape), y.swapaxes(0, 1).reshape(y.shape)


def last_frame_lost(x: Array, y: Array) -> tuple[Array, Array]:
    """End a range of frames one too early."""
    return x[:, :-1], y[:, :-1]


def first_frame_lost(x: Array, y: Array) -> tuple[Array, Array]:
    """Begin a range of frames one too late."""
    return x[:, 1:], y[:, 1:]


DEFECTS: dict[Change, str] = {
    wrapped_difference: "a_small_difference_is_small_in_both_directions",
    white_to_black: "white_is_not_black",
    another_range: "the_expected_values",
    blue_first: "the_expected_values",
    blue_first_in_both: "the_expected_values",
    videos_off_by_one: "values_do_not_depend_on_the_batch",
    frames_off_by_one: "identical_inputs_are_best",
    time_as_batch: "one_number_a_pair",
    time_into_batch: "values_do_not_depend_on_the_batch",
    last_frame_lost: "every_frame_counts",
    first_frame_lost: "every_frame_counts",
}

#: Where the value is the same by design: all channels count alike, in the made video at least.
NO_DEFECT = {
    ("flicker", blue_first_in_both),
    ("warping-error", blue_first),
}


# -- planting --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planted:
    """A metric whose arguments are changed after it has accepted them."""

    metric: VideoMetric
    change: Change

    def __call__(self, videos: Array, reference: Array) -> Array:
        self.metric(videos, reference)  # it refuses what it refuses
        return self.metric(*self.change(videos, reference))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.metric, name)


@cache
def made(name: str) -> VideoMetric:
    """Return one metric for all tests, which loads its weights once."""
    metric: VideoMetric = video_kits.KITS[name]().make_metric()
    return metric


def breaks(name: str, change: Change, check: str) -> bool:
    """Whether a metric with a defect fails a check of its kit; to refuse good videos is to break it."""
    kit, planted = video_kits.KITS[name], Planted(made(name), change)
    defective = type("Kit", (kit,), {"make_metric": lambda self: planted})()
    try:
        getattr(defective, f"test_{check}")()
    except (AssertionError, OtcacheError, pytest.fail.Exception):
        return True
    return False


@pytest.mark.parametrize("change", DEFECTS, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", video_kits.KITS)
def test_a_planted_defect_is_caught(name: str, change: Change) -> None:
    harmless = (name, change) in NO_DEFECT
    assert breaks(name, change, DEFECTS[change]) != harmless


@pytest.mark.parametrize("check", sorted(set(DEFECTS.values())))
@pytest.mark.parametrize("name", video_kits.KITS)
def test_without_a_defect_no_check_is_broken(name: str, check: str) -> None:
    """So what is caught above is the defect, not the planting."""
    assert not breaks(name, lambda videos, reference: (videos, reference), check)
