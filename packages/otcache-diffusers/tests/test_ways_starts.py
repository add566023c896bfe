"""Where a run begins, if the pipeline does not set it on its scheduler; and samplers that go back."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KandinskyV22Img2ImgPipeline,
    StableDiffusionPanoramaPipeline,
)
from families.priors import kandinsky2
from families.stable_diffusion import sd2
from repeating import repeated

from otcache_core import Schedule
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.hooks.sigmas import first_position
from otcache_diffusers.testing.families import random_image

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
N = 6
SCHEDULE = Schedule(N, (0, 1, 4))
#: How pipelines hand a time to their denoisers, in its own precision.
CONVENTIONS = {
    "t": lambda t, kind: t.to(kind),
    "t / 1000": lambda t, kind: t.to(kind) / 1000,
    "1 - t / 1000": lambda t, kind: (1000 - t.to(kind)) / 1000,
    "t / 1000, cast": lambda t, kind: (t / 1000).to(kind),
}


def _flow(steps: int) -> Any:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("steps", [4, 30])
def test_the_first_step_is_found_by_its_time(
    steps: int, convention: str, kind: torch.dtype
) -> None:
    scheduler = _flow(steps)
    times = scheduler.timesteps
    found = [first_position(scheduler, CONVENTIONS[convention](t, kind)) for t in times]
    # In bfloat16 1 - t / 1000 may be another step's t / 1000.
    known = 1 if (convention, kind) == ("1 - t / 1000", torch.bfloat16) else steps
    assert found[:known] == list(range(known))


def test_times_that_are_integers_or_numbers_are_recognised_too() -> None:
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(10)
    for position, t in enumerate(scheduler.timesteps):
        assert first_position(scheduler, t.expand(2)) == position
        assert first_position(scheduler, int(t)) == position


def test_the_begin_that_a_pipeline_set_counts_first() -> None:
    scheduler = _flow(8)
    scheduler.set_begin_index(3)
    assert first_position(scheduler, scheduler.timesteps[5]) == 3


@pytest.mark.parametrize("timestep", [None, "t", torch.zeros(0), torch.tensor(123.4)], ids=str)
def test_a_time_that_no_step_has_is_the_first_one(timestep: Any) -> None:
    assert first_position(_flow(8), timestep) == 0


def test_of_two_positions_with_one_time_it_is_where_the_scheduler_begins() -> None:
    """Heun repeats every time but the first; it begins at the second of a pair, where a step begins."""
    scheduler = HeunDiscreteScheduler()
    scheduler.set_timesteps(6)
    times = scheduler.timesteps
    for position in (0, 2, 4):
        assert position == 0 or times[position] == times[position - 1]
        assert first_position(scheduler, times[position]) == position


@pytest.mark.parametrize("asked", [1, 2])
@pytest.mark.parametrize(
    "scheduler",
    [EulerDiscreteScheduler, DPMSolverMultistepScheduler, DDPMScheduler, DDIMScheduler],
)
def test_a_strength_without_begin_index_leaves_its_steps(scheduler: Any, asked: int) -> None:
    base = kandinsky2()
    pipe = KandinskyV22Img2ImgPipeline(
        unet=base.pipe.unet, scheduler=scheduler(), movq=base.pipe.movq
    )
    pipe.set_progress_bar_config(disable=True)
    call = {**base.call, "image": random_image(8), "strength": 1 / asked}
    case = tiny.Case(pipe, call, ("call",))
    wanted = repeated(case, SCHEDULE, num_inference_steps=asked * N)
    with TorchExecutor().attach(pipe, SCHEDULE) as run:
        assert torch.equal(case(asked * N), wanted)
    assert (run.report.runs, run.report.skipped) == (1, {"call": 3})


# -- samplers that go back --------------------------------------------------------------------------


def _panorama(scheduler: Any, views: int, together: int) -> tiny.Case:
    """Windows of 16 latents side by side, in the place of the pipeline's own of 64."""
    base = sd2()
    pipe = StableDiffusionPanoramaPipeline(
        **base.pipe.components | {"scheduler": scheduler}, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.get_views = lambda *args, **given: [(0, 16, 8 * n, 8 * n + 16) for n in range(views)]
    size = {"height": 16, "width": 8 + 8 * views, "view_batch_size": together}
    return tiny.Case(pipe, base.call | size, ("call",))


@pytest.mark.filterwarnings("ignore:no call was skipped")
@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler])
def test_a_sampler_with_a_step_for_each_view_is_computed(scheduler: Any, together: int) -> None:
    steps = 3
    case = _panorama(scheduler(), 3, together)
    plain = case(steps)
    before = vars(case.pipe.scheduler).keys()
    for schedule in (Schedule.full(steps), Schedule(steps, (0,))):
        with TorchExecutor().attach(case.pipe, schedule) as run:
            assert torch.equal(case(steps), plain)
        assert (run.report.runs, run.report.skipped) == (1, {})
        assert "makes several scheduler steps at one timestep" in run.report.warnings[0]
        assert vars(case.pipe.scheduler).keys() == before


def test_a_panorama_of_one_view_skips_steps() -> None:
    """Its scheduler's ``__dict__`` is copied alone, and put back at every step."""
    case = _panorama(DDIMScheduler(), 1, 1)
    wanted = repeated(case, Schedule(3, (0, 1)))
    with TorchExecutor().attach(case.pipe, Schedule(3, (0, 1))) as run:
        assert torch.equal(case(3), wanted)
    assert (run.report.runs, run.report.skipped, run.report.warnings) == (1, {"call": 1}, [])


def test_several_steps_after_one_call_give_up_too() -> None:
    case = tiny.flux()
    scheduler, x = case.pipe.scheduler, torch.ones(1, 2)
    given = {
        "hidden_states": tiny.noise(1, 64, 4),
        "pooled_projections": tiny.noise(1, 32),
        "encoder_hidden_states": tiny.noise(1, 12, 32),
        "txt_ids": torch.zeros(12, 3),
        "img_ids": torch.zeros(64, 3),
    }
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run, torch.no_grad():
        scheduler.set_timesteps(N, mu=0.0)
        for t in scheduler.timesteps[:3]:
            case.denoiser(timestep=t.expand(1) / 1000, **given)
            scheduler.step(x, t, x)
            scheduler._step_index -= 1
            scheduler.step(x, t, x)
    assert run.report.skipped == {}
    assert "makes several scheduler steps at one timestep" in run.report.warnings[0]
