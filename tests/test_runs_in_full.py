"""Runs that a plan does not reach are computed in full; numbers are taken from any library."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from tiny_flux import N, make_flux, make_policy, sample

import otcache
from otcache_core import OtcacheError, OtcacheNotice, Provenance, Schedule


class Net(torch.nn.Module):
    """A denoiser that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor, t: float) -> torch.Tensor:
        self.calls += 1
        return torch.sin(x) * t


def _loop(net: Net) -> otcache.Loop:
    def sample(num_steps: int) -> torch.Tensor:
        x = torch.ones(1, 4)
        for i in range(num_steps):
            x = x - net(x, 1 - i / num_steps) / num_steps
        return x

    return otcache.loop(sample, denoiser=net, grid=lambda n: np.linspace(1, 0, n + 1))


def _policy(n: int = 12) -> otcache.Policy:
    grid = tuple(np.linspace(1, 0, n + 1))
    return otcache.Policy(
        Schedule(n, (0, 4)), Schedule(n, tuple(range(0, n, 2))), Provenance(n, grid=grid)
    )


def test_requests_of_fewer_steps_than_the_budget_are_computed_between_others() -> None:
    net = Net()
    loop = _loop(net)
    handle = otcache.enable(loop, _policy(), 6)
    for steps, budget, calls in ((4, 6, 4), (12, 6, 6), (1, 2, 1), (2, 2, 2), (12, 2, 2)):
        net.calls = 0
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            with handle.request(np.int64(budget)) as run:
                loop(steps)
        assert net.calls == calls
        in_full = ["every step is computed" in text for text in run.report.warnings]
        assert in_full == ([True] if steps < 12 else [])
        assert [str(w.message) for w in heard] == run.report.warnings
    handle.remove()


def test_a_module_whose_runs_are_shorter_than_the_budget_is_computed() -> None:
    net = Net()
    with (
        pytest.warns(OtcacheNotice, match="the budget is 6: every step is computed"),
        otcache.accelerate(net, _policy(), 6, grid=np.linspace(1, 0, 5)) as run,
    ):
        _loop(net).sample_fn(4)
    assert (run.report.computed, net.calls) == ({"call": 4}, 4)


def test_a_schedule_of_fewer_steps_than_the_budget_is_read_from_a_policy_file(
    tmp_path: Any,
) -> None:
    _policy().save(tmp_path / "p.otcache")
    with pytest.warns(OtcacheNotice, match="every step is computed"):
        found = otcache.load_schedule(tmp_path / "p.otcache", budget=6, num_steps=4)
    assert found == Schedule.full(4)


def test_a_scheduler_set_inside_a_request_is_said_once_and_the_next_request_follows_it() -> None:
    pipe = make_flux()
    made = type(pipe.scheduler).from_config
    handle = otcache.enable(pipe, make_policy(), 4)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with handle.request(3) as run:
            pipe.scheduler = made(pipe.scheduler.config)
            sample(pipe)
            sample(pipe)
    assert [str(w.message) for w in heard] == run.report.warnings
    assert (len(heard), run.report.skipped) == (1, {})
    with handle.request(3) as run:
        sample(pipe)
    assert (sum(run.report.skipped.values()), run.report.warnings) == (N - 3, [])
    handle.remove()


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array, torch.tensor])
def test_numbers_of_a_run_are_taken_or_refused_by_name(kind: Any) -> None:
    net, policy = Net(), _policy()
    with otcache.accelerate(
        net, policy, kind(4), calls_per_step=kind(1), grid=np.linspace(1, 0, 13)
    ):
        _loop(net).sample_fn(12)
    assert net.calls == 4
    assert policy.schedule(kind(4), kind(12)) == policy.schedule(4)
    with otcache.accelerate(loop := _loop(net), Schedule(12, (0, 4)), kind(2)):
        loop(12)
    assert net.calls == 6
    for use, name in (
        (lambda bad: otcache.accelerate(net, policy, bad), "budget"),
        (lambda bad: otcache.enable(_loop(net), policy, bad), "budget"),
        (lambda bad: otcache.accelerate(net, Schedule(12, (0, 4)), bad), "budget"),
        (lambda bad: policy.schedule(bad), "budget"),
        (lambda bad: policy.schedule(2, bad), "num_steps"),
        (lambda bad: otcache.accelerate(net, policy, 4, calls_per_step=bad), "calls_per_step"),
        (lambda bad: otcache.loop(print, denoiser=net, calls_per_step=bad), "calls_per_step"),
    ):
        for bad in (True, 2.0, "2", [2], 0):
            with pytest.raises(OtcacheError, match=f"^{name} must be an integer"):
                use(bad)
