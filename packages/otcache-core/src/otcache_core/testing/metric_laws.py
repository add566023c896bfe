"""The laws that all four kinds of metrics share, as tests."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np

from otcache_core.contracts.metric import Metric, Takes
from otcache_core.testing.kit import Conformance
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
        assert isinstance(name, str), f"name is {name!r}"
        assert name.strip(), "the metric has no name, by which tables and files call it"
        assert name.isprintable(), f"name {name!r} cannot be printed in a table"
        better = getattr(metric, "higher_is_better", None)
        assert isinstance(better, bool), f"higher_is_better is {better!r}"
        assert metric.takes == self._takes, f"takes is {metric.takes!r}, the kit's {self._takes!r}"

    def test_the_same_again(self) -> None:
        metric = self.make_metric()
        once = self._example(metric, 0.1)
        self._example(metric, 0.2)
        for one in (metric, self.make_metric()):
            np.testing.assert_array_equal(self._example(one, 0.1), once)

    def test_the_random_state_of_the_process_is_left_alone(self) -> None:
        metric = self.make_metric()
        first, second = under_two_random_states(lambda: self._example(metric, 0.1))
        np.testing.assert_array_equal(first, second)
