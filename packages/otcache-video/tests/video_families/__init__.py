"""One tiny pipeline of every video family: rows of docs/coverage.md."""

from __future__ import annotations

from otcache_diffusers.testing import Family
from video_families import cosmos, hunyuan, ltx, transformers, unets, wan

FAMILIES = (
    Family("Wan 2.1", "WanPipeline", wan.text),
    Family("Wan 2.1, image to video", "WanImageToVideoPipeline", wan.image),
    Family("Wan 2.1, video to video", "WanVideoToVideoPipeline", wan.video),
    Family("Wan 2.1 VACE", "WanVACEPipeline", wan.vace),
    Family("Wan 2.2, two transformers", "WanPipeline", wan.experts),
    Family("Wan 2.2, two transformers, image", "WanImageToVideoPipeline", wan.image_experts),
    Family("Wan 2.2 TI2V, text", "WanPipeline", wan.tokens),
    Family("Wan 2.2 TI2V, image", "WanImageToVideoPipeline", wan.image_tokens),
    Family("SkyReels V2", "SkyReelsV2Pipeline", wan.sky_reels),
    Family("SkyReels V2, image", "SkyReelsV2ImageToVideoPipeline", wan.sky_reels_image),
    Family("HunyuanVideo", "HunyuanVideoPipeline", hunyuan.text),
    Family("HunyuanVideo, true CFG", "HunyuanVideoPipeline", hunyuan.true_guidance),
    Family("HunyuanVideo, image", "HunyuanVideoImageToVideoPipeline", hunyuan.image),
    Family(
        "HunyuanVideo, image channels", "HunyuanVideoImageToVideoPipeline", hunyuan.image_channels
    ),
    Family("HunyuanVideo 1.5", "HunyuanVideo15Pipeline", hunyuan.newer),
    Family("HunyuanVideo 1.5, image", "HunyuanVideo15ImageToVideoPipeline", hunyuan.newer_image),
    Family("LTX", "LTXPipeline", ltx.text),
    Family("LTX, image to video", "LTXImageToVideoPipeline", ltx.image),
    Family("LTX, conditions", "LTXConditionPipeline", ltx.condition),
    Family("LTX 2", "LTX2Pipeline", ltx.second, requires="stg_scale"),
    Family("LTX 2, CFG alone", "LTX2Pipeline", ltx.second_plain),
    Family("LTX 2, image to video", "LTX2ImageToVideoPipeline", ltx.second_image),
    Family("CogVideoX", "CogVideoXPipeline", transformers.cog_video),
    Family(
        "CogVideoX, image to video", "CogVideoXImageToVideoPipeline", transformers.cog_video_image
    ),
    Family("Mochi", "MochiPipeline", transformers.mochi),
    Family("Allegro", "AllegroPipeline", transformers.allegro),
    Family("Latte", "LattePipeline", transformers.latte),
    Family("Kandinsky 5 T2V", "Kandinsky5T2VPipeline", transformers.kandinsky5),
    Family("Sana Video", "SanaVideoPipeline", transformers.sana),
    Family("Cosmos Predict 2", "Cosmos2VideoToWorldPipeline", cosmos.second),
    Family("AnimateDiff", "AnimateDiffPipeline", unets.animate_diff),
    Family("Stable Video Diffusion", "StableVideoDiffusionPipeline", unets.stable_video),
)
