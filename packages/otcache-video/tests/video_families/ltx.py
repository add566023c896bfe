"""LTX: packed latents, guidance as one batch of two."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler

from otcache_diffusers.testing import Case
from otcache_diffusers.testing.families import absent, both, noise, ones, random_image, signed

_NO_TEXT = absent("text_encoder", "tokenizer")
_SIZE = {"height": 32, "width": 32, "num_frames": 9}


def _vae() -> AutoencoderKLLTXVideo:
    torch.manual_seed(0)
    return AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )


def _transformer() -> Any:
    torch.manual_seed(0)
    return diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=32,
    )


def _case(pipeline: Any, **more: Any) -> Case:
    pipe = pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(),
        transformer=_transformer(),
        **_NO_TEXT,
    )
    text = signed(prompt_embeds=noise(1, 16, 32))
    masks = both(prompt_attention_mask=ones(1, 16).bool())
    call = text | masks | _SIZE | {"guidance_scale": 3.0} | more
    return Case(pipe, call, ("cond_uncond",))


def text() -> Case:
    return _case(diffusers.LTXPipeline)


def image() -> Case:
    return _case(diffusers.LTXImageToVideoPipeline, image=random_image(32))


def condition() -> Case:
    """Return an image anywhere in the video: its tokens stay at time 0."""
    return _case(diffusers.LTXConditionPipeline, image=random_image(32))


def second() -> Case:
    """LTX 2 with its own scales: a batch of two for guidance, a call each for its two other kinds."""
    return _second(
        diffusers.LTX2Pipeline,
        ("cond_uncond", "uncond_stg", "uncond_modality"),
        guidance_scale=3.0,
    )


def second_plain() -> Case:
    """LTX 2 with classifier-free guidance alone."""
    return _second(diffusers.LTX2Pipeline, ("cond_uncond",), **_PLAIN)


def second_image() -> Case:
    """Return a pipeline that gives the image's tokens time 0, and steps the frames after it."""
    more = {"image": random_image(32), "image_crf": 0}
    return _second(diffusers.LTX2ImageToVideoPipeline, ("cond_uncond",), **_PLAIN, **more)


_PLAIN = {"guidance_scale": 3.0, "stg_scale": 0.0, "modality_scale": 1.0} | {
    "audio_guidance_scale": 3.0,
    "audio_stg_scale": 0.0,
    "audio_modality_scale": 1.0,
}


def _second(pipeline: Any, branches: tuple[str, ...], **call: Any) -> Case:
    """Return a pipeline of videos and their sound, which has a copy of the scheduler.

    Kinds of guidance that a version of diffusers does not know are off there.
    """
    known = inspect.signature(pipeline.__call__).parameters
    torch.manual_seed(0)
    net = diffusers.LTX2VideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=1,
        caption_channels=16,
    )
    connectors = diffusers.pipelines.ltx2.LTX2TextConnectors(
        caption_channels=16,
        text_proj_in_factor=1,
        video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=8,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=None,
        audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=8,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None,
        connector_rope_base_seq_len=32,
        rope_theta=10000.0,
        rope_double_precision=True,
        causal_temporal_positioning=False,
    )
    coder = diffusers.AutoencoderKLLTX2Video(
        latent_channels=4,
        block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        layers_per_block=(1,),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatial",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    sound = diffusers.AutoencoderKLLTX2Audio(
        base_channels=4,
        output_channels=2,
        ch_mult=(1,),
        num_res_blocks=1,
        attn_resolutions=None,
        in_channels=2,
        resolution=32,
        latent_channels=2,
        norm_type="pixel",
        causality_axis="height",
        dropout=0.0,
        mid_block_add_attention=False,
        sample_rate=16000,
        mel_hop_length=160,
        is_causal=True,
        mel_bins=8,
    )
    pipe = pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=coder,
        audio_vae=sound,
        connectors=connectors,
        transformer=net,
        vocoder=None,
        **_NO_TEXT,
    )
    text = signed(prompt_embeds=noise(1, 16, 16))
    masks = both(prompt_attention_mask=ones(1, 16).bool())
    size = {"height": 32, "width": 32, "num_frames": 5, "frame_rate": 25.0}
    guided = {name: value for name, value in call.items() if name in known}
    return Case(pipe, text | masks | size | guided, branches)
