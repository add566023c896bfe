"""Measure images and videos by every metric of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache.comparison.metric_process import LIMIT, check_fields, measured, metric_in_process
from otcache.report.results import Missing
from otcache_core import OtcacheError
from otcache_core.contracts import (
    Metric,
    PromptMetric,
    QualityMetric,
    SetMetric,
    VideoMetric,
    metric_values,
)
from otcache_core.errors import PluginError
from otcache_core.notices import notify
from otcache_core.plugins import Registry
from otcache_core.plugins.discovery import is_own
from otcache_core.plugins.info import ANY, reason_of

#: Measured if installed, in this order; others are chosen by name.
OF_IMAGES = ("rmse", "psnr", "ssim", "ms-ssim", "lpips", "haarpsi")
OF_VIDEOS = (
    *("rmse", "psnr", "ssim", "lpips"),
    *("flicker", "temporal-lpips", "warping-error", "motion-magnitude", "subject-consistency"),
)
USUAL = tuple(dict.fromkeys(OF_IMAGES + OF_VIDEOS))
#: What the image demo's own data allows besides, with the path.
OF_THE_DEMO = {"legible": "", "frechet": "demo"}
IMAGE_DEMOS = ("demo", "demo:image")
#: Measured beside plugins: states of the sampler, and images against the ODE's solution.
STATES, ODE = "latent-rmse", "ode-rmse"
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Measures:
    """Metrics by name, in the order of the table.

    If one raises, exits, changes what it is given or gives something else than its numbers, its own column
    is lost: a notice names it, once, and it is not called again.

    Args:
        metrics: of images, of videos or of both.
        usual: whether they are the default: those that are not usual for what is compared are omitted
            without a notice.
        origins: name to the distribution of a metric that is not otcache's own.
        lost: name to why a metric has no column; grows while metrics are called.
    """

    metrics: Mapping[str, Metric]
    usual: bool = False
    origins: Mapping[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)

    @classmethod
    def choose(
        cls,
        requested: Sequence[str],
        pipeline: str,
        registry: Registry,
        *,
        limit: float = LIMIT,
    ) -> Measures:
        """Make the metrics that are asked for, or the usual ones that are installed; RMSE always.

        Args:
            requested: names, or ``name=path`` for those that need weights or data.
            pipeline: as the job names it: the demo brings data for a distance to it.
            registry: where metrics come from; foreign ones run in a process of their own, unless the
                registry holds what another process cannot import.
            limit: seconds that one call of such a process may take.

        Raises:
            OtcacheError: if there is no RMSE, a name is unknown or offered twice, or a path is missing.
        """
        known = {offer.info.name for offer in registry.known("metrics")}
        if "rmse" not in known:
            raise OtcacheError("no image metrics are installed: pip install 'otcache[diffusers]'")
        paths = {name: path for name, _, path in (text.partition("=") for text in requested)}
        if not requested:
            paths = {name: "" for name in USUAL if name in known}
            if pipeline in IMAGE_DEMOS:
                paths |= {n: p for n, p in OF_THE_DEMO.items() if n in known}
        metrics: dict[str, Metric] = {}
        origins: dict[str, str] = {}
        measures = cls(metrics, not requested, origins)
        for name, path in {"rmse": "", **paths}.items():
            options = {"path": path} if path else {}
            try:
                origin = _origin(registry, name)
                name = _column(name, origin)
                origins[name] = origin
                qualified = registry.resolve("metrics", name)
                metrics[name] = _create(registry, qualified, options, origin, limit)
            except ANY as error:
                if not requested:
                    notify(f"{name} is omitted: {_text(error)}")
                elif _is_misuse(error, origins.get(name, "")):
                    raise
                elif any(str(problem) in str(error) for problem in registry.problems):
                    measures.lost[name] = str(error)  # the registry has said so
                else:
                    measures._lose(name, error)
        return measures

    def usable(self, full: Floats, prompts: Sequence[str]) -> Measures:
        """Return those that take images or videos like these; a notice names each that does not, and why."""
        kept, lost = {}, dict(self.lost)
        usual = OF_VIDEOS if full.ndim == 5 else OF_IMAGES
        unusual = set(USUAL) - set(usual) if self.usual else set()
        for name, metric in self.metrics.items():
            if name in unusual:
                continue
            alone = Measures({name: metric}, origins=self.origins)
            alone._check(name)
            alone.values(full, full, prompts)
            alone.totals(full)
            if not alone.lost:
                kept[name] = metric
            elif not self.usual:
                lost |= alone.lost
        return Measures(kept, origins=self.origins, lost=lost)

    def values(
        self, images: Floats, full: Floats, prompts: Sequence[str]
    ) -> dict[str, NDArray[np.float64]]:
        """Return one number per sample, of each metric that gives them."""
        pairs = QualityMetric | VideoMetric
        values = self.of_full_runs(images, prompts)
        values |= self._each(pairs, lambda m: partial(metric_values, m), images, full)
        return {name: values[name] for name in self.metrics if name in values}

    def totals(self, images: Floats) -> dict[str, float]:
        """Return one number for all samples together."""
        return {
            name: float(value) for name, value in self._each(SetMetric, _of_images, images).items()
        }

    def of_full_runs(self, full: Floats, prompts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Return what full runs themselves get, one number per sample, from metrics of single images."""
        return self._each(PromptMetric, lambda m: _of_images(m, tuple(prompts)), full)

    def directions(self) -> dict[str, bool]:
        """Return whether higher is better, of each metric that has a column."""
        return {n: m.higher_is_better for n, m in self.metrics.items() if n not in self.lost}

    def missing(self) -> list[Missing]:
        """Return which columns are missing, and why."""
        return [Missing(f"metric {self._title(n)}", None, why) for n, why in self.lost.items()]

    def _title(self, name: str) -> str:
        """Return a metric's name, with the distribution that it is from unless that is otcache's own."""
        origin = self.origins.get(name, "")
        return f"{name.rpartition('/')[2]} of {origin!r}" if origin else name

    def _check(self, name: str) -> None:
        """Lose a metric that lacks what every metric has."""
        try:
            check_fields(self.metrics[name])
        except ANY as error:
            self._lose(name, error)

    def _each(
        self, kinds: Any, measuring: Callable[[Any], Callable[..., Any]], *stacks: Floats
    ) -> dict[str, NDArray[np.float64]]:
        """Measure some images by every metric of these kinds that has a column, and keeps it."""
        values = {}
        for name, metric in self.metrics.items():
            if isinstance(metric, kinds) and name not in self.lost:
                try:
                    values[name] = measured(measuring(metric), stacks, metric)
                except ANY as error:
                    self._lose(name, error)
        return values

    def _lose(self, name: str, error: BaseException) -> None:
        if name not in self.lost:
            self.lost[name] = _text(error)
            notify(f"{self._title(name)} is omitted: {self.lost[name]}")


