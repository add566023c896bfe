"""The noise levels of a scheduler's steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def sigma_grid(scheduler: Any) -> NDArray[np.float64]:
    r"""s_0 .. s_N after ``set_timesteps``, one value a timestep and the final one.

    Where the scheduler keeps ``sigmas`` (flow matching, Euler, Heun, DPM-Solver, UniPC) these;
    else, from its cumulative products a (DDIM, PNDM and their like),

    .. math:: s_i = \sqrt{(1 - a_{t_i}) / a_{t_i}}

    the noise level of x / sqrt(a), the coordinate in which DDIM is an Euler step. Copies to the
    host: call it once a run.

    Args:
        scheduler: a diffusers scheduler whose timesteps are set.

    Returns:
        float64, shape (len(timesteps) + 1,); all NaN where the scheduler tells neither.
    """
    n = len(scheduler.timesteps)
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None and len(sigmas) == n + 1:
        return np.asarray(torch.as_tensor(sigmas).detach().cpu().double())
    products = getattr(scheduler, "alphas_cumprod", None)
    if products is None:
        return np.full(n + 1, np.nan)
    steps = torch.as_tensor(scheduler.timesteps).cpu().long()
    final = (
        torch.as_tensor(getattr(scheduler, "final_alpha_cumprod", 1.0)).cpu().double().reshape(1)
    )
    a = torch.cat([products.cpu().double()[steps], final])
    return np.asarray(torch.sqrt((1 - a) / a))
