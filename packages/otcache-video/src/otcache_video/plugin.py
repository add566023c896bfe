"""Offers the plugins of otcache-video."""

from __future__ import annotations

from otcache_core.plugins import Info, hookimpl


@hookimpl
def otcache_provide_metrics() -> list[Info]:
    """Metrics of pairs of clips, over time."""
    home = "otcache_video.metrics"
    return [
        Info("flicker", f"{home}.flicker:Flicker", "RMSE of temporal differences (dtSSD)"),
        Info("temporal-lpips", f"{home}.temporal_lpips:TemporalLpips", "tLP of TecoGAN"),
        Info("warping-error", f"{home}.warping_error:WarpingError", "along the reference's flow"),
        Info("motion-magnitude", f"{home}.motion_magnitude:MotionMagnitude", "ratio of motion"),
        Info(
            "subject-consistency",
            f"{home}.subject_consistency:SubjectConsistency",
            "VBench's, on AlexNet features or DINO by path",
        ),
    ]


@hookimpl
def otcache_provide_demos() -> list[Info]:
    """The trained video pipeline that ships with this package."""
    about = "moving shapes and emoji: a trained WanPipeline in miniature"
    return [Info("video", "otcache_video.demo:video_demo", about)]


@hookimpl
def otcache_provide_writers() -> list[Info]:
    """Files of clips."""
    home = "otcache_video.writing"
    return [
        Info(
            "mp4", f"{home}.mp4:Mp4", "H.264 in an MP4 file, which every player and browser shows"
        ),
        Info("webp", f"{home}.webp:WebP", "animated WebP, lossless, looped: a preview for a page"),
    ]