def _text(error: BaseException) -> str:
    """Return an error's message; of one that is not otcache's, its class too."""
    return str(error) if isinstance(error, OtcacheError) else reason_of(error)


def _origin(registry: Registry, name: str) -> str:
    """Return the distribution that a name is from; "" for one of otcache's own."""
    try:
        distribution = registry.resolve("metrics", name).rpartition("/")[0]
    except PluginError:
        distribution = name.rpartition("/")[0]
        if distribution not in {problem.distribution for problem in registry.problems}:
            raise
    return "" if is_own(distribution) else distribution


def _create(
    registry: Registry, name: str, options: dict[str, Any], origin: str, limit: float
) -> Metric:
    """Make a metric; a foreign one in a process of its own, if that can have the same plugins."""
    try:
        described = registry.description() if origin else None
    except PluginError:  # it holds what another process cannot import
        described = None
    if described is None:
        return registry.create("metrics", name, **options)
    return metric_in_process(described, name, options, limit=limit)


def _column(name: str, origin: str) -> str:
    """Return a metric's name in the table: one of ours by its short name, which no foreign one takes."""
    if not origin:
        return name.rpartition("/")[2]
    return f"{origin}/{name}" if name in (STATES, ODE) else name


def _is_misuse(error: BaseException, origin: str) -> bool:
    """Whether the caller can mend it: an unknown name, no path, a package of otcache's that is missing."""
    return isinstance(error, OtcacheError) and not (isinstance(error, PluginError) and origin)


def _of_images(metric: PromptMetric | SetMetric, *more: Any) -> Callable[[Floats], Any]:
    def measure(images: Floats) -> Any:
        if images.ndim == 5 and not metric.takes_videos:
            raise OtcacheError("it judges images, and these are videos.")
        return metric(images, *more)

    return measure
