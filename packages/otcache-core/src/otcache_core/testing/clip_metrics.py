"""The laws of a metric of clips as tests."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.metric import ClipMetric
from otcache_core.testing.agreement import assert_equal, assert_near
from otcache_core.testing.kit import refused
from otcache_core.testing.metric_laws import MetricLaws
from otcache_core.testing.pictures import KnownAnswer, Pictures, moving, noisy


class ClipMetricConformance(MetricLaws, kit=True):
    """Laws of :class:`~otcache_core.contracts.ClipMetric`.

    Override :meth:`make_metric` and :meth:`known_answer`.

    Attributes:
        shape: of one frame.
        frames: of one clip, at least 3 and another number than the kit's three clips.
        tolerance: how near to 0 the distance of identical clips is.
        channel_blind: whether the metric treats red, green and blue alike, so that swapping them in
            both clips changes nothing.
    """

    _takes = "clips"
    shape: tuple[int, ...] = (48, 48, 3)
    frames: int = 5
    tolerance: float = 1e-6
    channel_blind: bool = False

    @abstractmethod
    def make_metric(self) -> ClipMetric:
        """A fresh metric."""

    @abstractmethod
    def known_answer(self) -> KnownAnswer:
        """Values derived without the metric, for arguments (clips, reference)."""

    def _clips(self) -> Pictures:
        return moving(3, self.frames, self.shape)

    def _noisy(self, amount: float) -> Pictures:
        return noisy(self._clips(), amount)

    def _example(self, metric: ClipMetric, amount: float) -> NDArray[np.float64]:
        return metric(self._noisy(amount), self._clips())

    def _losses(self, clips: Pictures, reference: Pictures) -> NDArray[np.float64]:
        """The metric, turned so that lower is better."""
        metric = self.make_metric()
        return (-1.0 if metric.higher_is_better else 1.0) * metric(clips, reference)

    def test_the_known_answer(self) -> None:
        self._check_known(self.known_answer())

    def test_one_number_a_clip(self) -> None:
        values = self.make_metric()(self._noisy(0.1), self._clips())
        self._check_values(values, 3)

    def test_identical_clips_are_best(self) -> None:
        metric, clean = self.make_metric(), self._clips()
        same, worse = self._losses(clean, clean), self._losses(self._noisy(0.05), clean)
        assert (worse > same).all(), (
            "noisy clips are no worse than identical ones: is higher_is_better = "
            f"{metric.higher_is_better} right?"
        )
        if not metric.higher_is_better:
            what = "identical clips are not at 0: let the distance of a clip from itself be 0"
            assert_near(same, 0.0, what, atol=self.tolerance)

    def test_identical_clips_are_equally_good_whatever_they_show(self) -> None:
        clean = np.concatenate([self._clips(), self._noisy(0.1)])
        same = self.make_metric()(clean, clean)
        what = "the value of identical clips depends on what they show: it must be the same of all"
        assert_near(same, same[0], what, rtol=self.tolerance, atol=self.tolerance)

    def test_more_noise_is_worse(self) -> None:
        clean = self._clips()
        little, much = (self._losses(self._noisy(amount), clean) for amount in (0.02, 0.3))
        assert (little < much).all(), "more noise is not worse: is higher_is_better right?"

    def test_a_small_difference_is_small_in_both_directions(self) -> None:
        clean = self._clips()
        grain = 0.5 + 0.5 * np.random.default_rng(1).random(clean.shape)
        brighter, darker = (
            [self._losses(clean + sign * amount * grain, clean) for amount in (0.005, 0.1)]
            for sign in (1.0, -1.0)
        )
        below = np.maximum(brighter[0], darker[0]) < np.minimum(brighter[1], darker[1])
        assert below.all(), (
            "a small difference is no smaller than a large one, brighter or darker: look at signs"
        )

    def test_white_is_not_black(self) -> None:
        white, nearly, black = (self._clips() for _ in range(3))
        for t in range(self.frames):
            rows = slice(4 * t, 4 * t + self.shape[0] // 3)
            white[:, t, rows], nearly[:, t, rows], black[:, t, rows] = 1.0, 0.99, 0.0
        assert (self._losses(white, nearly) < self._losses(white, black)).all(), (
            "0.99 is no nearer to 1.0 than 0.0 is: do not let values wrap around"
        )

    def test_another_order_of_the_frames_is_worse(self) -> None:
        clean = self._clips()
        order = [*range(1, self.frames, 2), *range(0, self.frames, 2)]
        assert (self._losses(clean[:, order], clean) > self._losses(clean, clean)).all(), (
            "frames in another order are no worse: compare frame t with frame t of the reference"
        )

    def test_every_frame_counts(self) -> None:
        clean = self._clips()
        same = self._losses(clean, clean)
        for t in range(self.frames):
            other = clean.copy()
            other[:, t] = self._noisy(0.3)[:, t]
            assert (self._losses(other, clean) > same + self.tolerance).all(), (
                f"the value is the same whatever frame {t} is: look at every frame"
            )

    def test_channels_are_what_they_are_called(self) -> None:
        metric, answer = self.make_metric(), self.known_answer()
        x, y = answer.arguments
        self._check_channels(answer, metric(x[..., ::-1], y[..., ::-1]), blind=self.channel_blind)

    def test_clips_do_not_influence_each_other(self) -> None:
        metric, clean, worse = self.make_metric(), self._clips(), self._noisy(0.1)
        single = [metric(worse[i : i + 1], clean[i : i + 1])[0] for i in range(len(clean))]
        what = "a clip has another value beside others than alone: compare clip by clip"
        assert_near(metric(worse, clean), single, what, rtol=1e-4, atol=self.tolerance)

    def test_clips_are_not_changed(self) -> None:
        clean, worse = self._clips(), self._noisy(0.1)
        self.make_metric()(worse, clean)
        assert_equal(clean, self._clips(), "the reference was changed: work on a copy")
        assert_equal(worse, self._noisy(0.1), "the clips were changed: work on a copy")

    def test_single_precision_will_do(self) -> None:
        metric, clean, worse = self.make_metric(), self._clips(), self._noisy(0.1)
        single = metric(worse.astype(np.float32), clean.astype(np.float32))
        what = "clips of float32 have other values than those of float64: compute in float64"
        assert_near(single, metric(worse, clean), what, rtol=1e-2, atol=1e-3)

    def test_bytes_are_refused(self) -> None:
        clips = np.zeros((1, self.frames, *self.shape), dtype=np.uint8)
        with refused("clips of bytes"):
            self.make_metric()(clips, clips)  # type: ignore[arg-type]  # that is the point

    def test_values_out_of_range_are_refused(self) -> None:
        with refused("values up to 255"):
            self.make_metric()(255.0 * self._clips(), self._clips())

    def test_other_shapes_are_refused(self) -> None:
        metric, clean = self.make_metric(), self._clips()
        for other in (clean[:2], clean[:, 1:], clean[:, :, 1:]):
            with refused("clips of other shapes"):
                metric(other, clean)

    def test_pictures_are_refused(self) -> None:
        clean = self._clips()[:, 0]
        with refused("pictures instead of clips"):
            self.make_metric()(clean, clean)

    def test_one_frame_alone_is_refused(self) -> None:
        clean = self._clips()[:, :1]
        with refused("one frame alone"):
            self.make_metric()(clean, clean)
