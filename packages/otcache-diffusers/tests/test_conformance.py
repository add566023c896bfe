"""The conformance tests of every probe and executor, on a loop and on a real pipeline."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from otcache_core.contracts import CacheExecutor, Evaluator, FeatureProbe, SampleRequest
from otcache_core.loop import Loop
from otcache_core.schedule import Schedule
from otcache_core.testing.executors import ExecutorConformance
from otcache_core.testing.probes import EvaluatorConformance, ProbeConformance
from otcache_core.trajectory import Trajectory
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.recording.probe import TorchProbe
from otcache_diffusers.recording.sampler import Sampler


class _OnLoop:
    def make_target(self) -> Loop:
        net = tiny.counted(tiny.Velocity())
        return Loop(tiny.euler_sampler(net), net, grid=tiny.euler_grid)

    def traces(self, target: Loop) -> Any:
        return sorted(vars(target.denoiser)), vars(target)["_observer"]


class TestExecutorOnLoop(_OnLoop, ExecutorConformance):
    def make_executor(self) -> CacheExecutor:
        return TorchExecutor()

    def run(self, target: Loop) -> Any:
        return target(["a", "b"], [0, 1], self.num_steps).numpy()

    def denoiser(self, target: Loop) -> Any:
        return target.denoiser

    def calls(self, target: Loop) -> int:
        return tiny.calls_of(target.denoiser)


class TestProbeOnLoop(_OnLoop, ProbeConformance):
    def make_probe(self) -> FeatureProbe:
        return TorchProbe()

    def request(self) -> SampleRequest:
        return SampleRequest(("a", "b", "c"), (0, 1, 2), 6, {}, 2)

    def final_latents(self, target: Loop, request: SampleRequest) -> Any:
        parts = [target(["a", "b"], [0, 1], 6), target(["c"], [2], 6)]
        return torch.cat(parts).numpy()


class _OnFlux:
    def make_target(self) -> Any:
        case = tiny.with_prompts(tiny.flux())
        tiny.counted(case.denoiser)
        case(2)  # a pipeline remembers its last call; that is not ours to undo
        return case.pipe

    def traces(self, target: Any) -> Any:
        module, scheduler = target.transformer, target.scheduler
        return sorted(vars(module)), sorted(vars(scheduler)), sorted(vars(target))


class TestExecutorOnFlux(_OnFlux, ExecutorConformance):
    def make_target(self) -> Any:
        target = super().make_target()
        target.transformer.layers_run = 0
        return target

    def make_executor(self) -> CacheExecutor:
        return TorchExecutor()

    def run(self, target: Any) -> Any:
        case = tiny.Case(target, {"prompt": "a", "height": 16, "width": 16}, ("cond",))
        return case(self.num_steps).numpy()

    def denoiser(self, target: Any) -> Any:
        return target.transformer

    def calls(self, target: Any) -> int:
        return tiny.calls_of(target.transformer)


class TestProbeOnFlux(_OnFlux, ProbeConformance):
    def make_probe(self) -> FeatureProbe:
        return TorchProbe()

    def request(self) -> SampleRequest:
        return SampleRequest(("a", "b", "c"), (0, 1, 2), 6, {"height": 16, "width": 16}, 2)

    def final_latents(self, target: Any, request: SampleRequest) -> Any:
        made = []
        for seeds in ((0, 1), (2,)):
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            case = tiny.Case(target, dict(request.call), ("cond",))
            prompts = [request.prompts[n] for n in seeds]
            made.append(case(6, prompt=prompts, generator=generators))
        return torch.cat(made).numpy()


CALL = {"height": 16, "width": 16, "negative_prompt": "b", "true_cfg_scale": 3.0}
GUIDED = SampleRequest(("a", "b"), (0, 1), 6, CALL, 4)


@cache
def guided() -> tuple[Any, list[Trajectory], torch.Tensor]:
    """Return a pipeline with true guidance, two recorded samples, and the results of plain runs."""
    case = tiny.with_prompts(tiny.flux(cfg=True))
    tiny.counted(case.denoiser)
    recorded = list(TorchProbe().record(case.pipe, GUIDED))
    return case.pipe, recorded, Sampler(case.pipe, GUIDED)([0, 1])


class TestEvaluatorOnFlux(EvaluatorConformance):
    """With true guidance: two branches, two samples."""

    def make_evaluator(self) -> Evaluator:
        pipe, recorded, _ = guided()
        return TorchProbe().evaluator(pipe, GUIDED, recorded)

    def accelerated_errors(self, schedule: Schedule) -> Any:
        pipe, _, full = guided()
        with TorchExecutor().attach(pipe, schedule):
            fast = Sampler(pipe, GUIDED)([0, 1])
        return np.asarray((fast - full).double().square().flatten(1).mean(1).sqrt())

    def num_evaluations(self) -> int | None:
        return tiny.calls_of(guided()[0].transformer)


def test_provenance_names_what_binds_a_policy() -> None:
    case = tiny.with_prompts(tiny.flux())
    request = SampleRequest(("a",), (0,), 6, {"height": 16, "width": 16})
    facts = TorchProbe().provenance(case.pipe, request)
    assert facts["model_class"] == "FluxTransformer2DModel"
    assert facts["prediction_type"] == "flow"
    assert facts["guidance"] == "none"
    assert facts["resolution"] == 64
    assert TorchProbe().provenance(tiny.flux().pipe, request)["config_hash"] == facts["config_hash"]
    assert TorchProbe().provenance(tiny.qwen().pipe, None)["config_hash"] != facts["config_hash"]


@pytest.mark.parametrize("cfg", [False, True])
def test_the_recorded_run_obeys_the_euler_recurrence(cfg: bool) -> None:
    case = tiny.with_prompts(tiny.flux(cfg))
    call = {"height": 16, "width": 16}
    if cfg:
        call |= {"negative_prompt": "b", "true_cfg_scale": 3.0}
    (run,) = TorchProbe().record(case.pipe, SampleRequest(("a",), (0,), 5, call))
    h = np.diff(run.grid)[:, None]
    np.testing.assert_allclose(run.states[:-1] + h * run.outputs, run.states[1:], atol=1e-5)
    assert run.calls == dict.fromkeys(case.branches, 5)
