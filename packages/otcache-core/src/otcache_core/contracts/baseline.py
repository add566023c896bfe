"""Contract of a baseline: another way to spend fewer network evaluations on the same pipeline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from otcache_core.contracts.from_registry import FromRegistry
from otcache_core.contracts.probe import SampleRequest


@dataclass(frozen=True)
class BaselineSetting:
    """One place on a baseline's knob.

    Args:
        label: how tables write it, as ``threshold=0.12``; distinct among the baseline's settings.
        values: what :meth:`Baseline.apply` reads; plain data.
        num_steps: N the pipeline is called with under this setting.
        computed: computed steps of 0 .. num_steps-1, where they are known beforehand and the same for
            every input; None elsewhere.
    """

    label: str
    values: Mapping[str, Any] = field(default_factory=dict)
    num_steps: int = 0
    computed: tuple[int, ...] | None = None


class Baseline(FromRegistry, ABC):
    """A rival of the arena: a cache of another project, a published rule, or fewer steps.

    The arena gives each baseline a process of its own and calls, in this order, :meth:`supports`,
    :meth:`calibrate` once, :meth:`settings`, and for each setting :meth:`apply` around whole runs of
    the pipeline, one sample a call: once for all held-out samples, and again for each run that is timed
    beside a plain full run.

    Laws: between two contexts of :meth:`apply` the pipeline gives the bits it gave before; every run in
    a context begins with empty caches, so that a result depends on its own prompt and seed alone. Whatever
    other plugin it uses is that of ``self.registry``.

    Attributes:
        source: project, version and rule, as the report names it.
        by_budget: whether :meth:`settings` gives one setting a budget. If not, they are a ladder from
            mildest to most aggressive, and the arena measures on calibration samples which of them
            lands nearest to each budget.
        adaptive: whether decisions depend on the input, so that evaluations differ from sample to
            sample and are counted on several.
    """

    source: str = ""
    by_budget: bool = False
    adaptive: bool = False

    @abstractmethod
    def supports(self, target: Any, request: SampleRequest) -> str:
        """Return "" if the target can be run this way, else the reason why not.

        Must be cheap and change nothing; a library that is not installed is a reason that names it.
        """

    def calibrate(
        self, target: Any, request: SampleRequest, budgets: Sequence[int]
    ) -> Mapping[str, Any]:
        """Measure on calibration samples what the method needs, as its authors do.

        Returns:
            Plain data, kept on disk and handed to :meth:`settings` and :meth:`apply`; ``nfe``, where
            present, is its price in network evaluations of one sample; None where it came tuned.
        """
        return {}

    @abstractmethod
    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        """What can be run for a full run of N steps.

        Args:
            num_steps: N.
            budgets: B of the comparison, increasing.
            measured: what :meth:`calibrate` returned.

        Returns:
            One setting for each budget, in order (``by_budget``), or a ladder.
        """

    @abstractmethod
    def apply(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> AbstractContextManager[None]:
        """A context in which runs of the target's pipeline are made this way.

        Raises:
            OtcacheError: if it cannot be applied after all.
        """
