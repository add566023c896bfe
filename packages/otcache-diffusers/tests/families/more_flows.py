"""More flow-matching transformers: Lumina, CogView3, PRX, Bria, HunyuanImage, Kandinsky 5."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKLHunyuanImage,
    BriaPipeline,
    BriaTransformer2DModel,
    CogVideoXDDIMScheduler,
    CogView3PlusPipeline,
    CogView3PlusTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
    Kandinsky5T2IPipeline,
    Kandinsky5Transformer3DModel,
    LuminaNextDiT2DModel,
    LuminaPipeline,
    PRXPipeline,
    PRXTransformer2DModel,
)
from diffusers.models.transformers.transformer_kandinsky import Kandinsky5Modulation

from otcache_diffusers.testing.families import Case, absent, both, noise, ones, signed, vae

_NO_TEXT = absent("text_encoder", "tokenizer")
_NO_TEXTS = _NO_TEXT | absent("text_encoder_2", "tokenizer_2")
_SIZE = {"height": 16, "width": 16}


def lumina() -> Case:
    torch.manual_seed(0)
    transformer = LuminaNextDiT2DModel(
        sample_size=16,
        in_channels=4,
        hidden_size=16,
        num_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        cross_attention_dim=32,
    )
    pipe = LuminaPipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae(), **_NO_TEXT
    )
    text = signed(prompt_embeds=noise(1, 12, 32)) | both(prompt_attention_mask=ones(1, 12))
    return Case(pipe, text | _SIZE, ("call",))


def cogview3() -> Case:
    """Predict v."""
    torch.manual_seed(0)
    transformer = CogView3PlusTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=32,
        time_embed_dim=16,
        condition_dim=4,
        pos_embed_max_size=16,
        sample_size=8,
    )
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    pipe = CogView3PlusPipeline(scheduler=scheduler, vae=vae(), transformer=transformer, **_NO_TEXT)
    return Case(pipe, signed(prompt_embeds=noise(1, 16, 32)) | _SIZE, ("call",))


def prx() -> Case:
    torch.manual_seed(0)
    transformer = PRXTransformer2DModel(
        in_channels=4,
        context_in_dim=32,
        hidden_size=16,
        num_heads=2,
        depth=1,
        axes_dim=[4, 4],
    )
    pipe = PRXPipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae(), **_NO_TEXT
    )
    text = signed(prompt_embeds=noise(1, 12, 32)) | both(prompt_attention_mask=ones(1, 12).bool())
    return Case(pipe, text | _SIZE | {"use_resolution_binning": False}, ("call",))


def bria() -> Case:
    torch.manual_seed(0)
    transformer = BriaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=[4, 4, 8],
    )
    flow = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipe = BriaPipeline(scheduler=flow, vae=vae(), transformer=transformer, **_NO_TEXT)
    return Case(pipe, signed(prompt_embeds=noise(1, 12, 32)) | _SIZE, ("call",))


def hunyuan_image() -> Case:
    """Distilled guidance: without a guider of its own the pipeline has one branch."""
    torch.manual_seed(0)
    transformer = HunyuanImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=32,
        text_embed_2_dim=16,
        rope_axes_dim=(4, 4),
        guidance_embeds=True,
    )
    coder = AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 32),
        layers_per_block=1,
        spatial_compression_ratio=2,
        sample_size=16,
    )
    pipe = HunyuanImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        vae=coder,
        transformer=transformer,
        **_NO_TEXTS,
    )
    embeds = {"prompt_embeds": noise(1, 12, 32), "prompt_embeds_2": noise(1, 12, 16)}
    masks = {"prompt_embeds_mask": ones(1, 12), "prompt_embeds_mask_2": ones(1, 12)}
    return Case(pipe, signed(**embeds) | both(**masks) | _SIZE, ("cond",))


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
    pipe = Kandinsky5T2IPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(),
        transformer=transformer,
        **_NO_TEXTS,
    )
    embeds = {"prompt_embeds_qwen": noise(1, 12, 32), "prompt_embeds_clip": noise(1, 16)}
    lengths = torch.tensor([0, 12], dtype=torch.int32)
    text = signed(**embeds) | both(prompt_cu_seqlens=lengths)
    pipe.resolutions = [(16, 16)]
    return Case(pipe, text | _SIZE, ("call", "call#2"))
