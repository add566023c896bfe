"""Notices a sampler that makes several steps at one position."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from torch import Tensor


class Rewinds:
    """Watches whether a scheduler is put back between its steps, as panorama pipelines do.

    They denoise one view after the other, and give the scheduler the state of before for each. Seen
    by the scheduler's own ``step_index``, which only its steps move. Where it has none, or its steps do
    not move it, by the very timestep object that came with the last step, if nobody wrote into it since:
    a loop over timesteps makes one for each step, or fills one buffer anew. Nothing here asks the device.

    Args:
        scheduler: of the pipeline.
    """

    REASON = (
        "the pipeline makes several scheduler steps at one timestep, so positions cannot be counted: "
        "its run is computed in full."
    )

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self.begin()

    def begin(self) -> None:
        """Forget the run before: another was announced."""
        self._index: int | None = None
        self._before: int | None = None
        self._last: tuple[Any, int] = None, 0

    def stepping(self) -> None:
        """Look at the scheduler, which is about to make a step."""
        self._before = self._now

    def stepped(self, timestep: Any) -> bool:
        """Return whether the step that the scheduler made is the last one's again.

        Args:
            timestep: what it was given.
        """
        index = self._now
        index = None if index == self._before else index
        again = self._same(timestep) if index is None else index == self._index
        self._index = index
        self._last = timestep, version(timestep)
        return again

    @property
    def _now(self) -> int | None:
        """The scheduler's own index, where it is a number that the host knows."""
        try:
            index = getattr(self._scheduler, "step_index", None)
        except Exception:  # a property of a scheduler that nobody has seen
            return None
        return int(index) if isinstance(index, Integral) else None

    def found(self, timestep: Any) -> bool:
        """Whether the scheduler is elsewhere than its last step left it, or this is that step's time."""
        if self._index is not None:
            return self._now != self._index
        return self._same(timestep)

    def _same(self, timestep: Any) -> bool:
        last, writes = self._last
        return isinstance(timestep, Tensor) and timestep is last and version(timestep) == writes


def version(value: Any) -> int:
    """Return how often a tensor was written into, where torch counts that."""
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0
