"""Solvers that diffusers has."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

from otcache_diffusers.baselines.fewer_steps.diffusers_stepper import DiffusersStepper
from otcache_diffusers.baselines.fewer_steps.flow_grid import (
    FlowMatchGrid,
    FlowStepper,
    is_flow_euler,
)
from otcache_diffusers.baselines.fewer_steps.sampler import FewStepSampler
from otcache_diffusers.compat import DIFFUSERS, is_a, load

NEAR_ONE = 1 - 1e-6  # ratios of log-SNR are not defined at s = 1; diffusers' UniPC moves it so too


@final
@dataclass(frozen=True)
class Borrowed(FewStepSampler):
    """A solver of diffusers, on a flow-matching pipeline's noise levels or from its own configuration.

    A pipeline with ``FlowMatchEulerDiscreteScheduler`` keeps its very noise levels
    (:class:`~otcache_diffusers.baselines.fewer_steps.flow_grid.FlowMatchGrid`). Any other scheduler must list
    the solver among its ``compatibles``; then the solver is made from the scheduler's configuration, as
    diffusers advises.

    Args:
        rule: what it is called.
        solver: name of diffusers' class for everything but flow matching by Euler.
        more: configuration that makes ``solver`` the rule.
        flow: makes what steps on flow-matching levels; None where the own scheduler is the rule.

    References:
        Euler and Heun: Elucidating the Design Space of Diffusion-Based Generative Models (2022),
        https://arxiv.org/abs/2206.00364. DPM-Solver++(2M): (2022), https://arxiv.org/abs/2211.01095.
        UniPC: (2023), https://arxiv.org/abs/2302.04867.
    """

    rule: str
    solver: str
    more: Mapping[str, Any] = field(default_factory=dict)
    flow: Callable[[], FlowStepper] | None = None

    @property
    def source(self) -> str:
        return f"{DIFFUSERS}, {self.rule}"

    def why_not(self, own: Any) -> str:
        if is_flow_euler(own):
            return self._why_not_on_levels(own)
        kind, name = type(own).__name__, self.solver
        compatible = [solver.__name__ for solver in getattr(own, "compatibles", [])]
        if name not in compatible and not is_a(own, name):
            return f"diffusers does not list {name} as compatible with the pipeline's {kind}"
        if own.config.get("prediction_type") == "flow_prediction" and not _knows_flow(name):
            return f"{name} does not know flow predictions, which the pipeline's {kind} is set to"
        return ""

    def _why_not_on_levels(self, own: Any) -> str:
        if own.config.stochastic_sampling:
            return "the pipeline's sampler adds noise"
        if own.config.invert_sigmas and self.flow is not None:
            return f"{self.rule} needs noise levels that fall, and the pipeline's rise"
        return ""

    def scheduler(self, own: Any) -> Any:
        if not is_flow_euler(own):
            return _solver(self.solver).from_config(own.config, **self.more)
        return own if self.flow is None else FlowMatchGrid(own, self.flow())


def _solver(name: str) -> Any:
    return load(f"diffusers:{name}", "another solver on a pipeline")


def _knows_flow(solver: str) -> bool:
    return "use_flow_sigmas" in inspect.signature(_solver(solver)).parameters


def _multistep(solver: str, first: float, **more: Any) -> DiffusersStepper:
    inner = _solver(solver)(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        solver_order=2,
        final_sigmas_type="zero",
        **more,
    )
    return DiffusersStepper(inner, first)


def _heun() -> DiffusersStepper:
    return DiffusersStepper(_solver("FlowMatchHeunDiscreteScheduler")(), order=2)


EULER = Borrowed("Euler", "EulerDiscreteScheduler")
DPMPP = Borrowed(
    "DPM-Solver++(2M)",
    "DPMSolverMultistepScheduler",
    {"algorithm_type": "dpmsolver++", "solver_order": 2},
    lambda: _multistep("DPMSolverMultistepScheduler", 1.0, algorithm_type="dpmsolver++"),
)
UNIPC = Borrowed(
    "UniPC of order 2",
    "UniPCMultistepScheduler",
    {"solver_order": 2},
    lambda: _multistep("UniPCMultistepScheduler", NEAR_ONE),
)
HEUN = Borrowed("Heun", "HeunDiscreteScheduler", {}, _heun)
