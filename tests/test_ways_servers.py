"""A policy that stays on a pipeline: a budget for each request, threads, and an end."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import tiny_flux
import torch
from toy import STEPS, make_loop

import otcache
from otcache_core import Provenance, Schedule
from otcache_core.errors import OtcacheNotice
from otcache_core.loop_run import finished


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
    handle.set_budget(torch.tensor(5))
    assert type(handle.budget) is int
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


@pytest.mark.remedy("by a callback or another thread: change the budget between runs")
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


@pytest.mark.remedy("got one that was removed: call otcache.enable(pipe, policy) again")
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
    again = otcache.enable(loop, _policy(), budget=4)
    with again.request(3):
        assert torch.equal(_sample(loop), _alone(3, 0))
    again.remove()


@pytest.mark.parametrize("budget", [0, STEPS + 1, None])
def test_a_bad_budget_of_a_request_changes_nothing(
    loop: otcache.Loop, handle: otcache.Enabled, budget: int
) -> None:
    handle.set_budget(4)
    with pytest.raises(otcache.OtcacheError, match="budget"), handle.request(budget):
        pass
    _sample(loop)
    assert loop.denoiser.calls == 4


# -- tasks --------------------------------------------------------------------------------------


def test_tasks_wait_in_their_order_and_the_loop_goes_on(
    loop: otcache.Loop, handle: otcache.Enabled
) -> None:
    budgets, order = (3, 4, 6, 8), list[int]()

    async def serve(budget: int) -> torch.Tensor:
        async with handle.request(budget) as run:
            order.append(budget)
            made = await asyncio.to_thread(_sample, loop, budget)  # a thread that did not enter
        assert (run.report.computed, run.report.warnings) == ({"call": budget}, [])
        return made

    async def main() -> list[torch.Tensor]:
        return await asyncio.gather(*map(serve, budgets))

    for budget, made in zip(budgets, asyncio.run(main()), strict=True):
        assert torch.equal(made, _alone(budget, budget))
    assert order == list(budgets)


def test_a_pool_of_threads_without_the_task_s_context_serves_too(
    loop: otcache.Loop, handle: otcache.Enabled
) -> None:
    async def serve(budget: int, pool: ThreadPoolExecutor) -> None:
        async with handle.request(budget) as run:
            made = await asyncio.get_running_loop().run_in_executor(pool, _sample, loop, budget)
        assert run.report.computed == {"call": budget}
        assert torch.equal(made, _alone(budget, budget))

    async def main() -> None:
        with ThreadPoolExecutor(2) as pool:
            await asyncio.gather(*(serve(budget, pool) for budget in (3, 5, 8)))

    asyncio.run(main())


ADVICE = {
    "request": "write 'async with handle.request(...)', which waits in its task",
    "set_budget": "await asyncio.to_thread(handle.set_budget, budget)",
    "remove": "await asyncio.to_thread(handle.remove)",
}


@pytest.mark.remedy("write 'async with handle.request(...)', which waits in its task")
@pytest.mark.remedy("await asyncio.to_thread(handle.set_budget, budget)")
@pytest.mark.remedy("await asyncio.to_thread(handle.remove)")
def test_what_would_block_the_event_loop_is_refused_with_what_does_not(
    loop: otcache.Loop, handle: otcache.Enabled
) -> None:
    async def refused(change: str) -> str:
        changes: dict[str, Callable[[], Any]] = {
            "request": lambda: handle.request(5).__enter__(),
            "set_budget": lambda: handle.set_budget(5),
            "remove": handle.remove,
        }
        with pytest.raises(otcache.ExecutionError) as error:
            changes[change]()
        return str(error.value)

    async def waits() -> None:
        async with handle.request(5):
            pass
        await asyncio.to_thread(handle.set_budget, 6)
        await asyncio.to_thread(handle.remove)

    async def main() -> None:
        with handle.request(3):  # nobody to wait for
            pass
        entered = asyncio.Event()
        go_on = asyncio.Event()

        async def holds() -> None:
            async with handle.request(3):
                entered.set()
                await go_on.wait()

        holder = asyncio.create_task(holds())
        await entered.wait()
        for change, advice in ADVICE.items():
            assert advice in await refused(change)
        waiter = asyncio.create_task(waits())
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(holder, waiter)

    asyncio.run(main())
    assert otcache.enabled(loop) is None


@pytest.mark.remedy("leave the 'with handle.request(...)' block first")
@pytest.mark.parametrize("where", ["task", "child task", "to_thread"])
def test_a_request_inside_a_request_is_an_error_and_no_dead_lock(
    handle: otcache.Enabled, where: str
) -> None:
    async def nested() -> None:
        async with handle.request(5):
            pass

    def blocking() -> None:
        with handle.request(5):
            pass

    async def main() -> None:
        ways: dict[str, Callable[[], Any]] = {
            "task": nested,
            "child task": lambda: asyncio.create_task(nested()),
            "to_thread": lambda: asyncio.to_thread(blocking),
        }
        async with handle.request(3):
            with pytest.raises(otcache.ExecutionError, match="leave the 'with handle"):
                await ways[where]()
        await nested()
        blocking()

    asyncio.run(main())


@pytest.mark.parametrize("when", ["waiting", "granted", "inside"])
def test_a_cancelled_request_leaves_the_handle_clean(
    loop: otcache.Loop, handle: otcache.Enabled, when: str
) -> None:
    handle.set_budget(5)

    async def serve(budget: int, entered: asyncio.Event, go_on: asyncio.Event) -> None:
        async with handle.request(budget):
            entered.set()
            await go_on.wait()

    async def main() -> None:
        events = [asyncio.Event() for _ in range(4)]
        first = asyncio.create_task(serve(3, *events[:2]))
        await events[0].wait()
        second = asyncio.create_task(serve(4, *events[2:]))
        await asyncio.sleep(0)
        doomed = {"waiting": second, "granted": second, "inside": first}[when]
        if (
            when == "granted"
        ):  # the turn is given in the very step of the loop in which it is cancelled
            events[1].set()
            await first
        doomed.cancel()
        await asyncio.gather(doomed, return_exceptions=True)
        assert doomed.cancelled()
        for event in events:
            event.set()
        await asyncio.gather(first, second, return_exceptions=True)
        async with handle.request(6) as run:
            _sample(loop)
        assert run.report.computed == {"call": 6}

    asyncio.run(main())
    _sample(loop)
    assert handle.run is not None
    assert handle.run.report.computed == {"call": 5}


def test_a_cancelled_request_s_run_goes_on_to_its_end_and_the_next_waits_for_it(
    loop: otcache.Loop, handle: otcache.Enabled
) -> None:
    """Cancelling a task does not stop the thread that it waits for."""
    inside, go_on, made, runs = threading.Event(), threading.Event(), list[torch.Tensor](), []

    def stop(*seen: Any) -> None:
        if not inside.is_set():
            inside.set()
            assert go_on.wait(60)

    loop.denoiser.register_forward_hook(stop)

    async def abandoned() -> None:
        async with handle.request(3) as run:
            runs.append(run)
            await asyncio.to_thread(lambda: made.append(_sample(loop, 1)))

    async def main() -> None:
        task = asyncio.create_task(abandoned())
        await asyncio.to_thread(inside.wait, 60)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        following = asyncio.create_task(follows())
        await asyncio.sleep(0)
        assert not following.done()
        go_on.set()
        await following

    async def follows() -> None:
        async with handle.request(6) as run:
            assert torch.equal(await asyncio.to_thread(_sample, loop), _alone(6, 0))
        assert (run.report.computed, run.report.warnings) == ({"call": 6}, [])

    asyncio.run(main())
    assert torch.equal(made[0], _alone(3, 1))
    assert (runs[0].report.computed, runs[0].report.warnings) == ({"call": 3}, [])


@pytest.mark.remedy("write 'async with handle.request(...)' around asyncio.to_thread")
def test_threads_of_asyncio_s_own_pool_that_wait_are_warned_of(
    loop: otcache.Loop, handle: otcache.Enabled
) -> None:
    """Enough of them leave none for the one whose turn it is, and all wait for ever."""

    def plain() -> None:
        with handle.request(3):
            _sample(loop)

    async def main(waiter: Callable[[], Any]) -> None:
        entered = asyncio.Event()

        async def later() -> None:
            await entered.wait()
            await waiter()

        task = asyncio.create_task(later())  # not from inside the request
        async with handle.request(4):
            entered.set()
            while not (handle._turns._waiting or task.done()):
                await asyncio.sleep(0)
            await asyncio.to_thread(_sample, loop)
        await task

    async def advised() -> None:
        async with handle.request(3):
            await asyncio.to_thread(_sample, loop)

    with pytest.warns(OtcacheNotice, match="a thread of asyncio's own pool waits"):
        asyncio.run(main(lambda: asyncio.to_thread(plain)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", OtcacheNotice)
        asyncio.run(main(advised))


@pytest.mark.remedy("for one that is wanted call handle.request(...) again")
@pytest.mark.parametrize("budget", [None, 5])
@pytest.mark.parametrize("when", ["between", "inside"])
def test_a_run_that_comes_after_its_request_was_cancelled_is_refused(
    loop: otcache.Loop, handle: otcache.Enabled, budget: int | None, when: str
) -> None:
    """A thread that was on its way to the pipeline cannot be stopped, and ran into the next request."""
    handle.set_budget(budget)
    inside, go_on, said = threading.Event(), threading.Event(), list[str]()

    def late() -> None:
        inside.set()
        assert go_on.wait(60)
        with pytest.raises(otcache.OtcacheError, match="before its request ends") as refused:
            _sample(loop, 1)
        said.append(str(refused.value))
        with handle.request(4) if when == "between" else contextlib.nullcontext():
            _sample(loop, 1)  # another call from there is nobody's, or of a request of its own

    async def cancelled() -> None:
        async with handle.request(3):
            await asyncio.to_thread(late)

    async def main() -> None:
        task = asyncio.create_task(cancelled())
        await asyncio.to_thread(inside.wait, 60)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if when == "between":
            go_on.set()
            await asyncio.get_running_loop().shutdown_default_executor()
        async with handle.request(6) as run:
            if when == "inside":
                go_on.set()
                await asyncio.get_running_loop().shutdown_default_executor()
            _sample(loop)
        assert run.report.computed == {"call": 6 if when == "between" else 12}
        assert run.report.warnings == []

    asyncio.run(main())
    assert said
    gc.collect()
    assert (handle.run is None) == (budget is None)
    handle.set_budget(budget)
    assert "forward" not in vars(loop.denoiser) or budget is not None


def test_a_late_call_is_refused_before_it_changes_anything_on_its_pipeline() -> None:
    """It set the guidance of the request that was under way."""
    pipe = tiny_flux.make_flux()
    handle = otcache.enable(pipe, tiny_flux.make_policy())
    with contextlib.suppress(TimeoutError), handle.request(3):
        inside = contextvars.copy_context()
        raise TimeoutError
    with handle.request(4) as run:
        tiny_flux.sample(pipe, guidance_scale=2.0)
        with pytest.raises(otcache.OtcacheError, match="before its request ends"):
            inside.run(tiny_flux.sample, pipe, guidance_scale=7.0)
    assert (pipe.guidance_scale, run.report.computed, run.report.warnings) == (2.0, {"cond": 4}, [])
    handle.remove()


@pytest.mark.parametrize("way", ["thread", "task"])
def test_who_left_a_run_behind_may_ask_again_and_waits_for_it(
    loop: otcache.Loop, handle: otcache.Enabled, way: str
) -> None:
    """As after a timeout: the next request was said to be inside the one that was left."""
    inside, go_on = threading.Event(), threading.Event()

    def stop(*seen: Any) -> None:
        inside.set()
        assert go_on.wait(60)

    loop.denoiser.register_forward_hook(stop)

    def threads(pool: ThreadPoolExecutor) -> None:
        with handle.request(3) as run:
            pool.submit(_sample, loop, 1)
            inside.wait(60)
        go_on.set()
        with handle.request(6):
            assert run.report.computed == {"call": 3}

    async def tasks(pool: ThreadPoolExecutor) -> None:
        async with handle.request(3) as run:
            pool.submit(_sample, loop, 1)
            await asyncio.to_thread(inside.wait, 60)
        go_on.set()
        async with handle.request(6):
            assert run.report.computed == {"call": 3}

    with ThreadPoolExecutor(1) as pool:
        threads(pool) if way == "thread" else asyncio.run(tasks(pool))


def test_one_whose_event_loop_is_gone_is_passed_over(handle: otcache.Enabled) -> None:
    with handle.request(3):
        gone = asyncio.new_event_loop()
        waits = handle.request(4).__aenter__()

        async def begins() -> None:
            waits.send(None)

        # In a thread of its own, as a task from inside this request would be refused.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(gone.run_until_complete, begins()).result()
        gone.close()
    with handle.request(5):
        pass
    with pytest.raises(RuntimeError):
        waits.throw(RuntimeError)


def test_those_who_wait_for_a_handle_that_is_removed_get_an_error(handle: otcache.Enabled) -> None:
    async def serve(entered: asyncio.Event, go_on: asyncio.Event) -> None:
        async with handle.request(3):
            entered.set()
            await go_on.wait()

    async def main() -> None:
        entered, go_on = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(serve(entered, go_on))
        await entered.wait()
        last = asyncio.create_task(serve(asyncio.Event(), go_on))
        removed = asyncio.create_task(asyncio.to_thread(handle.remove))
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(first, removed, last, return_exceptions=True)
        with pytest.raises(otcache.OtcacheError, match="removed: call otcache"):
            await serve(entered, go_on)

    asyncio.run(main())


# -- samplers in steps --------------------------------------------------------------------------

GRID = torch.linspace(1, 0, STEPS + 1) ** 1.5


def _stepwise(kind: str) -> tuple[otcache.Loop, Callable[[], torch.Tensor]]:
    """Make a loop whose sampler pauses at each step, and what runs it to its end."""
    net = make_loop().denoiser

    def one(x: torch.Tensor, i: int) -> torch.Tensor:
        with torch.no_grad():
            return x + (GRID[i + 1] - GRID[i]) * net(x, GRID[i])

    def generator(num_steps: int) -> Iterator[torch.Tensor]:
        x = torch.ones(1, 8)
        for i in range(num_steps):
            x = one(x, i)
            yield x

    async def coroutine(num_steps: int) -> torch.Tensor:
        x = torch.ones(1, 8)
        for i in range(num_steps):
            x = await asyncio.to_thread(one, x, i)
        return x

    async def asynchronous(num_steps: int) -> Any:
        for x in generator(num_steps):
            await asyncio.sleep(0)
            yield x

    loop: otcache.Loop

    async def drained() -> torch.Tensor:
        return [x async for x in loop(STEPS)][-1]

    samplers: dict[str, Any] = {
        "generator": generator,
        "returned generator": lambda num_steps: generator(num_steps),
        "coroutine": coroutine,
        "asynchronous generator": asynchronous,
    }
    runs = {
        "coroutine": lambda: asyncio.run(loop(STEPS)),
        "asynchronous generator": lambda: asyncio.run(drained()),
    }
    loop = otcache.loop(samplers[kind], denoiser=net, grid=GRID.tolist())
    return loop, runs.get(kind, lambda: list(loop(STEPS))[-1])


KINDS = ("generator", "returned generator", "coroutine", "asynchronous generator")


@pytest.mark.parametrize("kind", KINDS)
def test_a_sampler_in_steps_is_accelerated_to_its_end(kind: str) -> None:
    loop, run = _stepwise(kind)
    plain, wanted = run(), _stepwise("generator")
    with otcache.accelerate(wanted[0], _policy(), 5):
        expected = wanted[1]()
    loop.denoiser.calls = 0
    with otcache.accelerate(loop, _policy(), 5) as handle:
        assert torch.equal(run(), expected)
        assert torch.equal(run(), expected)
    assert (handle.report.runs, handle.report.computed) == (2, {"call": 10})
    assert (loop.denoiser.calls, handle.report.warnings) == (10, [])
    assert torch.equal(run(), plain)


def test_a_generator_may_be_resumed_in_any_thread_and_shares_its_pauses() -> None:
    """As servers do that stream from a plain generator."""
    loop, run = _stepwise("generator")
    x = torch.ones(2, 8)
    wanted = loop.denoiser(x, GRID[3])
    with otcache.accelerate(loop, _policy(), 5) as handle:
        expected = run()
        steps = loop(STEPS)
        with ThreadPoolExecutor(3) as pool:
            for _ in range(STEPS):
                last = pool.submit(next, steps).result()
                assert torch.equal(loop.denoiser(x, GRID[3]), wanted)
        assert next(steps, None) is None
    assert torch.equal(last, expected)
    assert handle.report.runs == 2
    assert ["outside a run of" in said for said in handle.report.warnings] == [True]


@pytest.mark.parametrize("end", ["closed", "dropped", "failed"])
def test_a_generator_left_in_the_middle_ends_its_run(end: str) -> None:
    loop, run = _stepwise("generator")
    with otcache.accelerate(loop, _policy(), 5) as handle:
        wanted = run()
        steps = loop(STEPS)
        next(steps)
        assert handle.running
        if end == "failed":
            with pytest.raises(KeyError):
                steps.throw(KeyError)
        elif end == "closed":
            steps.close()
        del steps
        assert not handle.running
        assert torch.equal(run(), wanted)
    assert handle.report.runs == 2


@pytest.mark.parametrize("begun", [0, 3])
def test_a_generator_that_outlives_its_context_is_none_of_it_any_more(begun: int) -> None:
    """It attached itself to the denoiser again, or was said to make too few calls."""
    loop, run = _stepwise("generator")
    plain, before = run(), dict(vars(loop.denoiser))
    with otcache.accelerate(loop, _policy(), STEPS):
        run()
        steps = loop(STEPS)
        for _ in range(begun):
            next(steps)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(list(steps)[-1], plain)
    assert vars(loop.denoiser) == before | {"calls": loop.denoiser.calls}


@pytest.mark.remedy(
    "call it in the thread that runs sample_fn, or by asyncio.to_thread(...) or contextvars."
)
def test_calls_from_threads_of_the_sampler_s_own_are_computed_and_the_reason_said() -> None:
    net = make_loop().denoiser.requires_grad_(False)

    def sample(num_steps: int, kept: bool = False) -> torch.Tensor:
        x = torch.ones(1, 8)
        with ThreadPoolExecutor(1) as pool:
            for i in range(num_steps):
                work = partial(contextvars.copy_context().run, net) if kept else net
                x = x + (GRID[i + 1] - GRID[i]) * pool.submit(work, x, GRID[i]).result()
        return x

    loop = otcache.loop(sample, denoiser=net, grid=GRID.tolist())
    plain = loop(STEPS)
    with otcache.accelerate(loop, _policy(), 5) as run:
        assert not torch.equal(loop(STEPS, True), plain)
    assert (run.report.computed, run.report.warnings) == ({"call": 5}, [])
    with warnings.catch_warnings(record=True) as heard, otcache.accelerate(loop, _policy(), 5):
        warnings.simplefilter("always")
        assert torch.equal(loop(STEPS), plain)
    assert ["in threads of its own" in str(said.message) for said in heard] == [True]


# -- loops over one module ----------------------------------------------------------------------


def test_two_loops_over_one_module_have_a_handle_each() -> None:
    one = make_loop()
    two = otcache.loop(one.sample_fn, denoiser=one.denoiser, grid=one.grid)
    handles = [otcache.enable(one, _policy(), 4), otcache.enable(two, _policy(), 6)]
    assert torch.equal(_sample(one), _alone(4, 0))
    assert torch.equal(_sample(two), _alone(6, 0))
    for handle in handles:
        assert handle.run is not None
        assert handle.run.report.warnings == []
        handle.remove()
    assert "forward" not in vars(one.denoiser)


@pytest.mark.remedy("call this in another, by await asyncio.to_thread(...)")
def test_a_sampler_in_steps_runs_to_its_final_state() -> None:
    """Its last state, or what it returns, is the final one."""

    def sampled(kind: str) -> torch.Tensor:
        loop = make_loop()
        plain = loop.sample_fn(["a"], [0], STEPS)

        def generator(*given: Any) -> Iterator[Any]:
            yield None
            yield plain

        async def coroutine(*given: Any) -> torch.Tensor:
            return plain

        async def asynchronous(*given: Any) -> Any:
            yield plain

        kinds = {"g": generator, "c": coroutine, "a": asynchronous}
        made = otcache.loop(kinds[kind], denoiser=loop.denoiser)(["a"], [0], STEPS)
        assert torch.equal(finished(made), plain)
        return plain

    async def inside(kind: str) -> None:
        with pytest.raises(otcache.ExecutionError, match="with a running event loop"):
            sampled(kind)
        await asyncio.to_thread(sampled, kind)

    assert torch.equal(finished(sampled("g")), sampled("c"))
    for kind in "ca":
        sampled(kind)
        asyncio.run(inside(kind))
