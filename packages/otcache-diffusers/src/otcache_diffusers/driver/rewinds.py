"""Notices a sampler that makes several steps at one position."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class Rewinds:
    """Watches whether a scheduler is put back between its steps, as panorama pipelines do.

    They denoise one view after the other, and give the scheduler the state of before for each. Told
    by the scheduler's own ``step_index``, which only its steps move. Where it has none, by the very
    timestep object that came with the last step, if nobody wrote into it since: a loop over timesteps
    makes one for each step, or fills one buffer anew. Nothing here asks the device.

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
        """A run was announced."""
        self._index: Any = None
        self._last: tuple[Any, int] = None, 0

    def stepped(self, timestep: Any) -> bool:
        """The scheduler made a step with this timestep: True if it is the last step's again."""
        index = getattr(self._scheduler, "step_index", None)
        again = self._same(timestep) if index is None else index == self._index
        self._index = index
        self._last = timestep, _version(timestep)
        return again

    def found(self, timestep: Any) -> bool:
        """Whether the scheduler is elsewhere than its last step left it, or this is that step's time."""
        if self._index is not None:
            return bool(self._scheduler.step_index != self._index)
        return self._same(timestep)

    def _same(self, timestep: Any) -> bool:
        last, version = self._last
        return isinstance(timestep, Tensor) and timestep is last and _version(timestep) == version


def _version(timestep: Any) -> int:
    """How often it was written into, where torch counts that."""
    return timestep._version if isinstance(timestep, Tensor) and not timestep.is_inference() else 0
