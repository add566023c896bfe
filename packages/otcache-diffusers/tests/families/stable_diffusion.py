"""Stable Diffusion 1.5, 2, XL and 3: guidance in one batch of two."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    MultiControlNetModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from otcache_diffusers.testing.families import (
    Case,
    N,
    absent,
    mask,
    noise,
    random_image,
    signed,
    vae,
)

_NOISE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
_SIZE = {"height": 16, "width": 16}
_SMALL = {
    "block_out_channels": (4, 8),
    "layers_per_block": 1,
    "norm_num_groups": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
}
_XL = _SMALL | {
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "transformer_layers_per_block": (1, 1),
    "projection_class_embeddings_input_dim": 80,
    "cross_attention_dim": 64,
}


def _unet(in_channels: int = 4, **config: Any) -> UNet2DConditionModel:
    torch.manual_seed(0)
    ups = ("CrossAttnUpBlock2D", "UpBlock2D")
    return UNet2DConditionModel(
        sample_size=16, in_channels=in_channels, out_channels=4, up_block_types=ups, **config
    )


def _classic(scheduler: Any, num_inference_steps: int, **config: Any) -> Case:
    pipe = StableDiffusionPipeline(
        vae=vae(),
        unet=_unet(cross_attention_dim=32, **_SMALL, **config),
        scheduler=scheduler,
        requires_safety_checker=False,
        **absent("text_encoder", "tokenizer", "safety_checker", "feature_extractor"),
    )
    call = _SIZE | signed(prompt_embeds=noise(1, 12, 32)) | {"guidance_scale": 7.5}
    return Case(pipe, call, ("call",), "unet", num_inference_steps)


def sd15() -> Case:
    """PNDM makes one call more than it is asked for."""
    scheduler = PNDMScheduler(skip_prk_steps=True, **_NOISE)
    return _classic(scheduler, N - 1, attention_head_dim=2)


def sd2() -> Case:
    """Predicts v."""
    scheduler = DDIMScheduler(prediction_type="v_prediction", clip_sample=False, **_NOISE)
    return _classic(scheduler, N, attention_head_dim=(2, 4), use_linear_projection=True)


def _xl(pipeline: Any, num_inference_steps: int = N, in_channels: int = 4, **parts: Any) -> Case:
    """Arguments of the call go by ``call``, further components by name."""
    call: dict[str, Any] = parts.pop("call", {})
    pipe = pipeline(
        vae=vae(),
        unet=_unet(in_channels, **_XL),
        scheduler=EulerDiscreteScheduler(**_NOISE),
        **absent("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
        **parts,
    )
    text = signed(prompt_embeds=noise(1, 12, 64), pooled_prompt_embeds=noise(1, 32))
    return Case(pipe, text | {"guidance_scale": 5.0} | call, ("call",), "unet", num_inference_steps)


def xl() -> Case:
    return _xl(StableDiffusionXLPipeline, call=_SIZE)


def xl_img2img() -> Case:
    return _xl(
        StableDiffusionXLImg2ImgPipeline, 10, call={"image": random_image(), "strength": 0.6}
    )


def xl_inpaint() -> Case:
    """Return the nine-channel denoiser: latents, mask, masked image."""
    call = _SIZE | {"image": random_image(), "mask_image": mask(), "strength": 0.6}
    return _xl(StableDiffusionXLInpaintPipeline, 10, 9, call=call)


def controlnet(seed: int = 1) -> ControlNetModel:
    """Return a ControlNet of the same blocks as the denoiser, its last layers not zero."""
    torch.manual_seed(seed)
    net = ControlNetModel(conditioning_embedding_out_channels=(2,), **_XL)
    for layer in (*net.controlnet_down_blocks, net.controlnet_mid_block):
        torch.nn.init.normal_(layer.weight)
    return net


def xl_controlnet(nets: int = 1, **call: Any) -> Case:
    """With several nets each has an image."""
    images: Any = random_image() if nets == 1 else [random_image()] * nets
    found = [controlnet(seed + 1) for seed in range(nets)]
    net: Any = found[0] if nets == 1 else MultiControlNetModel(found)
    call = _SIZE | {"image": images} | call
    return _xl(StableDiffusionXLControlNetPipeline, call=call, controlnet=net)


def sd3() -> Case:
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        out_channels=4,
    )
    texts = [f"{part}{n}" for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")]
    pipe = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(),
        **absent(*texts),
    )
    text = signed(prompt_embeds=noise(1, 12, 32), pooled_prompt_embeds=noise(1, 32))
    return Case(pipe, text | _SIZE | {"guidance_scale": 5.0}, ("call",))
