"""At which of a scheduler's timesteps a run begins."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: How pipelines hand t to the denoiser: t, t/1000 and 1 - t/1000; factor and shift.
_CONVENTIONS = ((1.0, 0.0), (1e-3, 0.0), (-1e-3, 1.0))


def first_position(scheduler: Any, timestep: Any) -> int:
    """Position of a run's first step in ``scheduler.timesteps``: not 0 where a picture is the start.

    It is the ``begin_index`` that the pipeline set. Where it set none it is the position whose time the
    denoiser is called with; of several positions with that time, the one where the scheduler itself
    begins. Asks the device: meant for the first call of a run, which is computed.

    Args:
        scheduler: its timesteps are set.
        timestep: what the denoiser is called with.
    """
    begin = getattr(scheduler, "begin_index", None)
    if begin is not None:
        return int(begin)
    passed = torch.as_tensor(timestep) if isinstance(timestep, (int, float)) else timestep
    if not isinstance(passed, Tensor) or passed.numel() == 0:
        return 0
    found = _look_up(torch.as_tensor(scheduler.timesteps).cpu().double(), passed)
    if found and hasattr(scheduler, "index_for_timestep"):
        return int(scheduler.index_for_timestep(scheduler.timesteps[found]))
    return found


def latest_time(timestep: Tensor) -> Tensor:
    """The time of a call's step; of times for each token the largest, since a given picture's are 0."""
    return timestep.amax()


def _look_up(times: Tensor, timestep: Tensor) -> int:
    """The position whose time is nearest, within the rounding of what was passed; 0 where none is.

    Where several conventions fit, a run of all steps is the likeliest, then the first of them.
    """
    passed = latest_time(timestep.detach()).cpu()
    kind = passed.dtype if passed.is_floating_point() else torch.float64
    wanted = torch.stack([factor * times + shift for factor, shift in _CONVENTIONS])
    error = (wanted.to(kind).double() - passed.double()).abs()
    nearest, positions = error.min(dim=1)
    rounding = 2 * torch.finfo(kind).eps * wanted.abs().gather(1, positions[:, None])[:, 0]
    found = positions[nearest <= rounding].tolist()
    return 0 if not found or 0 in found else int(found[0])
