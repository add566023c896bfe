"""DBCache of cache-dit as baselines: by a threshold, with and without TaylorSeer, and by a mask of steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, final

import numpy as np

from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest
from otcache_core.errors import ExecutionError, expected
from otcache_core.numbers import integer
from otcache_diffusers.baselines.cache_dit import (
    attached,
    calls_per_step,
    first_blocks,
    library,
    not_cacheable,
    one_sample,
    source_of,
)
from otcache_diffusers.recording.probe import TorchProbe

#: residual_diff_threshold by max_warmup_steps. Eight steps of warm-up are cache-dit's default, and 0.08 its
#: threshold; eight steps alone are more than low budgets allow, so warm-up shrinks as thresholds grow. At
#: 1 and above everything after warm-up is skipped.
RUNGS = {8: (0.08, 0.12), 4: (0.12, 0.16, 0.2), 2: (0.24, 0.3, 0.4), 1: (0.4, 0.6, 0.8, 0.99)}
#: Masks that cache-dit publishes.
POLICIES = ("slow", "medium", "fast", "ultra")


class CacheDiT(Baseline):
    """A cache of cache-dit on the blocks that its own adapter names for the pipeline.

    At every step the first F blocks are computed, at skipped ones nothing after them but what follows the
    blocks: the residual of the others is reused. ``enable_separate_cfg`` is set as the pipeline calls its
    denoiser, which a calibration run counts: by default cache-dit assumes one call per step for Flux, and
    under true guidance compares each branch with the other.

    References:
        https://github.com/vipshop/cache-dit
    """

    def calibrator(self, library: Any) -> Any:
        """Return a ``CalibratorConfig`` of cache-dit, or None."""
        return None

    def supports(self, target: Any, request: SampleRequest) -> str:
        return not_cacheable(target)

    def calibrate(
        self, target: Any, request: SampleRequest, budgets: Sequence[int]
    ) -> Mapping[str, Any]:
        """Run one sample in full.

        Returns:
            ``calls_per_step``; ``first_blocks``, F; ``nfe``.
        """
        return {
            "calls_per_step": calls_per_step(target, request),
            "first_blocks": first_blocks(target),
            "nfe": request.num_steps,
        }

    @contextmanager
    def apply(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> Iterator[None]:
        if "calls_per_step" not in measured:
            raise ExecutionError(
                expected("measured", sorted(measured), "what calibrate() returned")
            )
        module = library()
        config = module.DBCacheConfig(
            Fn_compute_blocks=measured["first_blocks"],
            Bn_compute_blocks=0,
            enable_separate_cfg=measured["calls_per_step"] == 2,
            **setting.values,
        )
        with attached(target, config, self.calibrator(module)):
            yield


@final
class DBCache(CacheDiT):
    """Skip while the residual of the first blocks has changed little since the last computed step.

    Args:
        taylor_order: of the Taylor polynomial that extrapolates the residual of a skipped step, as
            TaylorSeer does; 1 is cache-dit's default for it, 0 reuses the residual.

    References:
        From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers (2025),
        https://arxiv.org/abs/2503.06923.

    Raises:
        OtcacheError: if the order is not an integer of at least 0.
    """

    adaptive = True

    def __init__(self, taylor_order: int = 0) -> None:
        self._order = integer("taylor_order", taylor_order, 0)
        extrapolated = f" with TaylorSeer of order {self._order}" if self._order else ""
        self.source = source_of(f"DBCache{extrapolated}")

    def calibrator(self, library: Any) -> Any:
        if not self._order:
            return None
        return library.TaylorSeerCalibratorConfig(taylorseer_order=self._order)

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        """Return one setting a rung, from mild to aggressive, in cache-dit's own terms."""
        return [
            BaselineSetting(
                f"threshold={theta}, warmup={steps}",
                {"residual_diff_threshold": theta, "max_warmup_steps": steps},
                num_steps,
            )
            for steps, thresholds in RUNGS.items()
            for theta in thresholds
        ]


@final
class DBCacheMask(CacheDiT):
    r"""Compute the steps of a static mask, and of the others the first blocks only.

    A skipped step costs a share r of a computed one, which calibration counts, so a budget of B evaluations
    leaves

    .. math:: c = (B - N r) / (1 - r)

    computed steps. If one of cache-dit's four published masks, stretched to N steps by its own
    ``steps_mask``, has that many, give or take one, it is used. Otherwise steps are evenly spaced, the
    first computed and, as in the published ones, the last.
    """

    def __init__(self) -> None:
        self.source = source_of("steps_computation_mask")

    def calibrate(
        self, target: Any, request: SampleRequest, budgets: Sequence[int]
    ) -> Mapping[str, Any]:
        """Measure ``share``, r, too: from three runs of two and three steps."""
        known = super().calibrate(target, request, budgets)

        def flops(*mask: int) -> int:
            short = replace(one_sample(request), num_steps=len(mask))
            with self.apply(target, _setting("", list(mask)), known):
                return TorchProbe().measure(target, short, flops=True).flops or 0

        two = flops(1, 1)
        computed, skipped = flops(1, 1, 1) - two, flops(1, 1, 0) - two
        return {**known, "share": skipped / computed, "nfe": known["nfe"] + 8}

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        r = float(measured["share"])
        counts = [round((budget - num_steps * r) / (1 - r)) for budget in budgets]
        masks = dict(_mask(num_steps, min(max(2, c), num_steps)) for c in counts)
        rising = sorted(masks.items(), key=lambda pair: -sum(pair[1]))
        return [_setting(label, mask) for label, mask in rising]


def _mask(num_steps: int, count: int) -> tuple[str, list[int]]:
    if num_steps >= 8 or num_steps in (4, 6):  # steps_mask() knows no others
        for name in POLICIES:
            mask = list(library().steps_mask(total_steps=num_steps, mask_policy=name))
            if abs(sum(mask) - count) <= 1:
                return f"{name}, {sum(mask)} computed", mask
    computed = set(np.linspace(0, num_steps - 1, count).round().astype(int).tolist())
    mask = [int(step in computed) for step in range(num_steps)]
    return f"even, {count} computed", mask


def _setting(label: str, mask: list[int]) -> BaselineSetting:
    values = {"steps_computation_mask": mask, "steps_computation_policy": "static"}
    computed = tuple(step for step, one in enumerate(mask) if one)
    return BaselineSetting(label, values, len(mask), computed)
