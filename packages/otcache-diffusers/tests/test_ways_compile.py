"""torch.compile, whole and regional: as many graphs as without otcache, and no break."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tiny
import torch
from torch._dynamo.testing import CompileCounter

from otcache_core import Schedule
from otcache_core.loop import Loop
from otcache_diffusers.execution.executor import TorchExecutor

N = 6
SCHEDULE = Schedule(N, (0, 1, 4), "linear")
Compile = Callable[[tiny.Case, CompileCounter], None]


def _whole(case: tiny.Case, counter: CompileCounter) -> None:
    case.denoiser.compile(backend=counter, fullgraph=True)


def _wrapped(case: tiny.Case, counter: CompileCounter) -> None:
    case.pipe.transformer = torch.compile(case.denoiser, backend=counter, fullgraph=True)


def _regional(case: tiny.Case, counter: CompileCounter) -> None:
    case.denoiser.compile_repeated_blocks(backend=counter, fullgraph=True)


#: How to compile, and how many graphs that makes: Flux has two classes of repeated blocks.
WAYS: dict[str, tuple[Compile, int]] = {
    "whole": (_whole, 1),
    "wrapped": (_wrapped, 1),
    "regional": (_regional, 2),
}


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def _breaks() -> dict[Any, int]:
    return dict(torch._dynamo.utils.counters["graph_break"])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("first", ["compiled", "accelerated"])
def test_graphs_are_those_of_the_plain_pipeline(way: str, first: str) -> None:
    """Whether the user compiles before the context or, as a server may, inside it."""
    compile_it, graphs = WAYS[way]
    case, counter = tiny.flux(), CompileCounter()
    with TorchExecutor().attach(case.pipe, SCHEDULE):
        wanted = case(N)
    if first == "compiled":
        compile_it(case, counter)
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        if first == "accelerated":
            case(N)
            compile_it(case, counter)
        made = [case(N), case(N)]
    assert run.report.skipped == {"cond": 3 * (2 if first == "compiled" else 3)}
    assert run.report.warnings == []
    assert all(torch.allclose(x, wanted, atol=1e-5) for x in made)
    case(N)
    assert counter.frame_count == graphs
    assert _breaks() == {}


def test_what_was_compiled_inside_stays_compiled_after() -> None:
    case, counter = tiny.flux(), CompileCounter()
    before = set(vars(case.denoiser))
    with TorchExecutor().attach(case.pipe, SCHEDULE):
        case(N)
        _whole(case, counter)
        theirs = case.denoiser._compiled_call_impl
        case(N)
        assert case.denoiser._compiled_call_impl is not theirs
    assert case.denoiser._compiled_call_impl is theirs
    assert set(vars(case.denoiser)) - before == {"_compiled_call_impl"}


def test_a_loop_s_module_may_be_compiled_inside_too() -> None:
    net, counter = tiny.Velocity(), CompileCounter()
    loop = Loop(tiny.euler_sampler(net), net, grid=tiny.euler_grid)
    with TorchExecutor().attach(loop, SCHEDULE) as run:
        wanted = loop(["a"], [0], N)
        net.compile(backend=counter, dynamic=True)
        assert torch.allclose(loop(["a"], [0], N), wanted, atol=1e-6)
    assert run.report.skipped == {"call": 6}
    assert _breaks() == {}
