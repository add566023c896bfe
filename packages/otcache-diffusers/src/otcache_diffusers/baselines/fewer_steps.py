"""Fewer steps with the pipeline's own sampler or another one: what any cache has to beat."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

from torch import nn

from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest
from otcache_core.errors import ExecutionError, OtcacheError, expected
from otcache_core.loop import Loop
from otcache_diffusers.baselines.flow_solvers import (
    AdamsBashforthStepper,
    DiffusersStepper,
    FlowMatchScheduler,
    FlowStepper,
    is_flow_euler,
)
from otcache_diffusers.compat import DIFFUSERS, is_a, load
from otcache_diffusers.hooks import unsupported

NEAR_ONE = 1 - 1e-6  # ratios of log-SNR are not defined at s = 1; diffusers' UniPC moves it so too


class FewStepSampler(ABC):
    """Make a scheduler that replaces a pipeline's own one.

    Properties: the pipeline's own scheduler is not changed. With the new one a call of n steps visits the
    noise levels that n steps of the own one visit, or, if a solver is built from the own one's
    configuration, those this gives.
    """

    @property
    @abstractmethod
    def source(self) -> str:
        """Library, version and rule."""

    @abstractmethod
    def why_not(self, own: Any) -> str:
        """Return "" if it suits the pipeline's own scheduler, else the reason why not; change nothing."""

    @abstractmethod
    def scheduler(self, own: Any) -> Any:
        """Return a scheduler to put on the pipeline instead of ``own``."""


@final
class OwnSampler(FewStepSampler):
    """The pipeline as it is, or the user's own loop, called with fewer steps."""

    source = f"{DIFFUSERS}, the pipeline's own sampler"

    def why_not(self, own: Any) -> str:
        return ""

    def scheduler(self, own: Any) -> Any:
        return own


@final
class AdamsBashforth(FewStepSampler):
    """Two-step Adams-Bashforth on the noise levels of a flow-matching pipeline."""

    source = "two-step Adams-Bashforth, by otcache"

    def why_not(self, own: Any) -> str:
        if not is_flow_euler(own):
            kind = type(own).__name__
            return f"is written for FlowMatchEulerDiscreteScheduler, the pipeline has {kind}"
        return "the pipeline's sampler adds noise" if own.config.stochastic_sampling else ""

    def scheduler(self, own: Any) -> Any:
        return FlowMatchScheduler(own, AdamsBashforthStepper())


@final
@dataclass(frozen=True)
class DiffusersSampler(FewStepSampler):
    """A solver of diffusers, on a flow-matching pipeline's noise levels or from its own configuration.

    A pipeline with ``FlowMatchEulerDiscreteScheduler`` keeps its very noise levels
    (:class:`~otcache_diffusers.baselines.flow_solvers.FlowMatchScheduler`). Any other scheduler must list the
    solver among its ``compatibles``; then the solver is made from the scheduler's configuration, as
    diffusers advises.

    Args:
        rule: what it is called.
        solver: name of diffusers' class for everything but flow matching by Euler.
        more: configuration that makes ``solver`` the rule.
        flow: makes what steps on flow-matching levels; None if the own scheduler is the rule.

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
        return own if self.flow is None else FlowMatchScheduler(own, self.flow())


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


SAMPLERS: dict[str, FewStepSampler] = {
    "own": OwnSampler(),
    "euler": DiffusersSampler("Euler", "EulerDiscreteScheduler"),
    "adams-bashforth": AdamsBashforth(),
    "dpmpp": DiffusersSampler(
        "DPM-Solver++(2M)",
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2},
        lambda: _multistep("DPMSolverMultistepScheduler", 1.0, algorithm_type="dpmsolver++"),
    ),
    "unipc": DiffusersSampler(
        "UniPC of order 2",
        "UniPCMultistepScheduler",
        {"solver_order": 2},
        lambda: _multistep("UniPCMultistepScheduler", NEAR_ONE),
    ),
    "heun": DiffusersSampler("Heun", "HeunDiscreteScheduler", {}, _heun),
}


@final
class FewerSteps(Baseline):
    """Call the pipeline with as many steps as make B evaluations, with another scheduler meanwhile.

    A method of two calls per step makes 2n - 1 of them in n steps, so it takes the odd number at or
    below B.

    Args:
        sampler: one of :data:`SAMPLERS`; ``own`` keeps the scheduler, and takes a user's own loop too.

    Raises:
        OtcacheError: if there is no such sampler.
    """

    by_budget = True

    def __init__(self, sampler: str = "own") -> None:
        if sampler not in SAMPLERS:
            raise OtcacheError(expected("sampler", sampler, f"one of {', '.join(SAMPLERS)}"))
        self.sampler = SAMPLERS[sampler]
        self.source = self.sampler.source

    def supports(self, target: Any, request: SampleRequest) -> str:
        if isinstance(target, nn.Module):
            return "a bare module has no sampler that could take fewer steps"
        reason = unsupported(target) or _fixed(target, request)
        if reason or isinstance(self.sampler, OwnSampler):
            return reason
        if isinstance(target, Loop):
            return "the sampler of a loop cannot be exchanged"
        return self.sampler.why_not(target.scheduler)

    def calibrate(
        self, target: Any, request: SampleRequest, budgets: Sequence[int]
    ) -> Mapping[str, Any]:
        """Return how many calls a step of this sampler makes; nothing is run."""
        if isinstance(target, Loop):
            return {"order": 1}
        return {"order": int(getattr(self.sampler.scheduler(target.scheduler), "order", 1))}

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        if measured.get("order", 1) == 1:
            return [BaselineSetting(f"B = {b}", {}, b, tuple(range(b))) for b in budgets]
        return [
            BaselineSetting(f"{2 * n - 1} calls in {n} steps", {}, n)
            for n in ((b + 1) // 2 for b in budgets)
        ]

    @contextmanager
    def apply(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> Iterator[None]:
        if isinstance(target, Loop):
            yield
            return
        scheduler = target.scheduler
        reason = self.sampler.why_not(scheduler)
        if reason:
            raise ExecutionError(f"{self.source}: {reason}.")
        target.scheduler = self.sampler.scheduler(scheduler)
        try:
            yield
        finally:
            target.scheduler = scheduler


def _fixed(target: Any, request: SampleRequest) -> str:
    """Return why the number of steps cannot be chosen, "" if it can."""
    for name in ("sigmas", "timesteps"):
        if request.call.get(name) is not None:
            return f"the call names its own {name}, so the number of steps is fixed"
    if isinstance(target, Loop) and not _takes_steps(target):
        return "the loop's sample_fn does not take its number of steps"
    return ""


def _takes_steps(target: Loop) -> bool:
    try:
        return target.steps_of([""], [0], 1) == 1 and target.steps_of([""], [0], 2) == 2
    except TypeError:
        return False
