"""The laws of a quality metric as tests."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import pytest
from numpy.typing import NDArray

from otcache_core.contracts.metric import QualityMetric
from otcache_core.errors import OtcacheError


class MetricConformance(ABC):
    """Laws of :class:`~otcache_core.contracts.QualityMetric`; override :meth:`make_metric`."""

    shape: tuple[int, ...] = (64, 64, 3)
    tolerance: float = 1e-6

    @abstractmethod
    def make_metric(self) -> QualityMetric:
        """A fresh metric."""

    def _pictures(self, n: int = 3) -> NDArray[np.float64]:
        y, x = np.mgrid[0 : self.shape[0], 0 : self.shape[1]] / max(self.shape[:2])
        waves = [np.sin(5 * (x + c * y) + k) for k in range(n) for c in range(self.shape[-1])]
        flat = 0.5 + 0.3 * np.array(waves).reshape(n, self.shape[-1], *x.shape)
        return np.moveaxis(flat, 1, -1)

    def _noisy(self, amount: float) -> NDArray[np.float64]:
        rng = np.random.default_rng(0)
        clean = self._pictures()
        return np.clip(clean + amount * rng.uniform(-1.0, 1.0, clean.shape), 0.0, 1.0)

    def test_one_number_a_picture(self) -> None:
        values = self.make_metric()(self._noisy(0.1), self._pictures())
        assert values.shape == (3,)
        assert values.dtype == np.float64
        assert np.isfinite(values).all()

    def test_identical_pictures_are_best(self) -> None:
        metric, clean = self.make_metric(), self._pictures()
        same, noisy = metric(clean, clean), metric(self._noisy(0.05), clean)
        if metric.higher_is_better:
            assert (same > noisy).all()
        else:
            np.testing.assert_allclose(same, 0.0, atol=self.tolerance)
            assert (noisy > same).all()

    def test_more_noise_is_worse(self) -> None:
        metric, clean = self.make_metric(), self._pictures()
        little, much = metric(self._noisy(0.02), clean), metric(self._noisy(0.3), clean)
        assert ((little > much) == metric.higher_is_better).all()

    def test_pictures_do_not_influence_each_other(self) -> None:
        metric, clean, noisy = self.make_metric(), self._pictures(), self._noisy(0.1)
        single = [metric(noisy[i : i + 1], clean[i : i + 1])[0] for i in range(len(clean))]
        np.testing.assert_allclose(metric(noisy, clean), single, rtol=1e-4, atol=self.tolerance)

    def test_pictures_are_not_changed(self) -> None:
        clean, noisy = self._pictures(), self._noisy(0.1)
        self.make_metric()(noisy, clean)
        np.testing.assert_array_equal(clean, self._pictures())
        np.testing.assert_array_equal(noisy, self._noisy(0.1))

    def test_single_precision_will_do(self) -> None:
        metric, clean, noisy = self.make_metric(), self._pictures(), self._noisy(0.1)
        single = metric(noisy.astype(np.float32), clean.astype(np.float32))
        np.testing.assert_allclose(single, metric(noisy, clean), rtol=1e-3, atol=1e-3)

    def test_bytes_are_refused(self) -> None:
        pictures = np.zeros((1, *self.shape), dtype=np.uint8)
        with pytest.raises(OtcacheError):
            self.make_metric()(pictures, pictures)  # type: ignore[arg-type]  # that is the point

    def test_values_out_of_range_are_refused(self) -> None:
        with pytest.raises(OtcacheError):
            self.make_metric()(255.0 * self._pictures(), self._pictures())

    def test_other_shapes_are_refused(self) -> None:
        with pytest.raises(OtcacheError):
            self.make_metric()(self._pictures()[:2], self._pictures())
