"""One tiny pipeline of every video family: rows of docs/coverage.md."""

from __future__ import annotations

from otcache_diffusers.testing import Family
from video_families import hunyuan, ltx, transformers, unets, wan

FAMILIES = (
    Family("Wan 2.1", "WanPipeline", wan.text),
    Family("Wan 2.2, two transformers", "WanPipeline", wan.experts),
    Family("SkyReels V2", "SkyReelsV2Pipeline", wan.sky_reels),
    Family("HunyuanVideo", "HunyuanVideoPipeline", hunyuan.text),
    Family("LTX", "LTXPipeline", ltx.text),
    Family("LTX, image to video", "LTXImageToVideoPipeline", ltx.image),
    Family("CogVideoX", "CogVideoXPipeline", transformers.cog_video),
    Family("Mochi", "MochiPipeline", transformers.mochi),
    Family("AnimateDiff", "AnimateDiffPipeline", unets.animate_diff),
)
