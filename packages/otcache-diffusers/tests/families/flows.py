"""Flow-matching transformers: Chroma, Lumina 2, HiDream, AuraFlow, CogView4."""

from __future__ import annotations

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    ChromaPipeline,
    ChromaTransformer2DModel,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    UniPCMultistepScheduler,
)

from otcache_diffusers.testing.families import Case, absent, both, noise, ones, signed, vae

_NO_TEXT = absent("text_encoder", "tokenizer")
_SIZE = {"height": 16, "width": 16}


def chroma() -> Case:
    torch.manual_seed(0)
    transformer = ChromaTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=16,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    pipe = ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae(1), transformer=transformer, **_NO_TEXT
    )
    text = signed(prompt_embeds=noise(1, 12, 32)) | both(prompt_attention_mask=ones(1, 12).bool())
    return Case(pipe, text | _SIZE, ("call", "call#2"))


def lumina2() -> Case:
    torch.manual_seed(0)
    transformer = Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=24,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(64, 32, 32),
        cap_feat_dim=32,
    )
    pipe = Lumina2Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae(), **_NO_TEXT
    )
    text = signed(prompt_embeds=noise(1, 12, 32)) | both(prompt_attention_mask=ones(1, 12))
    return Case(pipe, text | _SIZE, ("call", "call#2"))


def hidream() -> Case:
    torch.manual_seed(0)
    transformer = HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=[32, 16],
        text_emb_dim=16,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(16, 16),
        llama_layers=(0, 1),
        force_inference_output=True,
    )
    texts = [
        f"{part}{n}" for part in ("text_encoder", "tokenizer") for n in ("", *["_2", "_3", "_4"])
    ]
    flow = UniPCMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    pipe = HiDreamImagePipeline(
        scheduler=flow, vae=vae(), transformer=transformer, **absent(*texts)
    )
    pipe.default_sample_size = 16  # the call scales any size to this area
    text = signed(
        prompt_embeds_t5=noise(1, 12, 32),
        prompt_embeds_llama3=noise(2, 1, 12, 16),
        pooled_prompt_embeds=noise(1, 16),
    )
    return Case(pipe, text | _SIZE, ("call",))


def aura_flow() -> Case:
    torch.manual_seed(0)
    transformer = AuraFlowTransformer2DModel(
        sample_size=16,
        patch_size=2,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pos_embed_max_size=64,
    )
    pipe = AuraFlowPipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae(), **_NO_TEXT
    )
    text = signed(prompt_embeds=noise(1, 12, 32)) | both(prompt_attention_mask=ones(1, 12))
    return Case(pipe, text | _SIZE, ("call",))


def cogview4() -> Case:
    torch.manual_seed(0)
    transformer = CogView4Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=32,
        time_embed_dim=16,
        condition_dim=4,
        sample_size=8,
        rope_axes_dim=(16, 16),
    )
    flow = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="linear")
    pipe = CogView4Pipeline(scheduler=flow, vae=vae(), transformer=transformer, **_NO_TEXT)
    return Case(pipe, signed(prompt_embeds=noise(1, 16, 32)) | _SIZE, ("cond", "uncond"))
