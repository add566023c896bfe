"""Hermite's and Chebyshev's forecasts, against numpy.polynomial and least squares on outputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import Chebyshev, Hermite

from otcache_core import Schedule, ScheduleError
from otcache_core import forecasters as ours
from otcache_core.forecasters.polynomials import chebyshev, hermite
from otcache_core.plugins import Registry
from otcache_core.schedule import Span
from otcache_core.testing import ForecasterConformance

CORE = Registry(entry_points=False)
N = 12
GRID = np.linspace(1.0, 0.0, N + 1) ** 1.5


class TestHermite(ForecasterConformance):
    def make_forecaster(self) -> ours.Hermite:
        return CORE.create("forecasters", "hermite")


class TestSpectrum(ForecasterConformance):
    def make_forecaster(self) -> ours.Spectrum:
        return CORE.create("forecasters", "spectrum")


class TestSpectrumChebyshev(ForecasterConformance):
    def make_forecaster(self) -> ours.Spectrum:
        return CORE.create("forecasters", "spectrum-chebyshev")


def schedules() -> st.SearchStrategy[Schedule]:
    later = st.sets(st.integers(1, N - 1), max_size=6)
    return later.map(lambda steps: Schedule(N, (0, *sorted(steps))))


def outputs(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((N, 3))


def forecast(forecaster: ours.Hermite | ours.Spectrum, span: Span, v: np.ndarray) -> np.ndarray:
    table = forecaster.coefficients(span, GRID)
    return table @ v[[span.start, *span.history][: table.shape[1]]]


@pytest.mark.parametrize(("ours", "theirs"), [(hermite, Hermite), (chebyshev, Chebyshev)])
@pytest.mark.parametrize("order", [0, 1, 2, 5])
def test_the_polynomials_are_numpy_s(ours: object, theirs: type, order: int) -> None:
    x = np.linspace(-1.5, 1.5, 7)
    wanted = np.stack([theirs.basis(q)(x) for q in range(order + 1)], axis=1)
    np.testing.assert_allclose(ours(x, order), wanted, rtol=1e-12, atol=1e-12)  # type: ignore[operator]


@given(schedules(), st.integers(0, 3), st.floats(0.2, 1.0), st.integers(0, 9))
def test_hermite_is_the_rule_run_step_by_step(
    schedule: Schedule, order: int, sigma: float, seed: int
) -> None:
    """Differences are kept and updated at computed steps, as the released code does."""
    v, rule = outputs(seed), ours.Hermite(order, sigma)
    kept: list[np.ndarray] = []
    last, wanted = 0, {}
    for t in range(N):
        if t in schedule.computed:
            new = [v[t]]
            for older in kept[:order]:
                new.append((new[-1] - older) / (t - last))
            kept, last = new, t
        else:
            terms = enumerate(kept)
            basis = [sigma**q * Hermite.basis(q)(sigma * (t - last)) for q in range(order + 1)]
            wanted[t] = sum(basis[q] * d / math.factorial(q) for q, d in terms)
    for span in schedule.spans():
        for t, got in zip(span.skipped, forecast(rule, span, v), strict=True):
            np.testing.assert_allclose(got, wanted[t], rtol=1e-9, atol=1e-9)


@given(schedules())
def test_at_the_root_of_a_half_the_first_order_is_taylor_s(schedule: Schedule) -> None:
    for span in schedule.spans():
        got = ours.Hermite(1, math.sqrt(0.5)).coefficients(span, GRID)
        np.testing.assert_allclose(got, ours.Taylor(1).coefficients(span, GRID), atol=1e-12)


@given(schedules(), st.integers(0, 5), st.sampled_from([1e-3, 0.1, 1.0]), st.integers(0, 9))
def test_spectrum_is_ridge_regression_on_all_outputs(
    schedule: Schedule, degree: int, ridge: float, seed: int
) -> None:
    """The penalty as further rows of an ordinary least-squares problem, the mixture by hand."""
    v, mixed = outputs(seed), ours.Spectrum(degree, ridge, 0.7)

    def rows(steps: list[int]) -> np.ndarray:
        return np.polynomial.chebyshev.chebvander(2 * np.array(steps, float) / N - 1, degree)

    for span in schedule.spans():
        steps = [span.start, *span.history]
        design = np.vstack([rows(steps), math.sqrt(ridge) * np.eye(degree + 1)])
        target = np.vstack([v[steps], np.zeros((degree + 1, 3))])
        fit = np.linalg.lstsq(design, target, rcond=None)[0]
        for t, got in zip(span.skipped, forecast(mixed, span, v), strict=True):
            line = v[span.start]
            if span.history:
                k = span.history[0]
                line = line + (t - span.start) / (span.start - k) * (line - v[k])
            np.testing.assert_allclose(got, 0.7 * (rows([t]) @ fit)[0] + 0.3 * line, atol=1e-8)


def test_a_constant_is_shrunk_by_the_penalty_alone() -> None:
    """One output: it is T^T T / (T^T T + ridge) of itself at its own step, by hand."""
    squares = sum(Chebyshev.basis(q)(-1.0) ** 2 for q in range(5))
    got = ours.Spectrum(share=1.0).coefficients(Span(0, 2), GRID)
    wanted = sum(Chebyshev.basis(q)(2 / N - 1) * (-1) ** q for q in range(5)) / (squares + 0.1)
    np.testing.assert_allclose(got, [[wanted]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ours.Hermite(-1), "Hermite.order must be an integer, 0 or more"),
        (lambda: ours.Hermite(2, 0.0), "Hermite.sigma must be a finite number above 0"),
        (lambda: ours.Spectrum(True), "Spectrum.degree must be an integer, 0 or more"),
        (lambda: ours.Spectrum(4, math.inf), "Spectrum.ridge must be a finite number above 0"),
        (lambda: ours.Spectrum(4, 0.1, 1.1), "Spectrum.share must be between 0 and 1"),
    ],
)
def test_what_is_out_of_range_is_refused(make: object, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        make()  # type: ignore[operator]
