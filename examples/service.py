"""A service of your own: private plugins, a policy that stays on the sampler, a budget by each deadline.

What is installed beside otcache cannot change it: its registry holds otcache's own packages and the solver
below. Run it: ``python examples/service.py``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from own_loop import STEPS, Velocity

import otcache
from otcache_core import Info, Registry, Result, ScheduleProblem, Solution, hookimpl
from otcache_core.contracts import ScheduleSolver
from otcache_core.transport import round_to_steps

#: Steps are the solver's, so little is spent on looking for others.
SHORT = otcache.Recipe(ladder=(3, 6, 12), anchor_trials=2, climb_trials=1, rounding_runs=0.0)


class Early(ScheduleSolver):
    """Computes early steps densely: quantiles u^2 of the run."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        """Place B steps and round them to distinct ones."""
        n, b = problem.num_steps, problem.budget
        steps = round_to_steps([(m / b) ** 2 for m in range(b)], n)
        return Solution(otcache.Schedule(n, steps), 0.0, Result.FOUND)


class Plugins:
    """What the service adds to otcache."""

    @hookimpl
    def otcache_provide_solvers(self) -> list[Info]:
        """Offer the solver."""
        return [Info("early", f"{__name__}:Early", "dense early steps", api=2)]


def private_registry() -> Registry:
    """Return otcache's own plugins and the service's, and nobody else's."""
    registry = Registry(entry_points=False)
    registry.register_builtin()
    registry.register(Plugins())
    return registry


def make_loop() -> otcache.Loop:
    """Return the sampler of ``own_loop.py``."""
    denoiser, grid = Velocity(), torch.linspace(1, 0, STEPS + 1)

    def sample(prompts: list[str], seeds: list[int], num_steps: int) -> torch.Tensor:
        noise = [torch.randn(1, 2, generator=torch.Generator().manual_seed(s)) for s in seeds]
        x = torch.cat(noise)
        for i in range(num_steps):
            x = x + (grid[i + 1] - grid[i]) * denoiser(x, grid[i])
        return x

    return otcache.loop(sample, denoiser=denoiser, grid=grid.tolist())


@dataclass(frozen=True)
class Answer:
    """What a request gets.

    Attributes:
        result: the final state.
        budget: steps that were computed.
        seconds: that it took.
    """

    result: torch.Tensor
    budget: int
    seconds: float


class Service:
    """Answers requests within their time; call ``close`` at the end.

    Args:
        loop: the sampler.
        policy: stays on it.
        registry: where plugins come from.
    """

    def __init__(self, loop: otcache.Loop, policy: otcache.Policy, registry: Registry) -> None:
        self._loop = loop
        self._handle: otcache.Enabled = otcache.enable(loop, policy, registry=registry)
        self._per_step = self._sampled("warm-up", 0, STEPS).seconds / STEPS

    def answer(self, prompt: str, seed: int, seconds: float) -> Answer:
        """Compute as many steps as there is time for, one at least."""
        budget = min(STEPS, max(1, int(seconds / self._per_step)))
        return self._sampled(prompt, seed, budget)

    def close(self) -> None:
        """Leave nothing on the sampler."""
        self._handle.remove()

    def _sampled(self, prompt: str, seed: int, budget: int) -> Answer:
        began = time.perf_counter()
        with self._handle.request(budget) as run, torch.no_grad():
            result: torch.Tensor = self._loop([prompt], [seed], STEPS)
        computed = run.report.computed["call"]
        return Answer(result, computed, time.perf_counter() - began)


def main() -> None:
    """Plan by the service's own solver, and answer two requests."""
    registry, loop = private_registry(), make_loop()
    solver: ScheduleSolver = registry.create("solvers", "early")
    calibration = otcache.calibrate(
        loop, ["any"], STEPS, range(4), recipe=SHORT, registry=registry, progress=False
    )
    policy = otcache.plan(calibration, solver=solver, registry=registry)
    service = Service(loop, policy, registry)
    for seconds in (0.0, 3600.0):
        answer = service.answer("any", 100, seconds)
        print(f"{answer.budget} of {STEPS} steps in {answer.seconds:.4f} s")
    service.close()
    assert otcache.enabled(loop) is None


if __name__ == "__main__":
    main()
