"""Loops of every kind: what is measured on them is what they do when accelerated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from otcache_core.contracts import Evaluator, SampleRequest
from otcache_core.identification import identify
from otcache_core.loop import Loop
from otcache_core.recurrence import Recurrence
from otcache_core.schedule import Schedule
from otcache_core.testing import EvaluatorConformance
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.recording.probe import TorchProbe

N, WIDTH, SAMPLES = 8, 6, 3
SCALE = 2.5
#: Runge-Kutta tableaus: nodes, matrix, weights. Calls of a step, before guidance.
METHODS: dict[str, tuple[list[float], list[list[float]], list[float]]] = {
    "euler": ([0], [[]], [1]),
    "heun": ([0, 1], [[], [1]], [1 / 2, 1 / 2]),
    "midpoint": ([0, 1 / 2], [[], [1 / 2]], [0, 1]),
    "kutta3": ([0, 1 / 2, 1], [[], [1 / 2], [-1, 2]], [1 / 6, 2 / 3, 1 / 6]),
    "rk4": (
        [0, 1 / 2, 1 / 2, 1],
        [[], [1 / 2], [0, 1 / 2], [0, 0, 1]],
        [1 / 6, 1 / 3, 1 / 3, 1 / 6],
    ),
}


@dataclass
class Prediction:
    """What some denoisers return."""

    mean: Tensor
    step: int = 0


#: How an output is wrapped, and what of it the sampler reads.
FORMS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "tensor": (lambda v: v, lambda o: o),
    "tuple": (lambda v: (v, v.mean(), None), lambda o: o[0]),
    "dict": (lambda v: {"sample": v}, lambda o: o["sample"]),
    "dataclass": (lambda v: Prediction(v), lambda o: o.mean),
}


@dataclass(frozen=True)
class Kind:
    """A loop around a denoiser of clean points on a curve, in the noise level sigma.

    Attributes:
        method: name of a tableau.
        predicts: what the denoiser returns.
        guidance: how the guided output is made.
        form: what it is returned in.
        up: time rises from 0 instead of the noise level falling.
        affine: the loop returns (x + 1) / 2.
        given: whether the loop is given its grid.
    """

    method: str = "euler"
    predicts: str = "velocity"
    guidance: str = "none"
    form: str = "tensor"
    up: bool = False
    affine: bool = False
    given: bool = False

    @cached_property
    def net(self) -> Net:
        return Net(self)

    @property
    def calls(self) -> int:
        """Denoiser calls of a step."""
        return len(METHODS[self.method][0]) * (2 if self.guidance == "two calls" else 1)

    @property
    def grid(self) -> Tensor:
        """Noise levels, or times 1 - sigma."""
        sigmas = torch.linspace(1.0, 0.1, N + 1, dtype=torch.float64) ** 1.5
        return 1 - sigmas if self.up else sigmas

    def loop(self) -> Loop:
        grid = self.grid.tolist() if self.given else None
        return Loop(self.sample, self.net, grid, self.calls)

    def sample(self, prompts: Any, seeds: Any, num_steps: int) -> Tensor:
        start = [torch.randn(WIDTH, generator=torch.Generator().manual_seed(s)) for s in seeds]
        x = torch.stack(start).double()
        nodes, matrix, weights = METHODS[self.method]
        for t, after in zip(self.grid[:-1], self.grid[1:], strict=True):
            h, slopes = after - t, []
            for node, row in zip(nodes, matrix, strict=True):
                y = x + h * sum(a * k for a, k in zip(row, slopes, strict=True))
                slopes.append(self._slope(y, t + node * h))
            x = x + h * sum(b * k for b, k in zip(weights, slopes, strict=True))
        return (x + 1) / 2 if self.affine else x

    def _slope(self, x: Tensor, t: Tensor) -> Tensor:
        """dx/dt from what the denoiser predicts, guided."""
        sigma = 1 - t if self.up else t
        predicted = self._guided(x, sigma)
        slope = {
            "velocity": lambda p: p,
            "epsilon": lambda p: p,
            "x0": lambda p: (x - p) / sigma,
            "score": lambda p: -sigma * p,
        }[self.predicts](predicted)
        return -slope if self.up else slope

    def _guided(self, x: Tensor, sigma: Tensor) -> Tensor:
        read = FORMS[self.form][1]
        if self.guidance == "two calls":
            cond, uncond = read(self.net(x, sigma)), read(self.net(x, sigma, shift=0.4))
        elif self.guidance == "doubled batch":
            shift = torch.tensor([0.0, 0.4]).double().repeat_interleave(len(x))[:, None]
            cond, uncond = read(self.net(torch.cat([x, x]), sigma, shift=shift)).chunk(2)
        else:
            return read(self.net(x, sigma))
        return uncond + SCALE * (cond - uncond)


class Net(nn.Module):
    """Predicts points on a curve; under ``wrapper`` it is guided inside."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind, self.calls = kind, 0
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH, generator=generator).double() / 2)

    def forward(self, x: Tensor, sigma: Tensor, shift: Any = 0.0) -> Any:
        self.calls += 1
        clean = self.clean(x, sigma, shift)
        if self.kind.guidance == "wrapper":
            weak = self.clean(x, sigma, 0.4)
            clean = weak + SCALE * (clean - weak)
        slope = (x - clean) / sigma
        made = {"x0": clean, "score": -slope / sigma}.get(self.kind.predicts, slope)
        return FORMS[self.kind.form][0](made.detach())

    def clean(self, x: Tensor, sigma: Tensor, shift: Any) -> Tensor:
        return torch.tanh(x @ self.weight * (1 - sigma / 2) + shift)


