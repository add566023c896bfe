"""From a calibration to a policy; no network runs here."""

from __future__ import annotations

from otcache_core import OtcacheError, Schedule
from otcache_core.calibration import Calibration
from otcache_core.policy import Policy, Provenance


def plan(calibration: Calibration) -> Policy:
    """Plan every budget from what a calibration has measured; pure.

    The policy's rungs are the calibration's fitted schedules. A rung is left out where a lower
    budget already reached a smaller error: interpolation between its neighbours is then the better
    guess.

    Args:
        calibration: of :func:`otcache.calibrate`.

    Returns:
        The policy: ``policy.schedule(budget)`` for 1 <= budget <= N.

    Raises:
        OtcacheError: if no rung of the ladder is worth its budget.
    """
    kept: list[Schedule] = []
    best = float("inf")
    for rung in calibration.ladder:
        if rung.error < best:
            best = rung.error
            kept.append(rung.schedule)
    if not kept:
        raise OtcacheError(
            f"there is no worthwhile budget for {calibration.num_steps} steps: compute them all."
        )
    return Policy(
        anchor=calibration.anchor,
        reference=calibration.reference,
        ladder=tuple(kept),
        provenance=Provenance.from_dict(
            {**calibration.provenance, "grid": calibration.grid.tolist()}
        ),
    )
