"""The executor's conformance tests under every sampler, and its agreement with the evaluator's prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from sampler_cases import NOISY, SAMPLERS, pipeline, with_prompts

from otcache_core import Schedule
from otcache_core.contracts import SampleRequest
from otcache_diffusers.evaluation.evaluator import PipelineEvaluator
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.recording.probe import TorchProbe
from otcache_diffusers.recording.sampler import Sampler

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
N = 7


def _steps_made(name: str) -> int:
    return SAMPLERS[name].steps_made(N)


@pytest.mark.parametrize("name", SAMPLERS)
def test_everything_computed_is_bit_identical(name: str) -> None:
    case = pipeline(name)
    plain = case(N)
    with TorchExecutor().attach(case.pipe, Schedule.full(_steps_made(name))) as run:
        assert torch.equal(case(N), plain)
    assert run.report.computed == {"call": _steps_made(name)}
    assert (run.report.skipped, run.report.warnings, run.report.runs) == ({}, [], 1)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_denoiser_is_called_at_exactly_the_planned_steps_made(name: str) -> None:
    case, computed = pipeline(name), (0, 1, 3, 4)
    called: list[int] = []
    made = [0]
    layer = next(m for m in case.denoiser.modules() if isinstance(m, torch.nn.Linear))
    layer.register_forward_pre_hook(lambda module, args: called.append(made[0]))

    def stepped(pipe: Any, step: int, timestep: Any, kwargs: Any) -> Any:
        made[0] = step + 1
        return kwargs

    for rule in ("reuse", "linear", "taylor"):
        made[0] = 0
        called.clear()
        with TorchExecutor().attach(case.pipe, Schedule(_steps_made(name), computed, rule)) as run:
            assert torch.isfinite(case(N, callback_on_step_end=stepped)).all()
        assert called == list(computed)
        assert run.report.skipped == {"call": _steps_made(name) - len(computed)}
        assert (run.report.warnings, run.report.runs) == ([], 1)


@pytest.mark.parametrize("name", NOISY)
def test_noise_under_skipping_is_the_noise_of_the_full_run(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = pipeline(name)
    drawn = _draws(case.pipe.scheduler, monkeypatch)
    full = case(N)
    wanted = drawn.copy()
    drawn.clear()
    with TorchExecutor().attach(case.pipe, Schedule(N, (0, 2, 5))):
        skipped = case(N)
    assert not torch.equal(full, skipped)
    assert len(wanted) >= N - 1
    assert all(torch.equal(a, b) for a, b in zip(wanted, drawn, strict=True))


def test_noise_from_the_global_generator_is_the_same_too() -> None:
    """A stochastic flow draws without a generator: every step draws, computed or not."""
    case = tiny.flux(scheduler=FlowMatchEulerDiscreteScheduler(stochastic_sampling=True))
    states = []
    for computed in (tuple(range(N)), (0, 3)):
        torch.manual_seed(5)
        with TorchExecutor().attach(case.pipe, Schedule(N, computed)):
            case(N)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def _draws(scheduler: Any, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    import sys

    module = sys.modules[type(scheduler).__module__]
    original, drawn = module.randn_tensor, []

    def randn_tensor(*args: Any, **kwargs: Any) -> torch.Tensor:
        drawn.append(original(*args, **kwargs))
        return drawn[-1]

    monkeypatch.setattr(module, "randn_tensor", randn_tensor)
    return drawn


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_evaluator_predicts_the_error_of_the_accelerated_pipeline(name: str) -> None:
    pipe, call = with_prompts(name)
    request = SampleRequest(("a", "b"), (0, 1), N, call, 8)
    runs = list(TorchProbe().record(pipe, request))
    built = PipelineEvaluator(pipe, request, runs, metrics={})
    n = _steps_made(name)
    schedules = [
        Schedule(n, (0, 2, 4)),
        Schedule(n, (0, 1, 4), "linear"),
        Schedule(n, (0, 2, 3, 5), "variable-order"),
        Schedule(n, (0, 1, 2, 3, 5), "fitted", ((), (), (), (0.1, 0.3), (-0.1, 0.2, 0.1))),
    ]
    predicted = built.evaluate(schedules, objective="latent-rmse").errors
    sampler = Sampler(pipe, request)
    full = sampler(range(2))
    for schedule, errors in zip(schedules, predicted, strict=True):
        with TorchExecutor().attach(pipe, schedule):
            made = sampler(range(2))
        found = (made - full).double().flatten(1).square().mean(1).sqrt()
        np.testing.assert_allclose(errors, found, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["ddim v", "ddim v, zero terminal signal", "euler v"])
def test_half_precision_velocities_are_replayed_to_the_bit(name: str) -> None:
    """Epsilon is kept wide enough that the evaluator returns the velocities it recorded."""
    pipe, call = with_prompts(name)
    encode = pipe.encode_prompt
    pipe.unet.bfloat16()
    pipe.encode_prompt = lambda *a, **k: tuple(text.bfloat16() for text in encode(*a, **k))
    request = SampleRequest(("a", "b"), (0, 1), N, call, 2)
    runs = list(TorchProbe().record(pipe, request))
    built = PipelineEvaluator(pipe, request, runs, metrics={})
    schedule = Schedule(N, (0, 1, 2, 4))
    predicted = built.evaluate([schedule], objective="latent-rmse").errors[0]
    sampler = Sampler(pipe, request)
    full = sampler(range(2))
    with TorchExecutor().attach(pipe, schedule):
        made = sampler(range(2))
    assert made.dtype == torch.bfloat16
    found = (made - full).double().flatten(1).square().mean(1).sqrt()
    np.testing.assert_array_equal(predicted, found)
