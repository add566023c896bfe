"""Denoisers that return memory they use again: forecasts are those of outputs in memory of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from otcache_core import Schedule
from otcache_core.contracts import CacheStorage, SampleRequest
from otcache_core.loop import Loop
from otcache_core.playback.player import Kept
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.execution.output_cache import OutputCache
from otcache_diffusers.hooks.trees import extents, is_external, overlap, owned, separate
from otcache_diffusers.recording.probe import TorchProbe

N, WIDTH, ROWS = 9, 8, 2
SHAPE = (ROWS, WIDTH)
SCHEDULES = {
    "reuse": Schedule(N, (0, 3, 6)),
    "linear": Schedule(N, (0, 3, 6), "linear"),
    "fitted": Schedule(N, (0, 3, 6), "fitted", weights=((), (0.4,), (0.4, -0.1))),
    "taylor": Schedule(N, (0, 1, 2, 6), "taylor"),
    "variable-order": Schedule(N, (0, 1, 2, 6), "variable-order"),
}


def _write(buffer: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Write where torch does not count, as a CUDA graph does."""
    buffer.data.copy_(v.detach())
    return buffer


class Numpy:
    """A numpy array, wrapped anew each time: torch does not own it."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.array = torch.empty(SHAPE, dtype=dtype).numpy()

    def __call__(self, x: torch.Tensor, v: torch.Tensor) -> Any:
        np.copyto(self.array, v.detach().numpy())
        return torch.from_numpy(self.array)


class Static:
    """One tensor of torch's that other code writes into."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.buffer = torch.empty(SHAPE, dtype=dtype)

    def __call__(self, x: torch.Tensor, v: torch.Tensor) -> Any:
        return _write(self.buffer, v)


class Counted(Static):
    """One tensor that torch writes into."""

    def __call__(self, x: torch.Tensor, v: torch.Tensor) -> Any:
        return self.buffer.copy_(v.detach())


