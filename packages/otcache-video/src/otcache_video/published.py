"""Full-size configurations of video models as published: numbers only.

diffusers' defaults of a class are those of the model it was first written for; they are repeated here if
a denoiser's size depends on them.
"""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]

_WAN: Config = {
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "text_dim": 4096,
}
_WAN_VAE: Config = {
    "base_dim": 96,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "z_dim": 16,
}

#: Wan-AI/Wan2.1-T2V-1.3B, 2025.
WAN_2_1_1_3B: dict[str, Config] = {
    "denoiser": {**_WAN, "ffn_dim": 8960, "num_attention_heads": 12, "num_layers": 30},
    "vae": _WAN_VAE,
}

#: Wan-AI/Wan2.1-T2V-14B, 2025; each of the two of Wan-AI/Wan2.2-T2V-A14B is of the same size.
WAN_14B: dict[str, Config] = {
    "denoiser": {**_WAN, "ffn_dim": 13824, "num_attention_heads": 40, "num_layers": 40},
    "vae": _WAN_VAE,
}


def _hunyuan_vae(channels: int, space: int) -> Config:
    return {
        "latent_channels": channels,
        "spatial_compression_ratio": space,
        "temporal_compression_ratio": 4,
    }


#: tencent/HunyuanVideo, 2024.
HUNYUAN_VIDEO: dict[str, Config] = {
    "denoiser": {
        "attention_head_dim": 128,
        "guidance_embeds": True,
        "in_channels": 16,
        "num_attention_heads": 24,
        "num_layers": 20,
        "num_refiner_layers": 2,
        "num_single_layers": 40,
        "patch_size": 2,
        "patch_size_t": 1,
        "pooled_projection_dim": 768,
        "text_embed_dim": 4096,
    },
    "vae": _hunyuan_vae(16, 8),
}

#: tencent/HunyuanVideo-1.5, text to video at 720p, 2025.
HUNYUAN_VIDEO_1_5: dict[str, Config] = {
    "denoiser": {
        "attention_head_dim": 128,
        "image_embed_dim": 1152,
        "in_channels": 65,
        "num_attention_heads": 16,
        "num_layers": 54,
        "num_refiner_layers": 2,
        "out_channels": 32,
        "patch_size": 1,
        "patch_size_t": 1,
        "target_size": 960,
        "task_type": "t2v",
        "text_embed_2_dim": 1472,
        "text_embed_dim": 3584,
    },
    "vae": _hunyuan_vae(32, 16),
}

#: THUDM/CogVideoX-5b, 2024.
COGVIDEOX_5B: dict[str, Config] = {
    "denoiser": {
        "attention_head_dim": 64,
        "in_channels": 16,
        "num_attention_heads": 48,
        "num_layers": 42,
        "patch_size": 2,
        "text_embed_dim": 4096,
        "use_rotary_positional_embeddings": True,
    },
    "vae": {
        "block_out_channels": [128, 256, 256, 512],
        "latent_channels": 16,
        "temporal_compression_ratio": 4,
    },
}

#: Lightricks/LTX-Video 0.9, 2024.
LTX_VIDEO: dict[str, Config] = {
    "denoiser": {
        "attention_head_dim": 64,
        "caption_channels": 4096,
        "cross_attention_dim": 2048,
        "in_channels": 128,
        "num_attention_heads": 32,
        "num_layers": 28,
    },
    "vae": {
        "latent_channels": 128,
        "patch_size": 4,
        "patch_size_t": 1,
        "spatio_temporal_scaling": [True, True, True, False],
    },
}
