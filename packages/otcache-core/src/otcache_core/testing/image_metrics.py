"""Laws of metrics of images: of pairs, of images and prompts, of a set."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.comparison import PromptMetric, QualityMetric, SetMetric
from otcache_core.errors import shown
from otcache_core.testing.checks import assert_equal, assert_near
from otcache_core.testing.kit import NotApplicable, refused
from otcache_core.testing.metric_laws import KnownAnswer, MetricLaws, Pictures, noisy, waves


class MetricConformance(MetricLaws, kit=True):
    """Laws of :class:`~otcache_core.contracts.QualityMetric`.

    Override :meth:`make_metric` and :meth:`known_answer`.

    Attributes:
        shape: of one picture.
        tolerance: how near to 0 the distance of identical pictures is.
        channel_blind: whether the metric treats red, green and blue alike, so that swapping them in
            both pictures changes nothing.
        symmetric: whether it claims that the value of (x, y) is that of (y, x).
    """

    _takes = "pairs"
    shape: tuple[int, ...] = (64, 64, 3)
    tolerance: float = 1e-6
    channel_blind: bool = False
    symmetric: bool = False

    @abstractmethod
    def make_metric(self) -> QualityMetric:
        """A fresh metric."""

    @abstractmethod
    def known_answer(self) -> KnownAnswer:
        """A value derived without the metric, for arguments (images, reference)."""

    def _pictures(self, n: int = 3) -> Pictures:
        return waves(n, self.shape)

    def _noisy(self, amount: float) -> Pictures:
        return noisy(self._pictures(), amount)

    def _example(self, metric: QualityMetric, amount: float) -> NDArray[np.float64]:
        return metric(self._noisy(amount), self._pictures())

    def _losses(self, images: Pictures, reference: Pictures) -> NDArray[np.float64]:
        """The metric, turned so that lower is better."""
        metric = self.make_metric()
        return (-1.0 if metric.higher_is_better else 1.0) * metric(images, reference)

    def test_the_known_answer(self) -> None:
        self._check_known(self.known_answer())

    def test_one_number_a_picture(self) -> None:
        values = self.make_metric()(self._noisy(0.1), self._pictures())
        self._check_values(values, 3)

    def test_identical_pictures_are_best(self) -> None:
        metric, clean = self.make_metric(), self._pictures()
        same, worse = metric(clean, clean), metric(self._noisy(0.05), clean)
        if not metric.higher_is_better:
            what = "identical pictures are not at 0: let the distance of a picture from itself be 0"
            assert_near(same, 0.0, what, atol=self.tolerance)
        better = same > worse if metric.higher_is_better else same < worse
        assert better.all(), (
            f"identical pictures have {shown(same)}, noisy ones {shown(worse)}: is higher_is_better = "
            f"{metric.higher_is_better} right?"
        )

    def test_identical_pictures_are_equally_good_whatever_they_show(self) -> None:
        clean = np.concatenate([self._pictures(), self._noisy(0.3)])
        same = self.make_metric()(clean, clean)
        what = (
            "the value of identical pictures depends on what they show: it must be the same of all"
        )
        assert_near(same, same[0], what, rtol=self.tolerance, atol=self.tolerance)

    def test_a_symmetric_metric_does_not_know_which_is_which(self) -> None:
        if not self.symmetric:
            raise NotApplicable("the kit does not claim that the metric is symmetric")
        metric, clean, worse = self.make_metric(), self._pictures(), self._noisy(0.1)
        there, back = metric(worse, clean), metric(clean, worse)
        what = "the value of (x, y) is not that of (y, x): set symmetric = False in the kit"
        assert_near(back, there, what, rtol=1e-9, atol=self.tolerance)

    def test_more_noise_is_worse(self) -> None:
        metric, clean = self.make_metric(), self._pictures()
        little, much = metric(self._noisy(0.02), clean), metric(self._noisy(0.3), clean)
        assert ((little > much) == metric.higher_is_better).all(), (
            f"little noise has {shown(little)}, much noise {shown(much)}: is higher_is_better = "
            f"{metric.higher_is_better} right?"
        )

    def test_a_small_difference_is_small_in_both_directions(self) -> None:
        clean = self._pictures()
        grain = 0.5 + 0.5 * np.random.default_rng(1).random(clean.shape)
        brighter, darker = (
            [self._losses(clean + sign * amount * grain, clean) for amount in (0.01, 0.2)]
            for sign in (1.0, -1.0)
        )
        below = np.maximum(brighter[0], darker[0]) < np.minimum(brighter[1], darker[1])
        assert below.all(), (
            "a small difference is no smaller than a large one, brighter or darker: look at signs"
        )

    def test_white_is_not_black(self) -> None:
        white, nearly, black = (self._pictures() for _ in range(3))
        half = self.shape[0] // 2
        white[:, :half], nearly[:, :half], black[:, :half] = 1.0, 0.99, 0.0
        assert (self._losses(white, nearly) < self._losses(white, black)).all(), (
            "0.99 is no nearer to 1.0 than 0.0 is: do not let values wrap around"
        )

    def test_channels_are_what_they_are_called(self) -> None:
        metric, answer = self.make_metric(), self.known_answer()
        x, y = answer.arguments
        self._check_channels(answer, metric(x[..., ::-1], y[..., ::-1]), blind=self.channel_blind)

    def test_a_pointwise_metric_does_not_know_where_a_pixel_lies(self) -> None:
        metric = self.make_metric()
        if not metric.pointwise:
            raise NotApplicable("this metric sees more than single pixels")
        pair = [v.reshape(3, -1, 3) for v in (self._noisy(0.1), self._pictures())]
        order = np.random.default_rng(0).permutation(pair[0].shape[1])
        x, y = (v[:, order].reshape(3, *self.shape) for v in pair)
        what = (
            "pointwise = True, and the value changes where the pixels of both pictures change places: set "
            "pointwise = False, or look at single pixels only"
        )
        assert_near(metric(x, y), metric(self._noisy(0.1), self._pictures()), what)

    def test_pictures_do_not_influence_each_other(self) -> None:
        metric, clean, worse = self.make_metric(), self._pictures(), self._noisy(0.1)
        single = [metric(worse[i : i + 1], clean[i : i + 1])[0] for i in range(len(clean))]
        what = "a picture has another value beside others than alone: compare picture by picture"
        assert_near(metric(worse, clean), single, what, rtol=1e-4, atol=self.tolerance)

    def test_pictures_are_not_changed(self) -> None:
        clean, worse = self._pictures(), self._noisy(0.1)
        self.make_metric()(worse, clean)
        assert_equal(clean, self._pictures(), "the reference was changed: work on a copy")
        assert_equal(worse, self._noisy(0.1), "the pictures were changed: work on a copy")

    def test_single_precision_will_do(self) -> None:
        metric, clean, worse = self.make_metric(), self._pictures(), self._noisy(0.1)
        single = metric(worse.astype(np.float32), clean.astype(np.float32))
        what = "pictures of float32 have other values than those of float64: compute in float64"
        assert_near(single, metric(worse, clean), what, rtol=1e-3, atol=1e-3)

    def test_bytes_are_refused(self) -> None:
        pictures = np.zeros((1, *self.shape), dtype=np.uint8)
        with refused("pictures of bytes"):
            self.make_metric()(pictures, pictures)  # type: ignore[arg-type]  # that is the point

    def test_values_out_of_range_are_refused(self) -> None:
        with refused("values up to 255"):
            self.make_metric()(255.0 * self._pictures(), self._pictures())

    def test_other_shapes_are_refused(self) -> None:
        with refused("another number of pictures"):
            self.make_metric()(self._pictures()[:2], self._pictures())


class PromptMetricConformance(MetricLaws, kit=True):
    """Laws of :class:`~otcache_core.contracts.PromptMetric`.

    Override :meth:`make_metric` and :meth:`known_answer`.

    Attributes:
        shape: of one picture.
        prompts: three texts the metric can tell apart.
        tolerance: how near the values of a batch are to those of single pictures.
    """

    _takes = "prompts"
    shape: tuple[int, ...] = (64, 64, 3)
    prompts: tuple[str, str, str] = ("a red circle", "a small cat", "the letter K in blue")
    tolerance: float = 1e-5

    @abstractmethod
    def make_metric(self) -> PromptMetric:
        """A fresh metric."""

    @abstractmethod
    def known_answer(self) -> KnownAnswer:
        """Values derived without the metric, for arguments (images, prompts)."""

    def _pictures(self) -> Pictures:
        return waves(3, self.shape)

    def _example(self, metric: PromptMetric, amount: float) -> NDArray[np.float64]:
        return metric(noisy(self._pictures(), amount), self.prompts)

    def test_the_known_answer(self) -> None:
        self._check_known(self.known_answer())

    def test_one_number_a_picture(self) -> None:
        values = self.make_metric()(self._pictures(), self.prompts)
        self._check_values(values, 3)

    def test_the_prompt_matters(self) -> None:
        same = np.repeat(self._pictures()[:1], 3, axis=0)
        values = self.make_metric()(same, self.prompts)
        assert len(np.unique(values)) == 3, (
            f"one picture has {shown(values)} with three prompts: read the prompts, or give the kit "
            "three that the metric tells apart"
        )

    def test_the_picture_matters(self) -> None:
        values = self.make_metric()(self._pictures(), (self.prompts[0],) * 3)
        assert len(np.unique(values)) == 3, (
            f"three pictures have {shown(values)} with one prompt: look at the pictures"
        )

    def test_channels_are_what_they_are_called(self) -> None:
        metric, answer = self.make_metric(), self.known_answer()
        pictures, prompts = answer.arguments
        self._check_channels(answer, metric(pictures[..., ::-1], prompts), blind=False)

    def test_pictures_do_not_influence_each_other(self) -> None:
        metric, pictures = self.make_metric(), self._pictures()
        single = [metric(pictures[i : i + 1], self.prompts[i : i + 1])[0] for i in range(3)]
        together = metric(pictures, self.prompts)
        what = "a picture has another value beside others than alone: score picture by picture"
        assert_near(together, single, what, rtol=self.tolerance, atol=self.tolerance)

    def test_pictures_are_not_changed(self) -> None:
        pictures = self._pictures()
        self.make_metric()(pictures, self.prompts)
        assert_equal(pictures, self._pictures(), "the pictures were changed: work on a copy")

    def test_another_number_of_prompts_is_refused(self) -> None:
        with refused("another number of prompts"):
            self.make_metric()(self._pictures(), self.prompts[:2])

    def test_bytes_are_refused(self) -> None:
        pictures = np.zeros((3, *self.shape), dtype=np.uint8)
        with refused("pictures of bytes"):
            self.make_metric()(pictures, self.prompts)  # type: ignore[arg-type]  # that is the point

    def test_values_out_of_range_are_refused(self) -> None:
        with refused("values up to 255"):
            self.make_metric()(255.0 * self._pictures(), self.prompts)


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
