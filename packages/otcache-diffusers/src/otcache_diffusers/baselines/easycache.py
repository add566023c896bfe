"""EasyCache as a baseline: its rule, and the step hook that follows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from torch import Tensor

from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest
from otcache_diffusers.baselines.step_decisions import DecidingHook, KeptOutput, mean_abs
from otcache_diffusers.hooks import RunInfo, drive, unsupported

#: Smallest and largest threshold of the ladder, which rises at equal ratios, and their number.
THRESHOLDS = (0.01, 2.0, 20)
#: Share of a run that is always computed at its beginning: 5 of 50 steps in the code for HunyuanVideo.
WARM_UP = 0.1


@final
class EasyCache(Baseline):
    """The rule as published, on any denoiser: it needs its input and its output alone.

    The ladder varies the threshold; published values are 0.025 (HunyuanVideo) and 0.05 (Wan 2.1). First
    steps (a tenth of the run, two at least) and the last one are always computed, as in the authors' code for
    HunyuanVideo, so that no run takes fewer evaluations than these. It needs no calibration: calibration
    prompts only serve to see which threshold comes nearest to a budget.

    References:
        Less is enough: training-free video diffusion acceleration via runtime-adaptive caching (2025),
        https://arxiv.org/abs/2507.02860, and its code, https://github.com/H-EmbodVis/EasyCache (Apache-2.0,
        commit 5127804), read for the rule; docs/theory.md, section 9.9.
    """

    source = "EasyCache (arXiv 2507.02860), the published rule on whole outputs, by otcache"
    adaptive = True

    def supports(self, target: Any, request: SampleRequest) -> str:
        """Support what steps can be counted of."""
        return unsupported(target)

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        """Return the ladder of thresholds."""
        values = [float(f"{value:.3g}") for value in np.geomspace(*THRESHOLDS)]
        return [BaselineSetting(f"threshold={v:g}", {"threshold": v}, num_steps) for v in values]

    @contextmanager
    def apply(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> Iterator[None]:
        """Run the target by the rule."""
        hook = EasyCacheHook(float(setting.values["threshold"]))
        with drive(target, hook, num_steps=setting.num_steps):
            yield


@dataclass
class EasyCacheRule:
    r"""Compute when the predicted relative changes of the output add up to the threshold.

    .. math:: E \leftarrow E + \kappa\, \frac{|x_t - x_{t-1}|}{|v_k|} \ge \theta, \qquad
        \kappa = \frac{|v_k - v_{k_1}|}{|x_k - x_{k_1}|}

    with x what the denoiser is given, v what it returns, k the last computed step and k_1 the one before,
    and | | the mean absolute value. E is 0 after each computed step. The first W steps and the last one are
    always computed, and so is a step for which there is no kappa.

    Args:
        threshold: theta.
        warm_up: W.
        last: N - 1.
    """

    threshold: float
    warm_up: int
    last: int
    total: float = field(default=0.0, init=False)
    rate: float | None = field(default=None, init=False)
    size: float = field(default=0.0, init=False)

    def computes(self, step: int, moved: float) -> bool:
        """Decide about a step.

        Args:
            step: t.
            moved: mean absolute value of x_t - x_{t-1}.
        """
        if step < self.warm_up or step >= self.last:
            self.total = 0.0
            return True
        if self.rate is None or not self.size:
            return True
        self.total += self.rate * moved / self.size
        if self.total < self.threshold:
            return False
        self.total = 0.0
        return True

    def learn(self, size: float, changed: float, moved: float) -> None:
        """Take note of a computed output: |v_t|, |v_t - v_k| and |x_t - x_k|, 0 and 0 at the first one."""
        self.size = size
        if moved:
            self.rate = changed / moved


class EasyCacheHook(DecidingHook):
    """Follow the rule; a skipped step returns x_t + (v_k - x_k), of each branch its own.

    Of a state with a condition beside it the first channels count. Where the output does not have their shape
    either, it is v_k.

    Args:
        threshold: theta.
    """

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self._threshold = threshold
        self._before: Tensor | None = None
        self._latest: KeptOutput | None = None

    def start(self, run: RunInfo) -> None:
        """Begin with nothing known."""
        warm_up = max(2, round(WARM_UP * run.num_steps))
        self._rule = EasyCacheRule(self._threshold, warm_up, run.num_steps - 1)
        self._before, self._latest = None, None

    def decide(self, step: int, state: Tensor) -> bool:
        """Ask the rule."""
        moved = 0.0 if self._before is None else mean_abs(state - self._before)
        self._before = state.clone()
        return self._rule.computes(step, moved)

    def learn(self, step: int, kept: KeptOutput) -> None:
        """Measure the rate at which the output follows the state."""
        before, self._latest = self._latest, kept
        changed, moved = 0.0, 0.0
        if before is not None:
            changed = mean_abs(kept.prediction - before.prediction)
            moved = mean_abs(kept.state - before.state)
        self._rule.learn(mean_abs(kept.prediction), changed, moved)

    def reused(self, kept: KeptOutput, state: Tensor) -> Tensor:
        """Return x_t + (v_k - x_k)."""
        v = kept.prediction
        now, then = first_channels(state, v), first_channels(kept.state, v)
        if now is None or then is None:
            return v.clone()
        return (now + (v - then)).to(v.dtype)

    def end(self, completed: bool) -> None:
        """Release what is kept."""
        super().end(completed)
        self._before, self._latest = None, None


def first_channels(state: Tensor, prediction: Tensor) -> Tensor | None:
    """Return the part of a state that has a prediction's shape; None unless one dimension is longer."""
    if state.ndim != prediction.ndim:
        return None
    longer = [a - b for a, b in zip(state.shape, prediction.shape, strict=True) if a != b]
    if len(longer) > 1 or any(more < 0 for more in longer) or len(state) != len(prediction):
        return None
    return state[tuple(slice(n) for n in prediction.shape)]
