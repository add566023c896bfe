"""TeaCache as a baseline: its rule, the step hook that follows it, and its calibration."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest
from otcache_core.errors import ExecutionError, expected
from otcache_diffusers.baselines.teacache_blocks import SkippableCall, no_first_norm, observed
from otcache_diffusers.execution.block_stacks import Residuals, Stack, block_lists
from otcache_diffusers.hooks import (
    DenoiserCall,
    RunInfo,
    Severity,
    StepHook,
    denoisers_of,
    drive,
    unsupported,
)
from otcache_diffusers.hooks.trees import first_tensor
from otcache_diffusers.recording.sampler import Sampler, quiet

#: Degree of the polynomial.
DEGREE = 4
#: Settings of a ladder, at most.
RUNGS = 16
_TRIED = 600


@final
class TeaCache(Baseline):
    """The rule as published, written here: there is no library of it for arbitrary models.

    On a skipped step the block stacks are skipped and add the residual of the last computed step; see
    :class:`TeaCacheRule` for when that is. The polynomial is fitted on the calibration samples, one call
    at a time, with the branches of guidance pooled; in a run each branch decides for itself. The
    thresholds of the ladder are those with which full runs of the calibration samples would have
    computed 2, 3, ... steps.

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
        """Run all samples in full, one at a time.

        Returns:
            ``polynomial``, highest power first; ``changes``, of the modulated input, one list per run and
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
        rule = TeaCacheRule(tuple(measured["polynomial"]), float(setting.values["threshold"]))
        hook = TeaCacheHook(rule, lambda: denoisers_of(target))
        with drive(target, hook, num_steps=setting.num_steps):
            yield


def _thresholds(measured: Mapping[str, Any], most: int) -> list[float]:
    """Return rising thresholds under which full runs would have computed ``most``, ..., 2 steps."""
    polynomial = tuple(measured["polynomial"])
    predict = TeaCacheRule(polynomial, 0.0).predicted
    predicted = [[predict(d) for d in run] for run in measured["changes"]]
    flat = [p for run in predicted for p in run if p > 0]
    tried = np.geomspace(min(flat) / 2, 1.01 * max(map(sum, predicted)), _TRIED)
    computed = np.array([_mean_computed(predicted, float(theta)) for theta in tried])
    wanted = np.unique(np.geomspace(2, max(2, most), RUNGS).round())
    nearest = {int(np.argmin(np.abs(computed - k))) for k in wanted}
    return [float(f"{tried[n]:.4g}") for n in sorted(nearest)]


def _mean_computed(predicted: Sequence[Sequence[float]], threshold: float) -> float:
    identity = TeaCacheRule((1.0, 0.0), threshold)
    return float(np.mean([len(identity.computed(run)) for run in predicted]))


# -- the rule -----------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class TeaCacheRule:
    r"""Compute when the predicted changes since the last computed step add up to the threshold.

    .. math:: \sum_{i = k+1}^{t} |P(d_i)| \ge \theta, \qquad
        d_i = \frac{\|m_i - m_{i-1}\|_1}{\|m_{i-1}\|_1}

    where m_i is the timestep-modulated input of the first block at step i, k the last computed step and
    P a polynomial that predicts the relative change of the denoiser's output. The first and the last
    step are computed always. The authors' code sums P; its absolute value is the same wherever P was
    fitted, and no badly extrapolated change can lower the sum.

    Args:
        polynomial: coefficients of P, highest power first.
        threshold: theta.

    References:
        Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model (2024),
        https://arxiv.org/abs/2411.19108, section 3.3.
    """

    polynomial: tuple[float, ...]
    threshold: float

    def predicted(self, change: float) -> float:
        """Return |P(d)|."""
        return abs(float(np.polyval(self.polynomial, change)))

    def computed(self, changes: Sequence[float]) -> tuple[int, ...]:
        """Return the computed steps of a run whose changes d_1 .. d_{N-1} are known beforehand."""
        steps, total = [0], 0.0
        for step, change in enumerate(changes, start=1):
            total += self.predicted(change)
            if total >= self.threshold or step == len(changes):
                steps.append(step)
                total = 0.0
        return tuple(steps)


def change(now: torch.Tensor, before: torch.Tensor) -> float:
    """Return the relative L1 change d; synchronizes with the device, as the rule requires."""
    return float(((now - before).abs().mean() / before.abs().mean()).item())


def fitted(inputs: Sequence[float], outputs: Sequence[float]) -> tuple[float, ...]:
    """Fit P, of degree 4, by least squares over all steps and samples, as the authors do.

    Args:
        inputs: changes of the modulated input between neighbouring steps of full runs.
        outputs: changes of the denoiser's output between the same steps.

    References:
        https://github.com/ali-vilab/TeaCache/issues/2: ``np.polyfit(x, y, 4)`` over all steps.
    """
    with warnings.catch_warnings():
        # Neighbouring changes are alike, so the powers of them are nearly dependent.
        warnings.simplefilter("ignore", np.exceptions.RankWarning)
        return tuple(float(c) for c in np.polyfit(inputs, outputs, DEGREE))


# -- step hooks ---------------------------------------------------------------------------------


@dataclass
class _Branch:
    """What is kept of one branch during a run."""

    stacks: tuple[Stack, ...]
    residuals: Residuals
    modulated: Tensor  # of the step before, computed or not
    total: float = 0.0


class TeaCacheHook(StepHook):
    """Reuse the residual of the block stacks until the rule says to compute.

    Everything is forgotten when a run begins.

    Args:
        rule: decides.
        denoisers: returns those whose blocks are meant, by name; called at the start of each run.

    Attributes:
        computed: steps that were computed in the latest run, by branch.
    """

    watches = False
    inside = True

    def __init__(
        self, rule: TeaCacheRule, denoisers: Callable[[], Mapping[str, nn.Module]]
    ) -> None:
        self._rule, self._denoisers = rule, denoisers
        self._lists: dict[str, list[nn.Module]] = {}
        self._branches: dict[str, _Branch] = {}
        self._last = 0
        self.computed: dict[str, list[int]] = {}

    def begin(self, run: RunInfo) -> None:
        self._last = run.num_steps - 1
        self._lists, self._branches, self.computed = _lists_of(self._denoisers()), {}, {}

    def forecast(self, call: DenoiserCall) -> Any | None:
        known = self._branches.get(call.branch)
        if known is None:
            return None
        computes = partial(self._computes, call.step, call.branch)
        skippable = SkippableCall(known.stacks, known.residuals, computes)
        output = skippable(call.compute)
        known.residuals = skippable.residuals
        return output

    def compute(self, call: DenoiserCall) -> Any:
        seen = observed(self._lists, call.compute)
        self._branches[call.branch] = _Branch(seen.stacks, seen.residuals, seen.modulated)
        self.computed.setdefault(call.branch, []).append(call.step)
        return seen.output

    def end(self, completed: bool) -> None:
        self._branches = {}

    def _computes(self, step: int, branch: str, modulated: Tensor) -> bool:
        known = self._branches[branch]
        known.total += self._rule.predicted(change(modulated, known.modulated))
        known.modulated = modulated
        if step < self._last and known.total < self._rule.threshold:
            return False
        known.total = 0.0
        self.computed[branch].append(step)
        return True


class ChangeRecorder(StepHook):
    """Compute everything, and record how much modulated input and output change from step to step.

    Args:
        denoisers: by name.

    Attributes:
        inputs: changes d_1 .. d_{N-1} of the modulated input, one list per run and branch.
        outputs: those of the denoiser's output.
    """

    watches = False

    def __init__(self, denoisers: Mapping[str, nn.Module]) -> None:
        self._lists = _lists_of(denoisers)
        self._latest: dict[str, tuple[int, Tensor, Tensor]] = {}
        self.inputs: list[list[float]] = []
        self.outputs: list[list[float]] = []

    def begin(self, run: RunInfo) -> None:
        self._latest = {}

    def compute(self, call: DenoiserCall) -> Any:
        branch, seen = call.branch, observed(self._lists, call.compute)
        output = first_tensor(seen.output)
        assert output is not None, "a denoiser returns tensors"
        if branch in self._latest:
            place, modulated, before = self._latest[branch]
            self.inputs[place].append(change(seen.modulated, modulated))
            self.outputs[place].append(change(output, before))
        else:
            place = len(self.inputs)
            self.inputs.append([])
            self.outputs.append([])
        self._latest[branch] = place, seen.modulated, output.clone()
        return seen.output

    def end(self, completed: bool) -> None:
        self._latest = {}

    def report(self, message: str, severity: Severity) -> None:
        """Raise a warning: what goes wrong while measuring is an error."""
        if severity is Severity.WARNING:
            raise ExecutionError(f"TeaCache: {message}")
        super().report(message, severity)


def _lists_of(denoisers: Mapping[str, nn.Module]) -> dict[str, list[nn.Module]]:
    """Return the block lists of all denoisers, by dotted name."""
    lists: dict[str, list[nn.Module]] = {}
    for name, module in denoisers.items():
        lists |= block_lists(module, f"{name}." if name else "")
    return lists
