"""Baselines that forecast whole outputs by published rules: Spectrum, HiCache and L2P."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import numpy as np
from msgspec.structs import replace as replaced
from numpy.typing import NDArray

from otcache.comparison.scheduled import Found, ScheduledBaseline, Tuning
from otcache_core import Schedule
from otcache_core.contracts import Forecaster, SampleRequest
from otcache_core.plugins import Info, Registry, hookimpl
from otcache_core.schedule import Span
from otcache_core.storage.recordings import slabs
from otcache_core.trajectory import Trajectory
from otcache_core.transport import ScheduleTable, uniform_steps

Floats = NDArray[np.float64]


@final
class Spectrum(ScheduledBaseline):
    """Chebyshev ridge regression over all computed outputs, on steps in growing windows.

    As released: degree 4, ridge 0.1, in equal parts with a line, and no calibration. The published runs of 50
    steps compute 5 steps and then windows from 2 steps on, each longer by 0.75 or 3: 14 or 10 steps. Here the
    least growth that reaches the budget is taken (:func:`windows_for`).

    Args:
        tuned: choose, at each budget, by the error on the calibration samples, with a line or without (the
            paper's rule), and growing windows or even steps.

    References:
        Adaptive spectral feature forecasting for diffusion sampling acceleration, 2026, arXiv 2603.01623,
        and its code, https://github.com/hanjq17/Spectrum (MIT, commit f7b7841), read for the rule.
    """

    def __init__(self, tuned: bool = False) -> None:
        self._tuned = tuned
        how = "form and steps tuned" if tuned else "as released, not calibrated"
        self.source = f"Spectrum (arXiv 2603.01623) on whole outputs; {how}"

    def schedules(self, tuning: Tuning, budgets: Sequence[int]) -> Found:
        """Grow windows; tuned, choose among four forms."""
        n = tuning.num_steps
        if not self._tuned:
            return {b: Schedule(n, windows_for(n, b), "spectrum") for b in budgets}, 0
        return tuning.chosen(
            budgets,
            lambda b: [
                Schedule(n, steps, name)
                for name in ("spectrum", "spectrum-chebyshev")
                for steps in (windows_for(n, b), uniform_steps(n, b))
            ],
        )


def growing_windows(num_steps: int, warm_up: int, window: int, growth: float) -> tuple[int, ...]:
    """Return the steps that Spectrum computes: the first W, then the last one of each window.

    Args:
        num_steps: N.
        warm_up: W, at least 1.
        window: length of the first window, in steps.
        growth: by which each window is longer than the one before; fractions count when they make a whole.

    Examples:
        >>> growing_windows(50, 5, 2, 3.0)
        (0, 1, 2, 3, 4, 6, 11, 19, 30, 44)
    """
    steps, length = list(range(min(warm_up, num_steps))), float(window)
    while steps[-1] + math.floor(length) < num_steps:
        steps.append(steps[-1] + math.floor(length))
        length = round(length + growth, 3)  # as in the source
    return tuple(steps)


def windows_for(num_steps: int, budget: int) -> tuple[int, ...]:
    """Return growing windows of exactly B steps: the least growth, to a thousandth.

    A tenth of the run warms up, as 5 of 50 steps do, but no more than half of the budget, which is the most
    in the published runs (5 of 10). Windows begin with 2 steps; if that makes too few, with one. Steps are
    even if there is no such growth, as near to B = N.
    """
    warm_up = max(1, min(round(num_steps / 10), budget // 2))
    for window in (2, 1):
        low, high = 0, 1000 * num_steps  # thousandths; at the upper end one window is the last
        while low < high:
            middle = (low + high) // 2
            if len(growing_windows(num_steps, warm_up, window, middle / 1000)) > budget:
                low = middle + 1
            else:
                high = middle
        steps = growing_windows(num_steps, warm_up, window, low / 1000)
        if len(steps) == budget:
            return steps
    return uniform_steps(num_steps, budget)


@final
class HiCache(ScheduledBaseline):
    """TaylorSeer's differences in scaled Hermite polynomials, evenly spaced steps; no calibration.

    Order 2 and scale 1/2, the defaults of its released code.

    References:
        HiCache: a plug-in scaled-Hermite upgrade for Taylor-style cache-then-forecast diffusion acceleration,
        2025, arXiv 2508.16984, and its code, https://github.com/fenglang918/HiCache (GPL-3.0), read for the
        rule in a copy, https://github.com/yiming-l21/CFGCache (commit bf339cb).
    """

    source = "HiCache (arXiv 2508.16984) on whole outputs; as released, not calibrated"

    def schedules(self, tuning: Tuning, budgets: Sequence[int]) -> Found:
        """Space the steps evenly."""
        n = tuning.num_steps
        return {b: Schedule(n, uniform_steps(n, b), "hermite") for b in budgets}, 0


# -- L2P ----------------------------------------------------------------------------------------------

NAME = "l2p"
#: What L2P computes of FLUX.1-dev's 50 steps.
STEPS = ScheduleTable(
    NAME,
    "L2P-Cache, FLUX.1-dev",
    50,
    (
        (0, 1, 2, 4, 16, 32),
        (0, 1, 2, 4, 12, 24, 38),
        (0, 1, 2, 4, 10, 20, 31, 41),
        (0, 1, 2, 4, 9, 17, 26, 35, 43),
        (0, 1, 2, 4, 7, 14, 23, 31, 38, 45),
        (0, 1, 2, 4, 6, 9, 14, 23, 30, 37, 44),
    ),
)


@final
class LearnedSteps(ScheduledBaseline):
    """L2P: every output forecast from all earlier ones, computed or forecast, with weights of its step.

    The weights are trained as released on the recorded full runs, on outputs after guidance, and shared by
    its branches (:func:`trained`). At each budget the better one of two schedules is taken by the error on
    the calibration samples: the authors' own for FLUX.1, resampled, or even steps.

    References:
        Beyond fixed formulas: data-driven linear predictor for efficient diffusion models, 2026, arXiv
        2604.26365, and its code, https://github.com/Aredstone/L2P-Cache (commit 3df73ce, FLUX.1-dev's
        non-commercial licence), read for the rule.
    """

    source = (
        "L2P (arXiv 2604.26365), its rule and training on this pipeline; its steps or even ones"
    )

    def calibrate(
        self, target: Any, request: SampleRequest, budgets: Sequence[int]
    ) -> Mapping[str, Any]:
        """Train the weights, then choose a schedule for each budget."""
        tuning = Tuning(target, request, self.registry, self.progress, self.probe)
        rows = trained(mean_gram(tuning.recorded))
        found = self._calibrated(tuning.within(with_rows(self.registry, rows)), budgets)
        return {**found, "rows": rows}

    def schedules(self, tuning: Tuning, budgets: Sequence[int]) -> Found:
        """Choose the authors' steps or even ones."""
        n = tuning.num_steps
        return tuning.chosen(
            budgets,
            lambda b: [
                replaced(STEPS.resampled(b, n), forecaster=NAME),
                Schedule(n, uniform_steps(n, b), NAME),
            ],
        )

    def registry_for(self, measured: Mapping[str, Any]) -> Registry:
        """Return the registry with a forecaster of the trained weights."""
        return with_rows(self.registry, measured["rows"])


