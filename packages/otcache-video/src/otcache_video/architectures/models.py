"""The published models this package knows, as ``otcache_provide_architectures`` offers them."""

from __future__ import annotations

from otcache_core.architecture import Architecture
from otcache_diffusers.architectures.models import architecture
from otcache_video.architectures import calls, published


def wan_2_1_1_3b() -> Architecture:
    """1.42 B parameters."""
    return architecture(
        "Wan 2.1 1.3B",
        calls.wan(),
        published.WAN_2_1_1_3B,
        "Wan-AI/Wan2.1-T2V-1.3B",
        f"true guidance in two calls, {calls.WAN_TEXT} text tokens",
    )


def wan_2_1_14b() -> Architecture:
    """14.3 B parameters."""
    return architecture(
        "Wan 2.1 14B",
        calls.wan(),
        published.WAN_14B,
        "Wan-AI/Wan2.1-T2V-14B",
        f"true guidance in two calls, {calls.WAN_TEXT} text tokens",
    )


def wan_2_2_a14b() -> Architecture:
    """14.3 B parameters in each of two transformers, of which a step calls one."""
    return architecture(
        "Wan 2.2 A14B",
        calls.wan(),
        published.WAN_14B,
        "Wan-AI/Wan2.2-T2V-A14B",
        "one of two transformers a step, and only that one is counted; "
        f"true guidance in two calls, {calls.WAN_TEXT} text tokens",
    )


def hunyuan_video() -> Architecture:
    """12.8 B parameters."""
    return architecture(
        "HunyuanVideo",
        calls.hunyuan_video(),
        published.HUNYUAN_VIDEO,
        "tencent/HunyuanVideo",
        f"embedded guidance, {calls.HUNYUAN_TEXT} text tokens",
    )


def hunyuan_video_1_5() -> Architecture:
    """8.3 B parameters."""
    return architecture(
        "HunyuanVideo 1.5",
        calls.hunyuan_video_1_5(),
        published.HUNYUAN_VIDEO_1_5,
        "tencent/HunyuanVideo-1.5",
        f"true guidance in two calls, {calls.HUNYUAN_1_5_TEXT} + {calls.GLYPHS} text tokens, full attention",
    )


def cogvideox_5b() -> Architecture:
    """5.57 B parameters."""
    return architecture(
        "CogVideoX 5B",
        calls.cogvideox(),
        published.COGVIDEOX_5B,
        "THUDM/CogVideoX-5b",
        f"guidance in a batch of two, {calls.COGVIDEOX_TEXT} text tokens",
    )


def ltx_video() -> Architecture:
    """1.92 B parameters."""
    return architecture(
        "LTX-Video",
        calls.ltx(),
        published.LTX_VIDEO,
        "Lightricks/LTX-Video",
        f"guidance in a batch of two, {calls.LTX_TEXT} text tokens",
    )
