"""Every metric of a comparison, of whichever kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError
from otcache_core.contracts import (
    ClipMetric,
    Metric,
    PromptMetric,
    QualityMetric,
    SetMetric,
    compare,
)
from otcache_core.notices import notify
from otcache_core.plugins import Registry

#: Measured where installed, in this order; others are asked for by name.
OF_PICTURES = ("rmse", "psnr", "ssim", "ms-ssim", "lpips", "haarpsi")
OF_CLIPS = (
    *("rmse", "psnr", "ssim", "lpips"),
    *("flicker", "temporal-lpips", "warping-error", "motion-magnitude", "subject-consistency"),
)
USUAL = tuple(dict.fromkeys(OF_PICTURES + OF_CLIPS))
#: What the image demo's own data allows besides, with the path.
OF_THE_DEMO = {"legible": "", "frechet": "demo"}
IMAGE_DEMOS = ("demo", "demo:image")
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Measures:
    """Metrics by name, in the order of the table.

    Args:
        metrics: of pictures, of clips or of both.
        usual: whether nobody asked for them: those that are not usual for what is compared are left
            out without a word.
    """

    metrics: Mapping[str, Metric]
    usual: bool = False

    @classmethod
    def choose(cls, asked: Sequence[str], pipeline: str, registry: Registry) -> Measures:
        """The metrics asked for, or the usual ones that are installed; RMSE always.

        Args:
            asked: names, or ``name=path`` for those that need weights or data.
            pipeline: as the job names it: the demo brings data for a distance to it.
            registry: where metrics come from.

        Raises:
            OtcacheError: if there is no RMSE, a name is unknown, or a path is missing.
        """
        known = [offer.info.name for offer in registry.infos("metrics")]
        if "rmse" not in known:
            raise OtcacheError("no image metrics are installed: pip install 'otcache[diffusers]'")
        paths = dict(pair for name in asked for pair in [_split(name)])
        if not asked:
            paths = {name: "" for name in USUAL if name in known}
            if pipeline in IMAGE_DEMOS:
                paths |= {n: p for n, p in OF_THE_DEMO.items() if n in known}
        paths = {"rmse": "", **paths}
        created = {}
        for name, path in paths.items():
            try:
                created[name] = registry.create("metrics", name, **({"path": path} if path else {}))
            except OtcacheError as error:
                if asked:
                    raise
                notify(f"{name} is omitted: {error}")
        return cls(created, usual=not asked)

    def usable(self, full: Floats, prompts: Sequence[str]) -> Measures:
        """Those that take pictures or clips like these; a notice names each that does not, and why."""
        kept = {}
        unusual = set(USUAL) - set(_usual_of(full)) if self.usual else set()
        for name, metric in self.metrics.items():
            if name in unusual:
                continue
            alone = Measures({name: metric})
            try:
                alone.values(full, full, prompts)
                alone.totals(full)
            except OtcacheError as error:
                notify(f"{name} is left out: {error}")
            else:
                kept[name] = metric
        return Measures(kept)

    def values(
        self, pictures: Floats, full: Floats, prompts: Sequence[str]
    ) -> dict[str, NDArray[np.float64]]:
        """One number a picture or clip."""
        pairs = {
            name: compare(metric, pictures, full)
            for name, metric in self.metrics.items()
            if isinstance(metric, QualityMetric | ClipMetric)
        }
        found = pairs | self.of_full_runs(pictures, prompts)
        return {name: found[name] for name in self.metrics if name in found}

    def totals(self, pictures: Floats) -> dict[str, float]:
        """One number for all pictures or clips together."""
        return {
            name: float(metric(_takable(metric, pictures)))
            for name, metric in self.metrics.items()
            if isinstance(metric, SetMetric)
        }

    def of_full_runs(self, full: Floats, prompts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """What full runs themselves get, one number a picture, from metrics that need no partner."""
        return {
            name: metric(_takable(metric, full), prompts)
            for name, metric in self.metrics.items()
            if isinstance(metric, PromptMetric)
        }


def _usual_of(stack: Floats) -> tuple[str, ...]:
    return OF_CLIPS if stack.ndim == 5 else OF_PICTURES


def _takable(metric: PromptMetric | SetMetric, stack: Floats) -> Floats:
    if stack.ndim == 5 and not metric.takes_clips:
        raise OtcacheError("it judges pictures, and these are clips.")
    return stack


def _split(name: str) -> tuple[str, str]:
    metric, _, path = name.partition("=")
    return metric, path
