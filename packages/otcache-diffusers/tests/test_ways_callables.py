"""Loops around a denoiser that is not a torch module: a function, a method, a partial, an object."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from otcache_core import ExecutionError, Schedule
from otcache_core.contracts import SampleRequest
from otcache_core.loop import Loop
from otcache_diffusers.execution.block_executor import BlockExecutor
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.hooks.conflicts import inner_modules
from otcache_diffusers.recording.facts import fingerprint_of, provenance_of
from otcache_diffusers.recording.probe import TorchProbe

N = 8
SCHEDULE = Schedule(N, (0, 2, 4, 6))


class Net(tiny.Velocity):
    """Has a second way in, as DiT's ``forward_with_cfg`` is one."""

    def guided(self, x: Tensor, t: Any) -> Tensor:
        return 3 * self(x, t) - 2 * self(x + 1, t)


class Wrapper:
    """Passes calls and attributes on, as k-diffusion's wrappers do, and is not a module."""

    def __init__(self, inner: nn.Module) -> None:
        self.inner = inner

    def __call__(self, x: Tensor, sigma: Any) -> Tensor:
        return self.inner(x, sigma)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["inner"], name)


class Session:
    """Holds what Python cannot see into."""

    def run(self, x: Tensor, t: Any) -> Tensor:
        return -x * t


def _function(net: nn.Module) -> Callable[..., Tensor]:
    def denoise(x: Tensor, t: Any) -> Tensor:
        return net(x, t)

    return denoise


KINDS: dict[str, Callable[[Net], Any]] = {
    "function": _function,
    "method": lambda net: net.guided,
    "partial": lambda net: functools.partial(net.guided, t=0.5),
    "object": Wrapper,
    "session": lambda net: Session().run,
}


def _loop(kind: str, net: Net | None = None) -> Loop:
    """Return an Euler sampler that calls ``loop.denoiser``."""

    def sample(prompts: Any, seeds: Any, num_steps: int) -> Tensor:
        x = torch.stack([tiny.noise(8, seed=seed) for seed in seeds])
        s = tiny.euler_grid(num_steps)
        with torch.no_grad():
            for i in range(num_steps):
                v = loop.denoiser(x) if kind == "partial" else loop.denoiser(x, s[i])
                x = x + (s[i + 1] - s[i]) * v
        return x

    loop = Loop(sample, KINDS[kind](net or Net()), grid=tiny.euler_grid)
    return loop


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_accelerated_and_left_as_it_was(kind: str) -> None:
    loop = _loop(kind)
    denoiser, plain = loop.denoiser, loop(["a"], [0], N)
    with TorchExecutor().attach(loop, Schedule.full(N)):
        assert torch.equal(loop(["a"], [0], N), plain)
    with TorchExecutor().attach(loop, SCHEDULE) as run:
        skipped = loop(["a"], [0], N)
        assert not torch.equal(skipped, plain) or kind == "partial"
    assert (run.report.runs, run.report.computed, run.report.skipped) == (
        1,
        {"call": 4},
        {"call": 4},
    )
    assert run.report.warnings == []
    assert loop.denoiser is denoiser
    assert torch.equal(loop(["a"], [0], N), plain)


def test_it_is_accelerated_as_a_module_is() -> None:
    net = Net()
    module = Loop(tiny.euler_sampler(net), net, grid=tiny.euler_grid)
    results = []
    for loop in (module, _loop("function", net)):
        with TorchExecutor().attach(loop, Schedule(N, (0, 1, 4), "linear")):
            results.append(loop(["a"], [0], N))
    assert torch.equal(*results)


def test_an_exception_leaves_nothing_behind() -> None:
    loop = _loop("function")
    with pytest.raises(KeyError), TorchExecutor().attach(loop, SCHEDULE):
        raise KeyError
    with TorchExecutor().attach(loop, SCHEDULE):
        loop(["a"], [0], N)


def test_a_callable_is_driven_by_one_context_at_a_time() -> None:
    loop = _loop("object")
    other = Loop(lambda num_steps: None, loop.denoiser)
    with TorchExecutor().attach(loop, SCHEDULE):
        with (
            pytest.raises(ExecutionError, match="Wrapper is already accelerated or recorded"),
            TorchExecutor().attach(other, SCHEDULE),
        ):
            pass
        assert loop(["a"], [0], N).shape == (1, 8)


def test_a_sampler_that_calls_the_function_itself_gets_advice() -> None:
    net = Net()
    raw = _function(net)
    loop = Loop(tiny.euler_sampler(net), raw)
    for attempt in (
        lambda: list(TorchProbe().record(loop, SampleRequest(("a",), (0,), N))),
        lambda: _accelerated(loop),
    ):
        with pytest.raises(ExecutionError, match=r"must call denoise as loop\.denoiser\(\.\.\.\)"):
            attempt()


