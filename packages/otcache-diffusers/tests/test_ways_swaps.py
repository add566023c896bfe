"""Denoiser or scheduler replaced while the context is open, as long-lived servers do."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import tiny
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from repeating import repeated

from otcache_core import ExecutionError, Schedule
from otcache_core.errors import OtcacheNotice
from otcache_diffusers.execution.executor import TorchExecutor

N = 6
SCHEDULE = Schedule(N, (0, 1, 4))


def _other() -> tiny.Case:
    other = tiny.flux()
    torch.manual_seed(7)
    for weight in other.denoiser.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return other


def test_another_denoiser_is_accelerated_from_the_next_run_on() -> None:
    case, other = tiny.flux(), _other()
    old = case.denoiser
    wanted, names = repeated(other, SCHEDULE), set(vars(old))
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        case(N)
        case.pipe.transformer = other.denoiser
        assert torch.equal(case(N), wanted)
        assert set(vars(old)) == names
    assert run.report.skipped == {"cond": 6}
    assert "forward" not in vars(other.denoiser)


def test_a_denoiser_that_is_accelerated_elsewhere_is_shared() -> None:
    case, other = tiny.flux(), _other()
    with TorchExecutor().attach(other.pipe, SCHEDULE) as run:
        wanted = other(N)
        with TorchExecutor().attach(case.pipe, SCHEDULE) as second:
            case.pipe.transformer = other.denoiser
            assert torch.equal(case(N), wanted)
            assert torch.equal(other(N), wanted)
        assert torch.equal(other(N), wanted)
        refused = TorchExecutor().attach(other.denoiser, SCHEDULE)
        with pytest.raises(ExecutionError, match="by way of a FluxPipeline"):
            refused.__enter__()
    assert (run.report.skipped, second.report.skipped) == ({"cond": 9}, {"cond": 3})
    assert "forward" not in vars(case.denoiser)
    with TorchExecutor().attach(other.denoiser, SCHEDULE):  # as the error advises
        pass


@pytest.mark.remedy("set the scheduler first, then enter the context")
def test_runs_under_another_scheduler_are_computed_and_it_is_said_once() -> None:
    case = tiny.flux()
    first = case.pipe.scheduler
    before = sorted(vars(first))
    case.pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    plain, case.pipe.scheduler = case(N), first
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        case.pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        with pytest.warns(OtcacheNotice, match="scheduler was replaced after it was accel"):
            assert torch.equal(case(N), plain)
        case.pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(case(N), plain)
    assert (run.report.skipped, len(run.report.warnings)) == ({}, 1)
    assert sorted(vars(first)) == before
    case.pipe.scheduler = first
    case.pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    with TorchExecutor().attach(case.pipe, SCHEDULE, strict=True) as run:
        case(N)
        assert run.report.skipped == {"cond": 3}
        case.pipe.scheduler = first
        with pytest.raises(ExecutionError, match="scheduler was replaced"):
            case(N)


@pytest.mark.filterwarnings("ignore:the pipeline's scheduler was replaced")
def test_a_scheduler_replaced_during_a_run_ends_the_skipping() -> None:
    case = tiny.sdxl(DDIMScheduler(clip_sample=False))

    def swap(pipe: Any, step: int, timestep: Any, kwargs: Any) -> Any:
        if step == 1:
            config = pipe.scheduler.config
            pipe.scheduler = DDIMScheduler.from_config(config)
            pipe.scheduler.set_timesteps(N)
        return kwargs

    first = case.pipe.scheduler
    plain, case.pipe.scheduler = case(N, callback_on_step_end=swap), first
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        assert torch.equal(case(N, callback_on_step_end=swap), plain)
    assert run.report.skipped == {}
