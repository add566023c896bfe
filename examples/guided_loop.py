"""Classifier-free guidance in a sampling loop of your own: two denoiser calls per step.

The loop is around the transformer of the shipped demo pipeline, with diffusers' scheduler for its noise
levels only. Run it: ``python examples/guided_loop.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

import otcache
from otcache_diffusers import demo

STEPS, SCALE, TOKENS = 20, 3.0, 64


def noise_levels(pipe: Any, num_steps: int) -> torch.Tensor:
    """Return s_0 .. s_N as the demo pipeline sets them."""
    pipe.scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / num_steps, num_steps), mu=0.5)
    sigmas: torch.Tensor = pipe.scheduler.sigmas
    return sigmas


def guided_loop(pipe: Any) -> otcache.Loop:
    """Return a loop that samples as ``pipe(prompt, true_cfg_scale=3, negative_prompt="")`` does."""

    def encoded(prompts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return what the transformer is given of the prompts."""
        states, pooled, text_ids = pipe.encode_prompt(
            list(prompts), None, max_sequence_length=demo.CALL["max_sequence_length"]
        )
        return {
            "encoder_hidden_states": states,
            "pooled_projections": pooled,
            "txt_ids": text_ids,
        }

    def sample(prompts: Sequence[str], seeds: Sequence[int], num_steps: int) -> torch.Tensor:
        """Euler from noise; each sample's noise comes from its own seed."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        channels = pipe.transformer.config.in_channels // 4
        x: torch.Tensor
        x, image_ids = pipe.prepare_latents(
            len(seeds), channels, 64, 64, torch.float32, "cpu", generators
        )
        cond, uncond = encoded(prompts), encoded([""] * len(prompts))
        s = noise_levels(pipe, num_steps)
        for i in range(num_steps):
            given = {"hidden_states": x, "timestep": s[i].expand(len(x)), "img_ids": image_ids}
            v = pipe.transformer(**given, **cond, return_dict=False)[0]
            u = pipe.transformer(**given, **uncond, return_dict=False)[0]
            x = x + (s[i + 1] - s[i]) * (u + SCALE * (v - u))
        return x

    def grid(num_steps: int) -> list[float]:
        return noise_levels(pipe, num_steps).tolist()

    return otcache.loop(sample, denoiser=pipe.transformer, grid=grid, calls_per_step=2)


def main() -> None:
    """Calibrate the loop on four prompts, and sample held-out ones with 6 of 20 steps computed."""
    pipe = demo.load()
    loop, prompts = guided_loop(pipe), demo.prompts()
    calibration = otcache.calibrate(
        loop, [text for text, _ in prompts["calibration"][:4]], STEPS, progress=False
    )
    policy = otcache.plan(calibration)
    held_out, seeds = [text for text, _ in prompts["heldout"][:4]], range(100, 104)
    with torch.no_grad():
        full = loop(held_out, seeds, STEPS)
        with otcache.accelerate(loop, policy.schedule(budget=6)) as run:
            fast = loop(held_out, seeds, STEPS)
    print(f"RMSE against the full run {float((fast - full).square().mean().sqrt()):.4f}")
    print(run.report)


if __name__ == "__main__":
    main()
