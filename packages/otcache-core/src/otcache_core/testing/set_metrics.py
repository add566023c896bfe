"""The laws of a metric of a set of pictures as tests."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from otcache_core.contracts.metric import SetMetric
from otcache_core.errors import shown
from otcache_core.testing.agreement import assert_equal
from otcache_core.testing.kit import NotApplicable, refused
from otcache_core.testing.metric_laws import MetricLaws
from otcache_core.testing.pictures import KnownAnswer, Pictures, noisy, waves


class SetMetricConformance(MetricLaws, kit=True):
    """Laws of :class:`~otcache_core.contracts.SetMetric`.

    Override :meth:`make_metric`, :meth:`known_answer` and, for a metric that knows a best set,
    :meth:`best`.

    Attributes:
        shape: of one picture.
        count: pictures in a set.
    """

    _takes = "set"
    shape: tuple[int, ...] = (64, 64, 3)
    count: int = 8

    @abstractmethod
    def make_metric(self) -> SetMetric:
        """A fresh metric."""

    @abstractmethod
    def known_answer(self) -> KnownAnswer:
        """A value derived without the metric, for arguments (images,)."""

    def best(self) -> Pictures | None:
        """The set that nothing is better than: the real pictures of a distance to them."""
        return None

    def _pictures(self) -> Pictures:
        return waves(self.count, self.shape)

    def _example(self, metric: SetMetric, amount: float) -> float:
        return metric(noisy(self._pictures(), amount))

    def test_the_known_answer(self) -> None:
        self._check_known(self.known_answer())

    def test_one_number_for_all(self) -> None:
        value = self.make_metric()(self._pictures())
        assert isinstance(value, float), (
            f"the metric gives {shown(value)}: return one float for all"
        )
        assert np.isfinite(value), f"the value is {value}: return a finite number"

    def test_the_best_set_is_best(self) -> None:
        best, metric = self.best(), self.make_metric()
        if best is None:
            raise NotApplicable("this metric knows no best set")
        sign = -1.0 if metric.higher_is_better else 1.0
        values = [sign * metric(noisy(best, amount)) for amount in (0.0, 0.05, 0.3)]
        assert values[0] < values[1] < values[2], (
            f"the best set and two noisier ones have {shown(values)}, lower is better: is best() right?"
        )

    def test_order_does_not_matter(self) -> None:
        metric, pictures = self.make_metric(), self._pictures()
        there, back = metric(pictures), metric(pictures[::-1])
        assert np.isclose(back, there, rtol=1e-5, atol=1e-6), (
            f"{there} forwards, {back} backwards: let the value not depend on the order of the pictures"
        )

    def test_every_picture_counts(self) -> None:
        metric, pictures = self.make_metric(), self._pictures()
        value = metric(pictures)
        for i in range(self.count):
            other = pictures.copy()
            other[i] = 1.0 - other[i]
            unmoved = np.isclose(metric(other), value, rtol=1e-6, atol=1e-9)
            assert not unmoved, (
                f"the value is the same whatever picture {i} is: look at every picture"
            )

    def test_channels_are_what_they_are_called(self) -> None:
        answer = self.known_answer()
        swapped = self.make_metric()(answer.arguments[0][..., ::-1])
        self._check_channels(answer, swapped, blind=False)

    def test_pictures_are_not_changed(self) -> None:
        pictures = self._pictures()
        self.make_metric()(pictures)
        assert_equal(pictures, self._pictures(), "the pictures were changed: work on a copy")

    def test_bytes_are_refused(self) -> None:
        pictures = np.zeros((self.count, *self.shape), dtype=np.uint8)
        with refused("pictures of bytes"):
            self.make_metric()(pictures)  # type: ignore[arg-type]  # that is the point

    def test_values_out_of_range_are_refused(self) -> None:
        with refused("values up to 255"):
            self.make_metric()(255.0 * self._pictures())
