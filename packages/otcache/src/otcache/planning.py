"""From a calibration to a policy; no network runs here."""

from __future__ import annotations

import math

from otcache.candidates import BASELINES, UNIFORM
from otcache_core import OtcacheError, Schedule
from otcache_core.calibration import Calibration, Rung
from otcache_core.notices import notify
from otcache_core.policy import Policy, Provenance

#: Runs of at most so many steps are those of distilled models.
FEW_STEPS = 8
#: There a budget is worthwhile if at least nine tenths of the error of computing one step are gone.
WORTHWHILE = 0.1
#: Errors up to this are rounding, whatever part they are of the error of one step.
ROUNDING = 1e-6


def plan(calibration: Calibration) -> Policy:
    """Plan every budget from what a calibration has measured; pure.

    The policy's rungs are the calibration's, but for three kinds that are left out, since
    interpolation between their neighbours is then the better guess:

    - a fitted rung where a lower fitted one already reached a smaller error;
    - a fitted rung that is not known to be below its baselines (:func:`proven`);
    - in a run of few steps, as distilled models make them, each step does much that the others do not
      tell. With at most 8 steps a rung is left out, too, where its error is above a tenth of that of
      computing the first step alone; a notice says which budgets that concerns.

    A rung where a baseline won is always kept: what is interpolated there follows its rule, too.

    Args:
        calibration: of :func:`otcache.calibrate`.

    Returns:
        The policy: ``policy.schedule(budget)`` for 1 <= budget <= N.

    Raises:
        OtcacheError: if no rung of the ladder is worth its budget, or none is known to be.
    """
    n, known = calibration.num_steps, proven(calibration)
    if not known:
        raise OtcacheError(
            "no rung of the ladder was compared with uniform reuse: raise Recipe.candidate_runs."
        )
    kept = _falling(worthwhile(calibration, known))
    if not kept:
        raise OtcacheError(
            f"there is no worthwhile budget for {n} steps{_why(calibration)}: compute them all."
        )
    if n <= FEW_STEPS and any(2 <= r.schedule.budget < kept[0].budget for r in calibration.ladder):
        message = f"budgets below {kept[0].budget} are not worthwhile for {n} steps."
        notify(message)
    return Policy(
        anchor=_inside(calibration.anchor, kept),
        reference=_inside(calibration.reference, kept),
        ladder=tuple(kept),
        provenance=Provenance.from_dict(
            {**calibration.provenance, "grid": calibration.grid.tolist()}
        ),
    )


def _falling(rungs: list[Rung]) -> list[Schedule]:
    """Schedules of the rungs but for those fitted ones that a lower fitted one undercuts."""
    kept: list[Schedule] = []
    best = math.inf
    for rung in rungs:
        fitted = rung.schedule.forecaster == "fitted"
        if fitted and kept and kept[-1].forecaster == "fitted" and rung.error >= best:
            continue
        best = min(best, rung.error) if fitted else best
        kept.append(rung.schedule)
    return kept


def _inside(schedule: Schedule, kept: list[Schedule]) -> Schedule:
    """The schedule, or the rung next to it where it lies outside of them: it was never compared."""
    if schedule.budget < kept[0].budget:
        return kept[0]
    return kept[-1] if schedule.budget > kept[-1].budget else schedule


def proven(calibration: Calibration) -> list[Rung]:
    r"""The rungs that were compared with their baselines, or need not be.

    A rung where a baseline won, and one that was compared with uniform reuse (on a single sample:
    with all four baselines), is known to be no worse. Where the allowance did not last for that, the
    best baseline e' of the nearest smaller rung B' bounds what it would have measured:

    .. math:: e_B \le m \, e' \, (B'/B)^2

    as baselines would fall if they were of second order, as linear forecasts are, with m = 1/2 for
    the doubt, and 1/4 on a single sample. All other rungs are left out.
    """
    found: list[Rung] = []
    alone = len(calibration.samples) == 1
    bound = -math.inf  # e' B'^2 of the nearest smaller rung that was compared
    for rung in calibration.ladder:
        measured = {n: c.error for n, c in rung.candidates.items() if n in BASELINES}
        compared = UNIFORM in measured and (not alone or len(measured) == len(BASELINES))
        limit = (0.25 if alone else 0.5) * bound / rung.schedule.budget**2
        if compared or rung.winner in BASELINES or rung.error <= limit:
            found.append(rung)
        if errors := [e for e in measured.values() if e is not None]:
            bound = min(errors) * rung.schedule.budget**2
    return found


def worthwhile(calibration: Calibration, rungs: list[Rung]) -> list[Rung]:
    """Those of the rungs that do not spoil a run of few steps; all of them where there are more steps.

    Where the ladder has no rung of one step, its largest error stands for that.
    """
    if calibration.num_steps > FEW_STEPS:
        return rungs
    limit = max(ROUNDING, WORTHWHILE * _one_step(calibration))
    return [r for r in rungs if r.error <= limit and r.schedule.budget > 1]


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
