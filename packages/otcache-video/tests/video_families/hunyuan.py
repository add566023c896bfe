"""HunyuanVideo: guidance is embedded, true guidance makes a second call."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLHunyuanVideo, FlowMatchEulerDiscreteScheduler
from PIL import Image

from otcache_diffusers.testing import Case
from otcache_diffusers.testing.families import absent, both, noise, ones, random_image, signed
from video_families import eyes

_NO_TEXT = absent("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
_SIZE = {"height": 16, "width": 16, "num_frames": 9}


def _vae() -> AutoencoderKLHunyuanVideo:
    torch.manual_seed(0)
    return AutoencoderKLHunyuanVideo(
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8,) * 4,
        layers_per_block=1,
        norm_num_groups=4,
    )


def _transformer(**config: Any) -> Any:
    torch.manual_seed(0)
    wanted: dict[str, Any] = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 10,
        "num_layers": 1,
        "num_single_layers": 1,
        "num_refiner_layers": 1,
        "patch_size": 1,
        "patch_size_t": 1,
        "text_embed_dim": 16,
        "pooled_projection_dim": 8,
        "rope_axes_dim": (2, 4, 4),
    }
    return diffusers.HunyuanVideoTransformer3DModel(**wanted | config)


def _words() -> dict[str, torch.Tensor]:
    return {
        "prompt_embeds": noise(1, 12, 16),
        "pooled_prompt_embeds": noise(1, 8),
        "prompt_attention_mask": ones(1, 12),
    }


def text() -> Case:
    pipe = diffusers.HunyuanVideoPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        vae=_vae(),
        transformer=_transformer(),
        **_NO_TEXT,
    )
    return Case(pipe, _words() | _SIZE | {"guidance_scale": 6.0}, ("cond",))


def true_guidance() -> Case:
    pipe = diffusers.HunyuanVideoPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        vae=_vae(),
        transformer=_transformer(),
        **_NO_TEXT,
    )
    words = _words()
    negative = {f"negative_{name}": value for name, value in words.items()}
    negative["negative_prompt_embeds"] = -words["prompt_embeds"]
    call = words | negative | _SIZE | {"true_cfg_scale": 4.0}
    return Case(pipe, call, ("cond", "uncond"))


def _image(kind: str, channels: int) -> Case:
    net = _transformer(
        in_channels=channels, guidance_embeds=kind == "token_replace", image_condition_type=kind
    )
    pipe = diffusers.HunyuanVideoImageToVideoPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        vae=_vae(),
        transformer=net,
        image_processor=None,
        **_NO_TEXT,
    )
    return Case(
        pipe, _words() | _SIZE | {"image": random_image(), "guidance_scale": 6.0}, ("call",)
    )


def image() -> Case:
    """Return a pipeline whose first latent frame is the image's and is not denoised."""
    return _image("token_replace", 4)


def image_channels() -> Case:
    """Return a pipeline with the image in further channels."""
    return _image("latent_concat", 9)


def _newer(pipeline: Any, task: str, **parts: Any) -> Any:
    torch.manual_seed(0)
    net = diffusers.HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_refiner_layers=1,
        text_embed_dim=16,
        text_embed_2_dim=8,
        image_embed_dim=12,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type=task,
    )
    coder = diffusers.AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=(16, 16, 16, 16),
        layers_per_block=1,
        spatial_compression_ratio=8,
        temporal_compression_ratio=4,
    )
    return pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        vae=coder,
        transformer=net,
        guider=diffusers.ClassifierFreeGuidance(guidance_scale=4.0),
        **_NO_TEXT,
        **parts,
    )


def _newer_words() -> dict[str, torch.Tensor]:
    embeds = signed(prompt_embeds=noise(1, 12, 16), prompt_embeds_2=noise(1, 6, 8))
    return embeds | both(prompt_embeds_mask=ones(1, 12), prompt_embeds_mask_2=ones(1, 6))


def newer() -> Case:
    """HunyuanVideo 1.5: a guider names the branches."""
    pipe = _newer(diffusers.HunyuanVideo15Pipeline, "t2v")
    return Case(pipe, _newer_words() | _SIZE, ("cond", "uncond"))


def newer_image() -> Case:
    parts = {"image_encoder": eyes.siglip(12), "feature_extractor": eyes.Reader()}
    pipe = _newer(diffusers.HunyuanVideo15ImageToVideoPipeline, "i2v", **parts)
    seen = Image.fromarray((random_image()[0].permute(1, 2, 0) * 255).byte().numpy())
    call = _newer_words() | {"image": seen, "num_frames": 9}
    return Case(pipe, call, ("cond", "uncond"))