def _accelerated(loop: Loop) -> Tensor:
    with TorchExecutor().attach(loop, SCHEDULE):
        return loop(["a"], [0], N)


def test_a_denoiser_that_is_replaced_is_followed_from_the_next_run_on() -> None:
    loop, other = _loop("function"), _function(Net())
    with TorchExecutor().attach(loop, SCHEDULE) as run:
        loop(["a"], [0], N)
        loop.denoiser = other
        loop(["a"], [0], N)
        assert run.report.skipped == {"call": 8}
        loop.denoiser = Net()
        with pytest.raises(ExecutionError, match="got Net: leave the context first"):
            loop(["a"], [0], N)


def test_a_copy_made_inside_the_context_is_plain() -> None:
    loop = _loop("function")
    with TorchExecutor().attach(loop, SCHEDULE) as run:
        for made in (copy.copy(loop.denoiser), copy.deepcopy(loop.denoiser)):
            made(tiny.noise(1, 8), 0.5)
    assert run.report.computed == {}


def test_threads_do_not_wait_and_a_second_run_is_refused() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def denoise(x: Tensor, t: float) -> Tensor:
        if t < 0.5 and not inside.is_set():
            inside.set()
            go_on.wait(60)
        return -x * t

    def sample(num_steps: int) -> Tensor:
        x, s = tiny.noise(1, 8), tiny.euler_grid(num_steps)
        for i in range(num_steps):
            x = x + (s[i + 1] - s[i]) * loop.denoiser(x, s[i])
        return x

    loop = Loop(sample, denoise)
    with TorchExecutor().attach(loop, SCHEDULE), ThreadPoolExecutor(1) as other:
        first = other.submit(loop, N)
        inside.wait(60)
        with pytest.raises(ExecutionError, match="got a second before the first has ended"):
            loop(N)
        x = tiny.noise(1, 8)
        assert torch.equal(loop.denoiser(x, 0.75), -x * 0.75)
        go_on.set()
        assert first.exception() is None


# -- facts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "modules"),
    [
        ("function", "denoise", 1),
        ("method", "Net.guided", 1),
        ("partial", "Net.guided", 1),
        ("object", "Wrapper", 1),
        ("session", "Session.run", 0),
    ],
)
def test_facts_are_those_of_the_modules_inside(kind: str, name: str, modules: int) -> None:
    net = Net()
    loop = _loop(kind, net)
    facts = provenance_of(loop, N, {})
    assert facts["model_class"] == name
    assert len(inner_modules(loop.denoiser)) == modules
    own = provenance_of(Loop(lambda: None, net), N, {})["config_hash"]
    assert facts["config_hash"] == (own if modules else None)
    before = fingerprint_of(loop)
    with torch.no_grad():
        next(net.parameters()).add_(1)
    assert (fingerprint_of(loop) != before) == bool(modules)


def test_a_module_with_a_configuration_of_its_own_kind_has_facts() -> None:
    """It raised, where ``config`` is not a dictionary."""
    net = Net()
    wanted = provenance_of(Loop(lambda: None, net), N, {})
    net.config = object()  # type: ignore[assignment]
    assert provenance_of(Loop(lambda: None, net), N, {}) == wanted


GLOBAL = Net()


def _of_a_global(x: Tensor, t: Any) -> Tensor:
    return GLOBAL(x, t)


def _unfilled() -> Any:
    def denoise(x: Tensor) -> Any:
        return late(x)

    found = inner_modules(denoise)
    late = Net()
    return found, late


def test_modules_are_found_where_a_function_names_them() -> None:
    assert inner_modules(_of_a_global) == [GLOBAL]
    assert inner_modules([{"a": GLOBAL}, GLOBAL, 3]) == [GLOBAL]
    assert _unfilled()[0] == []


def test_another_cache_on_a_module_inside_is_refused() -> None:
    net = Net()
    net._is_cached = True  # type: ignore[assignment]  # cache-dit's mark
    with (
        pytest.raises(ExecutionError, match=r"Net must have no other cache, got cache-dit's"),
        TorchExecutor().attach(_loop("object", net), SCHEDULE),
    ):
        pass


def test_a_callable_has_no_blocks() -> None:
    loop = _loop("function")
    assert BlockExecutor().supports(loop) == "denoise is not a torch module, so it has no blocks"
    with pytest.raises(ExecutionError, match="cache whole outputs"):
        BlockExecutor().attach(loop, SCHEDULE)
