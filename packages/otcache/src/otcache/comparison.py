"""Which schedule of a budget is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError, Schedule
from otcache_core.calibration import Measured

if TYPE_CHECKING:
    from otcache.calibration_stages import Workbench


@dataclass(frozen=True, eq=False)
class Contender:
    """The best of a budget's schedules that were run on all samples, weights fitted on the way.

    Args:
        schedule: with its weights.
        name: of it among the candidates.
        logs: logarithm of its error on each sample, shape (samples,).
        candidates: what was measured, by name.
    """

    schedule: Schedule
    name: str
    logs: NDArray[np.float64]
    candidates: dict[str, Measured]

    @property
    def error(self) -> float:
        """Geometric mean over samples."""
        return float(np.exp(self.logs.mean()))


def compare(
    bench: Workbench, candidates: Mapping[str, Schedule], variants: Sequence[Schedule] = ()
) -> Contender:
    """Run every schedule, with its weights fitted on the way, and keep the best.

    Schedules are compared by the mean over samples of the logarithm of their error, since errors
    are heavy-tailed. The best of the variants takes the place of the best candidate only where it is
    clearly below it: of many alike the best is in part the luckiest.

    Args:
        bench: what runs them.
        candidates: of one budget, by name.
        variants: further roundings of the candidate ``quantile``.

    Raises:
        OtcacheError: if every schedule breaks the run.
    """
    named = dict(candidates)
    first = {schedule.computed: name for name, schedule in reversed(named.items())}
    known = len(first)
    for number, schedule in enumerate(variants, 2):
        if schedule.computed not in first:
            name = f"quantile, rounding {number}"
            first[schedule.computed], named[name] = name, schedule
    unique = list({s.computed: bench.forecast(s) for s in named.values()}.values())
    done = bench.evaluator.evaluate(unique, objective=bench.fidelity, fit=bench.fit)
    logs = log_errors(done.errors)
    best = int(logs[:known].mean(axis=1).argmin())
    if known < len(unique):
        challenger = known + int(logs[known:].mean(axis=1).argmin())
        best = challenger if clearly_below(logs[challenger], logs[best]) else best
    if not np.isfinite(logs[best]).all():
        raise OtcacheError(
            f"every schedule of budget {unique[0].budget} broke the run: NaN or infinity."
        )
    row = {schedule.computed: at for at, schedule in enumerate(unique)}
    table = {name: measured(logs[row[schedule.computed]]) for name, schedule in named.items()}
    return Contender(done.schedules[best], first[unique[best].computed], logs[best], table)


def log_errors(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logarithm of errors, from 1e-12 up; infinite where a run broke."""
    floored = np.where(np.isfinite(errors), np.maximum(errors, 1e-12), np.inf)
    return np.asarray(np.log(floored))


def measured(logs: NDArray[np.float64]) -> Measured:
    """The entry of a candidate with these logarithms of its error, one a sample."""
    error = float(np.exp(logs.mean()))
    return Measured(error if np.isfinite(error) else None, len(logs))


def clearly_below(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    r"""Whether a is below b in mean by more than one standard error of the paired difference.

    .. math:: \overline{a - b} < -\sqrt{\mathrm{var}(a - b) / n}

    False below two samples, and for an infinite a; True for a finite a and an infinite b.

    References:
        Breiman, Friedman, Olshen and Stone, Classification and Regression Trees, 1984, section 3.4.3,
        for the one-standard-error rule.
    """
    if not np.isfinite(a).all() or len(a) < 2:
        return False
    if not np.isfinite(b).all():
        return True
    change = a - b
    return bool(change.mean() < -change.std(ddof=1) / np.sqrt(len(change)))
