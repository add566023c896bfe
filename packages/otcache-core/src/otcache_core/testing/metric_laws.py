"""The laws that all four kinds of metrics share, as tests."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np

from otcache_core.contracts.metric import Metric, Takes
from otcache_core.errors import shown
from otcache_core.testing.agreement import assert_equal
from otcache_core.testing.kit import Conformance
from otcache_core.testing.pictures import KnownAnswer, check_telling
from otcache_core.testing.purity import under_two_random_states


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
