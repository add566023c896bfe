"""Conformance tests of metrics of images: of pairs, of images and prompts, of a set."""

from __future__ import annotations

import numpy as np

from otcache_core.errors import shown
from otcache_core.testing.assertions import assert_near
from otcache_core.testing.kit import NotApplicable, refused
from otcache_core.testing.metric_checks import Images, MetricChecks, PairChecks, noisy, waves


class MetricConformance(PairChecks, kit=True):
    """Conformance tests of :class:`~otcache_core.contracts.QualityMetric`.

    Override :meth:`make_metric` and :meth:`expected_values`, for arguments (images, reference).

    Attributes:
        shape: of one image.
        symmetric: whether it claims that the value of (x, y) is that of (y, x).
    """

    _takes = "pairs"
    _differences = (0.01, 0.2)
    _single = 1e-3
    shape: tuple[int, ...] = (64, 64, 3)
    symmetric: bool = False

    def _clean(self) -> Images:
        return waves(3, self.shape)

    def _painted(self, value: float) -> Images:
        images = self._clean()
        images[:, : self.shape[0] // 2] = value
        return images

    def test_a_symmetric_metric_does_not_know_which_is_which(self) -> None:
        if not self.symmetric:
            raise NotApplicable("the kit does not claim that the metric is symmetric")
        metric, (made, clean) = self.make_metric(), self._arguments(0.1)
        what = "the value of (x, y) is not that of (y, x): set symmetric = False in the kit"
        assert_near(metric(clean, made), metric(made, clean), what, rtol=1e-9, atol=self.tolerance)

    def test_a_pointwise_metric_does_not_know_where_a_pixel_lies(self) -> None:
        metric = self.make_metric()
        if not metric.pointwise:
            raise NotApplicable("this metric sees more than single pixels")
        pair = [v.reshape(3, -1, 3) for v in self._arguments(0.1)]
        order = np.random.default_rng(0).permutation(pair[0].shape[1])
        x, y = (v[:, order].reshape(3, *self.shape) for v in pair)
        what = (
            "pointwise = True, and the value changes where the pixels of both images change places: set "
            "pointwise = False, or look at single pixels only"
        )
        assert_near(metric(x, y), metric(*self._arguments(0.1)), what)

    def test_other_shapes_are_refused(self) -> None:
        with refused("another number of images"):
            self.make_metric()(self._clean()[:2], self._clean())


class PromptMetricConformance(MetricChecks, kit=True):
    """Conformance tests of :class:`~otcache_core.contracts.PromptMetric`.

    Override :meth:`make_metric` and :meth:`expected_values`, for arguments (images, prompts).

    Attributes:
        shape: of one image.
        prompts: three texts the metric can distinguish.
        tolerance: how near the values of a batch are to those of single images.
    """

    _takes = "prompts"
    shape: tuple[int, ...] = (64, 64, 3)
    prompts: tuple[str, str, str] = ("a red circle", "a small cat", "the letter K in blue")
    tolerance: float = 1e-5

    def _arguments(self, amount: float) -> tuple[Images, tuple[str, str, str]]:
        return noisy(waves(3, self.shape), amount), self.prompts

    def test_one_number_an_image(self) -> None:
        self._check_values(self.make_metric()(*self._arguments(0.0)), 3)

    def test_the_prompt_matters(self) -> None:
        same = waves(1, self.shape).repeat(3, axis=0)
        values = self.make_metric()(same, self.prompts)
        assert len(np.unique(values)) == 3, (
            f"one image has {shown(values)} with three prompts: read the prompts, or give the kit "
            "three that the metric distinguishes"
        )

    def test_the_image_matters(self) -> None:
        values = self.make_metric()(waves(3, self.shape), (self.prompts[0],) * 3)
        assert len(np.unique(values)) == 3, f"all have {shown(values)}: look at the images"

    def test_values_do_not_depend_on_the_batch(self) -> None:
        self._check_alone(rtol=self.tolerance, atol=self.tolerance)

    def test_another_number_of_prompts_is_refused(self) -> None:
        with refused("another number of prompts"):
            self.make_metric()(waves(3, self.shape), self.prompts[:2])


class SetMetricConformance(MetricChecks, kit=True):
    """Conformance tests of :class:`~otcache_core.contracts.SetMetric`.

    Override :meth:`make_metric`, :meth:`expected_values`, for arguments (images,), and, for a metric that
    knows a best set, :meth:`best`.

    Attributes:
        shape: of one image.
        count: images in a set.
    """

    _takes = "set"
    shape: tuple[int, ...] = (64, 64, 3)
    count: int = 8

    def best(self) -> Images | None:
        """Return the set that nothing is better than: the real images of a distance to them."""
        return None

    def _arguments(self, amount: float) -> tuple[Images]:
        return (noisy(waves(self.count, self.shape), amount),)

    def test_one_number_for_all(self) -> None:
        value = self.make_metric()(*self._arguments(0.0))
        assert isinstance(value, float), f"the metric gives {shown(value)}: return one float"
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
        metric, (images,) = self.make_metric(), self._arguments(0.0)
        there, back = metric(images), metric(images[::-1])
        assert np.isclose(back, there, rtol=1e-5, atol=1e-6), (
            f"{there} forwards, {back} backwards: let the value not depend on the order of the images"
        )

    def test_every_image_counts(self) -> None:
        metric, (images,) = self.make_metric(), self._arguments(0.0)
        value = metric(images)
        for i in range(self.count):
            other = images.copy()
            other[i] = 1.0 - other[i]
            unmoved = np.isclose(metric(other), value, rtol=1e-6, atol=1e-9)
            assert not unmoved, f"the value is the same whatever image {i} is: look at every image"
