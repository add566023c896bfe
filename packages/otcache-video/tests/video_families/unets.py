"""UNets with layers over time: AnimateDiff, Stable Video Diffusion."""

from __future__ import annotations

import diffusers
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from otcache_diffusers.testing import Case
from otcache_diffusers.testing.families import absent, noise, random_image, signed, vae
from video_families import eyes


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


def stable_video() -> Case:
    torch.manual_seed(0)
    unet = diffusers.UNetSpatioTemporalConditionModel(
        sample_size=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        block_out_channels=(32, 32),
        layers_per_block=1,
        cross_attention_dim=32,
        num_attention_heads=2,
        projection_class_embeddings_input_dim=96,
        addition_time_embed_dim=32,
        num_frames=3,
    )
    coder = diffusers.AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 2, block_out_channels=(32, 32), latent_channels=4
    )
    pipe = diffusers.StableVideoDiffusionPipeline(
        unet=unet,
        vae=coder,
        image_encoder=eyes.clip_vision(32),
        feature_extractor=eyes.Reader(),
        scheduler=EulerDiscreteScheduler(
            prediction_type="v_prediction",
            beta_schedule="scaled_linear",
            timestep_type="continuous",
            use_karras_sigmas=True,
            sigma_min=0.002,
            sigma_max=700.0,
        ),
    )
    call = {"image": random_image(), "height": 16, "width": 16, "num_frames": 3}
    return Case(pipe, call, ("call",), "unet")
