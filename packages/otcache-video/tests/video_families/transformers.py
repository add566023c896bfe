"""Video transformers of one family each: CogVideoX, Mochi, Allegro, Latte, Kandinsky 5 and Sana."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLMochi,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Kandinsky5Transformer3DModel,
)
from diffusers.models.transformers.transformer_kandinsky import Kandinsky5Modulation

from otcache_diffusers.testing import Case
from otcache_diffusers.testing.families import absent, both, noise, ones, random_image, signed, vae
from video_families import wan

_NO_TEXT = absent("text_encoder", "tokenizer")


def _cog_vae() -> AutoencoderKLCogVideoX:
    torch.manual_seed(0)
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8,) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    )


def _cog_transformer(**config: Any) -> Any:
    torch.manual_seed(0)
    wanted: dict[str, Any] = {
        "num_attention_heads": 4,
        "attention_head_dim": 8,
        "in_channels": 4,
        "out_channels": 4,
        "time_embed_dim": 2,
        "text_embed_dim": 32,
        "num_layers": 1,
        "sample_width": 2,
        "sample_height": 2,
        "sample_frames": 9,
        "max_text_seq_length": 16,
    }
    return diffusers.CogVideoXTransformer3DModel(**wanted | config)


def cog_video() -> Case:
    scheduler = CogVideoXDPMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    pipe = diffusers.CogVideoXPipeline(
        scheduler=scheduler, vae=_cog_vae(), transformer=_cog_transformer(), **_NO_TEXT
    )
    call = signed(prompt_embeds=noise(1, 16, 32)) | {"height": 16, "width": 16, "num_frames": 8}
    return Case(pipe, call | {"guidance_scale": 6.0, "max_sequence_length": 16}, ("cond_uncond",))


def mochi() -> Case:
    torch.manual_seed(0)
    transformer = diffusers.MochiTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        pooled_projection_dim=16,
        in_channels=12,
        text_embed_dim=32,
        time_embed_dim=4,
        max_sequence_length=16,
    )
    vae = AutoencoderKLMochi(
        latent_channels=12,
        encoder_block_out_channels=(32,) * 4,
        decoder_block_out_channels=(32,) * 4,
        layers_per_block=(1,) * 5,
    )
    pipe = diffusers.MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        vae=vae,
        transformer=transformer,
        **_NO_TEXT,
    )
    text = signed(prompt_embeds=noise(1, 16, 32))
    masks = both(prompt_attention_mask=ones(1, 16).bool())
    size = {"height": 16, "width": 16, "num_frames": 7}
    return Case(pipe, text | masks | size | {"guidance_scale": 4.5}, ("cond_uncond",))


def cog_video_image() -> Case:
    pipe = diffusers.CogVideoXImageToVideoPipeline(
        scheduler=CogVideoXDDIMScheduler(
            prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
        ),
        vae=_cog_vae(),
        transformer=_cog_transformer(in_channels=8),
        **_NO_TEXT,
    )
    call = signed(prompt_embeds=noise(1, 16, 32)) | {"height": 16, "width": 16, "num_frames": 8}
    more = {"image": random_image(), "guidance_scale": 6.0, "max_sequence_length": 16}
    return Case(pipe, call | more, ("cond_uncond",))


def allegro() -> Case:
    torch.manual_seed(0)
    transformer = diffusers.AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        cross_attention_dim=24,
        sample_width=8,
        sample_height=8,
        sample_frames=8,
        caption_channels=24,
    )
    coder = diffusers.AutoencoderKLAllegro(
        down_block_types=("AllegroDownBlock3D",) * 4,
        up_block_types=("AllegroUpBlock3D",) * 4,
        block_out_channels=(8,) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    pipe = diffusers.AllegroPipeline(
        scheduler=EulerAncestralDiscreteScheduler(), vae=coder, transformer=transformer, **_NO_TEXT
    )
    text = signed(prompt_embeds=noise(1, 12, 24)) | both(prompt_attention_mask=ones(1, 12))
    size = {"height": 16, "width": 16, "num_frames": 8, "negative_prompt": None}
    return Case(pipe, text | size | {"guidance_scale": 7.5}, ("call",))


def latte() -> Case:
    torch.manual_seed(0)
    transformer = diffusers.LatteTransformer3DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        video_length=4,
    )
    pipe = diffusers.LattePipeline(
        scheduler=DDIMScheduler(clip_sample=False), vae=vae(), transformer=transformer, **_NO_TEXT
    )
    text = signed(prompt_embeds=noise(1, 12, 32)) | {"negative_prompt": None}
    size = {"height": 8, "width": 8, "video_length": 4, "clean_caption": False}
    return Case(pipe, text | size | {"guidance_scale": 7.5}, ("call",))


def kandinsky5() -> Case:
    torch.manual_seed(0)
    transformer = Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        in_text_dim=32,
        in_text_dim2=16,
        time_dim=16,
        out_visual_dim=4,
        model_dim=16,
        ff_dim=16,
        num_text_blocks=1,
        num_visual_blocks=1,
        axes_dims=(4, 2, 2),
    )
    for part in transformer.modules():
        if isinstance(part, Kandinsky5Modulation):  # zeros would leave the text without effect
            torch.nn.init.normal_(part.out_layer.weight)
    coder = diffusers.AutoencoderKLHunyuanVideo(
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8,) * 4,
        layers_per_block=1,
        norm_num_groups=4,
    )
    pipe = diffusers.Kandinsky5T2VPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        vae=coder,
        transformer=transformer,
        **_NO_TEXT,
        **absent("text_encoder_2", "tokenizer_2"),
    )
    embeds = {"prompt_embeds_qwen": noise(1, 12, 32), "prompt_embeds_clip": noise(1, 16)}
    text = signed(**embeds) | both(prompt_cu_seqlens=torch.tensor([0, 12], dtype=torch.int32))
    size = {"height": 16, "width": 16, "num_frames": 5, "guidance_scale": 5.0}
    return Case(pipe, text | size, ("call", "call#2"))


def sana() -> Case:
    torch.manual_seed(0)
    transformer = diffusers.SanaVideoTransformer3DModel(
        in_channels=16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=32,
        sample_size=4,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    pipe = diffusers.SanaVideoPipeline(
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0
        ),
        vae=wan.vae(),
        transformer=transformer,
        **_NO_TEXT,
    )
    text = signed(prompt_embeds=noise(1, 12, 32)) | both(prompt_attention_mask=ones(1, 12))
    size = {"height": 32, "width": 32, "frames": 5, "use_resolution_binning": False}
    return Case(pipe, text | size | {"negative_prompt": None, "guidance_scale": 6.0}, ("call",))