class Ring:
    """Two places of one large tensor, in turn."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.buffers, self.calls = torch.empty(2, *SHAPE, dtype=dtype), 0

    def __call__(self, x: torch.Tensor, v: torch.Tensor) -> Any:
        self.calls += 1
        return (_write(self.buffers[self.calls % 2], v),)


class InPlace:
    """The memory of the argument."""

    def __init__(self, dtype: torch.dtype) -> None: ...

    def __call__(self, x: torch.Tensor, v: torch.Tensor) -> Any:
        return {"sample": _write(x, v)}


class Own:
    """Memory of its own for every output."""

    def __init__(self, dtype: torch.dtype) -> None: ...

    def __call__(self, x: torch.Tensor, v: torch.Tensor) -> Any:
        return v


Place = Callable[[torch.Tensor, torch.Tensor], Any]


class Net(nn.Module):
    def __init__(self, place: Place) -> None:
        super().__init__()
        self.net, self.place, self.calls = tiny.Velocity(WIDTH), place, 0

    def forward(self, x: torch.Tensor, t: Any) -> Any:
        self.calls += 1
        return self.place(x, self.net(x.float(), t).to(x.dtype))


def _read(output: Any) -> torch.Tensor:
    found = output["sample"] if isinstance(output, dict) else output
    return (found[0] if isinstance(found, tuple) else found).clone()


def _loop(place: Place, dtype: torch.dtype, branches: int = 1) -> Loop:
    net, s = Net(place), tiny.euler_grid(N)
    given = torch.empty(SHAPE, dtype=dtype)  # as bound inputs are, used again at every call

    def guess(x: torch.Tensor, t: float, shift: float) -> torch.Tensor:
        return _read(net(_write(given, x + shift), torch.tensor(t)))

    def sample(prompts: Any, seeds: Any, num_steps: int) -> torch.Tensor:
        x = torch.stack([tiny.noise(WIDTH, seed=seed) for seed in seeds]).to(dtype)
        with torch.no_grad():
            for i in range(num_steps):
                v = guess(x, s[i], 0.0)
                if branches == 2:
                    v = 2 * v - guess(x, s[i], 0.5)
                x = x + (s[i + 1] - s[i]) * v
        return x

    return Loop(sample, net, grid=tiny.euler_grid, calls_per_step=branches)


def _run(loop: Loop) -> torch.Tensor:
    return loop([""] * ROWS, [*range(ROWS)], N)  # type: ignore[no-any-return]  # the sampler's own


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", [Numpy, Static, Counted, Ring, InPlace])
def test_forecasts_are_those_of_outputs_in_memory_of_their_own(
    kind: Callable[[torch.dtype], Place], name: str, branches: int, dtype: torch.dtype
) -> None:
    schedule = SCHEDULES[name]
    plain, loop = (_loop(one(dtype), dtype, branches) for one in (Own, kind))
    with TorchExecutor().attach(plain, schedule) as run:
        wanted = _run(plain)
        peak = run.report.peak_cached_bytes
    with TorchExecutor().attach(loop, schedule) as run:
        first, second = _run(loop), _run(loop)
    assert torch.equal(second, wanted)
    computed = branches * schedule.budget
    more = loop.denoiser.calls - 2 * computed
    if kind in (Numpy, InPlace):  # known at once
        assert (more, run.report.warnings) == (0, [])
        assert torch.equal(first, wanted)
        assert run.report.peak_cached_bytes == peak
    assert bool(more) == bool(run.report.warnings)
    if more:  # what was overwritten was computed, up to the next copies
        assert more <= branches * 3
        (warning,) = run.report.warnings
        assert warning.startswith("the denoiser returns its outputs in memory it uses again")
    else:
        assert torch.equal(first, wanted)


def test_what_was_overwritten_is_computed_in_the_first_run_and_nothing_else() -> None:
    loop, s = _loop(Static(torch.float32), torch.float32), tiny.euler_grid(N)
    with TorchExecutor().attach(loop, SCHEDULES["linear"]) as run:
        found = _run(loop)
    assert run.report.skipped == {"call": 4}
    x, outputs = torch.stack([tiny.noise(WIDTH, seed=n) for n in range(ROWS)]), {}
    for i in range(N):
        if i in (1, 2):
            v = outputs[0]
        elif i in (7, 8):
            v = outputs[6] + (s[i] - s[6]) / (s[6] - s[3]) * (outputs[6] - outputs[3])
        else:  # steps 4 and 5 need the output of step 0, which that of step 3 was written over
            v = outputs[i] = loop.denoiser.net(x, torch.tensor(s[i])).detach()
        x = x + (s[i + 1] - s[i]) * v
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [Numpy, Static, InPlace])
@pytest.mark.parametrize("fit", [False, True])
def test_evaluations_are_those_of_outputs_in_memory_of_their_own(
    kind: Callable[[torch.dtype], Place], fit: bool
) -> None:
    request = SampleRequest(("a",) * ROWS, tuple(range(ROWS)), N, {}, ROWS)
    found = []
    for one in (Own, kind):
        loop = _loop(one(torch.float32), torch.float32)
        runs = list(TorchProbe().record(loop, request))
        evaluator = TorchProbe().evaluator(loop, request, runs)
        found.append(evaluator.evaluate(list(SCHEDULES.values())[:2], fit=fit))
    np.testing.assert_allclose(found[0].errors, found[1].errors, rtol=1e-4)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_loop_may_write_into_outputs_through_numpy(name: str) -> None:
    """Torch does not count it, but knows that numpy has the memory."""
    net, s = Net(Own(torch.float32)), tiny.euler_grid(N)

    def sample(num_steps: int, careful: bool) -> torch.Tensor:
        x = tiny.noise(*SHAPE).numpy()
        with torch.no_grad():
            for i in range(num_steps):
                v = net(torch.from_numpy(x.copy()), torch.tensor(s[i]))
                v = (v.clone() if careful else v).numpy()
                v *= np.float32(s[i + 1] - s[i])
                x = x + v
        return torch.from_numpy(x)

    loop = Loop(sample, net, grid=tiny.euler_grid)
    with TorchExecutor().attach(loop, SCHEDULES[name]):
        wanted = loop(N, True)
    with TorchExecutor().attach(loop, SCHEDULES[name]) as run:
        loop(N, False)
        assert torch.equal(loop(N, False), wanted)
    warning = run.report.warnings[0]
    assert warning.startswith("the sampler writes into the denoiser's outputs, or shares")


def test_memory_of_others_is_recognised() -> None:
    array = np.zeros(4, np.float32)
    for external in (
        torch.from_numpy(array),
        torch.from_dlpack(array),
        torch.from_numpy(array)[1:],
    ):
        assert is_external(external)
    for own in (torch.zeros(4), torch.zeros(4)[1:].view(3, 1), torch.zeros(0), torch.empty(2).T):
        assert not is_external(own)
    assert not is_external(torch.empty(3, device="meta"))
    assert not is_external(torch.eye(2).to_sparse())


def test_extents_are_what_a_view_reaches() -> None:
    whole = torch.zeros(6, 4)
    left, right = extents([whole[:, :2]]), extents([whole[:, 3:]])
    assert left[0].stop - left[0].start == (5 * 4 + 2) * 4
    assert overlap(left, right)  # interleaved: one lies between the rows of the other
    assert not overlap(extents([whole[:3]]), extents([whole[3:]]))
    assert overlap(extents([whole[:3]]), extents([whole[2:]]))
    assert extents([torch.empty(3, device="meta"), torch.empty(0), torch.eye(2).to_sparse()]) == []


def test_copies_are_made_where_they_must_be() -> None:
    v, x = torch.ones(4), torch.ones(4)
    assert separate((v, None), x)[0] is v
    assert separate(v, None) is v
    (copy,) = separate((x[1:],), x)
    assert not overlap(extents([copy]), extents([x]))
    found = owned({"v": v, "n": 1})
    assert found["n"] == 1
    assert torch.equal(found["v"], v)
    assert found["v"] is not v


def test_ordinary_outputs_are_neither_copied_nor_lost() -> None:
    held: list[tuple[int, int]] = []
    cache = OutputCache(CacheStorage(), lambda *now: held.append(now))
    outputs = [torch.ones(4) for _ in range(3)]
    for step, output in enumerate(outputs):
        cache.notice(output)
        cache.put("call", step, Kept(output, None, (None, None)))
    kept = cache.get("call", range(3))
    assert kept is not None
    assert all(one.value.tree() is other for one, other in zip(kept, outputs, strict=True))
    assert held == [(16, 0), (32, 0), (48, 0)]


def test_what_is_packed_is_not_lost() -> None:
    cache = OutputCache(CacheStorage("bf16"), lambda on_device, on_host: None)
    buffer = torch.ones(4)
    for step in range(3):
        cache.notice(_write(buffer, torch.full((4,), float(step))))
        cache.put("call", step, Kept(buffer, None, (None, None)))
    assert cache.get("call", range(3)) is not None
