"""Qwen-Image and Z-Image."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from PIL import Image

from otcache_diffusers.testing.families import (
    Case,
    absent,
    both,
    noise,
    ones,
    random_image,
    signed,
    vae,
)


def _vae() -> AutoencoderKLQwenImage:
    """Build an autoencoder of four channels that downsamples by 4."""
    torch.manual_seed(0)
    return AutoencoderKLQwenImage(  # type: ignore[no-untyped-call]  # theirs
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def _transformer() -> QwenImageTransformer2DModel:
    torch.manual_seed(0)
    return QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )


def _call() -> dict[str, object]:
    text = signed(prompt_embeds=noise(1, 8, 16)) | both(prompt_embeds_mask=ones(1, 8))
    return text | {"true_cfg_scale": 3.0, "height": 32, "width": 32}


def text() -> Case:
    pipe = QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(),
        transformer=_transformer(),
        **absent("text_encoder", "tokenizer"),
    )
    return Case(pipe, _call(), ("cond", "uncond"))


class _Small:
    """Stands in for the processor of the reference image, which asks for a megapixel."""

    def resize(self, image: Image.Image, height: int, width: int) -> Image.Image:
        return image

    def preprocess(self, image: Image.Image, height: int, width: int) -> torch.Tensor:
        return random_image(image.size[0])


def edit() -> Case:
    """Count the reference's tokens, those of 1024 x 1024 pixels at 256 pixels a latent: 4."""
    pipe = QwenImageEditPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(),
        transformer=_transformer(),
        **absent("text_encoder", "tokenizer", "processor"),
    )
    pipe.image_processor, pipe.vae_scale_factor = _Small(), 256
    call = {"image": Image.new("RGB", (16, 16)), "height": 1024, "width": 1024}
    return Case(pipe, _call() | call, ("cond", "uncond"))


def z_image() -> Case:
    torch.manual_seed(0)
    transformer = ZImageTransformer2DModel(
        in_channels=16,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[64, 32, 32],
    )
    for token in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.ones_(token)
    pipe = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(16),
        transformer=transformer,
        **absent("text_encoder", "tokenizer"),
    )
    call = {"prompt_embeds": [noise(16, 16)], "negative_prompt_embeds": [-noise(16, 16)]}
    return Case(pipe, call | {"guidance_scale": 3.0, "height": 32, "width": 32}, ("call",))
