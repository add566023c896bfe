"""Handles and entered contexts live on their target; what is taken already is said truly, with a way out."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import toy
from diffusers import FluxImg2ImgPipeline, FluxPipeline
from tiny_flux import N, make_flux, make_policy, quiet, sample, twin_of

import otcache
from otcache_core import Provenance
from otcache_core.contracts import RunHandle


@pytest.fixture(autouse=True, scope="module")
def _only_new_objects_are_collected() -> Iterator[None]:
    """Spare each collection what was imported before."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Count:
    """Counts the calls of a module, and keeps nothing but itself."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.calls = 0
        module.register_forward_hook(self)

    def __call__(self, *seen: Any) -> None:
        self.calls += 1


class Kind:
    """A target, its runs, and the calls of its denoiser."""

    def __init__(self, target: Any, denoiser: Any, run: Callable[[], Any], policy: Any) -> None:
        self.target, self.denoiser, self.run, self.policy = target, denoiser, run, policy
        leaves = (m for m in denoiser.modules() if not list(m.children()))
        self.count = Count(next(leaves))
        self.run()  # leaves on a pipeline what plain runs leave

    def calls(self, run: Callable[[], Any] | None = None) -> int:
        """Make a run; how many calls of the denoiser were made in it."""
        self.count.calls = 0
        (run or self.run)()
        return self.count.calls


class Net(torch.nn.Module):
    """A module with a part that can be hooked."""

    def __init__(self) -> None:
        super().__init__()
        self.part = torch.nn.Identity()

    def forward(self, x: torch.Tensor, t: float) -> torch.Tensor:
        return self.part(x) * t


def _grid_policy() -> otcache.Policy:
    grid = tuple(1 - i / N for i in range(N + 1))
    thin, full = otcache.Schedule(N, (0, 4)), otcache.Schedule(N, (0, 2, 4, 6))
    return otcache.Policy(thin, full, Provenance(N, model_class="Net", grid=grid))


def _steps(net: Any) -> torch.Tensor:
    x = torch.ones(1, 4)
    for i in range(N):
        x = x - net(x, 1 - i / N) / N
    return x


def _pipeline() -> Kind:
    pipe = make_flux()
    alive = weakref.ref(pipe)
    return Kind(pipe, pipe.transformer, lambda: sample(alive()), make_policy())


def _module() -> Kind:
    net = Net()
    alive = weakref.ref(net)
    return Kind(net, net, lambda: _steps(alive()), _grid_policy())


def _loop() -> Kind:
    net = Net()
    made = otcache.loop(lambda num_steps: _steps(net), denoiser=net)
    alive: Any = weakref.ref(made)
    return Kind(made, net, lambda: alive()(N), _grid_policy())


KINDS = {"pipeline": _pipeline, "loop": _loop, "module": _module}
#: Ways to be accelerated by something that nobody keeps.
WAYS: dict[str, Callable[[Kind], Any]] = {
    "enabled": lambda kind: otcache.enable(kind.target, kind.policy, 4),
    "entered": lambda kind: otcache.accelerate(kind.target, kind.policy, 4).__enter__(),
}
on_all = pytest.mark.parametrize("made", KINDS.values(), ids=KINDS.keys())
either = pytest.mark.parametrize("way", WAYS)


# -- where they live ----------------------------------------------------------------------------


@either
@on_all
def test_what_nobody_keeps_stays_on_until_it_is_removed(made: Callable[[], Kind], way: str) -> None:
    kind = made()
    before = dict(vars(kind.target))
    for _ in range(2):
        WAYS[way](kind)
        gc.collect()
        assert kind.calls() == 4
        found = otcache.enabled(kind.target)
        assert found is not None
        found.remove()
        found.remove()
        assert vars(kind.target) == before
        assert (otcache.enabled(kind.target), kind.calls()) == (None, N)


@either
@on_all
def test_it_dies_with_its_target(made: Callable[[], Kind], way: str) -> None:
    kind = made()
    denoiser = None if kind.denoiser is kind.target else kind.denoiser
    kept = WAYS[way](kind)
    run = kept.run if isinstance(kept, otcache.Enabled) else kept
    kind.run()
    dead = [weakref.ref(kind.target), weakref.ref(otcache.enabled(kind.target))]
    del kind, kept
    gc.collect()
    assert [ref() for ref in dead] == [None, None]
    assert denoiser is None or "forward" not in vars(denoiser)
    assert (run.running, run.report.runs) == (False, 1)


@either
def test_it_dies_with_its_target_though_the_weights_and_the_scheduler_are_shared(way: str) -> None:
    base = make_flux()
    kind = Kind(copy.copy(base), base.transformer, lambda: None, make_policy())
    WAYS[way](kind)
    dead = weakref.ref(kind.target)
    del kind
    gc.collect()
    assert dead() is None
    assert otcache.enabled(base) is None
    assert not vars(base.scheduler).keys() & {"step", "set_timesteps"}
    with otcache.accelerate(base, make_policy(), 4) as run:
        sample(base)
    assert run.report.computed == {"cond": 4}


@either
@pytest.mark.parametrize("ways", ["copy", "deepcopy", "pickle", "from_pipe", "components"])
def test_copies_of_a_pipeline_do_not_carry_it(way: str, ways: str) -> None:
    kind = _pipeline()
    copies: dict[str, Callable[[Any], Any]] = {
        "copy": copy.copy,
        "deepcopy": copy.deepcopy,
        "pickle": lambda pipe: pickle.loads(pickle.dumps(pipe)),
        "from_pipe": FluxPipeline.from_pipe,
        "components": lambda pipe: FluxPipeline(**pipe.components),
    }
    names = vars(copies[ways](kind.target)).keys()
    WAYS[way](kind)
    other = copies[ways](kind.target)
    assert vars(other).keys() == names
    assert otcache.enabled(other) is None
    dead = weakref.ref(kind.target)
    del kind
    gc.collect()
    assert dead() is None


def test_a_loop_s_copy_does_not_carry_it() -> None:
    kind = _loop()
    WAYS["enabled"](kind)
    other = copy.copy(kind.target)
    assert (otcache.enabled(other), vars(other).keys() & {"_otcache", "__reduce_ex__"}) == (
        None,
        set(),
    )
    assert kind.calls(lambda: other(N)) == N


@pytest.mark.parametrize("what", ["function", "generator", "coroutine", "asynchronous generator"])
def test_a_decorated_function_is_accelerated_to_its_end(what: str) -> None:
    kind = _loop()
    accelerated = otcache.accelerate(kind.target, kind.policy, 4)

    def function() -> int:
        return kind.calls()

    def generator() -> Iterator[int]:
        yield kind.calls()

    async def coroutine() -> int:
        await asyncio.sleep(0)
        return kind.calls()

    async def asynchronous() -> AsyncIterator[int]:
        await asyncio.sleep(0)
        yield kind.calls()

    async def drained() -> int:
        [made] = [made async for made in accelerated(asynchronous)()]
        return made

    runs: dict[str, Callable[[], int]] = {
        "function": lambda: accelerated(function)(),
        "generator": lambda: next(accelerated(generator)()),
        "coroutine": lambda: asyncio.run(accelerated(coroutine)()),
        "asynchronous generator": lambda: asyncio.run(drained()),
    }
    assert [runs[what]() for _ in range(2)] == [4, 4]
    gc.collect()
    assert kind.calls() == N


def test_a_decorated_asynchronous_generator_is_sent_to_and_ends_inside_its_context() -> None:
    kind, heard = _loop(), list[Any]()

    @otcache.accelerate(kind.target, kind.policy, 4)
    async def stream() -> AsyncIterator[int]:
        try:
            heard.append((yield kind.calls()))
            yield kind.calls()
        finally:
            heard.append(otcache.enabled(kind.target) is not None)

    async def main() -> None:
        steps: Any = stream()
        assert await anext(steps) == 4
        assert await steps.asend("more") == 4
        await steps.aclose()

    asyncio.run(main())
    assert heard == ["more", True]
    assert otcache.enabled(kind.target) is None


# -- what is taken ------------------------------------------------------------------------------


def _enable(kind: Kind) -> None:
    otcache.enable(kind.target, kind.policy, 3)


def _accelerate(kind: Kind) -> None:
    otcache.accelerate(kind.target, kind.policy, 3).__enter__()


#: What is there, what comes second, and its message; a loop has its own words for it.
AGAIN = [
    pytest.param(
        "enabled",
        _enable,
        marks=pytest.mark.remedy("for another policy call handle.remove() first."),
    ),
    pytest.param(
        "entered",
        _enable,
        marks=pytest.mark.remedy("is accelerated already: leave that context first; otcache"),
    ),
    ("enabled", _accelerate),
    ("entered", _accelerate),
]


@pytest.mark.parametrize(("way", "again"), AGAIN)
@on_all
def test_a_second_one_is_refused_and_the_first_one_removed_makes_room(
    made: Callable[[], Kind], way: str, again: Callable[[Kind], None]
) -> None:
    kind = made()
    WAYS[way](kind)
    with pytest.raises(otcache.ExecutionError) as error:
        again(kind)
    said = str(error.value)
    assert "already" in said
    assert "otcache.enabled(" in said
    assert "scheduler" not in said
    assert kind.calls() == 4  # the first one is as it was
    otcache.enabled(kind.target).remove()
    again(kind)
    assert kind.calls() == 3
    otcache.enabled(kind.target).remove()
    assert kind.calls() == N


@pytest.mark.remedy(
    "is enabled already: run it in handle.request(budget), or call otcache.enabled(pipe)"
)
@pytest.mark.parametrize("budget", [None, 4])
@on_all
def test_what_is_enabled_is_not_accelerated_whatever_its_budget(
    made: Callable[[], Kind], budget: int | None
) -> None:
    kind = made()
    handle = otcache.enable(kind.target, kind.policy, budget)
    with pytest.raises(otcache.ExecutionError, match="is enabled already: run it in"):
        _accelerate(kind)
    with handle.request(3):
        assert kind.calls() == 3
    otcache.enabled(kind.target).remove()
    _accelerate(kind)
    assert kind.calls() == 3


@pytest.mark.remedy("make one by otcache.plan(...); one schedule runs by otcache.accelerate(target")
@on_all
def test_a_schedule_is_no_policy_and_runs_by_accelerate(made: Callable[[], Kind]) -> None:
    kind = made()
    schedule = kind.policy.schedule(3)
    with pytest.raises(otcache.OtcacheError, match="must be a Policy, got 'Schedule'"):
        otcache.enable(kind.target, schedule, 3)  # type: ignore[arg-type]  # as people do
    with otcache.accelerate(kind.target, schedule):
        assert kind.calls() == 3


def test_a_module_that_guidance_calls_twice_is_enabled_like_it_is_accelerated() -> None:
    net, policy = torch.nn.Linear(4, 4), make_policy()
    called = 0

    def count(*_: object) -> None:
        nonlocal called
        called += 1

    net.register_forward_hook(count)
    handle = otcache.enable(net, policy, calls_per_step=2)
    with handle.request(2) as run, torch.no_grad():
        for _ in range(2 * N):
            net(torch.ones(1, 4))
    handle.remove()
    assert set(run.report.computed.values()) == {2}


@pytest.mark.remedy(
    "leave that context first, or call handle.remove(); otcache.enabled(pipe).remove() does it if"
)
def test_a_context_inside_a_context_is_refused_until_that_is_left() -> None:
    kind = _pipeline()
    with otcache.accelerate(kind.target, kind.policy, 4), pytest.raises(otcache.ExecutionError):
        otcache.accelerate(kind.target, kind.policy, 3).__enter__()
    with otcache.accelerate(kind.target, kind.policy, 3):
        assert kind.calls() == 3


@pytest.mark.remedy(
    "this loop is already accelerated or recorded by otcache: leave that context first, or"
)
@pytest.mark.remedy("or call handle.remove(); otcache.enabled(loop).remove() does it if the handle")
def test_a_loop_inside_its_own_context_is_refused_until_that_is_left() -> None:
    kind = _loop()
    with otcache.accelerate(kind.target, kind.policy, 4), pytest.raises(otcache.ExecutionError):
        otcache.accelerate(kind.target, kind.policy, 3).__enter__()
    with otcache.accelerate(kind.target, kind.policy, 3):
        assert kind.calls() == 3
    otcache.accelerate(kind.target, kind.policy, 4).__enter__()  # nobody keeps the context
    with pytest.raises(otcache.ExecutionError):
        otcache.accelerate(kind.target, kind.policy, 3).__enter__()
    otcache.enabled(kind.target).remove()
    with otcache.accelerate(kind.target, kind.policy, 3):
        assert kind.calls() == 3


@pytest.mark.remedy(
    "and their calls cannot be distinguished: leave that context first or call handle.remove()"
)
def test_a_module_of_an_enabled_loop_is_refused_until_that_is_removed() -> None:
    kind = _loop()
    handle = otcache.enable(kind.target, kind.policy, 4)
    with pytest.raises(otcache.ExecutionError, match="by way of a Loop"):
        otcache.enable(kind.denoiser, kind.policy, 3)
    handle.remove()
    otcache.enable(kind.denoiser, kind.policy, 3)
    assert kind.calls() == 3


@pytest.mark.remedy(
    "a request is entered once at a time, got a second entry: call handle.request(...)"
)
def test_a_request_is_entered_once_at_a_time() -> None:
    kind = _loop()
    handle = otcache.enable(kind.target, kind.policy)
    request = handle.request(3)
    with request, pytest.raises(otcache.ExecutionError, match="entered once at a time"):
        request.__enter__()
    for each in (request, handle.request(3)):
        with each:
            assert kind.calls() == 3


@pytest.mark.remedy("got remove() inside it: call it after the run.")
def test_a_context_is_not_removed_inside_a_run() -> None:
    kind = _loop()
    otcache.accelerate(kind.target, kind.policy, 4).__enter__()
    found = otcache.enabled(kind.target)
    assert found is not None
    errors: list[Exception] = []

    def removes(*seen: Any) -> None:
        with pytest.raises(otcache.ExecutionError) as error:
            found.remove()
        errors.append(error.value)

    hook = kind.denoiser.register_forward_hook(removes)
    assert kind.calls() == 4
    assert errors
    hook.remove()
    found.remove()
    assert kind.calls() == N


def test_the_budget_of_an_enabled_pipeline_changes_as_the_refusal_says() -> None:
    kind = _pipeline()
    WAYS["enabled"](kind)
    handle = otcache.enabled(kind.target)
    assert isinstance(handle, otcache.Enabled)
    with handle.request(3) as run:
        assert kind.calls() == 3
    handle.set_budget(2)
    assert (kind.calls(), handle.budget) == (2, 2)
    assert str(run).startswith("1 run in ")


@pytest.mark.remedy(
    "give this one a scheduler of its own first, pipe.scheduler = type(pipe.scheduler)"
)
@pytest.mark.remedy("so its runs are too: leave it at that")
@pytest.mark.parametrize(
    "related", [copy.copy, FluxPipeline.from_pipe, FluxImg2ImgPipeline.from_pipe]
)
def test_a_pipeline_with_the_scheduler_of_an_enabled_one_is_refused_with_advice(
    related: Callable[[Any], Any],
) -> None:
    kind = _pipeline()
    handle = WAYS["enabled"](kind)
    pipe = quiet(related(kind.target))
    with pytest.raises(otcache.ExecutionError, match="so its runs are too: leave it at that"):
        otcache.enable(pipe, kind.policy, 3)
    image = (
        {"image": torch.zeros(1, 3, 16, 16), "strength": 1.0} if "Img" in str(type(pipe)) else {}
    )
    assert kind.calls(lambda: sample(pipe, **image)) == 4
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    own = otcache.enable(pipe, kind.policy, 3)
    assert kind.calls(lambda: sample(pipe, **image)) == 3
    assert kind.calls() == 4
    own.remove()
    handle.remove()
    assert "forward" not in vars(kind.denoiser)


# -- twins --------------------------------------------------------------------------------------


def test_a_twin_is_computed_in_full_and_that_is_said_once() -> None:
    kind = _pipeline()
    twin = twin_of(kind.target)
    with otcache.accelerate(kind.target, kind.policy, 4) as run:
        assert kind.calls() == 4
        assert [kind.calls(lambda: sample(twin)) for _ in range(2)] == [N, N]
    [said] = run.report.warnings
    assert "outside a run of this target's own sampler" in said


def test_request_scoped_twins_are_served_each_with_its_budget() -> None:
    """A twin a request, enabled or accelerated for that request, in threads, while the base is enabled."""
    base, policy = make_flux(), make_policy()
    otcache.enable(base, policy, 7)
    budgets = (2, 3, 4, 5, 6, None)
    barrier = threading.Barrier(len(budgets))

    def alone(budget: int | None) -> torch.Tensor:
        return _served(make_flux(), budget)[0]

    def _served(
        pipe: Any, budget: int | None, **more: Any
    ) -> tuple[torch.Tensor, RunHandle | None]:
        if budget is None:
            return sample(pipe, **more), None
        if budget % 2:
            with otcache.accelerate(pipe, policy, budget) as run:
                return sample(pipe, budget, **more), run
        with otcache.enable(pipe, policy).request(budget) as run:
            return sample(pipe, budget, **more), run

    def together(pipe: Any, step: int, timestep: Any, kwargs: Any) -> Any:
        barrier.wait(timeout=60)
        return kwargs

    def serve(budget: int | None) -> tuple[torch.Tensor, RunHandle | None]:
        return _served(twin_of(base), budget, callback_on_step_end=together)

    with ThreadPoolExecutor(len(budgets)) as pool:
        done = list(pool.map(serve, budgets))
    for budget, (made, run) in zip(budgets, done, strict=True):
        assert torch.equal(made, alone(budget))
        if run is not None:
            assert run.report.computed == {"cond": budget}
    handle = otcache.enabled(base)
    assert handle is not None
    sample(base)
    assert handle.run is not None
    assert handle.run.report.computed == {"cond": 7}
    gc.collect()
    handle.remove()
    assert "forward" not in vars(base.transformer)


# -- reports ------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["inside", "after"])
@pytest.mark.parametrize(
    "way", [copy.copy, copy.deepcopy, lambda run: pickle.loads(pickle.dumps(run))]
)
def test_a_handle_of_runs_is_copied_and_pickled_as_its_report(way: Any, when: str) -> None:
    loop = toy.make_loop()
    with otcache.accelerate(loop, otcache.Schedule(toy.STEPS, (0, 4))) as run:
        loop(["a"], [0], toy.STEPS)
        made = way(run)
    if when == "after":
        made = way(run)
    assert isinstance(made, RunHandle)
    assert (made.report, made.running, made.busy()) == (run.report, False, False)
    assert way(run.report) == run.report
    assert str(made) == str(run) == str(run.report)
    line, *said = str(run).splitlines()
    assert "denoiser calls made: call 2 of 12" in line
    assert said == []
