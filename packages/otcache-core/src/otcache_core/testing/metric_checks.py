"""Conformance tests that several kinds of metrics share, and the images and videos for them.

:class:`MetricChecks` holds for all metrics, :class:`PairChecks` for those that compare images or videos with
a reference.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from otcache_core.contracts.comparison import Metric, Takes
from otcache_core.errors import OtcacheError, expected, shown
from otcache_core.testing.assertions import (
    assert_equal,
    assert_near,
    unchanged,
    under_two_random_states,
)
from otcache_core.testing.kit import Conformance, refused

Images = NDArray[np.float64]
BATCH = "values depend on what else is in the batch: compute each by itself"
DIRECTION = "is higher_is_better right?"


@dataclass(frozen=True)
class ExpectedValues:
    """Expected values of a metric from elsewhere: a closed form, or another implementation.

    So that mistakes in range, pairing or channel order show, it takes at least two coloured images or
    videos, of which some pixels reach 0.9 or more, and whose values differ.

    Args:
        arguments: what the metric is called with; images or videos come first.
        value: what it must return.
        rtol: relative tolerance.
        atol: absolute tolerance.

    Raises:
        OtcacheError: if ``rtol`` or ``atol`` is not between 0 and 0.1: wrong values would pass then.
    """

    arguments: tuple[Any, ...]
    value: ArrayLike
    rtol: float = 1e-6
    atol: float = 1e-9

    def __post_init__(self) -> None:
        for name, tolerance in (("rtol", self.rtol), ("atol", self.atol)):
            if not 0.0 <= tolerance <= 0.1:
                raise OtcacheError(
                    expected(f"{name} of expected values", tolerance, "between 0 and 0.1")
                )

    def agrees(self, values: ArrayLike) -> bool:
        """Return whether values have the expected shape and equal the expected values within tolerance."""
        found, wanted = (np.asarray(v, dtype=np.float64) for v in (values, self.value))
        same = found.shape == wanted.shape
        return same and np.allclose(found, wanted, rtol=self.rtol, atol=self.atol)


class MetricChecks(Conformance, kit=True):
    """Tests for every :class:`~otcache_core.contracts.Metric`; subclass the kit of the metric's kind.

    Attributes:
        channel_blind: whether the metric treats red, green and blue alike, so that swapping them in all
            its arguments does not change its values.
    """

    _takes: ClassVar[Takes]
    channel_blind: bool = False

    @abstractmethod
    def make_metric(self) -> Any:
        """Return a fresh metric."""

    @abstractmethod
    def expected_values(self) -> ExpectedValues:
        """Return arguments of the metric, and the values expected for them from elsewhere."""

    @abstractmethod
    def _arguments(self, amount: float) -> tuple[Any, ...]:
        """Return arguments for the metric, with noise of amplitude ``amount`` in the first one."""

    def test_it_says_what_it_is(self) -> None:
        metric: Metric = self.make_metric()
        name = getattr(metric, "name", "")
        assert isinstance(name, str), f"name is {shown(name)}: give the class a name, a string"
        assert name.strip(), "the metric has no name for tables and files: give it one"
        assert name.isprintable(), f"name {name!r} is not printable: take printable characters"
        better = getattr(metric, "higher_is_better", None)
        assert isinstance(better, bool), f"higher_is_better is {shown(better)}: say True or False"
        assert metric.takes == self._takes, (
            f"takes is {metric.takes!r}, the kit's {self._takes!r}: use the kit of the metric's kind"
        )

    def test_the_expected_values(self) -> None:
        wanted = self.expected_values()
        _check_informative(wanted)
        found = self.make_metric()(*wanted.arguments)
        assert wanted.agrees(found), (
            f"the expected values are {shown(wanted.value)}, the metric gives {shown(found)}: one of the "
            "two is wrong"
        )

    def test_channels_are_what_they_are_called(self) -> None:
        """Swap red and blue in the arguments: the values change unless ``channel_blind``."""
        metric, wanted = self.make_metric(), self.expected_values()
        same = wanted.agrees(metric(*_arrays(wanted.arguments, lambda v: v[..., ::-1])))
        if same == self.channel_blind:
            return
        unswapped = metric(*wanted.arguments)
        assert wanted.agrees(unswapped), (
            f"the expected values are {shown(wanted.value)}, the metric gives {shown(unswapped)} before "
            "channels are swapped: derive expected_values anew, or mend the metric"
        )
        assert same, (
            "channel_blind = True, and the values change where red and blue are swapped: set "
            "channel_blind = False in the kit"
        )
        raise AssertionError(
            "the values stay where red and blue are swapped: give images whose colours differ, "
            "or, if the metric treats them alike, set channel_blind = True in the kit"
        )

    def test_the_same_again(self) -> None:
        metric = self.make_metric()
        once = metric(*self._arguments(0.1))
        metric(*self._arguments(0.2))
        for one in (metric, self.make_metric()):
            what = "values of the same arguments differ: keep no state"
            assert_equal(one(*self._arguments(0.1)), once, what)

    def test_the_random_state_of_the_process_is_left_alone(self) -> None:
        metric, arguments = self.make_metric(), self._arguments(0.1)
        first, second = under_two_random_states(lambda: metric(*arguments))
        what = (
            "values differ with the random state of the process: draw from a generator of your own"
        )
        assert_equal(first, second, what)

    def test_arguments_are_not_changed(self) -> None:
        arguments = self._arguments(0.1)
        with unchanged(**dict(zip(("the first argument", "the second"), arguments, strict=False))):
            self.make_metric()(*arguments)

    def test_bytes_are_refused(self) -> None:
        with refused("an array of bytes"):
            bytes_ = _arrays(self._arguments(0.0), lambda v: np.zeros(v.shape, dtype=np.uint8))
            self.make_metric()(*bytes_)

    def test_values_out_of_range_are_refused(self) -> None:
        first, *others = self._arguments(0.0)
        with refused("values up to 255"):
            self.make_metric()(255.0 * first, *others)

    def _check_values(self, values: Any, count: int) -> None:
        """Assert that there is one finite float64 for each image or video."""
        assert isinstance(values, np.ndarray), (
            f"the metric gives {shown(values)}: return an array of shape ({count},)"
        )
        assert values.shape == (count,), (
            f"the metric gives shape {values.shape}: return one number each, shape ({count},)"
        )
        assert values.dtype == np.float64, f"values are {values.dtype}: return float64"
        assert np.isfinite(values).all(), f"values are {shown(values)}: return finite numbers"

    def _check_alone(self, rtol: float, atol: float) -> None:
        """Assert that a value is the same in a batch and alone."""
        metric, arguments = self.make_metric(), self._arguments(0.1)
        single = [metric(*(a[n : n + 1] for a in arguments))[0] for n in range(len(arguments[0]))]
        assert_near(metric(*arguments), single, BATCH, rtol=rtol, atol=atol)


class PairChecks(MetricChecks, kit=True):
    """Tests for metrics that compare images or videos with a reference and return one value per pair.

    Attributes:
        tolerance: largest distance from 0 of the value of identical images or videos.
    """

    tolerance: float = 1e-6
    #: A small and a large amount by which pixels become brighter or darker.
    _differences: ClassVar[tuple[float, float]]
    #: Relative tolerance between the values of float32 and float64 inputs.
    _single: ClassVar[float]

    @abstractmethod
    def _clean(self) -> Images:
        """Return the reference, three images or videos."""

    @abstractmethod
    def _painted(self, value: float) -> Images:
        """Return the reference with a part of it painted in one value."""

    def _arguments(self, amount: float) -> tuple[Images, Images]:
        return noisy(self._clean(), amount), self._clean()

    @cached_property
    def _metric(self) -> Any:
        return self.make_metric()

    def _losses(self, made: Images, reference: Images) -> NDArray[np.float64]:
        """Return the metric's values, negated if higher is better."""
        values: NDArray[np.float64] = self._metric(made, reference)
        return -values if self._metric.higher_is_better else values

    def test_one_number_a_pair(self) -> None:
        self._check_values(self.make_metric()(*self._arguments(0.1)), 3)

    def test_identical_inputs_are_best(self) -> None:
        clean = self._clean()
        same, worse = self._losses(clean, clean), self._losses(*self._arguments(0.05))
        if not self._metric.higher_is_better:
            what = "identical inputs are not at 0: let the distance of one from itself be 0"
            assert_near(same, 0.0, what, atol=self.tolerance)
        assert (same < worse).all(), (
            f"identical inputs have {shown(same)}, noisy ones {shown(worse)}, lower is better: {DIRECTION}"
        )

    def test_identical_inputs_are_equally_good_whatever_they_show(self) -> None:
        clean = np.concatenate(self._arguments(0.3))
        same = self.make_metric()(clean, clean)
        what = "the value of identical inputs depends on what they show: it must be the same of all"
        assert_near(same, same[0], what, rtol=self.tolerance, atol=self.tolerance)

    def test_more_noise_is_worse(self) -> None:
        little, much = (self._losses(*self._arguments(amount)) for amount in (0.02, 0.3))
        assert (little < much).all(), (
            f"little noise has {shown(little)}, much noise {shown(much)}, lower is better: {DIRECTION}"
        )

    def test_a_small_difference_is_small_in_both_directions(self) -> None:
        clean = self._clean()
        pattern = 0.5 + 0.5 * np.random.default_rng(1).random(clean.shape)
        brighter, darker = (
            [self._losses(clean + sign * amount * pattern, clean) for amount in self._differences]
            for sign in (1.0, -1.0)
        )
        below = np.maximum(brighter[0], darker[0]) < np.minimum(brighter[1], darker[1])
        assert below.all(), "small differences are no smaller than large ones: look at signs"

    def test_white_is_not_black(self) -> None:
        white, nearly, black = (self._painted(value) for value in (1.0, 0.99, 0.0))
        assert (self._losses(white, nearly) < self._losses(white, black)).all(), (
            "0.99 is no nearer to 1.0 than 0.0 is: do not let values wrap around"
        )

    def test_values_do_not_depend_on_the_batch(self) -> None:
        self._check_alone(rtol=1e-4, atol=self.tolerance)

    def test_single_precision_will_do(self) -> None:
        metric, arguments = self.make_metric(), self._arguments(0.1)
        single = metric(*(a.astype(np.float32) for a in arguments))
        what = "inputs of float32 have other values than those of float64: compute in float64"
        assert_near(single, metric(*arguments), what, rtol=self._single, atol=1e-3)


