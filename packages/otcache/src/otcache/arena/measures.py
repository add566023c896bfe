"""Every metric of a comparison, of whichever kind."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError
from otcache_core.contracts import Metric, PromptMetric, QualityMetric, SetMetric
from otcache_core.errors import OtcacheNotice
from otcache_core.plugins import Registry

#: Measured where installed, in this order; others are asked for by name.
USUAL = ("rmse", "psnr", "ssim", "ms-ssim", "lpips", "haarpsi")
#: What the demo's own data allows besides, with the path.
OF_THE_DEMO = {"legible": "", "frechet": "demo"}
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Measures:
    """Metrics by name, in the order of the table."""

    metrics: Mapping[str, Metric]

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
        if not paths:
            paths = {name: "" for name in USUAL if name in known}
            paths |= {n: p for n, p in OF_THE_DEMO.items() if pipeline == "demo" and n in known}
        paths = {"rmse": "", **paths}
        return cls(
            {
                name: registry.create("metrics", name, **({"path": path} if path else {}))
                for name, path in paths.items()
            }
        )

    def usable(self, full: Floats, prompts: Sequence[str]) -> Measures:
        """Those that take pictures like these; a notice names each that does not, and why."""
        kept = {}
        for name, metric in self.metrics.items():
            alone = Measures({name: metric})
            try:
                alone.values(full, full, prompts)
                alone.totals(full)
            except OtcacheError as error:
                warnings.warn(f"{name} is left out: {error}", OtcacheNotice, stacklevel=2)
            else:
                kept[name] = metric
        return Measures(kept)

    def values(
        self, pictures: Floats, full: Floats, prompts: Sequence[str]
    ) -> dict[str, NDArray[np.float64]]:
        """One number a picture."""
        found = {}
        for name, metric in self.metrics.items():
            if isinstance(metric, QualityMetric):
                found[name] = metric(pictures, full)
            elif isinstance(metric, PromptMetric):
                found[name] = metric(pictures, prompts)
        return found

    def totals(self, pictures: Floats) -> dict[str, float]:
        """One number for all pictures together."""
        pairs = self.metrics.items()
        return {n: float(m(pictures)) for n, m in pairs if isinstance(m, SetMetric)}

    def of_full_runs(self, full: Floats, prompts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """What full runs themselves get, one number a picture, from metrics that need no partner."""
        pairs = self.metrics.items()
        return {n: m(full, prompts) for n, m in pairs if isinstance(m, PromptMetric)}


def _split(name: str) -> tuple[str, str]:
    metric, _, path = name.partition("=")
    return metric, path
