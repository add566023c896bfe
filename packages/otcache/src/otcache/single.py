"""One picture or clip by a policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache.attempts import attemptable
from otcache.progress import Stages
from otcache.running import planned
from otcache.targets import choose
from otcache_core import ExecutionError
from otcache_core.contracts import CacheStorage, RunReport, SampleRequest
from otcache_core.numbers import integer
from otcache_core.plugins import Registry, installed
from otcache_core.policy import Policy
from otcache_core.samples import Sample, samples_of, seed_of


@dataclass(frozen=True)
class Single:
    """What was made, and the report of its run.

    Args:
        made: an image (height, width, 3) or a video (frames, height, width, 3), in [0, 1].
        report: of the run.
    """

    made: NDArray[np.floating]
    report: RunReport


@attemptable
def run_once(
    target: Any,
    policy: Policy,
    budget: int,
    prompt: Sample,
    *,
    seed: int = 0,
    num_steps: int | None = None,
    strict: bool = False,
    call: Mapping[str, Any] | None = None,
    storage: CacheStorage | None = None,
    stages: Stages | None = None,
    registry: Registry | None = None,
    probe: str | None = None,
    executor: str | None = None,
) -> Single:
    """Check a policy against the pipeline, map it to another step count if asked, and sample once.

    Args:
        target: a pipeline or a loop.
        policy: what was planned.
        budget: B.
        prompt: what to make; or a mapping of call arguments, as a calibration's samples may be.
        seed: of its noise.
        num_steps: ``num_inference_steps``; by default those that the policy was calibrated at.
        strict: refuse another step count or sigma grid.
        call: further arguments of the call, a strength among them.
        storage: how outputs are kept for forecasts.
        stages: show how many steps are behind.
        registry: where plugins come from; None: the installed ones.
        probe: name of a probe plugin, where not the first that supports the target.
        executor: name of an executor plugin, as in :func:`otcache.accelerate`.
        throw: False returns an OtcacheError instead of raising it, as :func:`otcache.attempt` does.

    Raises:
        OtcacheError: if the target does not take an argument; the message names it.
        MismatchError: if the policy is of another model; under ``strict`` also of another step count
            or sigma grid.
        ExecutionError: if the sampler never called the denoiser.
    """
    registry = registry or installed()
    sampler = choose(registry, "probes", target, probe)
    own = policy.provenance
    asked = own.inference_steps or own.num_steps if num_steps is None else num_steps
    n = integer("num_steps", asked, 1)
    request = SampleRequest(samples_of([prompt]), (seed_of(seed),), n, call or {}, 1)
    request = sampler.prepared(target, request)
    plan = planned(registry, target, policy, budget, strict=strict, request=request, probe=probe)
    chosen = choose(registry, "executors", target, executor)
    told: dict[str, Any] = {} if storage is None else {"storage": storage}
    with chosen.attach(target, plan, strict=strict, **told) as run:
        known = n if n != own.inference_steps else own.num_steps
        shown = stages or Stages(show=False)
        with shown.stage("running steps", known, ask=lambda: _steps(run.report)):
            made = sampler.sample(target, request)[0]
    if not run.report.runs:
        raise ExecutionError(
            f"the sampler of {type(target).__name__} never called the denoiser, or broke off: "
            f"{'; '.join(run.report.warnings) or 'nothing was accelerated'}"
        )
    return Single(made, run.report)


def _steps(report: RunReport) -> int:
    """Return the steps that are behind, of the branch that is furthest."""
    computed, skipped = dict(report.computed), dict(report.skipped)
    return max((computed.get(b, 0) + skipped.get(b, 0) for b in {*computed, *skipped}), default=0)
