"""Full-size configurations as published: numbers only, from each model's own config.json."""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]

_DECODER: Config = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
}
_DECODER_16: Config = {
    **_DECODER,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}

#: black-forest-labs/FLUX.1-dev: transformer/config.json and vae/config.json, 2024.
FLUX_1_DEV: dict[str, Config] = {
    "denoiser": {
        "attention_head_dim": 128,
        "axes_dims_rope": [16, 56, 56],
        "guidance_embeds": True,
        "in_channels": 64,
        "joint_attention_dim": 4096,
        "num_attention_heads": 24,
        "num_layers": 19,
        "num_single_layers": 38,
        "patch_size": 1,
        "pooled_projection_dim": 768,
    },
    "vae": _DECODER_16,
}

#: Qwen/Qwen-Image: transformer/config.json and vae/config.json, 2025.
QWEN_IMAGE: dict[str, Config] = {
    "denoiser": {
        "attention_head_dim": 128,
        "axes_dims_rope": [16, 56, 56],
        "guidance_embeds": False,
        "in_channels": 64,
        "joint_attention_dim": 3584,
        "num_attention_heads": 24,
        "num_layers": 60,
        "out_channels": 16,
        "patch_size": 2,
    },
    "vae": {
        "attn_scales": [],
        "base_dim": 96,
        "dim_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "temperal_downsample": [False, True, True],
        "z_dim": 16,
    },
}

#: stabilityai/stable-diffusion-3.5-large: transformer/config.json and vae/config.json, 2024.
SD3_5_LARGE: dict[str, Config] = {
    "denoiser": {
        "attention_head_dim": 64,
        "caption_projection_dim": 2432,
        "dual_attention_layers": [],
        "in_channels": 16,
        "joint_attention_dim": 4096,
        "num_attention_heads": 38,
        "num_layers": 38,
        "out_channels": 16,
        "patch_size": 2,
        "pooled_projection_dim": 2048,
        "pos_embed_max_size": 192,
        "qk_norm": "rms_norm",
        "sample_size": 128,
    },
    "vae": _DECODER_16,
}

#: stabilityai/stable-diffusion-xl-base-1.0: unet/config.json and vae/config.json, 2023.
SDXL_BASE: dict[str, Config] = {
    "denoiser": {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "attention_head_dim": [5, 10, 20],
        "block_out_channels": [320, 640, 1280],
        "cross_attention_dim": 2048,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "in_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 4,
        "projection_class_embeddings_input_dim": 2816,
        "sample_size": 128,
        "transformer_layers_per_block": [1, 2, 10],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "use_linear_projection": True,
    },
    "vae": {**_DECODER, "latent_channels": 4},
}
