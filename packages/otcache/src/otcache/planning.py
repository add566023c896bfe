"""From a calibration to a policy; no network runs here."""

from __future__ import annotations

import math

from otcache_core import OtcacheError, Schedule
from otcache_core.calibration import Calibration, Rung
from otcache_core.notices import notify
from otcache_core.policy import Policy, Provenance

#: Runs of at most so many steps are those of distilled models.
FEW_STEPS = 8
#: There a budget is worthwhile if at least nine tenths of the error of computing one step are gone.
WORTHWHILE = 0.1


def plan(calibration: Calibration) -> Policy:
    """Plan every budget from what a calibration has measured; pure.

    The policy's rungs are the calibration's fitted schedules. A rung is left out where a lower
    budget already reached a smaller error: interpolation between its neighbours is then the better
    guess.

    In a run of few steps, as distilled models make them, each step does much that the others do not
    tell. With at most 8 steps a rung is therefore left out, too, where its error is above a tenth of
    that of computing the first step alone; a notice says which budgets that concerns.

    Args:
        calibration: of :func:`otcache.calibrate`.

    Returns:
        The policy: ``policy.schedule(budget)`` for 1 <= budget <= N.

    Raises:
        OtcacheError: if no rung of the ladder is worth its budget.
    """
    kept: list[Schedule] = []
    best = math.inf
    for rung in worthwhile(calibration):
        if rung.error < best:
            best = rung.error
            kept.append(rung.schedule)
    n = calibration.num_steps
    if not kept:
        raise OtcacheError(
            f"there is no worthwhile budget for {n} steps{_why(calibration)}: compute them all."
        )
    if n <= FEW_STEPS and any(2 <= r.schedule.budget < kept[0].budget for r in calibration.ladder):
        message = f"budgets below {kept[0].budget} are not worthwhile for {n} steps."
        notify(message)
    return Policy(
        anchor=calibration.anchor,
        reference=calibration.reference,
        ladder=tuple(kept),
        provenance=Provenance.from_dict(
            {**calibration.provenance, "grid": calibration.grid.tolist()}
        ),
    )


def worthwhile(calibration: Calibration) -> list[Rung]:
    """The rungs that do not spoil a run of few steps; all of them where there are more steps.

    Where the ladder has no rung of one step, its largest error stands for that.
    """
    if calibration.num_steps > FEW_STEPS:
        return list(calibration.ladder)
    limit = WORTHWHILE * _one_step(calibration)
    return [r for r in calibration.ladder if r.error <= limit and r.schedule.budget > 1]


def _one_step(calibration: Calibration) -> float:
    """The error of computing the first step alone."""
    errors = {rung.schedule.budget: rung.error for rung in calibration.ladder}
    return errors.get(1, max(errors.values(), default=0.0))


def _why(calibration: Calibration) -> str:
    errors = {rung.schedule.budget: rung.error for rung in calibration.ladder}
    one = _one_step(calibration)
    if calibration.num_steps > FEW_STEPS or not one:
        return ""
    budget = min(errors, key=lambda b: (errors[b], b))
    return (
        f" (computing {budget} of them leaves {errors[budget] / one:.0%} of the error of "
        f"computing one, and {WORTHWHILE:.0%} is the most that is worthwhile)"
    )
