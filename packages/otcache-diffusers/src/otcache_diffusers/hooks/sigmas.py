"""Timesteps, noise levels and settings of a scheduler, and where among them a run begins."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otcache_core.errors import OtcacheError
from otcache_core.numbers import integer, reals

#: Share of signal at the noisiest step, at least: s = 4096, beyond any sampler's own grid.
LEAST_SIGNAL = 2.0**-24


def times_of(scheduler: Any) -> torch.Tensor | None:
    """Return t_0 .. t_{N-1} after ``set_timesteps``, where they lie; None if there are none."""
    return _row(scheduler, "timesteps")


def steps_of(scheduler: Any) -> int | None:
    """Return N after ``set_timesteps``: the number of timesteps, else ``num_inference_steps``."""
    times = times_of(scheduler)
    if times is not None:
        return len(times)
    try:
        return integer("N", getattr(scheduler, "num_inference_steps", None), 1)
    except OtcacheError:
        return None


def setting(scheduler: Any, name: str) -> Any:
    """Return an entry of a scheduler's configuration, a mapping or an object; None if it has none."""
    config = getattr(scheduler, "config", None)
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def sigma_grid(scheduler: Any) -> NDArray[np.float64]:
    r"""Return s_0 .. s_N after ``set_timesteps``, one value per timestep and the final one.

    If the scheduler keeps ``sigmas`` (flow matching, Euler, Heun, DPM-Solver, UniPC) these;
    else, from its cumulative products a (DDIM, PNDM and their like),

    .. math:: s_i = \sqrt{(1 - a_{t_i}) / a_{t_i}}

    the noise level of x / sqrt(a), the coordinate in which DDIM is an Euler step; a of 0 (zero terminal
    signal) is taken as 2^-24, as diffusers' Euler does. If times rise, as in DDIM inversion, the final
    level is the last step's. Copies to the host: call it once a run.

    Args:
        scheduler: one whose timesteps are set.

    Returns:
        float64, shape (N + 1,); all NaN if the scheduler has neither.

    Raises:
        OtcacheError: if it does not say N either.
    """
    n = steps_of(scheduler)
    if n is None:
        raise OtcacheError(f"{type(scheduler).__name__} does not say how many steps it makes.")
    sigmas = _sigmas(scheduler, n)
    if sigmas is not None:
        return np.asarray(sigmas.cpu().double())
    a = _products(scheduler)
    if a is None:
        return np.full(n + 1, np.nan)
    final = a[-1:] if a[-1] < a[0] else torch.tensor([_final(scheduler)], dtype=a.dtype)
    a = torch.cat([a, final]).clamp(min=LEAST_SIGNAL)
    return np.asarray(torch.sqrt((1 - a) / a))


def usable_grid(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the grid, or if none is known the share of steps to go, 1 - i/N."""
    return grid if np.isfinite(grid).all() else np.linspace(1.0, 0.0, len(grid))


def signal_shares(scheduler: Any) -> NDArray[np.float64]:
    r"""Return alpha_0 .. alpha_{N-1} of a variance-preserving scheduler after ``set_timesteps``.

    .. math:: \alpha_i = \sqrt{a_{t_i}} = 1 / \sqrt{1 + s_i^2}

    if a is 0, 2^-24: a share of 0 could not be divided by. Copies to the host: call it once a run.

    Returns:
        float64, shape (N,); NaN if the scheduler does not give them.

    Raises:
        OtcacheError: if it does not say N either.
    """
    a = _products(scheduler)
    if a is None or _sigmas(scheduler, len(a)) is not None:
        return np.asarray(1 / np.sqrt(1 + sigma_grid(scheduler)[:-1] ** 2))
    return np.asarray(a.sqrt().clamp(min=LEAST_SIGNAL))


def _row(scheduler: Any, name: str) -> torch.Tensor | None:
    """Return an attribute that is a row of numbers: a tensor, an array, a list, of any numbers."""
    values = getattr(scheduler, name, None)
    if isinstance(values, torch.Tensor):
        return values.detach() if values.ndim == 1 else None
    try:
        return torch.tensor(reals(name, values), dtype=torch.float64)
    except OtcacheError:
        return None


def _sigmas(scheduler: Any, n: int) -> torch.Tensor | None:
    sigmas = _row(scheduler, "sigmas")
    return sigmas if sigmas is not None and len(sigmas) == n + 1 else None


def _products(scheduler: Any) -> torch.Tensor | None:
    """Return a at each timestep; None if it has none, or its times are not positions among them."""
    products, times = _row(scheduler, "alphas_cumprod"), times_of(scheduler)
    if products is None or times is None:
        return None
    steps = times.cpu().long()
    inside = len(steps) and int(steps.min()) >= 0 and int(steps.max()) < len(products)
    return products.cpu().double()[steps] if inside else None


def _final(scheduler: Any) -> float:
    final = getattr(scheduler, "final_alpha_cumprod", None)
    return 1.0 if final is None else float(final)


#: How pipelines pass t to the denoiser: t, t/1000 and 1 - t/1000; factor and shift.
CONVENTIONS = ((1.0, 0.0), (1e-3, 0.0), (-1e-3, 1.0))
#: Types that torch compares; float8 and the larger unsigned ones it does not.
_ORDERED = frozenset(
    (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
)


def first_position(scheduler: Any, timestep: Any) -> int:
    """Return the position of a run's first step among its timesteps: not 0 if it starts from an image.

    It is the ``begin_index`` that the pipeline set. If it set none it is the position whose time the
    denoiser is called with; of several positions with that time, the one where the scheduler itself
    begins. 0 if none fits. Synchronizes: meant for the first call of a run, which is computed.

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
    except Exception:  # an unknown scheduler may raise anything
        return found


def _among(position: Any, times: Tensor, default: int) -> int:
    try:
        return integer("begin_index", position, 0, len(times) - 1)
    except OtcacheError:
        return default


def last_position(pipeline: Any, start: int) -> int | None:
    """Return the position after a run's last step; None if it makes all steps to the end.

    A pipeline called with ``denoising_end`` leaves the rest to another; it knows how many steps it makes.
    """
    made = getattr(pipeline, "_num_timesteps", None)
    ends = getattr(pipeline, "_denoising_end", None) is not None
    return start + made if ends and isinstance(made, int) else None


def latest_time(timestep: Any) -> Tensor | None:
    """Return the time of a call's step; None if it is not a tensor of numbers that can be compared.

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
    """Return the position whose time is nearest, within the rounding of what was passed; 0 if none is.

    If several conventions fit, a run of all steps is the likeliest, then the first of them.
    """
    kind = passed.dtype if passed.is_floating_point() else torch.float64
    wanted = torch.stack([factor * times + shift for factor, shift in CONVENTIONS])
    error = (wanted.to(kind).double() - passed.double()).abs()
    nearest, positions = error.min(dim=1)
    rounding = 2 * torch.finfo(kind).eps * wanted.abs().gather(1, positions[:, None])[:, 0]
    found = positions[nearest <= rounding].tolist()
    return 0 if not found or 0 in found else int(found[0])
