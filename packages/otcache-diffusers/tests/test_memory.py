"""Peak tensor memory over the plain run: the counted cached outputs and no more than two temporaries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from diffusers import DDIMScheduler
from torch import nn

from otcache_core import Schedule
from otcache_core.loop import Loop
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.recording.metering import TensorTracer

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
N, WIDTH = 10, 1 << 16
COMPUTED = (0, 1, 2, 5, 8)
#: Schedule, and how many outputs of a branch it holds at most.
SCHEDULES = {
    "reuse": (Schedule(N, COMPUTED), 1),
    "linear": (Schedule(N, COMPUTED, "linear"), 2),
    "fitted": (
        Schedule(
            N,
            COMPUTED,
            "fitted",
            weights=tuple((0.1, 0.5, 0.2)[: m + 1] for m in range(len(COMPUTED))),
        ),
        3,
    ),
}
DTYPES = [torch.float32, torch.bfloat16]
#: Scalars: times, flags.
SMALL = 512


def _peak(run: Callable[[], Any]) -> int:
    with TensorTracer() as tracer:
        run()
    return tracer.peak


class _Field(nn.Module):
    """A velocity field that needs next to no memory of its own."""

    def forward(self, x: torch.Tensor, t: float) -> torch.Tensor:
        return x * (t - 0.5)


def _loop(branches: int, dtype: torch.dtype) -> Loop:
    net, grid = _Field(), tiny.euler_grid(N)

    def sample(num_steps: int) -> torch.Tensor:
        x = tiny.noise(1, WIDTH).to(dtype)
        for i in range(num_steps):
            v = net(x, grid[i])
            for _ in range(branches - 1):
                v = v + net(x, grid[i])
            x = x + (grid[i + 1] - grid[i]) * v
        return x

    return Loop(sample, net, grid, calls_per_step=branches)


def test_the_tracer_sees_what_lives() -> None:
    with TensorTracer() as tracer:
        a = torch.zeros(1000)
        b = a.view(10, 100) + 1
        a.add_(1)
        del a
        c = b[0]
        del b
        assert tracer.live == 4000
        assert tracer.peak == 8000
    del c
    assert tracer.live == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_loop_holds_the_counted_outputs(name: str, branches: int, dtype: torch.dtype) -> None:
    schedule, memory = SCHEDULES[name]
    loop, one = _loop(branches, dtype), WIDTH * dtype.itemsize
    plain = _peak(lambda: loop(N))
    with TorchExecutor().attach(loop, schedule) as run:
        peak = _peak(lambda: loop(N))
    assert run.report.skipped == dict.fromkeys(run.report.computed, N - len(COMPUTED))
    assert run.report.peak_cached_bytes == branches * memory * one
    assert peak - plain <= run.report.peak_cached_bytes + 2 * one + SMALL


@pytest.mark.parametrize("name", SCHEDULES)
def test_inference_mode_holds_no_more(name: str) -> None:
    """Outputs made in it are kept as copies; what a forecast combines is not copied once more."""
    schedule, memory = SCHEDULES[name]
    loop, one = _loop(1, torch.float32), WIDTH * 4
    with torch.inference_mode():
        plain = _peak(lambda: loop(N))
        with TorchExecutor().attach(loop, schedule) as run:
            peak = _peak(lambda: loop(N))
    assert run.report.peak_cached_bytes == memory * one
    assert peak - plain <= run.report.peak_cached_bytes + SMALL


class _Half(nn.Module):
    """In the place of a UNet's own work: next to no memory."""

    def forward(self, sample: torch.Tensor, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        return (sample * 0.5,)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("zero", [False, True], ids=["", "zero terminal signal"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_velocities_are_regained_within_two_temporaries(
    name: str, zero: bool, dtype: torch.dtype
) -> None:
    """They are kept as noise, in float32, and in float64 where there is next to no signal."""
    schedule, memory = SCHEDULES[name]
    spacing = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if zero else {}
    scheduler = DDIMScheduler(prediction_type="v_prediction", clip_sample=False, **spacing)
    case = tiny.sdxl(scheduler)
    case.pipe.to(dtype)
    case.pipe.unet.forward = _Half().forward
    case.call |= {"height": 128, "width": 128}
    case.call |= {k: v.to(dtype) for k, v in case.call.items() if isinstance(v, torch.Tensor)}
    one = 2 * 4 * 128 * 128 * dtype.itemsize
    plain = _peak(lambda: case(N))
    with TorchExecutor().attach(case.pipe, schedule) as run:
        peak = _peak(lambda: case(N))
    wide = one * 4 // dtype.itemsize
    assert run.report.skipped == {"call": N - len(COMPUTED)}
    assert run.report.peak_cached_bytes == (memory + (zero and memory == 3)) * wide
    assert peak - plain <= run.report.peak_cached_bytes + 2 * one + SMALL


#: Each pair of a schedule, guidance and a type once: loops have all combinations.
PIPELINES = [
    ("reuse", False, torch.float32),
    ("reuse", True, torch.bfloat16),
    ("linear", True, torch.float32),
    ("linear", False, torch.bfloat16),
    ("fitted", False, torch.float32),
    ("fitted", True, torch.bfloat16),
]


@pytest.mark.parametrize(("name", "guided", "dtype"), PIPELINES)
def test_a_pipeline_holds_the_counted_outputs(name: str, guided: bool, dtype: torch.dtype) -> None:
    schedule, memory = SCHEDULES[name]
    case = tiny.flux(guided)
    case.pipe.to(dtype)
    case.call |= {"height": 64, "width": 64}
    case.call |= {k: v.to(dtype) for k, v in case.call.items() if isinstance(v, torch.Tensor)}
    plain = _peak(lambda: case(N))
    outputs: list[int] = []
    case.denoiser.register_forward_hook(
        lambda module, args, output: outputs.append(output[0].untyped_storage().nbytes())
    )
    with TorchExecutor().attach(case.pipe, schedule) as run:
        peak = _peak(lambda: case(N))
    assert run.report.skipped == dict.fromkeys(case.branches, N - len(COMPUTED))
    assert run.report.peak_cached_bytes == len(case.branches) * memory * outputs[0]
    assert peak - plain <= run.report.peak_cached_bytes + 2 * outputs[0] + SMALL
