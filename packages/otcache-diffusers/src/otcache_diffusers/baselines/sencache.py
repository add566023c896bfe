"""SenCache as a baseline: its rule, the step hook that follows it, and its calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest
from otcache_core.errors import ExecutionError, expected
from otcache_diffusers.baselines.step_decisions import DecidingHook, KeptOutput, rms, state_of
from otcache_diffusers.hooks import (
    DenoiserCall,
    RunInfo,
    Severity,
    StepHook,
    drive,
    unsupported,
    usable_grid,
)
from otcache_diffusers.hooks.trees import owned, prediction
from otcache_diffusers.recording.sampler import Sampler, quiet

#: Settings of a ladder, at most.
RUNGS = 16
_TRIED = 600
Floats = NDArray[np.float64]


class Sensitivity(NamedTuple):
    """How an output reacts to what the denoiser is given at a step, root mean squares over elements.

    Attributes:
        state: change of the output by a step of the state, over that step.
        time: change of the output by a step of the time, over that step.
    """

    state: float
    time: float


@final
class SenCache(Baseline):
    r"""Use an output again while a first-order estimate of its change is below a tolerance.

    .. math:: J^x_k\, \|x_t - x_k\| + J^s_k\, |s_t - s_k| < \theta

    with k the last computed step, norms as root mean squares over elements, and the sensitivities measured
    beforehand on full runs of the calibration samples, each step in turn, as the mean over samples of

    .. math:: J^x_i = \frac{\|f(x_{i+1}, s_i) - f(x_i, s_i)\|}{\|x_{i+1} - x_i\|}, \qquad
        J^s_i = \frac{\|f(x_i, s_{i+1}) - f(x_i, s_i)\|}{|s_{i+1} - s_i|}

    which takes two more calls of the denoiser a step, by the first branch alone. Not as in the released
    code: states are those of the runs, not videos with noise added, of which there are none here; s is the
    grid, not a timestep; the whole output is used again, as the paper says, where the code adds the
    residual of the blocks; one tolerance holds for all steps, as in the paper, where the code has a tighter
    one for the first fifth (by a factor of 14 to 44, without a rule); and the cap on skips in a row (3, 4
    or 10) is removed, since it makes budgets infeasible. Not public are the sensitivities of other models
    than Wan 2.1, CogVideoX and LTX-Video, and how the raw ones of Wan 2.1 were summarised.

    The tolerances of the ladder are those with which full runs of the calibration samples would have
    computed 2, 3, ... steps.

    References:
        SenCache: accelerating diffusion model inference via sensitivity-aware caching (2026),
        https://arxiv.org/abs/2602.24208, and its code, https://github.com/vita-epfl/SenCache (commit
        4bf419b, without a licence), read for the rule; docs/theory.md, section 9.10.
    """

    source = "SenCache (arXiv 2602.24208), the paper's rule on whole outputs, by otcache"
    adaptive = True

    def supports(self, target: Any, request: SampleRequest) -> str:
        """Support what can be calibrated."""
        if isinstance(target, nn.Module):
            return "a bare module has no sampler to calibrate on: wrap it in otcache.loop(...)"
        if request.num_steps < 2:
            return "sensitivities need runs of 2 steps or more"
        return unsupported(target)

    def calibrate(
        self, target: Any, request: SampleRequest, budgets: Sequence[int]
    ) -> Mapping[str, Any]:
        """Run all samples in full, one at a time.

        Returns:
            ``state`` and ``time``, sensitivities of each step; ``moved``, root mean squares of x_t - x_k by
            sample, t and k; ``grid``; ``nfe``.
        """
        recorder = SensitivityRecorder()
        with quiet(target), drive(target, recorder, num_steps=request.num_steps):
            for n in range(len(request.prompts)):
                Sampler(target, request)([n])
        means = np.mean(recorder.runs, axis=0)
        return {
            "state": means[:, 0].tolist(),
            "time": means[:, 1].tolist(),
            "moved": recorder.moved,
            "grid": recorder.grid.tolist(),
            "nfe": recorder.nfe,
        }

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        """Return the ladder of tolerances."""
        return [
            BaselineSetting(f"tolerance={theta:.4g}", {"tolerance": theta}, num_steps)
            for theta in _tolerances(measured, max(budgets))
        ]

    @contextmanager
    def apply(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> Iterator[None]:
        """Run the target by the rule."""
        if not {"state", "time"} <= set(measured):
            raise ExecutionError(
                expected("measured", sorted(measured), "what calibrate() returned")
            )
        hook = SenCacheHook(_table(measured), float(setting.values["tolerance"]))
        with drive(target, hook, num_steps=setting.num_steps):
            yield


class SenCacheHook(DecidingHook):
    """Follow the rule; the first step is computed.

    Args:
        sensitivities: of each step of a run.
        tolerance: theta.
    """

    def __init__(self, sensitivities: Sequence[Sensitivity], tolerance: float) -> None:
        super().__init__()
        self._table, self._tolerance = tuple(sensitivities), tolerance
        self._latest: tuple[int, Tensor] | None = None

    def start(self, run: RunInfo) -> None:
        """Begin with nothing known.

        Raises:
            ExecutionError: if the sensitivities are those of another number of steps.
        """
        if len(self._table) != run.num_steps:
            wanted = f"{len(self._table)}, of which the sensitivities are"
            raise ExecutionError(expected("steps of a run", run.num_steps, wanted))
        self._grid, self._latest = usable_grid(run.grid), None

    def decide(self, step: int, state: Tensor) -> bool:
        """Estimate the change of the output since the last computed step."""
        if self._latest is None:
            return True
        k, x = self._latest
        gap = abs(float(self._grid[step] - self._grid[k]))
        return bool(change(self._table[k], rms(state - x), gap) >= self._tolerance)

    def learn(self, step: int, kept: KeptOutput) -> None:
        """Measure from here on."""
        self._latest = step, kept.state

    def end(self, completed: bool) -> None:
        """Release what is kept."""
        super().end(completed)
        self._latest = None


def change(at: Sensitivity, moved: float, gap: float) -> float:
    """Estimate the root mean square change of an output, to first order."""
    return at.state * moved + at.time * gap


def computed(
    table: Sequence[Sensitivity], grid: Floats, moved: Floats, tolerance: float
) -> list[int]:
    """Return the steps that a run computes whose states are known beforehand.

    Args:
        table: sensitivities of each step.
        grid: s_0 .. s_N.
        moved: root mean squares of x_t - x_k, shape (N, N).
        tolerance: theta.
    """
    found = [0]
    for t in range(1, len(table)):
        k = found[-1]
        if change(table[k], float(moved[t][k]), abs(float(grid[t] - grid[k]))) >= tolerance:
            found.append(t)
    return found


def _table(measured: Mapping[str, Any]) -> list[Sensitivity]:
    return [Sensitivity(*pair) for pair in zip(measured["state"], measured["time"], strict=True)]


def _tolerances(measured: Mapping[str, Any], most: int) -> list[float]:
    """Return rising tolerances under which full runs would have computed ``most``, ..., 2 steps."""
    table, grid, runs = _table(measured), np.array(measured["grid"]), np.array(measured["moved"])
    n = len(table)
    whole = [
        change(table[0], float(run[t][0]), abs(grid[t] - grid[0]))
        for run in runs
        for t in range(1, n)
    ]
    tried = np.geomspace(max(min(whole), 1e-12) / 100, 1.01 * max(whole), _TRIED)
    counts = [np.mean([len(computed(table, grid, run, theta)) for run in runs]) for theta in tried]
    wanted = np.unique(np.geomspace(2, max(2, most), RUNGS).round())
    nearest = {int(np.argmin(np.abs(np.array(counts) - k))) for k in wanted}
    return sorted({float(f"{tried[place]:.4g}") for place in nearest})


class SensitivityRecorder(StepHook):
    """Compute everything, and call the denoiser at each step's state and the next step's time, and reverse.

    The state is swapped within the tensor that the denoiser is given, so no argument has to be known by name.

    Attributes:
        runs: of each run, a pair of sensitivities for each step; the last step has those of the one before.
        moved: of each run, root mean squares of x_t - x_k, by t and k.
        grid: s_0 .. s_N of the runs.
        nfe: evaluations, of a sample's steps and of what is called beside them.
    """

    watches = False

    def __init__(self) -> None:
        self.runs: list[list[tuple[float, float]]] = []
        self.moved: list[list[list[float]]] = []
        self.grid: Floats = np.zeros(0)
        self.nfe = 0
        self._states: list[Tensor] = []
        self._latest: tuple[DenoiserCall, Tensor] | None = None
        self._calls: set[str] = set()

    def begin(self, run: RunInfo) -> None:
        """Begin the figures of a run."""
        self.grid = usable_grid(run.grid)
        self.runs.append([])
        self.moved.append([])
        self._states, self._latest, self._calls = [], None, set()

    def compute(self, call: DenoiserCall) -> Any:
        """Call the denoiser; at the first call of a step, twice more."""
        self._calls.add(call.branch)
        if len(self._states) > call.step:
            return call.compute()
        state = state_of(call).clone()
        output = owned(call.compute())
        v = prediction(output)
        assert v is not None, "a denoiser returns tensors"
        self._measure(call, state, v)
        self._states.append(state)
        self.moved[-1].append([rms(state - x) for x in self._states])
        self._latest = call, v
        return output

    def _measure(self, call: DenoiserCall, state: Tensor, v: Tensor) -> None:
        if self._latest is None:
            return
        before, old = self._latest
        x, step = self._states[-1], before.step
        gap = abs(float(self.grid[step + 1] - self.grid[step]))
        moved = self.moved_by(before, state, old), self.moved_by(call, x, old)
        size = rms(state - x)
        self.runs[-1].append((moved[0] / size if size else 0.0, moved[1] / gap if gap else 0.0))

    @staticmethod
    def moved_by(call: DenoiserCall, state: Tensor, v: Tensor) -> float:
        """Return how far the output is from v if a call is made with another state."""
        given = state_of(call)
        own = given.clone()
        given.copy_(state)
        try:
            other = prediction(call.compute())
            assert other is not None, "a denoiser returns tensors"
            return rms(other - v)
        finally:
            given.copy_(own)

    def end(self, completed: bool) -> None:
        """Complete the figures of a run."""
        rows, n = self.runs[-1], len(self._states)
        rows.append(rows[-1] if rows else (0.0, 0.0))
        for k, row in enumerate(self.moved[-1]):
            row += [0.0] * (n - k - 1)
        self.nfe += n + round(2 * (n - 1) / max(1, len(self._calls)))
        self._states, self._latest = [], None

    def report(self, message: str, severity: Severity) -> None:
        """Raise a warning: what goes wrong while measuring is an error."""
        if severity is Severity.WARNING:
            raise ExecutionError(f"SenCache: {message}")
        super().report(message, severity)
