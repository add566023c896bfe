"""Kandinsky, and what is not an image: the priors of Kandinsky 2.2 and Shap-E, Stable Audio."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderOobleck,
    DDPMScheduler,
    EDMDPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    Kandinsky3Pipeline,
    Kandinsky3UNet,
    KandinskyV22Pipeline,
    KandinskyV22PriorPipeline,
    PriorTransformer,
    ShapEPipeline,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
    UnCLIPScheduler,
    UNet2DConditionModel,
    VQModel,
)

from otcache_diffusers.testing.families import Case, absent, both, noise, ones, signed


def kandinsky2() -> Case:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=8,
        addition_embed_type="image",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(4, 8),
        layers_per_block=1,
        encoder_hid_dim=16,
        encoder_hid_dim_type="image_proj",
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=1,
        resnet_time_scale_shift="scale_shift",
    )
    movq = VQModel(block_out_channels=(4,), norm_num_groups=1, latent_channels=4)
    scheduler = DDPMScheduler(beta_schedule="linear", beta_start=0.00085, beta_end=0.012)
    pipe = KandinskyV22Pipeline(unet=unet, scheduler=scheduler, movq=movq)
    embeds = {"image_embeds": noise(1, 16), "negative_image_embeds": -noise(1, 16)}
    return Case(pipe, embeds | {"height": 8, "width": 8}, ("call",), "unet")


def _prior(**config: Any) -> PriorTransformer:
    torch.manual_seed(0)
    return PriorTransformer(num_attention_heads=2, attention_head_dim=8, num_layers=1, **config)


def kandinsky2_prior() -> Case:
    """Denoises the embedding of an image; the texts of a prompt and of no prompt are one batch."""
    pipe = KandinskyV22PriorPipeline(
        prior=_prior(embedding_dim=16, num_embeddings=12),
        scheduler=UnCLIPScheduler(
            prediction_type="sample", clip_sample=True, clip_sample_range=5.0
        ),
        **absent("image_encoder", "text_encoder", "tokenizer", "image_processor"),
    )
    encoded = noise(2, 16), noise(2, 12, 16, seed=2), ones(2, 12).bool()
    pipe._encode_prompt = lambda *args, **given: encoded
    torch.nn.init.ones_(pipe.prior.clip_std)
    pipe.get_zero_embed = lambda *args, **given: torch.zeros(1, 16)
    return Case(pipe, {"prompt": "a"}, ("call",), "prior", output_type="pt")


def kandinsky3() -> Case:
    torch.manual_seed(0)
    unet = Kandinsky3UNet(
        time_embedding_dim=4,
        groups=2,
        attention_head_dim=4,
        layers_per_block=2,
        block_out_channels=(8, 16),
        cross_attention_dim=8,
        encoder_hid_dim=32,
    )
    pipe = Kandinsky3Pipeline(
        unet=unet,
        scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        **absent("tokenizer", "text_encoder", "movq"),
    )
    text = signed(prompt_embeds=noise(1, 12, 32)) | both(attention_mask=ones(1, 12))
    return Case(pipe, text | {"height": 64, "width": 64}, ("call",), "unet")


def shap_e() -> Case:
    """Denoises the parameters of a shape. Heun makes two calls per step but the last."""
    pipe = ShapEPipeline(
        prior=_prior(
            embedding_dim=16,
            num_embeddings=4,
            embedding_proj_dim=16,
            clip_embed_dim=32,
            time_embed_dim=64,
            additional_embeddings=0,
            time_embed_act_fn="gelu",
            norm_in_type="layer",
            encoder_hid_proj_type=None,
            added_emb_type=None,
        ),
        scheduler=HeunDiscreteScheduler(
            beta_schedule="exp",
            num_train_timesteps=1024,
            prediction_type="sample",
            clip_sample=True,
        ),
        **absent("text_encoder", "tokenizer", "shap_e_renderer"),
    )
    pipe._encode_prompt = lambda *args, **given: noise(2, 16)
    return Case(pipe, {"prompt": "a"}, ("call",), "prior", num_inference_steps=4, steps=7)


def stable_audio() -> Case:
    torch.manual_seed(0)
    transformer = StableAudioDiTModel(
        sample_size=8,
        in_channels=3,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_attention_heads=1,
        out_channels=3,
        cross_attention_dim=8,
        time_proj_dim=8,
        global_states_input_dim=16,
        cross_attention_input_dim=8,
    )
    coder = AutoencoderOobleck(
        encoder_hidden_size=6,
        downsampling_ratios=[1, 2],
        decoder_channels=3,
        decoder_input_channels=3,
        audio_channels=2,
        channel_multiples=[2, 4],
        sampling_rate=4,
    )
    pipe = StableAudioPipeline(
        vae=coder,
        projection_model=StableAudioProjectionModel(8, 8, 0, 32),
        transformer=transformer,
        scheduler=EDMDPMSolverMultistepScheduler(solver_order=2, prediction_type="v_prediction"),
        **absent("text_encoder", "tokenizer"),
    )
    text = signed(prompt_embeds=noise(1, 12, 8)) | both(attention_mask=ones(1, 12))
    note = (
        "velocity predictions are forecast as they are, not as noise: EDMDPMSolverMultistepScheduler "
        "scales the denoiser's input in a way of its own."
    )
    return Case(pipe, text, ("call",), notes=(note,))
