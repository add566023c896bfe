"""Every metric of a comparison, of whichever kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache.comparison.metric_process import LIMIT, check_fields, metric_in_process, numbers
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
#: Measured beside plugins: states of the sampler, and pictures against the ODE's solution.
STATES, ODE = "latent-rmse", "ode-rmse"
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Measures:
    """Metrics by name, in the order of the table.

    One that raises, exits, changes what it is given or gives something else than its numbers costs its own
    column: a notice names it, once, and it is asked no more.

    Args:
        metrics: of pictures, of clips or of both.
        usual: whether nobody asked for them: those that are not usual for what is compared are left
            out without a word.
        origins: name to the distribution of a metric that is not otcache's own.
        lost: name to why a metric has no column; grows while metrics are asked.
    """

    metrics: Mapping[str, Metric]
    usual: bool = False
    origins: Mapping[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)

    @classmethod
    def choose(
        cls,
        asked: Sequence[str],
        pipeline: str,
        registry: Registry,
        *,
        limit: float = LIMIT,
    ) -> Measures:
        """The metrics asked for, or the usual ones that are installed; RMSE always.

        Args:
            asked: names, or ``name=path`` for those that need weights or data.
            pipeline: as the job names it: the demo brings data for a distance to it.
            registry: where metrics come from; somebody else's are asked in a process of their own, unless
                the registry holds what another process cannot import.
            limit: seconds that one question to such a process may take.

        Raises:
            OtcacheError: if there is no RMSE, a name is unknown or offered twice, or a path is missing.
        """
        known = {offer.info.name for offer in registry.known("metrics")}
        if "rmse" not in known:
            raise OtcacheError("no image metrics are installed: pip install 'otcache[diffusers]'")
        paths = dict(pair for name in asked for pair in [_split(name)])
        if not asked:
            paths = {name: "" for name in USUAL if name in known}
            if pipeline in IMAGE_DEMOS:
                paths |= {n: p for n, p in OF_THE_DEMO.items() if n in known}
        metrics: dict[str, Metric] = {}
        origins: dict[str, str] = {}
        made = cls(metrics, not asked, origins)
        for name, path in {"rmse": "", **paths}.items():
            options = {"path": path} if path else {}
            try:
                origin = _origin(registry, name)
                name = _column(name, origin)
                origins[name] = origin
                qualified = registry.resolve("metrics", name)
                metrics[name] = _create(registry, qualified, options, origin, limit)
            except ANY as error:
                if not asked:
                    notify(f"{name} is omitted: {_text(error)}")
                elif _is_misuse(error, origins.get(name, "")):
                    raise
                elif any(str(problem) in str(error) for problem in registry.problems):
                    made.lost[name] = str(error)  # the registry has said so
                else:
                    made._lose(name, error)
        return made

    def usable(self, full: Floats, prompts: Sequence[str]) -> Measures:
        """Those that take pictures or clips like these; a notice names each that does not, and why."""
        kept, lost = {}, dict(self.lost)
        unusual = set(USUAL) - set(_usual_of(full)) if self.usual else set()
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
        self, pictures: Floats, full: Floats, prompts: Sequence[str]
    ) -> dict[str, NDArray[np.float64]]:
        """One number a picture or clip, of each metric that gives them."""
        found = self.of_full_runs(pictures, prompts)
        for name, metric in self.metrics.items():
            if isinstance(metric, QualityMetric | VideoMetric):
                value = self._ask(name, _pairs(metric), (len(full),), pictures, full)
                found |= {} if value is None else {name: value}
        return {name: found[name] for name in self.metrics if name in found}

    def totals(self, pictures: Floats) -> dict[str, float]:
        """One number for all pictures or clips together."""
        found: dict[str, float] = {}
        for name, metric in self.metrics.items():
            if isinstance(metric, SetMetric):
                value = self._ask(name, _of_set(metric), (), pictures)
                found |= {} if value is None else {name: float(value)}
        return found

    def of_full_runs(self, full: Floats, prompts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """What full runs themselves get, one number a picture, from metrics that need no partner."""
        found: dict[str, NDArray[np.float64]] = {}
        for name, metric in self.metrics.items():
            if isinstance(metric, PromptMetric):
                value = self._ask(name, _with_prompts(metric, prompts), (len(full),), full)
                found |= {} if value is None else {name: value}
        return found

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

    def _ask(
        self, name: str, ask: Callable[..., Any], shape: tuple[int, ...], *stacks: Floats
    ) -> NDArray[np.float64] | None:
        """Ask a metric about copies of some pictures; None of a metric that is lost."""
        if name in self.lost:
            return None
        copies = [np.array(stack) for stack in stacks]
        try:
            found = numbers(ask(*copies), shape)
            if not all(map(np.array_equal, copies, stacks)):
                raise PluginError("it changes the pictures that it is given.")
        except ANY as error:
            self._lose(name, error)
            return None
        return found

    def _lose(self, name: str, error: BaseException) -> None:
        if name not in self.lost:
            self.lost[name] = _text(error)
            notify(f"{self._title(name)} is left out: {self.lost[name]}")


def _text(error: BaseException) -> str:
    """What an error says; of one that is not otcache's, its class too."""
    return str(error) if isinstance(error, OtcacheError) else reason_of(error)


def _origin(registry: Registry, name: str) -> str:
    """The distribution that a name is from; "" for one of otcache's own."""
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
    """Make a metric; somebody else's in a process of its own, where that can have the same plugins."""
    try:
        described = registry.description() if origin else None
    except PluginError:  # it holds what another process cannot import
        described = None
    if described is None:
        return registry.create("metrics", name, **options)
    return metric_in_process(described, name, options, limit=limit)


def _column(name: str, origin: str) -> str:
    """What the table calls a metric: one of ours by its short name, which nobody else's takes."""
    if not origin:
        return name.rpartition("/")[2]
    return f"{origin}/{name}" if name in (STATES, ODE) else name


def _is_misuse(error: BaseException, origin: str) -> bool:
    """Whether who asks can mend it: an unknown name, no path, a package of otcache's that is missing."""
    return isinstance(error, OtcacheError) and not (isinstance(error, PluginError) and origin)


def _pairs(metric: QualityMetric | VideoMetric) -> Callable[..., Any]:
    return lambda pictures, full: metric_values(metric, pictures, full)


def _with_prompts(metric: PromptMetric, prompts: Sequence[str]) -> Callable[..., Any]:
    return lambda pictures: metric(_takable(metric, pictures), tuple(prompts))


def _of_set(metric: SetMetric) -> Callable[..., Any]:
    return lambda pictures: metric(_takable(metric, pictures))


def _usual_of(stack: Floats) -> tuple[str, ...]:
    return OF_CLIPS if stack.ndim == 5 else OF_PICTURES


def _takable(metric: PromptMetric | SetMetric, stack: Floats) -> Floats:
    if stack.ndim == 5 and not metric.takes_videos:
        raise OtcacheError("it judges pictures, and these are clips.")
    return stack


def _split(name: str) -> tuple[str, str]:
    metric, _, path = name.partition("=")
    return metric, path
