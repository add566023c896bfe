"""What a trace of one denoiser call writes down."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from otcache_diffusers.execution.blocks.flow import Mark
from otcache_diffusers.execution.blocks.stack import Shape, Slot


@dataclass(frozen=True)
class Sighting:
    """One block call.

    Attributes:
        name: of the block's list.
        block: which was called.
        shape: of what it returned.
        reached: marks of everything that came in.
        carried: for each argument the leaves of the output of the call before that it continues.
    """

    name: str
    block: nn.Module
    shape: Shape
    reached: set[Mark]
    carried: dict[Slot, set[int]]


@dataclass
class Ends:
    """What went into a list's first block and came out of its latest one; copies.

    Attributes:
        inputs: the floating-point tensors among the arguments.
        output: the leaves of the output.
        writes: whether the first block writes into its arguments.
    """

    inputs: dict[Slot, torch.Tensor]
    output: list[Any] = field(default_factory=list)
    writes: bool = False
