"""The laws of a metric of pictures and prompts as tests."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.metric import PromptMetric
from otcache_core.errors import shown
from otcache_core.testing.agreement import assert_equal, assert_near
from otcache_core.testing.kit import refused
from otcache_core.testing.metric_laws import MetricLaws
from otcache_core.testing.pictures import KnownAnswer, Pictures, noisy, waves


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
