"""At which of a scheduler's timesteps a run begins and ends."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otcache_core.errors import OtcacheError
from otcache_core.numbers import integer
from otcache_diffusers.hooks.grid import times_of

#: How pipelines hand t to the denoiser: t, t/1000 and 1 - t/1000; factor and shift.
_CONVENTIONS = ((1.0, 0.0), (1e-3, 0.0), (-1e-3, 1.0))
#: Types that torch compares; float8 and the larger unsigned ones it does not.
_ORDERED = frozenset(
    (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
)


def first_position(scheduler: Any, timestep: Any) -> int:
    """Return the position of a run's first step among its timesteps: not 0 where an image is the start.

    It is the ``begin_index`` that the pipeline set. Where it set none it is the position whose time the
    denoiser is called with; of several positions with that time, the one where the scheduler itself
    begins. 0 where nothing tells. Asks the device: meant for the first call of a run, which is computed.

    Args:
        scheduler: one whose timesteps are set.
        timestep: what the denoiser is called with.
    """
    begin, times = getattr(scheduler, "begin_index", None), times_of(scheduler)
    if times is None or len(times) == 0:
        return 0
    if begin is not None:
        return _among(begin, times, 0)
    passed = latest_time(_as_tensor(timestep))
    found = 0 if passed is None else _look_up(times.cpu().double(), passed.detach().cpu())
    return _own_index(scheduler, times, found) if found else 0


def _own_index(scheduler: Any, times: Tensor, found: int) -> int:
    """Return where the scheduler itself begins at the time of a position; the position if it cannot say."""
    try:
        return _among(scheduler.index_for_timestep(scheduler.timesteps[found]), times, found)
    except Exception:  # whatever one whose timesteps are of another kind raises
        return found


def _among(position: Any, times: Tensor, default: int) -> int:
    try:
        return integer("begin_index", position, 0, len(times) - 1)
    except OtcacheError:
        return default


def last_position(pipeline: Any, start: int) -> int | None:
    """Position after a run's last step; None where it makes all steps to the end.

    A pipeline called with ``denoising_end`` leaves the rest to another; it knows how many steps it makes.
    """
    made = getattr(pipeline, "_num_timesteps", None)
    ends = getattr(pipeline, "_denoising_end", None) is not None
    return start + made if ends and isinstance(made, int) else None


def latest_time(timestep: Any) -> Tensor | None:
    """Return the time of a call's step; None where it is no tensor of numbers that can be compared.

    Of times for each token it is the largest, since a given image's are 0.
    """
    if not isinstance(timestep, Tensor) or not timestep.numel():
        return None
    if timestep.is_complex() or timestep.is_meta or timestep.layout != torch.strided:
        return None
    return (timestep if timestep.dtype in _ORDERED else timestep.float()).amax()


def _as_tensor(timestep: Any) -> Any:
    """Return numbers of Python and NumPy as a tensor, and anything else as it is."""
    try:
        return torch.as_tensor(timestep) if isinstance(timestep, (Real, np.ndarray)) else timestep
    except (TypeError, ValueError, ArithmeticError, RuntimeError):  # no numbers, or too large
        return None


def _look_up(times: Tensor, passed: Tensor) -> int:
    """The position whose time is nearest, within the rounding of what was passed; 0 where none is.

    Where several conventions fit, a run of all steps is the likeliest, then the first of them.
    """
    kind = passed.dtype if passed.is_floating_point() else torch.float64
    wanted = torch.stack([factor * times + shift for factor, shift in _CONVENTIONS])
    error = (wanted.to(kind).double() - passed.double()).abs()
    nearest, positions = error.min(dim=1)
    rounding = 2 * torch.finfo(kind).eps * wanted.abs().gather(1, positions[:, None])[:, 0]
    found = positions[nearest <= rounding].tolist()
    return 0 if not found or 0 in found else int(found[0])