KINDS = st.builds(
    Kind,
    method=st.sampled_from(sorted(METHODS)),
    predicts=st.sampled_from(["velocity", "epsilon", "x0", "score"]),
    guidance=st.sampled_from(["none", "two calls", "doubled batch", "wrapper"]),
    form=st.sampled_from(sorted(FORMS)),
    up=st.booleans(),
    affine=st.booleans(),
    given=st.booleans(),
).filter(lambda kind: kind.calls <= 4)


class Kit(EvaluatorConformance):
    """The kit on one kind of loop."""

    def __init__(self, kind: Kind) -> None:
        self.kind, self.loop = kind, kind.loop()
        self.request = SampleRequest(("a",) * SAMPLES, tuple(range(SAMPLES)), N, batch_size=8)
        self.trajectories = list(TorchProbe().record(self.loop, self.request))
        self.full = self.loop(*self._arguments)

    def make_evaluator(self) -> Evaluator:
        return TorchProbe().evaluator(self.loop, self.request, self.trajectories)

    def accelerated_errors(self, schedule: Schedule) -> Any:
        with TorchExecutor().attach(self.loop, schedule) as run:
            fast = self.loop(*self._arguments)
        assert not run.report.warnings
        return (fast - self.full).square().mean(1).sqrt().numpy()

    def num_evaluations(self) -> int | None:
        return self.kind.net.calls

    @property
    def _arguments(self) -> Any:
        return self.request.prompts, self.request.seeds, N


@settings(max_examples=12, deadline=None, derandomize=True)
@given(kind=KINDS)
def test_what_is_measured_on_a_loop_is_what_it_does(kind: Kind) -> None:
    kit = Kit(kind)
    recurrence = identify(kit.trajectories)
    assert isinstance(recurrence, Recurrence), recurrence
    kit.test_recorded_outputs_end_in_the_recorded_result()
    kit.test_errors_are_those_of_accelerated_runs()
    kit.test_fitted_errors_are_those_of_runs_with_each_samples_weights()


GAINS = {
    "heun": [1 / 2, 1 / 2],
    "midpoint": [0, 1],
    "kutta3": [1 / 6, 2 / 3, 1 / 6],
    "rk4": [1 / 6, 1 / 3, 1 / 3, 1 / 6],
}


@pytest.mark.parametrize("method", GAINS)
def test_the_calls_of_a_step_are_distinguished(method: str) -> None:
    (first, *_) = Kit(Kind(method)).trajectories
    assert first.call_weights is not None
    np.testing.assert_allclose(first.call_weights, [GAINS[method]] * N, atol=1e-4)


@pytest.mark.parametrize("guidance", ["two calls", "doubled batch"])
def test_guidance_is_found_whatever_its_calls(guidance: str) -> None:
    runs = {g: Kit(Kind(guidance=g, given=True)) for g in (guidance, "wrapper")}
    call_weights = runs[guidance].trajectories[0].call_weights
    np.testing.assert_allclose(call_weights, [[SCALE, 1 - SCALE]] * N, atol=1e-4)
    for ours, theirs in zip(*(kit.trajectories for kit in runs.values()), strict=True):
        np.testing.assert_allclose(ours.outputs, theirs.outputs, atol=1e-5)
    schedule = [Schedule(N, (0, 1, 4))]
    errors = [kit.make_evaluator().evaluate(schedule).errors for kit in runs.values()]
    np.testing.assert_allclose(*errors, rtol=1e-5)
