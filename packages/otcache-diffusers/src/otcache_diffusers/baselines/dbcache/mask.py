"""DBCache by a mask of steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import numpy as np

from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest
from otcache_diffusers.baselines.dbcache.baseline import CacheDiT, source_of
from otcache_diffusers.baselines.dbcache.library import library
from otcache_diffusers.recording.probe import TorchProbe

POLICIES = ("slow", "medium", "fast", "ultra")


@final
class DBCacheMask(CacheDiT):
    r"""Compute at the steps of a mask, static: at the others the first blocks only.

    A skipped step costs a share r of a computed one, which calibration counts, so a budget of B evaluations
    leaves

    .. math:: c = (B - N r) / (1 - r)

    computed steps. Where one of cache-dit's four published policies, stretched to N steps by its own
    ``steps_mask``, has that many, give or take one, it is used. Elsewhere steps are evenly spaced, the
    first computed and, as in the published ones, the last.
    """

    def __init__(self) -> None:
        self.source = source_of("steps_computation_mask")

    def calibrator(self, library: Any) -> Any:
        return None

    def more(
        self, target: Any, request: SampleRequest, known: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """``share``, r: from three runs of two and three steps."""
        return {"share": _share(self, target, request, known), "nfe": known["nfe"] + 8}

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        r = float(measured["share"])
        counts = [round((budget - num_steps * r) / (1 - r)) for budget in budgets]
        masks = dict(_mask(num_steps, min(max(2, c), num_steps)) for c in counts)
        rising = sorted(masks.items(), key=lambda pair: -sum(pair[1]))
        return [_setting(label, mask) for label, mask in rising]


def _share(
    baseline: Baseline, target: Any, request: SampleRequest, known: Mapping[str, Any]
) -> float:
    """Multiply-adds of a skipped step over those of a computed one."""
    one = replace(request, prompts=request.prompts[:1], seeds=request.seeds[:1], batch_size=1)

    def flops(*mask: int) -> int:
        short = replace(one, num_steps=len(mask))
        with baseline.apply(target, _setting("", list(mask)), known):
            return TorchProbe().measure(target, short, flops=True).flops or 0

    two = flops(1, 1)
    computed, skipped = flops(1, 1, 1) - two, flops(1, 1, 0) - two
    return skipped / computed


def _mask(num_steps: int, count: int) -> tuple[str, list[int]]:
    for name, mask in _published(num_steps):
        if abs(sum(mask) - count) <= 1:
            return f"{name}, {sum(mask)} computed", mask
    computed = set(np.linspace(0, num_steps - 1, count).round().astype(int).tolist())
    mask = [int(step in computed) for step in range(num_steps)]
    return f"even, {count} computed", mask


def _published(num_steps: int) -> Iterator[tuple[str, list[int]]]:
    if num_steps < 8 and num_steps not in (4, 6):  # steps_mask() knows no others
        return
    for name in POLICIES:
        yield name, list(library().steps_mask(total_steps=num_steps, mask_policy=name))


def _setting(label: str, mask: list[int]) -> BaselineSetting:
    values = {"steps_computation_mask": mask, "steps_computation_policy": "static"}
    computed = tuple(step for step, one in enumerate(mask) if one)
    return BaselineSetting(label, values, len(mask), computed)
