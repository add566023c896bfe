"""From a target, a speedup or an error, to the least budget that meets it on what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real

import msgspec
import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import OtcacheError, expected
from otcache_core.notices import notify

Floats = NDArray[np.float64]

#: LPIPS of each quality, at most.
QUALITIES = {"lossless": 0.01, "high": 0.05, "balanced": 0.10}
#: N / B of the quality ``fast``.
FAST = 4.0
#: Share of samples that meet a target, unless another is asked for.
QUANTILE = 0.75
#: Errors below this are rounding.
LEAST = 1e-12


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The errors of a budget's schedule on the calibration samples.

    Args:
        budget: B.
        errors: by metric, one a sample, in which lower is better; cross-validated where weights are fitted.
            None of a run that broke.

    Raises:
        OtcacheError: if the budget is below 1, or an error negative.
    """

    budget: int
    errors: dict[str, tuple[float | None, ...]]

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise OtcacheError(expected("measured budget", self.budget, "at least 1"))
        for name, values in self.errors.items():
            if not values or any(v is not None and not 0 <= v < math.inf for v in values):
                raise OtcacheError(expected(f"measured {name}", values, "finite numbers >= 0"))

    @classmethod
    def of(cls, budget: int, errors: Mapping[str, Sequence[float] | Floats]) -> Measured:
        """Make it of numbers, which are infinite or NaN of runs that broke."""
        known = {
            name: tuple(float(v) if math.isfinite(v) else None for v in values)
            for name, values in errors.items()
        }
        return cls(budget, known)

    def values(self, metric: str) -> Floats:
        """Return the errors by a metric; infinite of a run that broke."""
        return np.array([math.inf if v is None else v for v in self.errors[metric]])


def rank_of(quantile: float, samples: int) -> int:
    r"""Return which of the sorted errors bounds a new sample's with this probability.

    .. math:: r = \lceil (n + 1)\, q \rceil

    the r-th smallest of n exchangeable errors is not exceeded by another one with probability q at least.

    Raises:
        OtcacheError: if the quantile is not inside (0, 1), or r is above n.

    References:
        Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005: conformal prediction.
    """
    if not (_is_number(quantile) and 0 < quantile < 1):
        raise OtcacheError(expected("quantile", quantile, "a number between 0 and 1"))
    rank = math.ceil((samples + 1) * quantile - 1e-9)
    if rank > samples:
        needed = math.ceil(quantile / (1 - quantile) - 1e-9)
        advice = f"calibrate on {needed} at least, or omit quantile."
        wanted = f"at most {samples / (samples + 1):.2g} on {samples} samples"
        raise OtcacheError(expected("quantile", quantile, wanted, advice))
    return rank


