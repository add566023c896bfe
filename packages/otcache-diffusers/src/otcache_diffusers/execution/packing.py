"""Tensors as a storage asks for them."""

from __future__ import annotations

import torch

from otcache_core.contracts import Storage
from otcache_diffusers.hooks import Packed

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Packing:
    """Packs tensors that are wider than the storage, or elsewhere.

    Nothing waits for a CUDA device: its copies to pinned memory and back keep their order on the stream.

    Args:
        storage: what is asked for.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._beyond: list[torch.Tensor] = []

    def pack(self, leaf: torch.Tensor) -> torch.Tensor | Packed:
        """A tensor as it is kept; the very tensor where there is nothing to do."""
        dtype = self._narrowed(leaf.dtype)
        moves = self._storage.device is not None and leaf.device.type != self._storage.device
        if dtype == leaf.dtype and not moves:
            return leaf
        codes = leaf.to(dtype)
        if dtype == torch.float16 != leaf.dtype:
            self._beyond.append(codes.isinf().any())
        return Packed(_on_host(codes) if moves else codes, leaf.dtype, leaf.device)

    def overflowed(self) -> bool:
        """Whether anything packed since this was asked last is infinite; asks the device."""
        beyond, self._beyond = self._beyond, []
        return any(bool(flag) for flag in beyond)

    def _narrowed(self, dtype: torch.dtype) -> torch.dtype:
        if self._storage.dtype is None or not dtype.is_floating_point:
            return dtype
        asked = _DTYPES[self._storage.dtype]
        return asked if asked.itemsize < dtype.itemsize else dtype


def _on_host(tensor: torch.Tensor) -> torch.Tensor:
    pinned = tensor.device.type == "cuda"
    host = torch.empty_like(tensor, device="cpu", pin_memory=pinned)
    return host.copy_(tensor, non_blocking=pinned)
