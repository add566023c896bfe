"""The samplers of diffusers, each on a pipeline that uses it: the rows of docs/sampler-support.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tiny
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from families import stable_diffusion

BETAS: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
_V = BETAS | {"prediction_type": "v_prediction"}
_ZERO_TERMINAL = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@dataclass(frozen=True)
class Sampling:
    """A sampler.

    Attributes:
        build: makes the scheduler.
        order: of its linear recurrence; None if it has none.
        steps_made: steps it makes for n requested.
        noisy: draws noise in its steps.
        flow: predicts a flow, so that it belongs to Flux and SD3, else to SDXL.
    """

    build: Callable[[], Any]
    order: int | None = 0
    steps_made: Callable[[int], int] = lambda n: n
    noisy: bool = False
    flow: bool = False


def _heun(n: int) -> int:
    return 2 * n - 1


def _pndm(n: int) -> int:
    return n + 1


SAMPLERS: dict[str, Sampling] = {
    "euler": Sampling(lambda: EulerDiscreteScheduler(steps_offset=1, **BETAS)),
    "euler v": Sampling(lambda: EulerDiscreteScheduler(**_V)),
    "ancestral": Sampling(lambda: EulerAncestralDiscreteScheduler(**BETAS), 0, noisy=True),
    "ancestral v": Sampling(lambda: EulerAncestralDiscreteScheduler(**_V), 0, noisy=True),
    "heun": Sampling(lambda: HeunDiscreteScheduler(**BETAS), 1, _heun),
    "heun v": Sampling(lambda: HeunDiscreteScheduler(**_V), 1, _heun),
    "ddim": Sampling(lambda: DDIMScheduler(clip_sample=False, **BETAS)),
    "ddim v": Sampling(lambda: DDIMScheduler(clip_sample=False, **_V)),
    "ddim v, zero terminal signal": Sampling(
        lambda: DDIMScheduler(clip_sample=False, **_V, **_ZERO_TERMINAL)
    ),
    "ddim, clipping": Sampling(lambda: DDIMScheduler(clip_sample=True, **BETAS), None),
    "pndm": Sampling(lambda: PNDMScheduler(skip_prk_steps=True, **BETAS), 3, _pndm),
    "pndm v": Sampling(lambda: PNDMScheduler(skip_prk_steps=True, **_V), 3, _pndm),
    "dpm++2m": Sampling(lambda: DPMSolverMultistepScheduler(**BETAS), 1),
    "dpm++2m v": Sampling(lambda: DPMSolverMultistepScheduler(**_V), 1),
    "dpm++2m karras": Sampling(
        lambda: DPMSolverMultistepScheduler(use_karras_sigmas=True, **BETAS), 1
    ),
    "dpm++ sde": Sampling(
        lambda: DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", **BETAS),
        1,
        noisy=True,
    ),
    "unipc": Sampling(lambda: UniPCMultistepScheduler(**BETAS), 2),
    "unipc v": Sampling(lambda: UniPCMultistepScheduler(**_V), 2),
    "lcm": Sampling(lambda: LCMScheduler(clip_sample=False, **BETAS), 0, noisy=True),
    "flow euler": Sampling(lambda: FlowMatchEulerDiscreteScheduler(shift=3.0), flow=True),
    # Unshifted, its last steps divide rounding by a sigma of 1e-3, more than a small step can hide.
    "flow heun": Sampling(lambda: FlowMatchHeunDiscreteScheduler(shift=3.0), 1, _heun, flow=True),
}
DETERMINISTIC = [
    name for name, sampler in SAMPLERS.items() if sampler.order is not None and not sampler.noisy
]
NOISY = [name for name, sampler in SAMPLERS.items() if sampler.noisy]


def pipeline(name: str) -> Any:
    """Tiny SDXL, or tiny SD3 for a flow."""
    sampler = SAMPLERS[name]
    if not sampler.flow:
        return tiny.sdxl(sampler.build())
    made = stable_diffusion.sd3()
    made.pipe.scheduler = sampler.build()
    return tiny.Case(made.pipe, made.call, made.branches)


def with_prompts(name: str) -> tuple[Any, dict[str, Any]]:
    """Return the same pipeline taking prompts as text, each with embeddings of its own, and its call."""
    case = pipeline(name)
    shapes = ((12, 32), (32,)) if SAMPLERS[name].flow else ((12, 64), (32,))

    def encode_prompt(prompt: Any = None, **given: Any) -> Any:
        texts = [prompt] if isinstance(prompt, str) else prompt
        made = [torch.cat([tiny.noise(1, *shape, seed=ord(t)) for t in texts]) for shape in shapes]
        return made[0], -made[0], made[1], -made[1]

    case.pipe.encode_prompt = encode_prompt
    return case.pipe, {key: case.call[key] for key in ("guidance_scale", "height", "width")}
