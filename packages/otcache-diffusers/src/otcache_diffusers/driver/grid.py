"""The noise levels of a scheduler's steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

#: Share of signal at the noisiest step, at least: s = 4096, beyond any sampler's own grid.
LEAST_SIGNAL = 2.0**-24


def sigma_grid(scheduler: Any) -> NDArray[np.float64]:
    r"""s_0 .. s_N after ``set_timesteps``, one value a timestep and the final one.

    Where the scheduler keeps ``sigmas`` (flow matching, Euler, Heun, DPM-Solver, UniPC) these;
    else, from its cumulative products a (DDIM, PNDM and their like),

    .. math:: s_i = \sqrt{(1 - a_{t_i}) / a_{t_i}}

    the noise level of x / sqrt(a), the coordinate in which DDIM is an Euler step; a of 0 (zero terminal
    signal) is taken as 2^-24, as diffusers' Euler does. Copies to the host: call it once a run.

    Args:
        scheduler: a diffusers scheduler whose timesteps are set.

    Returns:
        float64, shape (len(timesteps) + 1,); all NaN where the scheduler tells neither.
    """
    if _tells_sigmas(scheduler):
        return np.asarray(torch.as_tensor(scheduler.sigmas).detach().cpu().double())
    if getattr(scheduler, "alphas_cumprod", None) is None:
        return np.full(len(scheduler.timesteps) + 1, np.nan)
    final = torch.as_tensor(getattr(scheduler, "final_alpha_cumprod", 1.0)).cpu().double()
    a = torch.cat([_products(scheduler), final.reshape(1)]).clamp(min=LEAST_SIGNAL)
    return np.asarray(torch.sqrt((1 - a) / a))


def usable_grid(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the grid, or where none is known the share of steps to go, 1 - i/N."""
    return grid if np.isfinite(grid).all() else np.linspace(1.0, 0.0, len(grid))


def signal_shares(scheduler: Any) -> NDArray[np.float64]:
    r"""alpha_0 .. alpha_{N-1} of a variance-preserving scheduler after ``set_timesteps``.

    .. math:: \alpha_i = \sqrt{a_{t_i}} = 1 / \sqrt{1 + s_i^2}

    where a is 0, 2^-24: a share of 0 could not be divided by. Copies to the host: call it once a run.

    Returns:
        float64, shape (len(timesteps),); NaN where the scheduler does not tell.
    """
    if _tells_sigmas(scheduler) or getattr(scheduler, "alphas_cumprod", None) is None:
        return np.asarray(1 / np.sqrt(1 + sigma_grid(scheduler)[:-1] ** 2))
    return np.asarray(_products(scheduler).sqrt().clamp(min=LEAST_SIGNAL))


def _products(scheduler: Any) -> torch.Tensor:
    steps = torch.as_tensor(scheduler.timesteps).cpu().long()
    return torch.as_tensor(scheduler.alphas_cumprod).cpu().double()[steps]


def _tells_sigmas(scheduler: Any) -> bool:
    sigmas = getattr(scheduler, "sigmas", None)
    return sigmas is not None and len(sigmas) == len(scheduler.timesteps) + 1
