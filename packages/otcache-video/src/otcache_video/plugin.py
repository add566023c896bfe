"""What otcache-video offers to otcache."""

from __future__ import annotations

from otcache_core.plugins import Info, hookimpl


@hookimpl
def otcache_provide_metrics() -> list[Info]:
    """Offer metrics of pairs of videos, over time."""
    motion, features = "otcache_video.metrics.motion", "otcache_video.metrics.features"
    vbench = "VBench's, on AlexNet features or DINO by path"
    return [
        Info("flicker", f"{motion}:Flicker", "RMSE of temporal differences (dtSSD)"),
        Info("temporal-lpips", f"{features}:TemporalLpips", "tLP of TecoGAN"),
        Info("warping-error", f"{motion}:WarpingError", "along the reference's flow"),
        Info("motion-magnitude", f"{motion}:MotionMagnitude", "ratio of motion"),
        Info("subject-consistency", f"{features}:SubjectConsistency", vbench),
    ]


@hookimpl
def otcache_provide_demos() -> list[Info]:
    """Offer the trained video pipeline that ships with this package."""
    about = "moving shapes and emoji: a trained WanPipeline in miniature"
    return [Info("video", "otcache_video.demo:video_demo", about)]


@hookimpl
def otcache_provide_writers() -> list[Info]:
    """Offer writers of video files."""
    home = "otcache_video.writers"
    about = "H.264 in an MP4 file, which every player and browser shows"
    return [
        Info("mp4", f"{home}:Mp4", about),
        Info("webp", f"{home}:WebP", "animated WebP, lossless, looped: a preview for a page"),
    ]


@hookimpl
def otcache_provide_architectures() -> list[Info]:
    """Offer published video models at full size."""
    home = "otcache_video.architectures"
    return [
        Info("wan-2-1-1-3b", f"{home}:wan_2_1_1_3b", "Wan 2.1 T2V, 1.42 B parameters"),
        Info("wan-2-1-14b", f"{home}:wan_2_1_14b", "Wan 2.1 T2V, 14.3 B parameters"),
        Info("wan-2-2-a14b", f"{home}:wan_2_2_a14b", "Wan 2.2 T2V, twice 14.3 B parameters"),
        Info("hunyuan-video", f"{home}:hunyuan_video", "HunyuanVideo, 12.8 B parameters"),
        Info("hunyuan-video-1-5", f"{home}:hunyuan_video_1_5", "8.3 B parameters"),
        Info("cogvideox-5b", f"{home}:cogvideox_5b", "CogVideoX 5B, 5.57 B parameters"),
        Info("ltx-video", f"{home}:ltx_video", "LTX-Video 0.9, 1.92 B parameters"),
    ]
