"""MagCache of diffusers: skip by magnitude ratios that full runs calibrate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts import BaselineSetting, SampleRequest
from otcache_core.errors import ExecutionError
from otcache_diffusers.baselines.diffusers_caches import (
    DiffusersCache,
    cache_enabled,
    cannot_skip_blocks,
    no_context,
    several_calls,
)
from otcache_diffusers.compat import DIFFUSERS, cache_config, magnitude_hooks
from otcache_diffusers.recording.sampler import Sampler, quiet

#: The authors' setting for FLUX: the first tenth of the steps computed, five skipped in a row at most.
_RETENTION, _MAX_SKIP = 0.1, 5
_THRESHOLDS = tuple(float(f"{value:.4g}") for value in np.geomspace(1e-4, 1e2, 600))


@final
class MagCache(DiffusersCache):
    """Skip all blocks while the magnitudes of what they add are predicted to change little.

    The rule is :class:`MagCacheRule` on ratios calibrated on full runs. It looks at no input, so the
    threshold of each budget, and the steps it computes, are known beforehand. Settings are the authors'
    for FLUX (retention 0.1, at most 5 skipped in a row) from a third of the steps on. Below that
    retained steps and cap would use up the budget or put it out of reach: only the first step is
    retained and the cap is removed, which on the demo model is better at every such budget (RMSE of
    final states 0.07 against 0.16 at 5 of 30 steps, 0.05 against 0.10 at 6).

    Each branch of guidance has its own state, and all use one list of ratios: with two branches the
    first one's (``cond``), as diffusers' guide says; both are kept in what is measured.

    References:
        MagCache: fast video generation with magnitude-aware cache (2025),
        https://arxiv.org/abs/2506.09045; settings: https://github.com/Zehong-Ma/MagCache
    """

    source = f"{DIFFUSERS}, MagCache with its own calibration"
    by_budget = True
    config = "MagCacheConfig"

    def why_not(self, target: Any, request: SampleRequest) -> str:
        return cannot_skip_blocks(target) or no_context(target, request) or several_calls(target)

    def calibrate(
        self, target: Any, request: SampleRequest, budgets: Sequence[int]
    ) -> Mapping[str, Any]:
        branches = magnitude_ratios(target, request)
        nfe = request.num_steps * len(request.prompts)
        return {"ratios": next(iter(branches.values())), "branches": branches, "nfe": nfe}

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        return [_setting(num_steps, budget, measured["ratios"]) for budget in budgets]

    def arguments(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {
            "threshold": setting.values["threshold"],
            "max_skip_steps": setting.values["max_skip"],
            "retention_ratio": setting.values["warmup"] / setting.num_steps,
            "num_inference_steps": setting.num_steps,
            "mag_ratios": list(measured["ratios"]),
        }


@dataclass(frozen=True)
class MagCacheRule:
    r"""Decide which steps MagCache computes, by its magnitude ratios.

    .. math:: \rho_t = \prod_{i=k+1}^{t} \gamma_i, \qquad
        \mathrm{skip} \iff \sum_{i=k+1}^{t} |1 - \rho_i| \le \theta \;\wedge\; t - k \le K

    from step w on, with k the latest step computed (or w - 1), so that after a computed step the
    count begins anew.

    Args:
        threshold: theta.
        max_skip: K, the most steps skipped in a row.
        warmup: w, at least 1; steps before it are computed.
    """

    threshold: float
    max_skip: int
    warmup: int

    def computed(self, ratios: Sequence[float]) -> tuple[int, ...]:
        """Return the computed steps of 0 .. N-1.

        Args:
            ratios: gamma_t, mean over tokens of |r_t| / |r_{t-1}|, r what the blocks add.
        """
        rho, error, skipped = 1.0, 0.0, 0
        computed = list(range(min(self.warmup, len(ratios))))
        for t in range(self.warmup, len(ratios)):
            rho *= ratios[t]
            error += abs(1.0 - rho)
            skipped += 1
            if error > self.threshold or skipped > self.max_skip:
                computed.append(t)
                rho, error, skipped = 1.0, 0.0, 0
        return tuple(computed)


def _setting(n: int, budget: int, ratios: Sequence[float]) -> BaselineSetting:
    """Return the threshold in the middle of those that compute nearest to the budget."""
    tight = 3 * budget < n
    warmup, max_skip = (1, n) if tight else (max(1, round(_RETENTION * n)), _MAX_SKIP)
    rules = [MagCacheRule(threshold, max_skip, warmup) for threshold in _THRESHOLDS]
    off = [abs(len(rule.computed(ratios)) - budget) for rule in rules]
    nearest = [rule for rule, distance in zip(rules, off, strict=True) if distance == min(off)]
    rule = nearest[len(nearest) // 2]
    values = {"threshold": rule.threshold, "max_skip": max_skip, "warmup": warmup}
    label = f"threshold={rule.threshold:g}, at most {max_skip} in a row, first {warmup} kept"
    return BaselineSetting(label, values, n, rule.computed(ratios))


def magnitude_ratios(target: Any, request: SampleRequest) -> dict[str, list[float]]:
    """Measure gamma_0 .. gamma_{N-1} of each cache context, means over tokens and samples.

    ``MagCacheConfig(calibrate=True)`` prints the ratios and discards them at step N. It is given N + 1,
    so that it does neither, and they are read from its state after each call.

    Args:
        target: the pipeline.
        request: calibration samples.

    Returns:
        Ratios by context, in the order in which the pipeline enters them.

    Raises:
        ExecutionError: if the transformer is called another number of times than N in a context.
    """
    n, size = request.num_steps, max(1, request.batch_size)
    sampler = Sampler(target, request)
    sums: dict[str, NDArray[np.float64]] = {}
    config = cache_config("MagCacheConfig")(calibrate=True, num_inference_steps=n + 1)
    with quiet(target), cache_enabled(target, config), _read(target.transformer) as seen:
        for start in range(0, len(request.prompts), size):
            samples = range(start, min(start + size, len(request.prompts)))
            sampler(samples)
            for name, ratios in seen.items():
                _check(name, ratios, n)
                sums[name] = sums.get(name, np.zeros(n)) + len(samples) * np.array(ratios)
            seen.clear()
    return {name: (total / len(request.prompts)).tolist() for name, total in sums.items()}


def _check(name: str, ratios: list[float], n: int) -> None:
    if len(ratios) != n or not all(math.isfinite(ratio) for ratio in ratios):
        raise ExecutionError(
            f"MagCache saw {len(ratios)} steps of {name!r} in a run of {n}: it counts the calls of the "
            "transformer, so every step must make one call in each context."
        )


@contextmanager
def _read(denoiser: Any) -> Iterator[dict[str, list[float]]]:
    """Read the ratios of each context from the state of MagCache's first hook, after each call."""
    states = magnitude_hooks(denoiser)[0].state_manager
    seen: dict[str, list[float]] = {}

    def read(*call: Any) -> None:
        for name, state in states._state_cache.items():
            seen[name] = list(state.calibration_ratios)

    handle = denoiser.register_forward_hook(read)
    try:
        yield seen
    finally:
        handle.remove()
