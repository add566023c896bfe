"""DiT and those that followed it with cross-attention to text: PixArt, HunyuanDiT, Sana."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    DDIMScheduler,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
)

from otcache_diffusers.testing.families import Case, absent, both, noise, ones, signed, vae

_NO_TEXT = absent("text_encoder", "tokenizer")


def dit() -> Case:
    """Class labels; the pipeline decodes always."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
    )
    pipe = DiTPipeline(transformer=transformer, vae=vae(), scheduler=DDIMScheduler())
    case = Case(pipe, {"class_labels": [1], "guidance_scale": 4.0}, ("call",))
    case.output_type, case.layer = "np", "transformer_blocks.0.attn1.to_q"
    return case


def _pixart(pipeline: Any) -> Case:
    torch.manual_seed(0)
    transformer = PixArtTransformer2DModel(
        sample_size=8,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        cross_attention_dim=16,
        caption_channels=32,
    )
    pipe = pipeline(
        transformer=transformer, vae=vae(), scheduler=DPMSolverMultistepScheduler(), **_NO_TEXT
    )
    text = signed(prompt_embeds=noise(1, 12, 32)) | both(prompt_attention_mask=ones(1, 12))
    size = {"height": 8, "width": 8, "use_resolution_binning": False}
    return Case(pipe, text | size | {"negative_prompt": None}, ("call",))


def pixart_alpha() -> Case:
    return _pixart(PixArtAlphaPipeline)


def pixart_sigma() -> Case:
    return _pixart(PixArtSigmaPipeline)


def hunyuan_dit() -> Case:
    torch.manual_seed(0)
    transformer = HunyuanDiT2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        hidden_size=16,
        in_channels=4,
        cross_attention_dim=32,
        cross_attention_dim_t5=32,
        pooled_projection_dim=16,
        text_len=12,
        text_len_t5=12,
    )
    pipe = HunyuanDiTPipeline(
        transformer=transformer,
        vae=vae(),
        scheduler=DDPMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction"),
        requires_safety_checker=False,
        **absent("safety_checker", "feature_extractor"),
        **_NO_TEXT,
    )
    embeds = {"prompt_embeds": noise(1, 12, 32), "prompt_embeds_2": noise(1, 12, 32, seed=2)}
    masks = {"prompt_attention_mask": ones(1, 12), "prompt_attention_mask_2": ones(1, 12)}
    size = {"height": 16, "width": 16, "use_resolution_binning": False}
    return Case(pipe, signed(**embeds) | both(**masks) | size, ("call",))


def sana() -> Case:
    torch.manual_seed(0)
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=32,
        sample_size=8,
    )
    coder = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
    )
    flow = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    pipe = SanaPipeline(transformer=transformer, vae=coder, scheduler=flow, **_NO_TEXT)
    text = signed(prompt_embeds=noise(1, 12, 32)) | both(prompt_attention_mask=ones(1, 12))
    size = {"height": 32, "width": 32, "use_resolution_binning": False}
    return Case(pipe, text | size | {"negative_prompt": None}, ("call",))