@final
class PerStepWeights(Forecaster):
    r"""Forecast each step from all outputs before it, forecast ones among them.

    .. math:: \hat v_t = \sum_{j=0}^{t-1} W_{t,j}\, u_j, \qquad
        u_j = v_j \ \text{if computed, else}\ \hat v_j

    Unrolled, it is a combination of computed outputs. Memory is all of them.

    Args:
        rows: W; row t has t numbers.
    """

    def __init__(self, rows: Sequence[Sequence[float]]) -> None:
        self._rows = [np.asarray(row, dtype=np.float64) for row in rows]

    def coefficients(self, span: Span, grid: Floats) -> Floats:
        """Unroll the recursion from the first computed step on; shape (skipped, 1 + history)."""
        steps = (span.start, *span.history)
        table = np.zeros((span.stop, len(steps)))
        table[list(steps)] = np.eye(len(steps))
        for t in sorted(set(range(steps[-1], span.stop)) - set(steps)):
            table[t] = self._rows[t] @ table[:t]
        return table[span.start + 1 :]


def mean_gram(trajectories: Sequence[Trajectory]) -> Floats:
    """Compute E <v_a, v_b>, mean over elements, then samples; shape (N, N)."""
    grams = []
    for run in trajectories:
        parts = [part.astype(np.float64) for part in slabs(run.outputs)]
        grams.append(sum(part @ part.T for part in parts) / run.outputs.shape[1])
    return np.asarray(np.mean(grams, axis=0))


def trained(
    gram: Floats,
    *,
    rate: float = 0.01,
    updates: int = 201,
    decay: tuple[float, float] = (0.9, 0.999),
) -> list[list[float]]:
    r"""Train W on recorded outputs, as L2P does: Adam on the mean squared error, from reuse.

    .. math:: \min_W \frac{1}{N-1} \sum_{t=1}^{N-1} E \Big\| v_t - \sum_{j<t} W_{t,j} v_j \Big\|^2

    It is stopped early, which is what makes the rule usable: with the exact minimum, unrolled over a span,
    errors grow (docs/theory.md, section 9.11). The error is a quadratic form of the inner products of
    outputs, so that these are all it takes.

    Args:
        gram: E <v_a, v_b>, shape (N, N).
        rate: of Adam.
        updates: of Adam, on all samples at once.
        decay: of Adam's means of gradients and of their squares.

    Returns:
        Row t has t numbers.
    """
    n = len(gram)
    weights, below = np.eye(n, k=-1), np.tri(n, k=-1)
    first, second = np.zeros((n, n)), np.zeros((n, n))
    for update in range(1, updates + 1):
        gradient = 2.0 / max(1, n - 1) * (weights @ gram - gram) * below
        first = decay[0] * first + (1 - decay[0]) * gradient
        second = decay[1] * second + (1 - decay[1]) * gradient**2
        step = first / (1 - decay[0] ** update)
        weights -= rate * step / (np.sqrt(second / (1 - decay[1] ** update)) + 1e-8)
    return [row[:t].tolist() for t, row in enumerate(weights)]


class _Offer:
    """Offers one forecaster of given weights."""

    def __init__(self, rows: Sequence[Sequence[float]]) -> None:
        self._rows = rows

    @hookimpl
    def otcache_provide_forecasters(self) -> Iterator[Info]:
        """Offer it."""
        options = {"rows": self._rows}
        yield Info(
            NAME, f"{__name__}:PerStepWeights", "trained weights of each step", options=options
        )


def with_rows(registry: Registry, rows: Sequence[Sequence[float]]) -> Registry:
    """Return a registry that offers, beside everything else, a forecaster of trained weights."""
    own = Registry.from_description(registry.description())
    own.register(_Offer(rows), "otcache")
    return own
