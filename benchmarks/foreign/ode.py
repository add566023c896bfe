"""Solvers of differential equations: torchdiffeq, torchdyn, flow-matching."""

from __future__ import annotations

from typing import Any

import torch
from flow_matching.solver import ODESolver
from flow_matching.utils import ModelWrapper
from torch import Tensor, nn
from torchdiffeq import odeint
from torchdyn.core import NeuralODE

import otcache
from foreign.case import Case
from foreign.toys import gaussian, vectors

GUIDANCE = 3.0


def velocity(x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return the exact flow from noise (t = 0) to data (t = 1)."""
    a, b = t, (1 - t).clamp(min=1e-3)
    return vectors.clean(x, a, b, labels) - vectors.noise(x, a, b, labels)


class Field(nn.Module):
    """As torchdiffeq and torchdyn call it."""

    def forward(self, t: Tensor, x: Tensor, args: Any = None) -> Tensor:
        """dx/dt."""
        return velocity(x, t)


class Model(nn.Module):
    """As flow-matching calls it; label 2 means no label."""

    def forward(self, x: Tensor, t: Tensor, label: int = 2) -> Tensor:
        """dx/dt."""
        labels = None if label == 2 else torch.full((len(x),), label)
        return velocity(x, t, labels)


def torchdiffeq(method: str, calls: int) -> otcache.Loop:
    field = Field()

    def sample(prompts, seeds, num_steps):
        times = torch.linspace(0, 1, num_steps + 1)
        return odeint(field, gaussian(seeds), times, method=method)[-1]

    return otcache.loop(sample, denoiser=field, calls_per_step=calls)


def torchdiffeq_adams() -> otcache.Loop:
    field, options = Field(), {"max_order": 4}

    def sample(prompts, seeds, steps):
        times = torch.linspace(0, 1, steps + 1)
        return odeint(field, gaussian(seeds), times, method="explicit_adams", options=options)[-1]

    # The first two steps are Runge and Kutta's, of four calls each.
    return otcache.loop(sample, denoiser=field, num_steps=lambda steps: steps + 6)


def torchdyn(solver: str, calls: int) -> otcache.Loop:
    field = Field()
    model = NeuralODE(field, solver=solver)

    def sample(prompts, seeds, num_steps):
        with torch.no_grad():
            return model.trajectory(gaussian(seeds), torch.linspace(0, 1, num_steps + 1))[-1]

    return otcache.loop(sample, denoiser=field, calls_per_step=calls)


def flow_matching(method: str, calls: int) -> otcache.Loop:
    model = Model()
    solver = ODESolver(velocity_model=model)

    def sample(prompts, seeds, num_steps):
        times = torch.linspace(0, 1, num_steps + 1)
        return solver.sample(gaussian(seeds), step_size=None, method=method, time_grid=times)

    return otcache.loop(sample, denoiser=model, calls_per_step=calls)


class Guided(ModelWrapper):
    """Guidance as in flow-matching's own examples: a wrapper that calls the model twice."""

    def forward(self, x: Tensor, t: Tensor, **extras: Any) -> Tensor:
        """Return the extrapolated velocity."""
        cond, uncond = self.model(x=x, t=t, label=1), self.model(x=x, t=t)
        return (1 + GUIDANCE) * cond - GUIDANCE * uncond


def flow_matching_guided(method: str, calls: int, inside: bool) -> otcache.Loop:
    model = Model()
    guided = Guided(model)
    solver = ODESolver(velocity_model=guided)

    def sample(prompts, seeds, num_steps):
        times = torch.linspace(0, 1, num_steps + 1)
        return solver.sample(gaussian(seeds), step_size=None, method=method, time_grid=times)

    if inside:
        return otcache.loop(sample, denoiser=model, calls_per_step=2 * calls)
    return otcache.loop(sample, denoiser=guided, calls_per_step=calls)


FIXED = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}
CASES = [
    *(Case("torchdiffeq", m, torchdiffeq, (m, calls)) for m, calls in FIXED.items()),
    Case("torchdiffeq", "explicit_adams of order 4", torchdiffeq_adams),
    Case("torchdiffeq", "implicit_adams", torchdiffeq, ("implicit_adams", 1), refused=True),
    Case("torchdiffeq", "dopri5", torchdiffeq, ("dopri5", 1), refused=True),
    *(
        Case("torchdyn", m, torchdyn, (m, c))
        for m, c in {"euler": 1, "midpoint": 2, "rk4": 4}.items()
    ),
    Case("torchdyn", "dopri5", torchdyn, ("dopri5", 1), refused=True),
    Case("torchdyn", "tsit5", torchdyn, ("tsit5", 1), refused=True),
    *(
        Case("flow-matching", m, flow_matching, (m, FIXED[m]))
        for m in ("euler", "midpoint", "heun3", "rk4")
    ),
    Case("flow-matching", "dopri5", flow_matching, ("dopri5", 1), refused=True),
    Case("flow-matching", "euler, guided, the wrapper", flow_matching_guided, ("euler", 1, False)),
    Case("flow-matching", "euler, guided, two calls", flow_matching_guided, ("euler", 1, True)),
    Case(
        "flow-matching", "midpoint, guided, two calls", flow_matching_guided, ("midpoint", 2, True)
    ),
]
