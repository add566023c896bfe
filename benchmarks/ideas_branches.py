"""Idea 1 of ideas.py: the two branches of guidance on schedules of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from ideas_bench import Bench, Row
from ideas_loop import N, Plan

TRIALS, REACH = 60, 3
ABOUT = (
    "At one total of 2 B branch evaluations: o_c at more steps, o_u (or the difference c - u) at fewer. "
    "*Early only*: the default steps of B + 1, B + 2 or B + 3, the other stream at the first of them "
    "(the best on calibration); *first and late*: at step 0 and the last of them. *Every second step*: "
    "the default steps of about 4 B/3. *Climbed*: 60 random moves from the common schedule, decoded "
    "error on calibration with each sample run on the others' weights; with common steps (the control, "
    "moves of one step) and branch-wise."
)
CONCLUSION = (
    "**Not adopted.** Every family is worse than the common schedule at every budget (decoded error 1.3 "
    "to 3.9 times as large), and the climb that may part the branches ends in common steps at all four "
    "budgets: no trade of an unconditional evaluation for a conditional step was ever kept. The climb "
    "of common steps gains nothing beyond doubt either, and overfits its 8 samples at B = 6."
)
EXTRA = (1, 2, 3)
Random = np.random.Generator
Move = Callable[[Plan, Random], Plan | None]


def measure(bench: Bench, budget: int) -> dict[str, Row]:
    """Held-out errors of every family at 2 B branch evaluations."""
    common = Plan.common(bench.steps(budget))
    chosen = {"common (default policy)": common}
    for name, plans in families(bench, budget).items():
        chosen[name] = min(plans, key=bench.tuned)
    chosen["common, climbed"] = climb(bench, common, [shift])
    chosen["branch-wise, climbed"] = climb(bench, common, [shift, trade, back, slide, flip])
    bench.tuning.memo.clear()
    return {name: bench.score(plan) for name, plan in chosen.items()}


def families(bench: Bench, budget: int) -> dict[str, list[Plan]]:
    """More conditional steps, fewer unconditional ones: the plans that calibration chooses from."""
    total = 2 * budget
    size = next(b for b in range(budget, total) if b + (b + 1) // 2 >= total)
    cond = bench.steps(size)
    found = {}
    for coordinate, difference in (("c - u", True), ("u", False)):
        early = [bench.steps(budget + e) for e in EXTRA]
        found[f"{coordinate} early only"] = [
            Plan(steps, steps[: total - len(steps)], difference) for steps in early
        ]
        found[f"{coordinate} first and late"] = [
            Plan(steps, (0, *steps[len(steps) - (total - len(steps)) + 1 :]), difference)
            for steps in early
        ]
        other = cond[::2][: total - size]
        found[f"{coordinate} at every second step"] = [Plan(cond, other, difference)]
    found["c at every second step"] = [Plan(other, cond)]
    return found


def climb(bench: Bench, start: Plan, moves: list[Move]) -> Plan:
    """Random moves, kept where they lower the error of the tuning samples."""
    rng = np.random.default_rng(0)
    best, value, seen = start, bench.tuned(start), {start}
    for _ in range(20 * TRIALS):  # all neighbours may have been seen
        plan = moves[rng.integers(len(moves))](best, rng)
        if plan is None or plan in seen or len(seen) > TRIALS:
            continue
        seen.add(plan)
        error = bench.tuned(plan)
        if error < value:
            best, value = plan, error
    return best


def shift(plan: Plan, rng: Random) -> Plan | None:
    """Move one conditional step, and what else is computed there."""
    here = rng.choice(plan.cond[1:])
    there = here + rng.choice([-1, 1]) * rng.integers(1, REACH + 1)
    if not 0 < there < N or there in plan.cond:
        return None
    cond, other = (_swap(s, int(here), int(there)) for s in (plan.cond, plan.other))
    return replace(plan, cond=cond, other=other)


def trade(plan: Plan, rng: Random) -> Plan | None:
    """One unconditional evaluation less, one conditional step more."""
    free = sorted(set(range(N)) - set(plan.cond))
    if len(plan.other) < 2:
        return None
    gone, new = rng.choice(plan.other[1:]), rng.choice(free)
    other = tuple(k for k in plan.other if k != gone)
    return replace(plan, cond=tuple(sorted({*plan.cond, int(new)})), other=other)


def back(plan: Plan, rng: Random) -> Plan | None:
    """The reverse."""
    alone = sorted(set(plan.cond) - set(plan.other))
    if len(alone) < 2:
        return None
    gone, both = rng.choice(alone, 2, replace=False)
    cond = tuple(k for k in plan.cond if k != gone)
    return replace(plan, cond=cond, other=tuple(sorted({*plan.other, int(both)})))


def slide(plan: Plan, rng: Random) -> Plan | None:
    """Move one unconditional evaluation to another conditional step."""
    alone = sorted(set(plan.cond) - set(plan.other))
    if not alone or len(plan.other) < 2:
        return None
    gone, new = rng.choice(plan.other[1:]), rng.choice(alone)
    return replace(plan, other=_swap(plan.other, int(gone), int(new)))


def flip(plan: Plan, rng: Random) -> Plan | None:
    """Forecast the other coordinate."""
    return None if plan.cond == plan.other else replace(plan, difference=not plan.difference)


def _swap(steps: tuple[int, ...], here: int, there: int) -> tuple[int, ...]:
    return tuple(sorted({there if k == here else k for k in steps}))
