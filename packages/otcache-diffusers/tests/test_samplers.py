"""The samplers of diffusers: their recurrences, and the closed-loop fit through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from sampler_cases import DETERMINISTIC, NOISY, SAMPLERS, with_prompts

from otcache_core.contracts import SampleRequest
from otcache_core.errors import OtcacheNotice
from otcache_core.loop import Loop
from otcache_core.recurrence import NotLinear, Recurrence
from otcache_core.schedule import Schedule
from otcache_diffusers.evaluation.evaluator import PipelineEvaluator
from otcache_diffusers.evaluation.fit import ClosedLoopFit
from otcache_diffusers.hooks import drive
from otcache_diffusers.recording.full_runs import Recording, RecordingHook
from otcache_diffusers.recording.probe import TorchProbe
from otcache_diffusers.recording.sampler import Sampler
from otcache_diffusers.recording.sampler_checks import BLOCK, ShuffleHook, confirmed_recurrence

N = 12
#: Samplers that are Euler steps on their own grid.
EULER = ("euler", "euler v", "flow euler")
# Computed steps around one span that skips, and where it stops.
SPANS = [((0, 1, 2, 3, 7, 8, 9, 10, 11), 7), ((0, 1, 2, 3, 4, 5, 6, 7, 8), N)]


def _request(samples: int = 3, call: dict[str, Any] | None = None) -> SampleRequest:
    return SampleRequest(("a", "b", "c")[:samples], (0, 1, 2)[:samples], N, call or {}, 4)


def _prompted(name: str) -> tuple[Any, SampleRequest]:
    pipe, call = with_prompts(name)
    return pipe, _request(call=call)


@cache
def _evaluator(
    name: str, fit: ClosedLoopFit | None = None
) -> tuple[PipelineEvaluator, Recurrence | NotLinear]:
    pipe, request = _prompted(name)
    trajectories = list(TorchProbe().record(pipe, request))
    built = PipelineEvaluator(pipe, request, trajectories, fit=fit, metrics={})
    return built, built.recurrence


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_order_of_a_deterministic_sampler(name: str) -> None:
    _, found = _evaluator(name)
    assert isinstance(found, Recurrence)
    # At pure noise epsilon is the state itself, so step 0 stays open; no span needs it.
    assert (found.order, found.undetermined) == (
        SAMPLERS[name].order,
        (0,) if "zero" in name else (),
    )
    assert (found.grid is not None) == (name in EULER)


def test_the_order_of_flow_matching() -> None:
    pipe = tiny.with_prompts(tiny.flux(scheduler=FlowMatchEulerDiscreteScheduler())).pipe
    request = _request(call={"height": 16, "width": 16})
    trajectories = list(TorchProbe().record(pipe, request))
    found = confirmed_recurrence(pipe, Sampler(pipe, request), Recording(), trajectories)
    assert isinstance(found, Recurrence)
    assert found.grid is trajectories[0].grid


@pytest.mark.parametrize("name", NOISY)
def test_noise_of_the_seed_hides_no_recurrence(name: str) -> None:
    """Differences of two runs of one seed obey it; the fit is through them."""
    built, found = _evaluator(name)
    assert isinstance(found, Recurrence)
    assert (found.order, found.noisy, found.grid) == (SAMPLERS[name].order, True, None)
    schedules = [Schedule(N, computed) for computed in ((0, 1, 4, 8), (0, 2, 3, 5))]
    fitted = built.evaluate(schedules, objective="latent-rmse", fit=True)
    assert [schedule.forecaster for schedule in fitted.schedules] == ["fitted"] * 2
    reuse = built.evaluate(schedules, objective="latent-rmse").errors
    assert (fitted.errors.mean(axis=1) < reuse.mean(axis=1)).all()


@pytest.mark.parametrize("name", [n for n in SAMPLERS if SAMPLERS[n].order is None])
def test_samplers_without_a_recurrence_reuse_and_say_why(name: str) -> None:
    built, found = _evaluator(name)
    assert isinstance(found, NotLinear)
    schedule = Schedule(N, (0, 2, 5, 8))
    with pytest.warns(OtcacheNotice, match="no weights are fitted: step .* adds noise, clips"):
        done = built.evaluate([schedule], objective="latent-rmse", fit=True)
    assert done.schedules == (schedule,)


@pytest.mark.parametrize(("name", "positions"), [("heun", 2 * N - 1), ("pndm", N + 1)])
def test_the_probe_records_every_position_of_a_sampler(name: str, positions: int) -> None:
    pipe, request = _prompted(name)
    for run in TorchProbe().record(pipe, request):
        assert (run.num_steps, run.calls) == (positions, {"call": positions})


def test_a_run_that_leaves_the_rest_to_another_pipeline_is_recorded_as_far_as_it_goes() -> None:
    pipe, request = _prompted("heun")
    cut = replace(request, call={**request.call, "denoising_end": 0.5})
    made = [run.num_steps for run in TorchProbe().record(pipe, cut)]
    assert made == [pipe.num_timesteps] * 3
    assert made[0] < 2 * N - 1


@pytest.mark.parametrize(("computed", "stop"), SPANS)
@pytest.mark.parametrize("name", ["ddim", "dpm++2m", "unipc", "euler v", "ddim v"])
def test_a_fitted_span_ends_where_no_other_weight_brings_it_nearer(
    name: str, computed: tuple[int, ...], stop: int
) -> None:
    """Least squares for the end of the span, by running the pipeline with other weights."""
    built, _ = _evaluator(name, ClosedLoopFit(memory=2, ridges=(0.0,), cross_validate=False))
    reuse = Schedule(N, computed)
    fitted = built.evaluate([reuse], objective="latent-rmse", fit=True).schedules[0]
    k = next(m for m, span in enumerate(fitted.spans()) if span.skipped)

    def moved(by: Sequence[float]) -> Schedule:
        rows = [list(row) for row in fitted.weights]
        rows[k] = [c + d for c, d in zip(rows[k], by, strict=True)]
        return fitted.with_weights(rows, {})

    others = [moved(by) for by in ((0.02, 0), (-0.02, 0), (0, 0.2), (0, -0.2), (0.02, 0.2))]
    drift = built.drift([fitted, reuse, *others]).errors[:, :, stop]
    pooled = np.square(drift).sum(axis=1)
    assert pooled[0] < pooled[1]
    assert (pooled[0] < pooled[2:]).all()


@pytest.mark.parametrize("name", ["ddim", "dpm++2m", "unipc", "heun", "pndm", "ddim v"])
def test_a_fitted_run_beats_reuse_of_the_same_steps(name: str) -> None:
    built, _ = _evaluator(name)
    schedule = Schedule(len(built.grid) - 1, (0, 1, 4, 8))
    fitted = built.evaluate([schedule], objective="latent-rmse", fit=True)
    assert fitted.schedules[0].forecaster == "fitted"
    reuse = built.evaluate([schedule], objective="latent-rmse").errors
    assert fitted.errors.mean() < reuse.mean()


def test_a_span_that_outputs_do_not_move_reuses() -> None:
    grid = np.array([1.0, 0.8, 0.6, 0.6, 0.6, 0.3, 0.0])
    net = tiny.Velocity()

    def sample(prompts: list[str], seeds: list[int], num_steps: int) -> torch.Tensor:
        x = torch.stack([tiny.noise(8, seed=seed) for seed in seeds])
        with torch.no_grad():
            for i in range(6):
                x = x + float(grid[i + 1] - grid[i]) * net(x, float(grid[i]))
        return x

    loop, request = Loop(sample, net, grid=grid), SampleRequest(("a",) * 2, (0, 1), 6)
    built = PipelineEvaluator(loop, request, list(TorchProbe().record(loop, request)))
    done = built.evaluate([Schedule(6, (0, 1, 4))], fit=True)
    assert done.schedules[0].weights[1] == (0.0,)
    assert np.isfinite(done.errors).all()


def test_a_shuffled_run_calls_no_denoiser_and_stays_near() -> None:
    pipe, request = _prompted("dpm++2m")
    recording = Recording()
    with drive(pipe, RecordingHook(recording, 3), num_steps=N):
        Sampler(pipe, request)(range(3))
    tiny.counted(pipe.unet)
    hook = ShuffleHook(recording, 2)
    with drive(pipe, hook, num_steps=N):
        Sampler(pipe, request)(range(2))
    assert tiny.calls_of(pipe.unet) == 0
    grid = hook.recorder.run.grid if hook.recorder.run else np.zeros(0)
    for n, made in enumerate(hook.recorder.trajectories(["a", "b"], grid)):
        full = np.stack([recording.guided[t][n].flatten().numpy() for t in range(N)])
        places = [int(np.abs(full - v).mean(axis=1).argmin()) for v in made.outputs]
        assert sorted(places) == list(range(N))
        assert places != list(range(N))
        assert all(t // BLOCK == place // BLOCK for t, place in enumerate(places))
