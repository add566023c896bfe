"""Full runs as a calibration records them, for a cost model of one's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from toy import STEPS, make_loop

import otcache
from otcache.calibration import record as recording
from otcache.calibration.record import RecordJob
from otcache.calibration.stages import mean_gram
from otcache_core import Info, OtcacheError, Registry, ScheduleProblem, Trajectory, hookimpl
from otcache_core.contracts import CostModel, Evaluator, SampleRequest, SpanCosts
from otcache_core.plugins import installed
from otcache_diffusers.recording.probe import TorchProbe

SMALL = otcache.Recipe(
    ladder=(3, 6), cost_samples=1, anchor_trials=1, climb_trials=0, rounding_runs=0.0
)


@pytest.fixture(scope="module")
def runs() -> list[Trajectory]:
    return otcache.record(make_loop(), ["a", "b"], STEPS, [3, 4], progress=False)


def test_runs_are_those_that_a_calibration_records(
    runs: list[Trajectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Trajectory] = []
    real = recording.record_samples

    def watched(job: RecordJob) -> list[Trajectory]:
        seen.extend(real(job))
        return seen

    monkeypatch.setattr(recording, "record_samples", watched)
    calibration = otcache.calibrate(
        make_loop(), ["a", "b"], STEPS, [3, 4], recipe=SMALL, progress=False
    )
    assert [run.label for run in runs] == [run.label for run in seen]
    assert [run.label for run in runs] == list(calibration.samples)
    for own, other in zip(runs, seen, strict=True):
        for field in ("grid", "states", "outputs"):
            np.testing.assert_array_equal(getattr(own, field), getattr(other, field))
    np.testing.assert_array_equal(mean_gram(runs), calibration.gram)


@pytest.mark.parametrize("several", [False, True])
def test_what_is_recorded_is_not_run_again(several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guided by two calls a step or not: the policy is that of a probe that keeps nothing besides."""
    loop = guided_loop() if several else make_loop()
    calls = Counter[str]()
    handle = loop.denoiser.register_forward_pre_hook(lambda *_: calls.update(["made"]))

    def made(kept: bool) -> otcache.Calibration:
        monkeypatch.setattr(recording, "_recorded", real if kept else without)
        calls.clear()
        return otcache.calibrate(loop, ["a", "b"], STEPS, recipe=SMALL, progress=False)

    real = recording._recorded

    def without(job: RecordJob, part: range) -> Iterator[Trajectory]:
        return real(replace(job, evaluated=False), part)

    once, spent = made(True), calls["made"]
    twice = made(False)
    handle.remove()
    assert calls["made"] - spent == (2 if several else 1) * STEPS  # the two samples in one batch
    assert otcache.plan(once) == otcache.plan(twice)
    assert twice.nfe == once.nfe | {"record": 2 * once.nfe["record"]}


def guided_loop() -> otcache.Loop:
    """Make a loop that calls its denoiser twice a step, and guides by the difference."""
    plain = make_loop()
    net, levels = plain.denoiser, torch.linspace(1, 0, STEPS + 1)

    def sample(prompts: Sequence[str], seeds: Sequence[int], num_steps: int) -> torch.Tensor:
        x = torch.cat(
            [torch.randn(1, 8, generator=torch.Generator().manual_seed(s)) for s in seeds]
        )
        for s, following in pairwise(levels):
            cond, uncond = net(x, s), net(x, 0.5 * s)
            x = x + (following - s) * (uncond + 3.0 * (cond - uncond))
        return x

    return otcache.loop(sample, denoiser=net, grid=lambda n: levels.tolist(), calls_per_step=2)


def test_samples_are_the_same_in_calls_of_any_size(runs: list[Trajectory]) -> None:
    again = otcache.record(make_loop(), ["a", "b"], STEPS, [3, 4], progress=False, batch_size=1)
    for own, other in zip(runs, again, strict=True):
        np.testing.assert_allclose(own.states, other.states, atol=1e-6)


class Jump(CostModel):
    """Give a span the distance that the output moves over it as cost."""

    def measure(
        self, trajectories: Sequence[Trajectory], evaluator: Evaluator | None = None
    ) -> SpanCosts:
        n = trajectories[0].num_steps
        costs = np.zeros((n, n + 1))
        for run in trajectories:
            for i in range(n):
                for j in range(i + 2, n + 1):
                    costs[i, j] += np.abs(run.outputs[j - 1] - run.outputs[i]).mean()
        return SpanCosts(costs / len(trajectories), 0, len(trajectories))


@pytest.mark.parametrize("model", [Jump(), installed().create("cost_models", "local")])
def test_a_cost_model_takes_them(runs: list[Trajectory], model: CostModel) -> None:
    found = model.measure(runs)
    assert found.costs.shape == (STEPS, STEPS + 1)
    assert (found.nfe, found.samples) == (0, 4)
    assert (found.costs[np.triu_indices(STEPS, 2)] > 0).all()
    problem = ScheduleProblem(STEPS, 4, costs=found.costs)
    planned = installed().create("solvers", "shortest-path").solve(problem).schedule
    assert planned is not None
    assert planned.budget == 4


def test_the_sampler_s_own_number_of_steps_is_that_of_the_runs() -> None:
    inner = make_loop()

    def sample(prompts: list[str], seeds: list[int], num_steps: int) -> torch.Tensor:
        made: torch.Tensor = inner.sample_fn(prompts, seeds, num_steps - 2)
        return made

    loop = otcache.loop(sample, denoiser=inner.denoiser, num_steps=lambda n: n - 2)
    (run,) = otcache.record(loop, ["a"], STEPS + 2, progress=False)
    assert run.num_steps == STEPS


@pytest.mark.parametrize("given", [{"batch_size": 0}, {"num_inference_steps": 0}, {"prompts": []}])
def test_bad_arguments_are_named(given: dict[str, Any]) -> None:
    asked = {"prompts": ["a"], "num_inference_steps": STEPS, "progress": False, **given}
    with pytest.raises(OtcacheError, match=next(iter(given))):
        otcache.record(make_loop(), **asked)


class Zeroed(TorchProbe):
    """Sees nothing but zeros."""

    def record(self, target: Any, request: SampleRequest) -> Iterator[Trajectory]:
        for run in super().record(target, request):
            yield replace(run, states=np.zeros_like(run.states))


def test_a_probe_is_chosen_by_name() -> None:
    """Among two that support the target, the later one."""

    class Plugin:
        @hookimpl
        def otcache_provide_probes(self) -> list[Info]:
            return [Info("zeroed", f"{__name__}:Zeroed")]

    registry = Registry(entry_points=False)
    registry.register_builtin()
    registry.register(Plugin())
    call: dict[str, Any] = {"registry": registry, "progress": False}
    (plain,) = otcache.record(make_loop(), ["a"], STEPS, **call)
    (other,) = otcache.record(make_loop(), ["a"], STEPS, probe="zeroed", **call)
    assert plain.states.any()
    assert not other.states.any()
    with pytest.raises(OtcacheError, match="no-such"):
        otcache.record(make_loop(), ["a"], STEPS, probe="no-such", **call)
