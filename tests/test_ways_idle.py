"""A context that is left with nothing done says so."""

from __future__ import annotations

import warnings

import pytest
import torch
from toy import STEPS, make_loop

import otcache
from otcache_core.errors import OtcacheNotice

SCHEDULE = otcache.Schedule(STEPS, (0, 3, 6))


def test_a_context_left_without_a_run_of_its_target_says_so() -> None:
    loop, other = make_loop(), make_loop()
    with (
        pytest.warns(OtcacheNotice, match="the target made no run while it was accelerated"),
        otcache.accelerate(loop, SCHEDULE) as run,
    ):
        other(["a"], [0], STEPS)
    assert any("made no run" in text for text in run.report.warnings)


def test_calling_the_function_inside_the_loop_is_no_run_of_it() -> None:
    loop = make_loop()
    with (
        pytest.warns(OtcacheNotice, match=r"run the very pipeline, otcache\.loop\(\.\.\.\)"),
        otcache.accelerate(loop, SCHEDULE) as run,
    ):
        loop.sample_fn(["a"], [0], STEPS)
    assert run.report.skipped == {}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("schedule", [SCHEDULE, otcache.Schedule.full(STEPS)])
def test_nothing_is_said_where_all_is_well(schedule: otcache.Schedule) -> None:
    loop = make_loop()
    with otcache.accelerate(loop, schedule) as run:
        loop(["a"], [0], STEPS)
    assert run.report.warnings == []
    with otcache.accelerate(loop, otcache.Schedule.full(STEPS)):
        pass


def test_an_error_is_not_talked_over() -> None:
    loop = make_loop()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyError), otcache.accelerate(loop, SCHEDULE):
            raise KeyError


@pytest.mark.parametrize("schedule", [SCHEDULE, otcache.Schedule.full(STEPS)])
def test_a_decorated_function_is_accelerated_at_each_call(schedule: otcache.Schedule) -> None:
    loop = make_loop()
    plain = loop(["a"], [0], STEPS)
    with otcache.accelerate(loop, schedule):
        wanted = loop(["a"], [0], STEPS)

    @otcache.accelerate(loop, schedule)
    def sample() -> torch.Tensor:
        return loop(["a"], [0], STEPS)

    assert all(torch.equal(sample(), wanted) for _ in range(3))
    assert torch.equal(loop(["a"], [0], STEPS), plain)
    assert torch.equal(wanted, plain) == (schedule.budget == STEPS)


def test_calls_per_step_of_a_module_is_passed_on() -> None:
    net = make_loop().denoiser
    with otcache.accelerate(net, SCHEDULE, calls_per_step=2) as run:
        for s in torch.linspace(1, 0, STEPS + 1)[:-1]:
            for branch in range(2):
                net(torch.full((1, 8), float(branch)), s)
    assert run.report.skipped == {"call": STEPS - 3, "call#2": STEPS - 3}
