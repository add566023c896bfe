"""The shipped demo pipeline: a trained WanPipeline in miniature."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from otcache_core import OtcacheError
from otcache_core.models import Demo, Prompts
from otcache_diffusers.demo import saved_pipeline, saved_prompts

#: Arguments of every call of the demo pipeline: its size and length, the length its captions are
#: padded to, and no guidance, which would double its time. With a guidance_scale of 3 videos are a little
#: sharper, and a cache has a harder task.
CALL: dict[str, Any] = {
    "height": 48,
    "width": 48,
    "num_frames": 9,
    "max_sequence_length": 20,
    "guidance_scale": 1.0,
}

FRAMES_PER_SECOND = 8.0


def folder() -> Path:
    """Return the packaged folder, as ``save_pretrained`` wrote it."""
    return Path(str(resources.files("otcache_video") / "demo_model"))


def load() -> Any:
    """Load the pipeline in float32, its progress bar off; call it with :data:`CALL`.

    Returns:
        A plain ``diffusers.WanPipeline``; nothing in it is otcache's own.
    """
    return saved_pipeline(folder(), "WanPipeline", "the video demo")


def prompts() -> dict[str, Prompts]:
    """Return prompts by role, as pairs (text, tag).

    ``calibration``; ``heldout``, none of them used in calibration; ``novel``, compositions of seen
    words that training never showed.

    Raises:
        OtcacheError: if this copy of otcache-video was made without the model.
    """
    if not (folder() / "model_index.json").is_file():
        raise OtcacheError(
            "this copy of otcache-video holds no trained model: make one with "
            f"tools/train_demo_video.py --out {folder()}."
        )
    return saved_prompts(folder())


def video_demo() -> Demo:
    """Describe the demo."""
    return Demo(
        name="video",
        summary="moving shapes and emoji, a WanPipeline in miniature, 9 frames of 48x48",
        load=load,
        call=dict(CALL),
        prompts=prompts(),
        frames_per_second=FRAMES_PER_SECOND,
    )
