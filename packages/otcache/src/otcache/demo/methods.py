"""The methods that stand beside each other in the demo's table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from otcache.comparison.baselines import LeMiCa, MeanCache, ScheduledBaseline, UniformSteps
from otcache.comparison.scheduled import Tuning
from otcache_core import Schedule
from otcache_core.policy import Policy

#: Baselines that run B steps of another sampler, and how the table names them.
SAMPLERS = {"fewer-steps-adams-bashforth": "fewer steps, AB2", "fewer-steps-unipc": "UniPC"}


@dataclass(frozen=True)
class Method:
    """One row a budget.

    Args:
        name: as tables print it.
        schedule: the schedule at a budget; its ``num_steps`` is what the pipeline is called with.
        around: a context for the runs at a budget, in which the pipeline has another sampler.
    """

    name: str
    schedule: Callable[[int], Schedule]
    around: Callable[[Any, int], AbstractContextManager[None]] = lambda pipe, budget: nullcontext()


def methods(
    tuning: Tuning,
    budgets: Sequence[int],
    policy: Policy,
    lemica_prompts: int,
    samplers: Sequence[str],
) -> list[Method]:
    """What one would use instead, and otcache.

    Uniform reuse; fewer steps of the same sampler; the rules of LeMiCa and MeanCache on this
    pipeline's own costs; and the rivals to beat, which need no calibration: two-step Adams-Bashforth on
    a uniform sub-grid, and fewer steps of other samplers where the pipeline's can be exchanged for them.

    Args:
        tuning: what the rules measure on.
        budgets: of the table.
        policy: otcache's.
        lemica_prompts: calibration prompts on which the LeMiCa rule prices its spans.
        samplers: names of :data:`SAMPLERS`.
    """
    rules: dict[str, ScheduledBaseline] = {
        "LeMiCa rule": LeMiCa(lemica_prompts),
        "MeanCache rule": MeanCache(),
        "Adams-Bashforth": UniformSteps("linear"),
    }
    tuned = [_tuned(name, rule, tuning, budgets) for name, rule in rules.items()]
    return [
        _tuned("uniform", UniformSteps("reuse"), tuning, budgets),
        Method("fewer steps", Schedule.full),
        *tuned,
        *(method for name in samplers for method in _sampled(name, tuning, budgets)),
        Method("otcache", policy.schedule),
    ]


def _tuned(name: str, rule: ScheduledBaseline, tuning: Tuning, budgets: Sequence[int]) -> Method:
    found, _ = rule.schedules(tuning, budgets)
    return Method(name, found.__getitem__)


def _sampled(name: str, tuning: Tuning, budgets: Sequence[int]) -> list[Method]:
    """One method; none where the pipeline's sampler cannot be exchanged."""
    if name not in {offer.info.name for offer in tuning.registry.known("baselines")}:
        return []
    baseline = tuning.registry.create("baselines", tuning.registry.resolve("baselines", name))
    if baseline.supports(tuning.target, tuning.request):
        return []
    measured = baseline.calibrate(tuning.target, tuning.request, budgets)
    settings = baseline.settings(tuning.num_steps, budgets, measured)
    of = dict(zip(budgets, settings, strict=True))
    title = SAMPLERS[name]
    return [Method(title, Schedule.full, lambda pipe, b: baseline.apply(pipe, of[b], measured))]