def waves(n: int, shape: Sequence[int]) -> Images:
    r"""Return smooth coloured images between 0.2 and 0.8, no two alike, shape (n, \*shape)."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]] / max(shape[:2])
    planes = [np.sin(5 * (x + c * y) + k) for k in range(n) for c in range(shape[-1])]
    flat = 0.5 + 0.3 * np.array(planes).reshape(n, shape[-1], *x.shape)
    return np.moveaxis(flat, 1, -1)


def moving(n: int, frames: int, shape: Sequence[int]) -> Images:
    r"""Return videos of coloured patterns that move, between 0.1 and 0.9, shape (n, frames, \*shape).

    No two videos are alike, and no two frames of one.
    """
    return np.stack([np.stack([_pattern(k, t, shape) for t in range(frames)]) for k in range(n)])


def noisy(images: Images, amount: float) -> Images:
    """Return images with uniform noise in [-amount, amount] from a fixed seed, limited to [0, 1]."""
    pattern = np.random.default_rng(0).uniform(-1.0, 1.0, images.shape)
    return np.clip(images + amount * pattern, 0.0, 1.0)


def _pattern(video: int, frame: int, shape: Sequence[int]) -> Images:
    """Return one frame; the pattern moves by a pixel to the right and half a pixel down."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float64)
    x, y = x - frame - 3 * video, y - 0.5 * frame - 5 * video
    planes = [
        0.5 + 0.2 * np.sin(0.45 * x + 0.2 * y + c) + 0.2 * np.sin(0.5 * y - 0.1 * x + 2 * c)
        for c in range(shape[-1])
    ]
    return np.stack(planes, axis=-1)


def _arrays(arguments: Sequence[Any], change: Callable[[Images], Any]) -> list[Any]:
    """Apply ``change`` to the arrays among a metric's arguments; prompts stay as they are."""
    return [change(a) if isinstance(a, np.ndarray) else a for a in arguments]


def _check_informative(wanted: ExpectedValues) -> None:
    """Assert that a wrong range, pairing or channel order would change the expected values."""
    images = wanted.arguments[0]
    assert len(images) >= 2, "expected values need at least two images: give more"
    assert images.max() >= 0.9, "expected values need images that reach 0.9: add a bright one"
    coloured = not np.allclose(images, images[..., ::-1])
    assert coloured, "expected values need coloured images: let red and blue differ"
    differ = np.ndim(wanted.value) == 0 or len(np.unique(wanted.value)) > 1
    assert differ, "expected values need values that differ: let its images be unequally good"
