"""UNets with motion modules: AnimateDiff."""

from __future__ import annotations

import diffusers
import torch
from diffusers import DDIMScheduler

from otcache_diffusers.testing import Case
from otcache_diffusers.testing.parts import absent, noise, signed, vae


def animate_diff() -> Case:
    torch.manual_seed(0)
    unet = diffusers.UNetMotionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        cross_attention_dim=32,
        num_attention_heads=2,
        motion_num_attention_heads=2,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False
    )
    rest = absent("text_encoder", "tokenizer", "motion_adapter")
    pipe = diffusers.AnimateDiffPipeline(unet=unet, scheduler=scheduler, vae=vae(), **rest)
    call = signed(prompt_embeds=noise(1, 12, 32)) | {"height": 8, "width": 8, "num_frames": 4}
    return Case(pipe, call | {"guidance_scale": 7.5}, ("call",), "unet")
