"""A policy that stays on a pipeline: a budget for each request, threads, and an end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from toy import STEPS, make_loop

import otcache
from otcache_core import Provenance, Schedule


def _policy() -> otcache.Policy:
    grid = tuple((torch.linspace(1, 0, STEPS + 1) ** 1.5).tolist())
    facts = Provenance(STEPS, model_class="Swirl", grid=grid)
    return otcache.Policy(Schedule(STEPS, (0, 3)), Schedule(STEPS, (0, 2, 4, 6, 9)), facts)


@pytest.fixture
def loop() -> otcache.Loop:
    return make_loop()


@pytest.fixture
def handle(loop: otcache.Loop) -> Iterator[otcache.Enabled]:
    handle = otcache.enable(loop, _policy())
    yield handle
    handle.remove()


def _sample(loop: otcache.Loop, seed: int = 0) -> torch.Tensor:
    with torch.no_grad():
        made: torch.Tensor = loop(["a"], [seed], STEPS)
    return made


def _alone(budget: int, seed: int) -> torch.Tensor:
    loop = make_loop()
    with otcache.accelerate(loop, _policy(), budget):
        return _sample(loop, seed)


def test_each_request_has_a_budget_and_a_report_of_its_own(
    loop: otcache.Loop, handle: otcache.Enabled
) -> None:
    reports = []
    for budget in (3, 6, STEPS):
        with handle.request(budget) as run:
            assert torch.equal(_sample(loop), _alone(budget, 0))
        reports.append(run.report)
    assert [report.computed for report in reports] == [{"call": 3}, {"call": 6}, {"call": STEPS}]
    assert [report.runs for report in reports] == [1, 1, 1]


def test_outside_requests_the_budget_is_that_of_the_handle(
    loop: otcache.Loop, handle: otcache.Enabled
) -> None:
    _sample(loop)
    assert (loop.denoiser.calls, handle.run) == (STEPS, None)
    handle.set_budget(5)
    with handle.request(3):
        _sample(loop)
    _sample(loop)
    assert loop.denoiser.calls == STEPS + 3 + 5
    assert handle.run is not None
    assert handle.run.report.computed == {"call": 5}
    handle.set_budget(None)
    _sample(loop)
    assert loop.denoiser.calls == 2 * STEPS + 3 + 5


def test_a_request_that_fails_leaves_the_handle_as_it_was(
    loop: otcache.Loop, handle: otcache.Enabled
) -> None:
    handle.set_budget(5)
    with pytest.raises(KeyError), handle.request(3):
        raise KeyError
    _sample(loop)
    assert loop.denoiser.calls == 5


def test_threads_wait_for_their_turn_and_get_what_they_would_alone(
    loop: otcache.Loop, handle: otcache.Enabled
) -> None:
    budgets = (3, 4, 6, 8)
    barrier = threading.Barrier(len(budgets))

    def serve(budget: int) -> torch.Tensor:
        barrier.wait(timeout=60)
        with handle.request(budget) as run:
            made = _sample(loop, seed=budget)
        assert run.report.computed == {"call": budget}
        return made

    with ThreadPoolExecutor(len(budgets)) as pool:
        for budget, made in zip(budgets, pool.map(serve, budgets), strict=True):
            assert torch.equal(made, _alone(budget, budget))


def test_remove_waits_for_the_request_of_another_thread(
    loop: otcache.Loop, handle: otcache.Enabled
) -> None:
    inside, done = threading.Event(), threading.Event()

    def serve() -> torch.Tensor:
        with handle.request(3):
            inside.set()
            assert not done.wait(timeout=0.05)
            return _sample(loop)

    def stop() -> None:
        inside.wait(timeout=60)
        handle.remove()
        done.set()

    with ThreadPoolExecutor(2) as pool:
        made, stopped = pool.submit(serve), pool.submit(stop)
        assert torch.equal(made.result(), _alone(3, 0))
        stopped.result()
    assert "forward" not in vars(loop.denoiser)


@pytest.mark.parametrize("change", ["request", "set_budget", "remove"])
def test_a_change_inside_one_s_own_request_is_an_error(
    loop: otcache.Loop, handle: otcache.Enabled, change: str
) -> None:
    changes = {
        "request": lambda: handle.request(5).__enter__(),
        "set_budget": lambda: handle.set_budget(5),
        "remove": handle.remove,
    }
    with handle.request(3):
        with pytest.raises(otcache.ExecutionError, match="a request must end before the handle"):
            changes[change]()
        _sample(loop)
    assert loop.denoiser.calls == 3


@pytest.mark.parametrize("where", ["callback", "another thread"])
@pytest.mark.parametrize("change", ["request", "set_budget", "remove"])
def test_a_change_while_a_run_is_under_way_is_an_error(
    loop: otcache.Loop, handle: otcache.Enabled, change: str, where: str
) -> None:
    """Taken off in the middle, the rest of the run would be computed in full, and in no report."""
    changes: dict[str, Callable[[], Any]] = {
        "request": lambda: handle.request(3).__enter__(),
        "set_budget": lambda: handle.set_budget(3),
        "remove": handle.remove,
    }
    errors: list[BaseException | None] = []

    def tries(*seen: Any) -> None:
        if where == "callback":
            with pytest.raises(otcache.ExecutionError, match="a run must end before the handle"):
                changes[change]()
        else:
            with ThreadPoolExecutor(1) as pool:
                errors.append(pool.submit(changes[change]).exception())

    handle.set_budget(5)
    watch = loop.denoiser.register_forward_hook(tries)
    _sample(loop)
    watch.remove()
    assert handle.run is not None
    assert (loop.denoiser.calls, handle.run.report.computed) == (5, {"call": 5})
    assert all("a run must end before" in str(error) for error in errors)
    handle.set_budget(3)
    _sample(loop)
    assert loop.denoiser.calls == 5 + 3


@pytest.mark.filterwarnings("ignore:the run has 13 steps")
def test_a_run_that_broke_off_does_not_stand_in_the_way(
    loop: otcache.Loop, handle: otcache.Enabled
) -> None:
    handle.set_budget(5)
    with pytest.raises(IndexError), torch.no_grad():
        loop(["a"], [0], STEPS + 1)
    handle.set_budget(3)
    _sample(loop)
    assert handle.run is not None
    assert handle.run.report.computed == {"call": 3}


def test_a_removed_handle_says_so_and_leaves_nothing(loop: otcache.Loop) -> None:
    before = dict(vars(loop.denoiser))
    handle = otcache.enable(loop, _policy(), budget=4)
    handle.remove()
    handle.remove()
    assert vars(loop.denoiser) == before
    for change in (lambda: handle.set_budget(None), lambda: handle.request(3).__enter__()):
        with pytest.raises(otcache.OtcacheError, match=r"removed: call otcache\.enable"):
            change()
    assert torch.equal(_sample(loop), _sample(make_loop()))


@pytest.mark.parametrize("budget", [0, STEPS + 1, None])
def test_a_bad_budget_of_a_request_changes_nothing(
    loop: otcache.Loop, handle: otcache.Enabled, budget: int
) -> None:
    handle.set_budget(4)
    with pytest.raises(otcache.OtcacheError, match="budget"), handle.request(budget):
        pass
    _sample(loop)
    assert loop.denoiser.calls == 4
