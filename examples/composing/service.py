"""Plan and answer without exceptions: what cannot be done is a value, and a line of the log."""

from __future__ import annotations

import otcache
from composing.logs import LOG
from composing.sampler import STEPS, make_loop
from otcache_core import Registry

#: A policy in a second; leave it out for a good one.
SHORT = otcache.Recipe(ladder=(3, 6, 12), anchor_trials=2, climb_trials=1, rounding_runs=0.0)


def calibrated(registry: Registry) -> otcache.Calibration:
    """Measure the pipeline once."""
    return otcache.calibrate(
        make_loop(),
        ["any"],
        STEPS,
        range(4),
        recipe=SHORT,
        registry=registry,
        progress=False,
    )


def planned(
    calibration: otcache.Calibration, solvers: list[str], registry: Registry
) -> otcache.Policy:
    """Return the policy of the first solver that can plan; nothing is raised for those that cannot."""
    for name in solvers:
        tried = otcache.plan(calibration, solver=name, registry=registry, throw=False)
        if tried.ok:
            return tried.value
        LOG.warning("%s: %s", type(tried.error).__name__, tried.error)
    return otcache.plan(calibration)


def answer(policy: otcache.Policy, budget: int) -> dict[str, object]:
    """Answer a request that may be wrong: ``attempt`` takes any function, and its arguments."""
    match otcache.attempt(policy.schedule, budget):
        case otcache.Done(schedule):
            return {"status": 200, "steps": schedule.computed}
        case otcache.Failed(error):
            return {"status": 400, "error": str(error)}


def main(calibration: otcache.Calibration, registry: Registry) -> otcache.Policy:
    """Plan, and answer a request that can be met and one that cannot."""
    policy = planned(calibration, ["state-dp", "nobody-s", "early"], registry)
    print(f"planned by {policy.solver!r}")
    for budget in (5, 500):
        print(answer(policy, budget))
    return policy
