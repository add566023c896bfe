"""Which quantity suits a scheduler's outputs."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from otcache_diffusers.hooks.grid import setting, signal_shares
from otcache_diffusers.hooks.prediction import AsIs, NoiseSpace, OutputSpace

#: Relative; half precision schedulers round.
TOLERANCE = 5e-3


def output_space(scheduler: Any, start: int) -> OutputSpace:
    r"""Noise for a variance-preserving scheduler of velocity predictions, else the outputs themselves.

    Whether the sampler's states are x_t (DDIM, DPM-Solver, UniPC) or x_t / alpha_t (Euler, Heun) is
    asked of copies of the scheduler: what they make of a model input of 1, at the first step and at the
    last, is 1 or alpha_t.

    Args:
        scheduler: its timesteps are set, and its run is about to begin.
        start: position of the run's first step in ``timesteps``.
    """
    if not predicts_velocity(scheduler):
        return AsIs()
    prefix = (
        f"velocity predictions are forecast as they are, not as noise: {type(scheduler).__name__}"
    )
    try:
        return _space(scheduler, start, prefix)
    except Exception as error:  # whatever copies of a scheduler nobody has seen raise when asked
        return AsIs(
            f"{prefix} cannot be asked how it scales states ({type(error).__name__}: {error})."
        )


def _space(scheduler: Any, start: int, prefix: str) -> OutputSpace:
    alpha = signal_shares(scheduler)
    if not np.isfinite(alpha).all():
        return AsIs(f"{prefix} does not tell its noise levels.")
    ends = [start, len(alpha) - 1]
    scales = np.array([_scale(scheduler, position) for position in ends])
    for wanted, stretched in ((alpha[ends], True), (np.ones(2), False)):
        if _close(scales, wanted):
            return NoiseSpace(alpha[start:], stretched)
    return AsIs(f"{prefix} scales the denoiser's input in a way of its own.")


def predicts_velocity(scheduler: Any) -> bool:
    """Whether the denoiser predicts v = alpha epsilon - sigma x_0."""
    return bool(setting(scheduler, "prediction_type") == "v_prediction")


def _scale(scheduler: Any, position: int) -> float:
    if not hasattr(scheduler, "scale_model_input"):
        return 1.0
    stage = copy.deepcopy(scheduler)
    if hasattr(stage, "_step_index"):  # no public way leads there without making the steps
        stage._step_index = position
    times = stage.timesteps
    one = torch.ones(1, device=getattr(times, "device", None))
    return float(stage.scale_model_input(one, times[position]))


def _close(got: NDArray[np.float64], wanted: NDArray[np.float64]) -> bool:
    return bool((np.abs(got - wanted) <= TOLERANCE * wanted).all())
