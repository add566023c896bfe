"""Block-stack caching on small hand-written denoisers, against the same sampler written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from otcache_core import ExecutionError, Registry, Schedule
from otcache_core.contracts import CacheExecutor
from otcache_core.errors import OtcacheNotice
from otcache_core.loop import Loop
from otcache_core.testing.executors import ExecutorConformance
from otcache_diffusers.execution.block_executor import BlockExecutor
from otcache_diffusers.execution.block_stacks import block_lists
from otcache_diffusers.execution.block_trace import Found, Trace
from otcache_diffusers.execution.executor import TorchExecutor

N, D = 8, 16
COMPUTED = (0, 1, 4, 5)


class Block(nn.Module):
    """h + f(h, time)."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(D, D), nn.Tanh(), nn.Linear(D, D))
        self.calls = 0

    def forward(self, h: torch.Tensor, time: torch.Tensor, skip: Any = None) -> torch.Tensor:
        self.calls += 1
        return h + self.inner(h + time if skip is None else h + time + skip)


class Pair(nn.Module):
    """Two streams of other lengths that see each other; returns them in the other order."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(D, D)
        self.calls = 0

    def forward(
        self, hidden: torch.Tensor, text: torch.Tensor, time: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.calls += 1
        mixed = torch.tanh(self.inner(torch.cat([text, hidden], 1) + time))
        n = text.shape[1]
        return text + mixed[:, :n].mean(1, keepdim=True), hidden + mixed[:, n:]


class Net(nn.Module):
    """Two streams, then one, as Flux has them; ``between`` is added after each single block."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.into, self.out = nn.Linear(1, D), nn.Linear(D, 1)
        self.text = nn.Parameter(torch.randn(1, 3, D))
        self.pairs = nn.ModuleList(Pair() for _ in range(3))
        self.singles = nn.ModuleList(Block() for _ in range(4))
        self.between: Callable[[torch.Tensor], torch.Tensor] = lambda h: h

    def ends(self, x: torch.Tensor, t: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        time = torch.full((1, 1, D), float(t))
        return self.into(x[..., None]) * (1 + time), self.text.expand(len(x), -1, -1), time

    def forward(self, x: torch.Tensor, t: float) -> torch.Tensor:
        hidden, text, time = self.ends(x, t)
        for pair in self.pairs:
            text, hidden = pair(hidden, text=text, time=time)
        h = torch.cat([text, hidden], 1)
        for block in self.singles:
            h = self.between(block(h, time))
        return self.out(h[:, text.shape[1] :])[..., 0]


def _loop(net: nn.Module) -> Loop:
    return Loop(tiny.euler_sampler(net), net, grid=tiny.euler_grid)


def _run(loop: Loop) -> torch.Tensor:
    return loop(["a", "b"], [0, 1], N)


# -- the oracle -----------------------------------------------------------------------------------


@torch.no_grad()
def _by_hand(net: Net, weights: dict[int, dict[int, float]]) -> torch.Tensor:
    """Return the Euler loop with residuals kept and added by hand; weights by skipped and computed step."""
    s = tiny.euler_grid(N)
    x = torch.stack([tiny.noise(8, seed=seed) for seed in (0, 1)])
    kept: dict[int, tuple[torch.Tensor, ...]] = {}
    for i in range(N):
        hidden, text, time = net.ends(x, s[i])
        if i in weights:
            r_text, r_hidden, r_single = (
                sum(a * kept[k][n] for k, a in weights[i].items()) for n in range(3)
            )
            h = torch.cat([text + r_text, hidden + r_hidden], 1) + r_single
            h = net.between(h)
        else:
            text_0, hidden_0 = text, hidden
            for pair in net.pairs:
                text, hidden = pair(hidden, text, time)
            h_0 = h = torch.cat([text, hidden], 1)
            for n, block in enumerate(net.singles):
                h = block(h if n == 0 else net.between(h), time)
            kept[i] = text - text_0, hidden - hidden_0, h - h_0
            h = net.between(h)
        x = x + (s[i + 1] - s[i]) * net.out(h[:, 3:])[..., 0]
    return x


def _linear(i: int, k: int, before: int) -> dict[int, float]:
    s = tiny.euler_grid(N)
    a = (s[i] - s[k]) / (s[k] - s[before])
    return {k: 1 + a, before: -a}


REUSE = {2: {1: 1.0}, 3: {1: 1.0}, 6: {5: 1.0}, 7: {5: 1.0}}
LINEAR = {2: _linear(2, 1, 0), 3: _linear(3, 1, 0), 6: _linear(6, 5, 4), 7: _linear(7, 5, 4)}


@pytest.mark.parametrize(("name", "weights"), [("reuse", REUSE), ("linear", LINEAR)])
@pytest.mark.parametrize(
    "between", [lambda h: h, lambda h: 0.9 * h + 0.1], ids=["plain", "control"]
)
def test_residuals_are_added_as_by_hand(name: str, weights: Any, between: Any) -> None:
    net = Net()
    net.between = between
    loop = _loop(net)
    plain, wanted = _run(loop), _by_hand(net, weights)
    with BlockExecutor().attach(loop, Schedule(N, COMPUTED, name)) as run:
        made = _run(loop)
    torch.testing.assert_close(made, wanted, atol=2e-6, rtol=2e-6)
    assert not torch.allclose(made, plain, atol=1e-4)
    assert run.report.skipped == {"call": 4}
    assert run.report.warnings == []


def test_writes_between_blocks_change_nothing() -> None:
    def in_place(h: torch.Tensor) -> torch.Tensor:
        h[:, 3:] = 0.9 * h[:, 3:] + 0.1
        return h

    def out_of_place(h: torch.Tensor) -> torch.Tensor:
        return torch.cat([h[:, :3], 0.9 * h[:, 3:] + 0.1], 1)

    results = []
    for between in (in_place, out_of_place):
        net = Net()
        net.between = between
        loop = _loop(net)
        with BlockExecutor().attach(loop, Schedule(N, COMPUTED)) as run:
            results.append(_run(loop))
        assert run.report.skipped == {"call": 4}
    torch.testing.assert_close(*results)


def test_residuals_are_what_is_held_and_counted() -> None:
    loop = _loop(Net())
    with BlockExecutor().attach(loop, Schedule(N, COMPUTED, "linear")) as run:
        _run(loop)
    streams = 2 * (3 + 8 + 11) * D * 4  # batch, text + hidden + both, width, bytes
    assert run.report.peak_cached_bytes == 2 * streams
    assert run.report.cached_bytes == 0


def test_blocks_run_in_computed_steps_only() -> None:
    net = Net()
    loop = _loop(net)
    with BlockExecutor().attach(loop, Schedule(N, COMPUTED)):
        _run(loop)
    assert [block.calls for block in (*net.pairs, *net.singles)] == [4] * 7


def test_hooks_and_wraps_of_others_stay_on_the_blocks() -> None:
    net = Net()
    loop, block = _loop(net), net.singles[0]
    theirs = block.forward
    block.forward = theirs  # as offloading leaves it
    plain = _run(loop)
    with BlockExecutor().attach(loop, Schedule.full(N)):
        assert torch.equal(_run(loop), plain)
    assert vars(block)["forward"] is theirs
    assert "forward" not in vars(net.singles[1])


def test_inference_mode_is_no_other_than_no_grad() -> None:
    loop = _loop(Net())
    with BlockExecutor().attach(loop, Schedule(N, COMPUTED, "linear")):
        wanted = _run(loop)
        with torch.inference_mode():
            made = _run(loop)
    torch.testing.assert_close(made, wanted)


# -- what is a stack ------------------------------------------------------------------------------


def _traced(net: nn.Module) -> Found:
    x = tiny.noise(2, 8)
    with torch.no_grad():
        plain = net(x, 0.5)
        found = Trace(block_lists(net))(lambda: net(x, 0.5))
    assert torch.equal(found.output, plain)
    return found


def test_streams_are_followed_through_the_blocks() -> None:
    found = _traced(Net())
    assert [(s.name, len(s.blocks), s.streams) for s in found.stacks] == [
        ("pairs", 3, ("text", 0)),
        ("singles", 4, (0,)),
    ]
    assert found.reason == ""


class Variant(nn.Module):
    """A denoiser of one list, run as ``body`` says."""

    def __init__(self, body: Callable[..., torch.Tensor], count: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.into, self.out = nn.Linear(1, D), nn.Linear(D, 1)
        self.blocks = nn.ModuleList(Block() for _ in range(count))
        self.others = nn.ModuleList(Block() for _ in range(count))
        self.body = body

    def forward(self, x: torch.Tensor, t: float) -> torch.Tensor:
        h, time = self.into(x[..., None]), torch.full((1, 1, D), float(t))
        return self.out(self.body(self, h, time))[..., 0]


def _long_skips(net: Variant, h: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    skips = []
    for n, block in enumerate(net.blocks):
        h = block(h, time) if n < 2 else block(h, time, skip=skips.pop())
        if n < 2:
            skips.append(h)
    return h


def _turns(net: Variant, h: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    for block, other in zip(net.blocks, net.others, strict=True):
        h = other(block(h, time) * 0.5, time)
    return h


def _a_block_twice(net: Variant, h: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    for block in (*net.blocks, net.blocks[0]):
        h = block(h, time)
    return h


def _input_joins_the_output(net: Variant, h: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    first = h
    for block in net.blocks:
        h = block(h, time)
    return h + first


@pytest.mark.parametrize("body", [_long_skips, _turns, _a_block_twice, _input_joins_the_output])
def test_what_stays_between_the_blocks_does_not_matter(body: Any) -> None:
    net = Variant(body)
    found = _traced(net)
    assert len(found.stacks) == 1
    assert found.stacks[0].streams == (0,)
    loop = _loop(net)
    with BlockExecutor().attach(loop, Schedule(N, COMPUTED)) as run:
        assert _run(loop).isfinite().all()
    assert run.report.skipped == {"call": 4}
    assert net.blocks[1].calls == 2 + 4


def _leaks_to_the_output(net: Variant, h: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    seen = []
    for block in net.blocks:
        h = block(h, time)
        seen.append(h.mean(1, keepdim=True))
    return h + torch.cat(seen, 1).sum(1, keepdim=True)


def _leaks_to_another_list(net: Variant, h: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    skips = [h := block(h, time) for block in net.blocks]
    for block in net.others:
        h = block(h, time, skip=skips.pop())
    return h


def _leaks_through_a_buffer(net: Variant, h: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    buffer = torch.zeros(len(net.blocks), *h.shape)
    for n, block in enumerate(net.blocks):
        h = block(h, time)
        buffer[n].copy_(h)
    return buffer.mean(0)


def _leaks_to_python(net: Variant, h: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    scale = 1.0
    for block in net.blocks:
        h = block(h, time)
        scale = max(scale, float(h.abs().max()))
    return h / scale


LEAKS = {
    _leaks_to_the_output: "blocks: what a block returns is also used by the denoiser itself",
    _leaks_to_another_list: "blocks: what a block returns is also used by others",
    _leaks_through_a_buffer: "blocks: what a block returns is also used by the denoiser itself",
    _leaks_to_python: "blocks: what a block returns is also used by the denoiser itself",
}


@pytest.mark.parametrize("body", LEAKS)
def test_an_inner_output_used_elsewhere_is_noticed(body: Any) -> None:
    assert LEAKS[body] in _traced(Variant(body)).reason


@pytest.mark.remedy("the blocks cannot be passed over ({}): cache whole outputs")
def test_where_nothing_can_be_passed_over_the_run_is_computed_and_says_why() -> None:
    loop = _loop(Variant(_leaks_to_the_output))
    plain = _run(loop)
    with (
        pytest.warns(
            OtcacheNotice, match="no call was skipped although 4 steps were to be: the bl"
        ),
        BlockExecutor().attach(loop, Schedule(N, COMPUTED)) as run,
    ):
        assert torch.equal(_run(loop), plain)
    assert run.report.computed == {"call": N}
    assert run.report.warnings[0] == (
        "the blocks cannot be passed over (blocks: what a block returns is also used by the "
        "denoiser itself): cache whole outputs."
    )
    with TorchExecutor().attach(loop, Schedule(N, COMPUTED)) as run:
        _run(loop)
    assert (run.report.skipped, run.report.warnings) == ({"call": 4}, [])


class _Writes(Block):
    def forward(self, h: torch.Tensor, time: torch.Tensor, skip: Any = None) -> torch.Tensor:
        return h.add_(self.inner(h + time))


def _in_order(net: Variant, h: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    for block in net.blocks:
        h = block(h, time)
    return h


def test_a_block_that_writes_into_its_input_is_refused() -> None:
    net = Variant(_in_order)
    net.blocks = nn.ModuleList(_Writes() for _ in range(3))
    assert _traced(net).reason == "blocks: a block writes into its arguments"


def test_a_small_stack_is_not_worth_passing_over() -> None:
    def body(net: Variant, h: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        for block in (net.others[0], *net.blocks):
            h = block(h, time)
        return h

    assert [stack.name for stack in _traced(Variant(body, count=12)).stacks] == ["blocks"]


@pytest.mark.remedy("the first computed step, {} calls in the same order: cache whole outputs")
@pytest.mark.parametrize("skipped", [True, False])
def test_blocks_that_run_otherwise_are_computed_from_there_on(skipped: bool) -> None:
    def body(net: Variant, h: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        for block in net.blocks if float(time[0, 0, 0]) > 0.6 else net.blocks[:2]:
            h = block(h, time)
        return h

    net = Variant(body)
    loop, words = _loop(net), "must run as they did in the first computed step"
    before = sum(float(t) > 0.6 for t in tiny.euler_grid(N)[:N])  # steps of all blocks
    schedule = Schedule(N, (0, 1) if skipped else (0, 1, before))
    with BlockExecutor().attach(loop, schedule) as run, pytest.warns(OtcacheNotice, match=words):
        _run(loop)
    assert run.report.skipped == {"call": before - 2}
    with (
        pytest.raises(ExecutionError, match=words),
        BlockExecutor().attach(loop, schedule, strict=True),
    ):
        _run(loop)
    assert not any("forward" in vars(block) for block in net.blocks)
    with TorchExecutor().attach(loop, Schedule(N, (0, 1))) as run:
        _run(loop)
    assert run.report.warnings == []


# -- what is refused at once ----------------------------------------------------------------------


@pytest.mark.remedy("{}: cache whole outputs (executor 'torch')")
def test_a_denoiser_without_blocks_is_refused() -> None:
    loop = _loop(tiny.Velocity())
    assert BlockExecutor().supports(loop) == "Velocity has no nn.ModuleList of blocks"
    with pytest.raises(ExecutionError, match=r"cache whole outputs \(executor 'torch'\)"):
        BlockExecutor().attach(loop, Schedule(N, (0,)))
    with Registry().create("executors", "torch").attach(loop, Schedule(N, (0,))) as run:
        _run(loop)
    assert run.report.skipped == {"call": N - 1}


def test_a_denoiser_compiled_as_a_whole_is_refused() -> None:
    net = Net()
    net.compile(backend="eager")
    assert "Net is compiled as a whole" in BlockExecutor().supports(_loop(net))
    assert "Net is compiled as a whole" in BlockExecutor().supports(
        _loop(torch.compile(Net(), backend="eager"))
    )


def test_blocks_compiled_one_by_one_are_passed_over() -> None:
    plain_net, net = Net(), Net()
    for block in (*net.pairs, *net.singles):
        block.compile(backend="eager")
    before = [dict(vars(block)) for block in net.singles]
    results = []
    for each in (plain_net, net):
        loop = _loop(each)
        with BlockExecutor().attach(loop, Schedule(N, COMPUTED)) as run:
            results.append(_run(loop))
        assert run.report.skipped == {"call": 4}
    torch.testing.assert_close(*results)
    assert [vars(block)["_compiled_call_impl"] for block in net.singles] == [
        own["_compiled_call_impl"] for own in before
    ]


# -- the kit --------------------------------------------------------------------------------------


class TestConformance(ExecutorConformance):
    def make_executor(self) -> CacheExecutor:
        return BlockExecutor()

    def make_target(self) -> Loop:
        return _loop(Net())

    def run(self, target: Loop) -> Any:
        return target(["a", "b"], [0, 1], self.num_steps).numpy()

    def denoiser(self, target: Loop) -> Any:
        return target.denoiser

    def calls(self, target: Loop) -> int:
        return int(target.denoiser.singles[2].calls)
