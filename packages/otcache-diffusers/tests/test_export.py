"""docs/theory.md, section 2: output reuse is plain sampling on the computed steps, with no hook."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    WanPipeline,
)

from otcache_core import ExecutionError, Schedule
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.export import export_sigmas

SCHEDULE = Schedule(8, (0, 1, 4, 6))
pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
SDXL_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

FLOW: dict[str, dict[str, Any]] = {
    "static": {"shift": 3.0},
    "none": {},
    "dynamic exponential": {"use_dynamic_shifting": True},
    "dynamic linear": {"use_dynamic_shifting": True, "time_shift_type": "linear"},
    "terminal": {"use_dynamic_shifting": True, "shift_terminal": 0.02},
    "karras": {"use_karras_sigmas": True, "shift": 2.0},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
}
NEUTRAL = {"terminal", "karras", "exponential", "beta"}


def _reused(case: tiny.Case) -> torch.Tensor:
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        latents = case(SCHEDULE.num_steps)
    assert sum(run.report.skipped.values()) == 4 * len(case.branches)
    return latents


def _exported(case: tiny.Case) -> tuple[torch.Tensor, bool]:
    export = export_sigmas(case.pipe, SCHEDULE, **case.call)
    own = case.pipe.scheduler
    with export.on(case.pipe):
        arguments = {**case.call, **export.kwargs, "output_type": "latent"}
        with torch.no_grad():
            latents = case.pipe(**arguments, generator=torch.Generator().manual_seed(0))[0]
    assert case.pipe.scheduler is own
    return latents, export.scheduler is not None


@pytest.mark.parametrize("kind", FLOW)
def test_reuse_is_sampling_on_the_exported_grid(kind: str) -> None:
    case = tiny.flux(scheduler=FlowMatchEulerDiscreteScheduler(**FLOW[kind]))
    latents, neutral = _exported(case)
    torch.testing.assert_close(latents, _reused(case), atol=1e-5, rtol=1e-5)
    assert neutral == (kind in NEUTRAL)


@pytest.mark.parametrize("build", [tiny.qwen, lambda: tiny.flux(cfg=True)])
def test_reuse_is_sampling_on_the_exported_grid_with_guidance(build: Any) -> None:
    case = build()
    latents, _ = _exported(case)
    torch.testing.assert_close(latents, _reused(case), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"use_karras_sigmas": True},
        {"prediction_type": "sample"},
        {"prediction_type": "v_prediction"},
    ],
    ids=["epsilon", "karras", "sample", "velocity"],
)
def test_reuse_is_sampling_on_the_exported_grid_of_a_unet(more: dict[str, Any]) -> None:
    case = tiny.sdxl(EulerDiscreteScheduler(**SDXL_BETAS, **more))
    case.pipe.unet.double()
    case.call = {k: v.double() if torch.is_tensor(v) else v for k, v in case.call.items()}
    latents, _ = _exported(case)
    # The scheduler finds each timestep from its sigma by interpolation, to about 1e-3 of 1000.
    distance = (latents - _reused(case)).norm() / latents.norm()
    assert distance < 1e-4


def test_a_full_schedule_exports_the_grid_itself() -> None:
    case = tiny.flux(scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))
    export = export_sigmas(case.pipe, Schedule.full(6), **case.call)
    plain = case(6)
    torch.testing.assert_close(case(6, **export.kwargs), plain, atol=1e-5, rtol=1e-5)


def test_the_pipeline_is_left_as_it_was() -> None:
    case = tiny.flux()
    generator = torch.Generator().manual_seed(5)
    before, state = dict(vars(case.pipe)), generator.get_state()
    scheduler = dict(vars(case.pipe.scheduler))
    export_sigmas(case.pipe, SCHEDULE, **case.call, generator=generator)
    assert vars(case.pipe) == before
    assert vars(case.pipe.scheduler) == scheduler
    assert torch.equal(generator.get_state(), state)


def _wan() -> Any:
    parts = dict.fromkeys(("tokenizer", "text_encoder", "vae", "transformer", "transformer_2"))
    return WanPipeline(**parts, scheduler=FlowMatchEulerDiscreteScheduler())


@pytest.mark.parametrize(
    ("pipe", "schedule", "reason"),
    [
        (_wan, SCHEDULE, "WanPipeline takes no `sigmas` argument"),
        (lambda: tiny.sdxl(DPMSolverMultistepScheduler()).pipe, SCHEDULE, "DPMSolverMultistep"),
        (lambda: tiny.sdxl(EulerAncestralDiscreteScheduler()).pipe, SCHEDULE, "EulerAncestral"),
        (
            lambda: (
                tiny.flux(scheduler=FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)).pipe
            ),
            SCHEDULE,
            "deterministic one-step",
        ),
        (lambda: tiny.flux().pipe, Schedule(8, (0, 4), "linear"), "the schedule forecasts"),
        (lambda: tiny.flux().pipe, Schedule(8, (0, 4), branches=(("uncond", (0,)),)), "branches"),
        (lambda: tiny.Velocity(), SCHEDULE, "a diffusers pipeline is needed, got Velocity"),
    ],
)
def test_what_cannot_be_exported_is_refused_by_name(
    pipe: Any, schedule: Schedule, reason: str
) -> None:
    with pytest.raises(ExecutionError, match=f"no sigmas can be exported: .*{reason}"):
        export_sigmas(pipe(), schedule)


def test_it_is_reached_from_the_package_without_importing_torch_early() -> None:
    import subprocess
    import sys

    code = "import sys, otcache_diffusers as o; assert 'torch' not in sys.modules; o.export_sigmas"
    subprocess.run([sys.executable, "-c", code], check=True)