class Frontier:
    r"""Error against budget, by the quantile of the calibration samples.

    At measured budgets it is the conformal quantile of their samples (:func:`rank_of`), made to fall with B
    by isotonic regression of its logarithm; between two of them linear in log B and log error, but as at the
    smaller one where the policy has schedules in between that were not measured. Below all it is infinite,
    above all that of the largest, and 0 at N.

    Args:
        measured: budgets with their errors.
        metric: one of theirs. Where runs broke, or too few samples ran for the quantile, it is infinite.
        num_steps: N.
        quantile: q; None: 0.75, and if there are too few samples for that, the largest error.
        planned: budgets that have a schedule of their own.

    Raises:
        OtcacheError: if the metric was not measured, or there are too few samples for the quantile.

    References:
        Barlow, Bartholomew, Bremner, Brunk, Statistical Inference under Order Restrictions, 1972: pooling
        adjacent violators.
    """

    def __init__(
        self,
        measured: Sequence[Measured],
        metric: str,
        num_steps: int,
        quantile: float | None = None,
        planned: Sequence[int] = (),
    ) -> None:
        known = [one for one in measured if metric in one.errors and one.budget < num_steps]
        if not known:
            names = sorted({name for one in measured for name in one.errors})
            listed = (
                f"one of {', '.join(names)}" if names else "one that was measured, and none was"
            )
            raise OtcacheError(expected("metric", metric, listed, "calibrate again to measure it."))
        self._num_steps = num_steps
        self._budgets = np.array([one.budget for one in known])
        self._planned = set(planned) - set(self._budgets.tolist())
        values = [one.values(metric) for one in known]
        most = max(map(len, values))
        if quantile is not None:
            rank_of(quantile, most)
        bounds = [_bound(errors, quantile) for errors in values]
        self._logs = _falling(np.log(np.maximum(bounds, LEAST)))

    def error(self, budget: int) -> float:
        """Return the error at a budget."""
        if budget >= self._num_steps:
            return 0.0
        after = int(np.searchsorted(self._budgets, budget, side="right"))
        if after == 0:
            return math.inf
        lower = self._logs[after - 1]
        if after == len(self._budgets) or not np.isfinite(lower):
            return float(np.exp(lower))
        ends = self._budgets[after - 1 : after + 1]
        if budget == ends[0] or any(ends[0] < b < ends[1] for b in self._planned):
            return float(np.exp(lower))
        low, high = np.log(ends)
        share = (math.log(budget) - low) / (high - low)
        return float(np.exp(lower + share * (self._logs[after] - lower)))

    def least(self, limit: float) -> int:
        """Return the least budget whose error is within a limit; N if no smaller one is."""
        most = limit * (1 + 1e-9)
        return next(b for b in range(1, self._num_steps + 1) if self.error(b) <= most)


def _bound(errors: Floats, quantile: float | None) -> float:
    """Return the quantile of a budget's errors; infinite where only a few samples ran there."""
    try:
        return at_quantile(errors, quantile)
    except OtcacheError:
        return math.inf


def at_quantile(errors: Floats, quantile: float | None) -> float:
    """Return the conformal quantile of errors; None: as :class:`Frontier` says."""
    n = len(errors)
    if quantile is None and math.ceil((n + 1) * QUANTILE) > n:
        return float(errors.max())
    return float(np.sort(errors)[rank_of(QUANTILE if quantile is None else quantile, n) - 1])


def _falling(logs: Floats) -> Floats:
    """Return the nearest values that do not rise, by pooling adjacent violators; infinite ones stay."""
    found, finite = logs.copy(), np.isfinite(logs)
    pools: list[list[float]] = []
    for value in logs[finite]:
        pools.append([float(value)])
        while len(pools) > 1 and np.mean(pools[-1]) > np.mean(pools[-2]):
            last = pools.pop()
            pools[-1] += last
    found[finite] = [np.mean(pool) for pool in pools for _ in pool]
    return found


def error_limit(metric: str, value: float) -> tuple[str, float]:
    r"""Return the measured metric and the largest error of a target.

    PSNR in dB is RMSE of values in [0, 1]: :math:`10^{-\mathrm{PSNR}/20}`.

    Raises:
        OtcacheError: if the value is not a positive number.
    """
    if not (_is_number(value) and 0 < value < math.inf):
        raise OtcacheError(expected(f"target {metric}", value, "a number above 0"))
    return ("rmse", 10.0 ** (-float(value) / 20.0)) if metric == "psnr" else (metric, float(value))


def budget_of_speedup(ratio: float, num_steps: int) -> int:
    """Return the largest budget B with N / B of a ratio at least.

    Raises:
        OtcacheError: if the ratio is not in 1 .. N.
    """
    if not (_is_number(ratio) and 1 <= ratio <= num_steps):
        raise OtcacheError(expected("speedup", ratio, f"a number from 1 to {num_steps}"))
    return max(1, math.floor(num_steps / ratio + 1e-9))


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def least_budget(frontier: Frontier, num_steps: int, limit: float, text: str) -> int:
    """Return the least budget within a limit, and notify if only computing every step is."""
    budget = frontier.least(limit)
    if budget == num_steps:
        notify(
            f"no budget below {num_steps} met {text} on the calibration samples: every step is computed."
        )
    return budget
