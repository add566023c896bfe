"""Call a target for a batch of samples: the one place that knows how prompts and seeds are passed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from otcache_core.contracts.probe import SampleRequest
from otcache_core.loop import Loop


@dataclass(frozen=True)
class Sampler:
    """Samples a target as a request says.

    Args:
        target: a diffusers pipeline or a :class:`~otcache_core.loop.Loop`.
        request: prompts, seeds, step count and further call arguments.
    """

    target: Any
    request: SampleRequest

    @property
    def decodes(self) -> bool:
        """Whether the target can return pictures."""
        return not isinstance(self.target, Loop) and getattr(self.target, "vae", None) is not None

    def __call__(self, samples: Sequence[int], *, output_type: str = "latent") -> Any:
        """Run the samples with these indices in one call; the same index gives the same noise.

        Returns:
            What the target returns as its first output: latents, or with ``np`` pictures of shape
            (n, height, width, 3) in [0, 1].
        """
        prompts = [self.request.prompts[i] for i in samples]
        seeds = [self.request.seeds[i] for i in samples]
        steps, call = self.request.num_steps, dict(self.request.call)
        with torch.no_grad():
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
