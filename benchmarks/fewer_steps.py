"""Samplers that simply take fewer steps, all on the pipeline's own sigma grid: the rivals of a cache.

Each makes a scheduler for a pipeline whose own one is ``FlowMatchEulerDiscreteScheduler``; called with B
steps the pipeline then visits the same sigmas with any of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

NEAR_ONE = 1 - 1e-6  # UniPC's ratios of log-SNR are not defined at sigma = 1


class AdamsBashforth(FlowMatchEulerDiscreteScheduler):
    """Two-step Adams-Bashforth in sigma: x + h ((1 + r/2) v_i - r/2 v_{i-1}), r = h_i / h_{i-1}."""

    def set_timesteps(self, *args: Any, sigmas: Any = None, **kwargs: Any) -> None:
        super().set_timesteps(*args, sigmas=sigmas, **kwargs)
        self._previous: tuple[torch.Tensor, float] | None = None

    def step(
        self, model_output: Any, timestep: Any, sample: Any, return_dict: bool = True, **_: Any
    ) -> Any:
        if self.step_index is None:
            self._init_step_index(timestep)
        h = float(self.sigmas[self.step_index + 1] - self.sigmas[self.step_index])
        v = model_output
        if self._previous is not None:
            older, before = self._previous
            r = h / before
            v = (1 + r / 2) * model_output - r / 2 * older
        self._previous = (model_output, h)
        self._step_index += 1
        return (sample + h * v,)


def _on_the_grid(base: type, first: float) -> type:
    """A multistep scheduler that visits the sigmas of the pipeline's Euler one."""

    class OnGrid(base):  # type: ignore[misc]  # the base is chosen at run time
        def set_timesteps(
            self, num_inference_steps: int, device: Any = None, sigmas: Any = None, mu: Any = None
        ) -> None:
            # Flux hands no sigmas to a scheduler of flow sigmas: these are the ones Euler would get.
            given = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
            self.grid_of.set_timesteps(sigmas=given.tolist(), mu=mu)
            super().set_timesteps(num_inference_steps)
            self.sigmas = self.grid_of.sigmas.clone()
            self.timesteps = self.grid_of.timesteps.clone()
            self.sigmas[0] = min(float(self.sigmas[0]), first)

    return OnGrid


def scheduler(name: str, own: FlowMatchEulerDiscreteScheduler) -> Any:
    """The scheduler of a method: ``euler``, ``adams-bashforth``, ``dpm++``, ``unipc``."""
    if name == "euler":
        return own
    if name == "adams-bashforth":
        return AdamsBashforth.from_config(own.config)
    base, first, more = {
        "dpm++": (DPMSolverMultistepScheduler, 1.0, {"algorithm_type": "dpmsolver++"}),
        "unipc": (UniPCMultistepScheduler, NEAR_ONE, {}),
    }[name]
    made = _on_the_grid(base, first)(
        num_train_timesteps=own.config.num_train_timesteps,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        solver_order=2,
        final_sigmas_type="zero",
        **more,
    )
    made.grid_of = own
    made.register_to_config(
        **{
            key: own.config[key]
            for key in ("base_image_seq_len", "base_shift", "max_image_seq_len", "max_shift")
        }
    )
    return made
