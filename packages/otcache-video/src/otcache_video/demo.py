"""The shipped demo pipeline: a trained WanPipeline in miniature."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from otcache_core import OtcacheError
from otcache_core.models import Demo

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
    import torch

    from otcache_diffusers.compat import load as load_library
    from otcache_diffusers.recording.sampler import quiet_loading

    with quiet_loading():
        kind = load_library("diffusers:WanPipeline", "the video demo")
        pipe = kind.from_pretrained(str(folder()), local_files_only=True).to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def prompts() -> dict[str, tuple[tuple[str, str], ...]]:
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
    roles = json.loads((folder() / "prompts.json").read_text(encoding="utf-8"))
    return {role: tuple((p["text"], p["tag"]) for p in entries) for role, entries in roles.items()}


def video_demo() -> Demo:
    """Return the descriptor of the demo."""
    return Demo(
        name="video",
        summary="moving shapes and emoji, a WanPipeline in miniature, 9 frames of 48x48",
        load=load,
        call=dict(CALL),
        prompts=prompts(),
        frames_per_second=FRAMES_PER_SECOND,
    )
