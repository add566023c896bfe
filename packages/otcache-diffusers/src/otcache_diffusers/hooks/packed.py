"""A tensor kept in another form than it came in."""

from __future__ import annotations

from dataclasses import dataclass

import torch


class StandIn:
    """Stands for a tensor in a tree; a leaf that is never opened."""


@dataclass(frozen=True, eq=False)
class Packed(StandIn):
    """Stands for a tensor that is kept in fewer bits or on another device; nobody else has it.

    Attributes:
        codes: what is kept.
        dtype: of the tensor it stands for.
        device: of the tensor it stands for.
    """

    codes: torch.Tensor
    dtype: torch.dtype
    device: torch.device

    @property
    def shape(self) -> torch.Size:
        """Of the tensor it stands for."""
        return self.codes.shape

    @property
    def moved(self) -> bool:
        """Whether it is kept on another device."""
        return self.codes.device != self.device

    def read(self) -> torch.Tensor:
        """What is kept, on the tensor's own device; only to be read."""
        return self.codes.to(self.device, non_blocking=self.device.type == "cuda")
