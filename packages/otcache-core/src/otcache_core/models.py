"""What demo and architecture plugins give: a pipeline to run, and the cost of a published model's calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from otcache_core.errors import OtcacheError, expected

#: Pairs (text, tag).
Prompts = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Demo:
    """A pipeline anyone can run, and prompts for it.

    Args:
        name: of the demo among the installed ones.
        summary: one line.
        load: called without arguments; gives the pipeline. Slow, and may import torch.
        call: keyword arguments of the pipeline call (``num_inference_steps``, ``height``, ...).
        prompts: role (``calibration``, ``heldout``, ``novel``) to pairs (text, tag).
        frames_per_second: at which videos play; 0 if the pipeline makes images.

    Raises:
        OtcacheError: if a prompt is not a pair of strings, or the frame rate is negative or not finite.
    """

    name: str
    summary: str
    load: Callable[[], Any]
    call: dict[str, Any] = field(default_factory=dict)
    prompts: dict[str, Prompts] = field(default_factory=dict)
    frames_per_second: float = 0.0

    def __post_init__(self) -> None:
        rate = self.frames_per_second
        if not (math.isfinite(rate) and rate >= 0):
            raise OtcacheError(
                expected(
                    "Demo.frames_per_second", rate, "a number of at least 0", "0 is for images."
                )
            )
        for role, pairs in self.prompts.items():
            for pair in pairs:
                if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
                    what = f"Demo.prompts[{role!r}]"
                    raise OtcacheError(expected(what, pair, "pairs of strings (text, tag)"))


#: Configurations by part, ``denoiser`` and ``vae``, as ``save_pretrained`` writes them.
Configs = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Canvas:
    """The size of one image or video.

    Args:
        height: in pixels.
        width: in pixels.
        frames: 1 for an image.

    Raises:
        OtcacheError: if one is below 1.
    """

    height: int
    width: int
    frames: int = 1

    def __post_init__(self) -> None:
        for name in ("height", "width", "frames"):
            if getattr(self, name) < 1:
                raise OtcacheError(expected(name, getattr(self, name), "at least 1"))


@dataclass(frozen=True)
class CallCost:
    """Cost of one denoiser call, as the model's pipeline makes it by default for one image.

    Attributes:
        parameters: of the denoiser.
        flops: of one call with all the samples in it; a multiply-add counts two.
        output_elements: numbers in one cached output.
        calls_per_step: 2 if guidance makes a call of its own for each branch.
        decode_flops: of the decoder, once a run.
    """

    parameters: int
    flops: int
    output_elements: int
    calls_per_step: int = 1
    decode_flops: int = 0


@dataclass(frozen=True)
class Architecture:
    """A published model at full size, without its weights.

    Args:
        name: as it was published.
        summary: one line: guidance and text length that are assumed.
        model_class: class of the denoiser.
        source: where its configuration was published.
        measure: called with a canvas and the configurations to use instead of the published ones,
            by part; counts without loading weights.
    """

    name: str
    summary: str
    model_class: str
    source: str
    measure: Callable[[Canvas, Configs], CallCost]
