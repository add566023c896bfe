"""What the demo's table always shows beside otcache."""

from __future__ import annotations

import numpy as np

from otcache.demo.methods import methods
from otcache_core import Provenance, Schedule
from otcache_core.plugins import Registry
from otcache_core.policy import Policy

N, BUDGET = 12, 4


def test_fewer_steps_and_the_two_step_rule_stand_in_every_table() -> None:
    """Without these rows any cache looks good: just taking fewer steps is a competitor."""
    policy = Policy(Schedule(N, (0, 3)), Schedule(N, (0, 2, 4, 6, 9)), Provenance(N))
    rows = {
        m.name: m.schedule(BUDGET)
        for m in methods(Registry(), policy, np.triu(np.ones((N, N + 1)), k=2), N)
    }
    assert rows["fewer steps"] == Schedule.full(BUDGET)
    assert (rows["Adams-Bashforth"].forecaster, rows["Adams-Bashforth"].budget) == (
        "linear",
        BUDGET,
    )
    assert rows["uniform"].budget == rows["otcache"].budget == BUDGET
