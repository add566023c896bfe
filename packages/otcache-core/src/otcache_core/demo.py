"""What a demo plugin gives: a pipeline that ships with a package, and how to call it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from otcache_core.errors import OtcacheError, expected


@dataclass(frozen=True)
class Demo:
    """A pipeline anyone can run, and prompts for it.

    Args:
        name: of the demo among the installed ones.
        summary: one line.
        load: called without arguments; gives the pipeline. Slow, and may import torch.
        call: keyword arguments of the pipeline call (``num_inference_steps``, ``height``, ...).
        prompts: role (``calibration``, ``heldout``, ``novel``) to pairs (text, tag).
        frames_per_second: at which clips play; 0 where the pipeline makes pictures.

    Raises:
        OtcacheError: if a prompt is not a pair of strings, or the frame rate is negative or not finite.
    """

    name: str
    summary: str
    load: Callable[[], Any]
    call: dict[str, Any] = field(default_factory=dict)
    prompts: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    frames_per_second: float = 0.0

    def __post_init__(self) -> None:
        rate = self.frames_per_second
        if not (math.isfinite(rate) and rate >= 0):
            raise OtcacheError(
                expected("Demo.frames_per_second", rate, "a number of at least 0", "0 is pictures.")
            )
        for role, pairs in self.prompts.items():
            for pair in pairs:
                if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
                    what = f"Demo.prompts[{role!r}]"
                    raise OtcacheError(expected(what, pair, "pairs of strings (text, tag)"))
