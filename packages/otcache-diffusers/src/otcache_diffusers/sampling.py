"""Call a target for a batch of samples: the one place that knows how prompts and seeds are passed."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from otcache_core.contracts.probe import SampleRequest
from otcache_core.errors import OtcacheError, expected
from otcache_core.loop import Loop
from otcache_diffusers.quiet import quiet

#: Arguments of a pipeline call that a request makes itself, and what to give instead.
OWN = {
    "prompt": "prompts are those of the request",
    "num_inference_steps": "give the number of steps",
    "generator": "give seeds",
    "output_type": "pictures are decoded where they are needed",
    "return_dict": "leave it out",
}


@dataclass(frozen=True)
class Sampler:
    """Samples a target as a request says.

    Args:
        target: a diffusers pipeline or a :class:`~otcache_core.loop.Loop`.
        request: prompts, seeds, step count and further call arguments.

    Raises:
        OtcacheError: if the pipeline's call has no argument of a given name, or one of :data:`OWN`, or
            takes no prompt.
    """

    target: Any
    request: SampleRequest

    def __post_init__(self) -> None:
        if isinstance(self.target, Loop):
            return
        kind = type(self.target).__name__
        known = inspect.signature(type(self.target).__call__).parameters
        for name in self.request.call:
            if name in OWN:
                raise OtcacheError(f"the call argument {name} is otcache's own: {OWN[name]}.")
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}."
                raise OtcacheError(expected("call argument", name, f"one that {kind} takes", hint))
        if "prompt" not in known:
            raise OtcacheError(
                f"{kind} takes no prompt, by which samples are asked for: wrap its denoiser and a function "
                "that calls it in otcache.loop(...); a schedule or policy runs on the pipeline itself."
            )

    @property
    def decodes(self) -> bool:
        """Whether the target can return pictures."""
        return not isinstance(self.target, Loop) and getattr(self.target, "vae", None) is not None

    def __call__(self, samples: Sequence[int], *, output_type: str = "latent") -> Any:
        """Run the samples with these indices in one call, without a bar; the same index, the same noise.

        Returns:
            What the target returns as its first output: latents, or with ``np`` pictures of shape
            (n, height, width, 3) in [0, 1].
        """
        prompts = [self.request.prompts[i] for i in samples]
        seeds = [self.request.seeds[i] for i in samples]
        steps, call = self.request.num_steps, dict(self.request.call)
        with quiet(self.target), torch.no_grad():
            if isinstance(self.target, Loop):
                return self.target(prompts, seeds, steps, **call)
            for name, value in call.items():
                if name.startswith("negative_prompt") and isinstance(value, str):
                    call[name] = [value] * len(prompts)
            generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
            return self.target(
                prompt=prompts,
                num_inference_steps=steps,
                generator=generators,
                output_type=output_type,
                return_dict=False,
                **call,
            )[0]
