"""Outputs as a storage asks for them."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from otcache_core.contracts import Storage
from otcache_diffusers.driver import Packed

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Packing:
    """Packs the tensors of outputs that are wider than the storage, or elsewhere.

    Nothing waits for a CUDA device: its copies to pinned memory and back keep their order on the stream.

    Args:
        storage: what is asked for.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._beyond: list[torch.Tensor] = []

    def pack(self, output: Any) -> Any:
        """The same tree with packed leaves; the very output where there is nothing to do."""
        if self._storage == Storage():
            return output
        leaves, spec = pytree.tree_flatten(output)
        kept = [self._leaf(leaf) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        same = all(one is leaf for one, leaf in zip(kept, leaves, strict=True))
        return output if same else pytree.tree_unflatten(kept, spec)

    def overflowed(self) -> bool:
        """Whether anything packed since this was asked last is infinite; asks the device."""
        beyond, self._beyond = self._beyond, []
        return any(bool(flag) for flag in beyond)

    def _leaf(self, leaf: torch.Tensor) -> torch.Tensor | Packed:
        dtype = self._narrowed(leaf.dtype)
        moves = self._storage.device is not None and leaf.device.type != self._storage.device
        if dtype == leaf.dtype and not moves:
            return leaf
        codes = leaf.to(dtype)
        if dtype == torch.float16 != leaf.dtype:
            self._beyond.append(codes.isinf().any())
        return Packed(_on_host(codes) if moves else codes, leaf.dtype, leaf.device)

    def _narrowed(self, dtype: torch.dtype) -> torch.dtype:
        if self._storage.dtype is None or not dtype.is_floating_point:
            return dtype
        asked = _DTYPES[self._storage.dtype]
        return asked if asked.itemsize < dtype.itemsize else dtype


def _on_host(tensor: torch.Tensor) -> torch.Tensor:
    pinned = tensor.device.type == "cuda"
    host = torch.empty_like(tensor, device="cpu", pin_memory=pinned)
    return host.copy_(tensor, non_blocking=pinned)
