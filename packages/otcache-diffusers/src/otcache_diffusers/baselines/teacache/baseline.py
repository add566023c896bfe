"""TeaCache as a baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, final

import numpy as np
from torch import nn

from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest
from otcache_core.errors import ExecutionError, expected
from otcache_diffusers.baselines.teacache.first_norm import no_first_norm
from otcache_diffusers.baselines.teacache.policy import TeaCachePolicy
from otcache_diffusers.baselines.teacache.recording import ChangeRecorder
from otcache_diffusers.baselines.teacache.rule import DEGREE, Rule, fitted
from otcache_diffusers.hooks import denoisers_of, drive, unsupported
from otcache_diffusers.recording.quiet import quiet
from otcache_diffusers.recording.sampling import Sampler

#: Settings of a ladder, at most.
RUNGS = 16
_TRIED = 600


@final
class TeaCache(Baseline):
    """The rule as published, written here: there is no library of it for arbitrary models.

    On a skipped step the block stacks are passed over and add the residual of the last computed step; see
    :class:`~otcache_diffusers.baselines.teacache.rule.Rule` for when that is. The polynomial is fitted on
    the calibration samples, one call at a time, with the branches of guidance pooled; in a run each branch
    decides for itself. The thresholds of the ladder are those with which full runs of the calibration
    samples would have computed 2, 3, ... steps.

    References:
        Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model (2024),
        https://arxiv.org/abs/2411.19108.
    """

    source = "TeaCache (arXiv 2411.19108), the published rule, by otcache"
    adaptive = True

    def supports(self, target: Any, request: SampleRequest) -> str:
        if isinstance(target, nn.Module):
            return "a bare module has no sampler to calibrate on: wrap it in otcache.loop(...)"
        reason = unsupported(target)
        if reason:
            return reason
        if request.num_steps < DEGREE + 2:
            return f"a polynomial of degree {DEGREE} needs runs of {DEGREE + 2} steps or more"
        return next(filter(None, map(no_first_norm, denoisers_of(target).values())), "")

    def calibrate(
        self, target: Any, request: SampleRequest, budgets: Sequence[int]
    ) -> Mapping[str, Any]:
        """Full runs of all samples, one at a time.

        Returns:
            ``polynomial``, highest power first; ``changes``, of the modulated input, one list a run and
            branch; ``nfe``.
        """
        recorder = ChangeRecorder(denoisers_of(target))
        with quiet(target), drive(target, recorder, num_steps=request.num_steps):
            for n in range(len(request.prompts)):
                Sampler(target, request)([n])
        pairs = [list(chain(*lists)) for lists in (recorder.inputs, recorder.outputs)]
        return {
            "polynomial": list(fitted(*pairs)),
            "changes": recorder.inputs,
            "nfe": request.num_steps * len(request.prompts),
        }

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        thresholds = _thresholds(measured, max(budgets))
        return [
            BaselineSetting(f"threshold={theta:.4g}", {"threshold": theta}, num_steps)
            for theta in thresholds
        ]

    @contextmanager
    def apply(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> Iterator[None]:
        if "polynomial" not in measured:
            raise ExecutionError(
                expected("measured", sorted(measured), "what calibrate() returned")
            )
        rule = Rule(tuple(measured["polynomial"]), float(setting.values["threshold"]))
        policy = TeaCachePolicy(rule, lambda: denoisers_of(target))
        with drive(target, policy, num_steps=setting.num_steps):
            yield


def _thresholds(measured: Mapping[str, Any], most: int) -> list[float]:
    """Increasing thresholds under which full runs would have computed ``most``, ..., 2 steps."""
    polynomial = tuple(measured["polynomial"])
    predicted = [[Rule(polynomial, 0.0).predicted(d) for d in run] for run in measured["changes"]]
    flat = [p for run in predicted for p in run if p > 0]
    tried = np.geomspace(min(flat) / 2, 1.01 * max(map(sum, predicted)), _TRIED)
    landed = [_landing(predicted, float(theta)) for theta in tried]
    wanted = np.unique(np.geomspace(2, max(2, most), RUNGS).round())
    nearest = {int(np.argmin(np.abs(np.array(landed) - k))) for k in wanted}
    return [float(f"{tried[n]:.4g}") for n in sorted(nearest)]


def _landing(predicted: Sequence[Sequence[float]], threshold: float) -> float:
    """Mean number of computed steps."""
    identity = Rule((1.0, 0.0), threshold)
    return float(np.mean([len(identity.computed(run)) for run in predicted]))
