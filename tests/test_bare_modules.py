"""Schedules and policies on a module in a loop that otcache does not know: the user gives the grid."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from toy import STEPS, Swirl, make_loop

import otcache
from otcache_core import MismatchError, OtcacheError, Policy, Provenance, Schedule
from otcache_core.errors import OtcacheNotice
from otcache_core.loop import Loop
from otcache_diffusers.recording.facts import provenance_of

GRID = np.linspace(1, 0, STEPS + 1) ** 1.5
#: The same grid, in every form that is taken.
FORMS: dict[str, Any] = {
    "list": GRID.tolist(),
    "array": GRID,
    "tensor": torch.tensor(GRID),
    "function": lambda n: np.linspace(1, 0, n + 1) ** 1.5,
}
SCHEDULES = {
    "linear": Schedule(STEPS, (0, 1, 4, 8), "linear"),
    "fitted": Schedule(STEPS, (0, 1, 4, 8)).with_weights(
        [(1.0,), (1.3, -0.3), (1.2, -0.2), (1.1, -0.1)]
    ),
    "taylor": Schedule(STEPS, (0, 1, 4, 8), "taylor"),
}


def _sample(net: Any, grid: Any = GRID) -> torch.Tensor:
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    s = torch.as_tensor(grid, dtype=torch.float32)
    with torch.no_grad():
        for a, b in itertools.pairwise(s):
            x = x + (b - a) * net(x, a)
    return x


def _in_a_loop(net: Any, schedule: Schedule) -> torch.Tensor:
    loop = otcache.loop(lambda num_steps: _sample(net), denoiser=net, grid=GRID)
    with otcache.accelerate(loop, schedule):
        return loop(STEPS)


def _policy(net: Swirl) -> Policy:
    facts = provenance_of(Loop(_sample, net), STEPS, {})
    rungs = SCHEDULES["fitted"], Schedule(STEPS, (0, 1, 2, 4, 6, 8)).with_weights([(1.0,)] * 6)
    return Policy(*rungs, Provenance.from_dict({**facts, "grid": GRID}), ladder=rungs)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rule", SCHEDULES)
def test_forecasts_are_those_of_a_loop(rule: str, form: str) -> None:
    net, schedule = Swirl(), SCHEDULES[rule]
    wanted = _in_a_loop(net, schedule)
    with otcache.accelerate(net, schedule, grid=FORMS[form]) as run:
        assert torch.equal(_sample(net), wanted)
    assert (run.report.runs, run.report.warnings) == (1, [])


def test_without_a_grid_forecasts_count_steps() -> None:
    net, made = Swirl(), []
    for grid in (None, [float(STEPS - i) for i in range(STEPS + 1)]):
        with otcache.accelerate(net, SCHEDULES["linear"], grid=grid):
            made.append(_sample(net))
    assert torch.equal(*made)


@pytest.mark.parametrize("grid", [None, GRID, FORMS["function"]], ids=["own", "given", "function"])
def test_a_policy_runs_on_a_module_as_in_the_loop_it_was_made_for(grid: Any) -> None:
    net = Swirl()
    policy = _policy(net)
    wanted = _in_a_loop(net, policy.schedule(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with otcache.accelerate(net, policy, 4, grid=grid) as run:
            assert torch.equal(_sample(net), wanted)
        handle = otcache.enable(net, policy)
        with handle.request(4):
            assert torch.equal(_sample(net), wanted)
        handle.remove()
    assert run.report.planned == (0, 1, 4, 8)


def test_a_policy_is_matched_by_noise_level() -> None:
    """Twice the steps of the same grid: the computed ones keep their noise levels."""
    net, n = Swirl(), 2 * STEPS
    twice = FORMS["function"](n)
    with (
        pytest.warns(OtcacheNotice, match="24 steps, the policy was measured on 12"),
        otcache.accelerate(net, _policy(net), 4, grid=twice) as run,
    ):
        _sample(net, twice)
    assert (run.report.runs, run.report.computed) == (1, {"call": 4})
    assert run.report.planned == _policy(net).schedule(4, n, twice).computed
    with pytest.raises(MismatchError, match="24 steps"):
        otcache.accelerate(net, _policy(net), 4, grid=twice, strict=True)


def test_a_policy_of_another_model_is_refused() -> None:
    with pytest.raises(MismatchError, match="model class differs: got 'Linear', expected 'Swirl'"):
        otcache.accelerate(torch.nn.Linear(8, 8), _policy(Swirl()), 4)


@pytest.mark.parametrize(
    ("make", "grid", "message"),
    [
        (Swirl, GRID[:-1], r"grid must be 13 values, got '12 values'"),
        (Swirl, lambda n: GRID[:n], r"grid must be 13 values, got '12 values'"),
        (Swirl, [*GRID[:-1], np.nan], "grid must be finite, got"),
        (Swirl, [*GRID[:-1], 2.0], "grid must be monotone, got"),
        (Swirl, ["high"] * 13, "grid must be a row of numbers, got"),
        (Swirl, "abc", "grid must be a row of numbers, got 'abc'"),
        (Swirl, 12, "grid must be a row of numbers, got 12"),
        (
            make_loop,
            GRID,
            r"grid is given for a bare module, got Loop: .*otcache\.loop\(\.\.\., grid=",
        ),
    ],
)
def test_a_grid_is_checked(make: Callable[[], Any], grid: Any, message: str) -> None:
    with pytest.raises(OtcacheError, match=message):
        otcache.accelerate(make(), SCHEDULES["linear"], grid=grid)


def test_what_is_no_schedule_is_named() -> None:
    for use, what in (
        (otcache.accelerate, "schedule must be a Schedule or"),
        (otcache.enable, "policy must be"),
    ):
        with pytest.raises(OtcacheError, match=f"{what} a Policy, got 'int'"):
            use(Swirl(), 3, 4)


def test_a_schedule_takes_no_other_budget() -> None:
    with pytest.raises(OtcacheError, match="budget must be omitted, or 4, got 5"):
        otcache.accelerate(make_loop(), Schedule(STEPS, (0, 1, 4, 8)), 5)
