"""Which schedule of a budget is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError, Schedule
from otcache_core.calibration import Rung

if TYPE_CHECKING:
    from otcache.calibration_stages import Workbench


def compare(
    bench: Workbench, candidates: Mapping[str, Schedule], variants: Sequence[Schedule] = ()
) -> Rung:
    """Run every schedule, with its weights fitted on the way, and keep the best.

    Schedules are compared by the mean over samples of the logarithm of their error, since errors
    are heavy-tailed; ``Rung.error`` and the alternatives are geometric means. The best of the
    variants takes the place of the best candidate only where it is clearly below it: of many alike
    the best is in part the luckiest.

    Args:
        bench: what runs them.
        candidates: of one budget, by name.
        variants: further roundings of the candidate ``quantile``.

    Raises:
        OtcacheError: if every schedule breaks the run.
    """
    names: dict[tuple[int, ...], str] = {}
    for name, schedule in candidates.items():
        names.setdefault(schedule.computed, name)
    known = len(names)
    for number, schedule in enumerate(variants, 2):
        names.setdefault(schedule.computed, f"quantile, rounding {number}")
    by_steps = {s.computed: s for s in (*variants, *candidates.values())}
    unique = [by_steps[steps] for steps in names]
    done = bench.evaluator.evaluate(unique, objective=bench.fidelity, fit=bench.fit)
    floored = np.where(np.isfinite(done.errors), np.maximum(done.errors, 1e-12), np.inf)
    logs = np.log(floored)
    best = int(logs[:known].mean(axis=1).argmin())
    if known < len(unique):
        challenger = known + int(logs[known:].mean(axis=1).argmin())
        best = challenger if clearly_below(logs[challenger], logs[best]) else best
    error = np.exp(logs.mean(axis=1))
    if not np.isfinite(error[best]):
        raise OtcacheError(
            f"every schedule of budget {unique[0].budget} broke the run: NaN or infinity."
        )
    pairs = zip(names.values(), map(float, error), strict=True)
    alternatives = {name: value for name, value in pairs if np.isfinite(value)}
    return Rung(done.schedules[best], float(error[best]), alternatives)


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
