"""What a scheduler says of its run: times, noise levels and settings, in whatever form it has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from otcache_core.errors import OtcacheError
from otcache_core.numbers import integer, reals

#: Share of signal at the noisiest step, at least: s = 4096, beyond any sampler's own grid.
LEAST_SIGNAL = 2.0**-24


def times_of(scheduler: Any) -> torch.Tensor | None:
    """Return t_0 .. t_{N-1} after ``set_timesteps``, where they lie; None where there are none."""
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
    """Return an entry of a scheduler's configuration, a mapping or an object; None where it has none."""
    config = getattr(scheduler, "config", None)
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def sigma_grid(scheduler: Any) -> NDArray[np.float64]:
    r"""Return s_0 .. s_N after ``set_timesteps``, one value a timestep and the final one.

    Where the scheduler keeps ``sigmas`` (flow matching, Euler, Heun, DPM-Solver, UniPC) these;
    else, from its cumulative products a (DDIM, PNDM and their like),

    .. math:: s_i = \sqrt{(1 - a_{t_i}) / a_{t_i}}

    the noise level of x / sqrt(a), the coordinate in which DDIM is an Euler step; a of 0 (zero terminal
    signal) is taken as 2^-24, as diffusers' Euler does. Where times rise, as in DDIM inversion, the final
    level is the last step's. Copies to the host: call it once a run.

    Args:
        scheduler: one whose timesteps are set.

    Returns:
        float64, shape (N + 1,); all NaN where the scheduler tells neither.

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
    """Return the grid, or where none is known the share of steps to go, 1 - i/N."""
    return grid if np.isfinite(grid).all() else np.linspace(1.0, 0.0, len(grid))


def signal_shares(scheduler: Any) -> NDArray[np.float64]:
    r"""Return alpha_0 .. alpha_{N-1} of a variance-preserving scheduler after ``set_timesteps``.

    .. math:: \alpha_i = \sqrt{a_{t_i}} = 1 / \sqrt{1 + s_i^2}

    where a is 0, 2^-24: a share of 0 could not be divided by. Copies to the host: call it once a run.

    Returns:
        float64, shape (N,); NaN where the scheduler does not tell.

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
    """Return a at each timestep; None where it has none, or its times are no places among them."""
    products, times = _row(scheduler, "alphas_cumprod"), times_of(scheduler)
    if products is None or times is None:
        return None
    steps = times.cpu().long()
    inside = len(steps) and int(steps.min()) >= 0 and int(steps.max()) < len(products)
    return products.cpu().double()[steps] if inside else None


def _final(scheduler: Any) -> float:
    final = getattr(scheduler, "final_alpha_cumprod", None)
    return 1.0 if final is None else float(final)
