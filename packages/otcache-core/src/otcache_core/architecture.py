"""What a plugin that knows a published model gives: what one call of its denoiser costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from otcache_core.errors import OtcacheError, expected

#: Configurations by part, ``denoiser`` and ``vae``, as ``save_pretrained`` writes them.
Configs = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Canvas:
    """The size of one picture or clip.

    Args:
        height: in pixels.
        width: in pixels.
        frames: 1 for pictures.

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
    """Of one denoiser call, as the model's pipeline makes it by default for one picture.

    Attributes:
        parameters: of the denoiser.
        flops: of one call with all the samples in it; a multiply-add counts two.
        output_elements: numbers that a held output keeps in memory.
        calls_per_step: 2 where guidance makes a call of its own for each branch.
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
            by part; counts without holding a weight.
    """

    name: str
    summary: str
    model_class: str
    source: str
    measure: Callable[[Canvas, Configs], CallCost]
