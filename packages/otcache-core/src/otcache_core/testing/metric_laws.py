"""Laws that all kinds of metrics share, and the images and videos they are run on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from otcache_core.contracts.comparison import Metric, Takes
from otcache_core.errors import OtcacheError, expected, shown
from otcache_core.testing.checks import assert_equal, under_two_random_states
from otcache_core.testing.kit import Conformance

Pictures = NDArray[np.float64]


@dataclass(frozen=True)
class KnownAnswer:
    """A value of a metric that was derived without it: a closed form, or another implementation.

    It is to tell defects apart: at least two coloured pictures, some reaching 0.9 or more, whose
    values differ.

    Args:
        arguments: what the metric is called with; pictures come first.
        value: what it must return.
        rtol: how near, relative to the value.
        atol: how near, absolutely.

    Raises:
        OtcacheError: if ``rtol`` or ``atol`` is above 0.1, or no number: any value would be near then.
    """

    arguments: tuple[Any, ...]
    value: ArrayLike
    rtol: float = 1e-6
    atol: float = 1e-9

    def __post_init__(self) -> None:
        for name, near in (("rtol", self.rtol), ("atol", self.atol)):
            if not 0.0 <= near <= 0.1:
                raise OtcacheError(expected(f"{name} of a known answer", near, "between 0 and 0.1"))

    def agrees(self, values: ArrayLike) -> bool:
        """Whether these are the known values, and as many."""
        found, wanted = (np.asarray(v, dtype=np.float64) for v in (values, self.value))
        return found.shape == wanted.shape and np.allclose(
            found, wanted, rtol=self.rtol, atol=self.atol
        )


def waves(n: int, shape: Sequence[int]) -> Pictures:
    """Smooth coloured pictures between 0.2 and 0.8, no two alike, shape (n, \\*shape)."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]] / max(shape[:2])
    planes = [np.sin(5 * (x + c * y) + k) for k in range(n) for c in range(shape[-1])]
    flat = 0.5 + 0.3 * np.array(planes).reshape(n, shape[-1], *x.shape)
    return np.moveaxis(flat, 1, -1)


def moving(n: int, frames: int, shape: Sequence[int]) -> Pictures:
    """Clips of coloured patterns that move, between 0.1 and 0.9, shape (n, frames, \\*shape).

    No two clips are alike, and no two frames of one.
    """
    return np.stack([np.stack([_pattern(k, t, shape) for t in range(frames)]) for k in range(n)])


def noisy(pictures: Pictures, amount: float) -> Pictures:
    """The same with uniform noise of up to ``amount``, always the same noise."""
    grain = np.random.default_rng(0).uniform(-1.0, 1.0, pictures.shape)
    return np.clip(pictures + amount * grain, 0.0, 1.0)


def _pattern(clip: int, frame: int, shape: Sequence[int]) -> Pictures:
    """One frame; the pattern moves by a pixel to the right and half a pixel down."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float64)
    x, y = x - frame - 3 * clip, y - 0.5 * frame - 5 * clip
    planes = [
        0.5 + 0.2 * np.sin(0.45 * x + 0.2 * y + c) + 0.2 * np.sin(0.5 * y - 0.1 * x + 2 * c)
        for c in range(shape[-1])
    ]
    return np.stack(planes, axis=-1)


def check_telling(answer: KnownAnswer) -> None:
    """Assert that a known answer can tell a wrong range, pairing or channel order."""
    pictures = answer.arguments[0]
    assert len(pictures) >= 2, "a known answer needs at least two pictures: give more"
    assert pictures.max() >= 0.9, "a known answer needs pictures that reach 0.9: add a bright one"
    coloured = not np.allclose(pictures, pictures[..., ::-1])
    assert coloured, "a known answer needs coloured pictures: let red and blue differ"
    if np.ndim(answer.value):
        telling = len(np.unique(answer.value)) > 1
        assert telling, (
            "a known answer needs values that differ: let its pictures be unequally good"
        )


class MetricLaws(Conformance, kit=True):
    """Laws of :class:`~otcache_core.contracts.Metric`; use the kit of the metric's kind."""

    _takes: ClassVar[Takes]

    @abstractmethod
    def make_metric(self) -> Metric:
        """A fresh metric."""

    @abstractmethod
    def _example(self, metric: Any, amount: float) -> Any:
        """Values of pictures with noise of this amount."""

    def test_it_says_what_it_is(self) -> None:
        metric = self.make_metric()
        name = getattr(metric, "name", "")
        assert isinstance(name, str), f"name is {shown(name)}: give the class a name, a string"
        assert name.strip(), (
            "the metric has no name, by which tables and files call it: give it one"
        )
        assert name.isprintable(), (
            f"name {name!r} cannot be printed in a table: take printable characters"
        )
        better = getattr(metric, "higher_is_better", None)
        assert isinstance(better, bool), f"higher_is_better is {shown(better)}: say True or False"
        assert metric.takes == self._takes, (
            f"takes is {metric.takes!r}, the kit's {self._takes!r}: use the kit of the metric's kind"
        )

    def test_the_same_again(self) -> None:
        metric = self.make_metric()
        once = self._example(metric, 0.1)
        self._example(metric, 0.2)
        for one in (metric, self.make_metric()):
            assert_equal(
                self._example(one, 0.1), once, "values of the same pictures differ: keep no state"
            )

    def test_the_random_state_of_the_process_is_left_alone(self) -> None:
        metric = self.make_metric()
        first, second = under_two_random_states(lambda: self._example(metric, 0.1))
        what = (
            "values differ with the random state of the process: draw from a generator of your own"
        )
        assert_equal(first, second, what)

    def _check_known(self, answer: KnownAnswer) -> None:
        check_telling(answer)
        metric: Any = self.make_metric()
        found = metric(*answer.arguments)
        assert answer.agrees(found), (
            f"the known answer is {shown(answer.value)}, the metric gives {shown(found)}: one of the two is "
            "wrong"
        )

    def _check_channels(self, answer: KnownAnswer, swapped: Any, *, blind: bool) -> None:
        """Hold the values where red and blue are swapped against the known answer."""
        same = answer.agrees(swapped)
        if same == blind:
            return
        metric: Any = self.make_metric()
        given = metric(*answer.arguments)
        assert answer.agrees(given), (
            f"the known answer is {shown(answer.value)}, the metric gives {shown(given)} before channels are "
            "swapped: derive known_answer anew, or mend the metric"
        )
        assert same, (
            "channel_blind = True, and the values change where red and blue are swapped: set "
            "channel_blind = False in the kit"
        )
        raise AssertionError(
            "the values stay where red and blue are swapped: give a known answer that tells colours apart, "
            "or, if the metric treats them alike, set channel_blind = True where the kit has that"
        )

    def _check_values(self, values: Any, count: int) -> None:
        """See that there is one finite number of double precision for each picture or clip."""
        assert isinstance(values, np.ndarray), (
            f"the metric gives {shown(values)}: return an array of shape ({count},)"
        )
        assert values.shape == (count,), (
            f"the metric gives shape {values.shape}: return one number each, shape ({count},)"
        )
        assert values.dtype == np.float64, f"values are {values.dtype}: return float64"
        assert np.isfinite(values).all(), f"values are {shown(values)}: return finite numbers"
