"""The baseline."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, final

import otcache
from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest


@final
class EveryKth(Baseline):
    """Compute steps 0, k, 2k, ... and repeat the last output in between; k is the knob."""

    source = "otcache-all-kinds 0.1, every k-th step"

    def supports(self, target: Any, request: SampleRequest) -> str:
        """Ask the executors of this plugin's own registry."""
        tried = otcache.attempt(self._accelerated, target, request.num_steps, 2)
        return "" if tried.ok else str(tried.error)

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        """One setting for each k that skips anything, mildest first."""
        return [
            BaselineSetting(f"k = {k}", {"k": k}, num_steps, tuple(range(0, num_steps, k)))
            for k in range(2, num_steps + 1)
        ]

    @contextmanager
    def apply(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> Iterator[None]:
        """Run by that schedule."""
        with self._accelerated(target, setting.num_steps, setting.values["k"]):
            yield

    def _accelerated(self, target: Any, num_steps: int, k: int) -> AbstractContextManager[Any]:
        schedule = otcache.Schedule(num_steps, tuple(range(0, num_steps, k)))
        return otcache.accelerate(target, schedule, registry=self.registry)
