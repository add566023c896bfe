"""Notices a sampler that makes several steps at one position."""

from __future__ import annotations

from typing import Any

from torch import Tensor

_NONE = object()


class Rewinds:
    """Watches whether a scheduler is put back between its steps, as panorama pipelines do.

    They denoise one view after the other, and give the scheduler the state of before for each. Told
    by the scheduler's own ``step_index``, which only its steps move; where it has none, by the very
    timestep object that came with the last step: a loop over timesteps makes one for each.
    Nothing here asks the device.

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
        self._index: Any = _NONE
        self._timestep: Any = None

    def stepped(self, timestep: Any) -> bool:
        """The scheduler made a step with this timestep: True if it is the last step's again."""
        again = self._same(timestep)
        self._index = getattr(self._scheduler, "step_index", _NONE)
        self._timestep = timestep
        return again

    def found(self, timestep: Any) -> bool:
        """Whether the scheduler is elsewhere than its last step left it, or this is that step's time."""
        moved = self._index is not _NONE and self._scheduler.step_index != self._index
        return moved or self._same(timestep)

    def _same(self, timestep: Any) -> bool:
        return isinstance(timestep, Tensor) and timestep is self._timestep
