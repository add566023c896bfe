"""Devices without float64 (MPS), kept possible: a tensor that behaves as if it lived on one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import DDIMScheduler

from otcache_core import Schedule
from otcache_core.contracts import SampleRequest
from otcache_core.loop import Loop
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.recording.probe import TorchProbe

N = 6
SCHEDULES = {
    "reuse": Schedule(N, (0, 1, 4)),
    "linear": Schedule(N, (0, 1, 4), "linear"),
    "fitted": Schedule(N, (0, 1, 4), "fitted", weights=((0.1,), (0.1, 0.5), (0.1, 0.5, 0.2))),
}


class Elsewhere(torch.Tensor):
    """On a device without float64, whose memory numpy cannot see until ``.cpu()``."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = super().__torch_function__(func, types, args, kwargs or {})
        if func is torch.Tensor.cpu or (func is torch.Tensor.to and "cpu" in map(str, args[1:])):
            return made.as_subclass(torch.Tensor)
        for leaf in torch.utils._pytree.tree_leaves(made):
            if isinstance(leaf, cls) and leaf.dtype == torch.float64:
                raise TypeError(f"{func} made float64 on a device that has none")
        return made

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("numpy cannot see this device: call .cpu() first")


def _elsewhere(tensor: torch.Tensor) -> Any:
    return tensor.as_subclass(Elsewhere)


def _moved(case: tiny.Case) -> tiny.Case:
    """Let the pipeline's latents and its scheduler's times live elsewhere."""
    scheduler = case.pipe.scheduler
    plain = scheduler.set_timesteps

    @functools.wraps(plain)
    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        plain(*args, **kwargs)
        scheduler.timesteps = _elsewhere(scheduler.timesteps)

    scheduler.set_timesteps = set_timesteps
    prepare = case.pipe.prepare_latents

    def prepare_latents(*args: Any, **kwargs: Any) -> Any:
        made = prepare(*args, **kwargs)
        if isinstance(made, tuple):
            return _elsewhere(made[0]), *made[1:]
        return _elsewhere(made)

    case.pipe.prepare_latents = prepare_latents
    return case


CASES: dict[str, Callable[[], tiny.Case]] = {
    **tiny.CASES,
    "ddim": lambda: tiny.sdxl(DDIMScheduler(clip_sample=False)),
}


@pytest.mark.parametrize(
    ("name", "forecaster"),
    [*((name, "linear") for name in sorted(CASES)), ("flux-cfg", "reuse"), ("sdxl", "fitted")],
)
def test_a_run_makes_no_float64_on_its_device(name: str, forecaster: str) -> None:
    schedule = SCHEDULES[forecaster]
    case = CASES[name]()
    with TorchExecutor().attach(case.pipe, schedule):
        wanted = case(N)
    moved = _moved(CASES[name]())
    with TorchExecutor().attach(moved.pipe, schedule) as run:
        made = moved(N)
    assert isinstance(made, Elsewhere)
    assert run.report.skipped == dict.fromkeys(case.branches, 3)
    torch.testing.assert_close(made.cpu(), wanted, atol=1e-5, rtol=1e-5)


def test_recording_makes_no_float64_on_its_device() -> None:
    request = SampleRequest(("a",), (0,), N, {"height": 16, "width": 16})
    case, moved = tiny.with_prompts(tiny.flux()), _moved(tiny.with_prompts(tiny.flux()))
    (wanted,) = TorchProbe().record(case.pipe, request)
    (made,) = TorchProbe().record(moved.pipe, request)
    np.testing.assert_allclose(made.outputs, wanted.outputs, atol=1e-5)
    np.testing.assert_array_equal(made.grid, wanted.grid)


def test_a_loop_makes_no_float64_on_its_device() -> None:
    net = tiny.Velocity()

    def sample(num_steps: int) -> torch.Tensor:
        grid, x = tiny.euler_grid(num_steps), _elsewhere(tiny.noise(1, 8, seed=3))
        with torch.no_grad():
            for i in range(num_steps):
                x = x + (grid[i + 1] - grid[i]) * net(x, grid[i])
        return x

    loop = Loop(sample, net, tiny.euler_grid)
    with TorchExecutor().attach(loop, SCHEDULES["linear"]) as run:
        assert isinstance(loop(N), Elsewhere)
    assert run.report.skipped == {"call": 3}


def test_the_stand_in_refuses_what_the_device_would() -> None:
    x = _elsewhere(torch.ones(2))
    with pytest.raises(TypeError, match="float64"):
        x.double()
    with pytest.raises(TypeError, match="numpy"):
        np.asarray(x)
    assert x.cpu().double().dtype == torch.float64
    assert isinstance((x + torch.ones(2)).float(), Elsewhere)
    assert type(x.to("cpu")) is torch.Tensor
