"""The demo pipeline of this package: a trained FluxPipeline in miniature."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from otcache_core.models import Demo, Prompts

#: Arguments of every call of the demo pipeline: its size, the length its captions are padded to, and
#: true guidance, which makes better images and a harder task for a cache.
CALL: dict[str, Any] = {
    "height": 64,
    "width": 64,
    "max_sequence_length": 24,
    "true_cfg_scale": 3.0,
    "negative_prompt": "",
}


def folder() -> Path:
    """Return the packaged folder, as ``save_pretrained`` wrote it."""
    return Path(str(resources.files("otcache_diffusers") / "demo_model"))


def load() -> Any:
    """Load the pipeline in float32, its progress bar off; call it with :data:`CALL`.

    Returns:
        A plain ``diffusers.FluxPipeline``; nothing in it is otcache's own.
    """
    return saved_pipeline(folder(), "FluxPipeline", "the image demo", low_cpu_mem_usage=False)


def prompts() -> dict[str, Prompts]:
    """Return prompts by role, as pairs (text, tag).

    ``calibration``; ``heldout``, none of them used in calibration; ``novel``, compositions of seen
    words that training never showed.
    """
    return saved_prompts(folder())


def image_demo() -> Demo:
    """Describe the demo."""
    return Demo(
        name="image",
        summary="shapes, letters and emoji, a FluxPipeline in miniature, 64x64",
        load=load,
        call=dict(CALL),
        prompts=prompts(),
    )


def saved_pipeline(folder: Path, class_name: str, purpose: str, **options: Any) -> Any:
    """Load a pipeline of diffusers from a folder in float32, its progress bar off.

    Args:
        folder: as ``save_pretrained`` wrote it.
        class_name: of the pipeline.
        purpose: what it is for, if diffusers is missing: the first words of the error.
        options: of ``from_pretrained``.
    """
    import torch

    from otcache_diffusers.compat import load as load_library
    from otcache_diffusers.recording.sampler import quiet_loading

    with quiet_loading():
        kind = load_library(f"diffusers:{class_name}", purpose)
        pipe = kind.from_pretrained(str(folder), local_files_only=True, **options).to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def saved_prompts(folder: Path) -> dict[str, Prompts]:
    """Read the prompts that training wrote into a demo's folder."""
    roles = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    return {role: tuple((p["text"], p["tag"]) for p in entries) for role, entries in roles.items()}
