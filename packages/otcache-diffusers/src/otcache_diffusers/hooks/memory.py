"""Whose memory a denoiser output is in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from otcache_diffusers.hooks.tree import flatten, tensors, unflatten


class Extent(NamedTuple):
    """Addresses that a tensor reaches: from ``start`` up to and without ``stop``, on one device."""

    device: torch.device
    start: int
    stop: int


def parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensors with memory in a tensor; what a collective returns is a wrapper without."""
    if not is_traceable_wrapper_subclass(tensor):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names for part in parts(getattr(tensor, name))]


def extents(leaves: Iterable[torch.Tensor]) -> list[Extent]:
    """The memory of tensors; asks no device. Tensors without memory (meta, fake) have none."""
    found = (_extent(part) for leaf in leaves for part in parts(leaf))
    return [extent for extent in found if extent is not None]


def overlap(some: Iterable[Extent], others: Iterable[Extent]) -> bool:
    """Whether two sets of extents have an address in common."""
    others = list(others)
    return any(
        a.device == b.device and a.start < b.stop and b.start < a.stop for a in some for b in others
    )


def is_lent(tensor: torch.Tensor) -> bool:
    """Whether its memory belongs to somebody else than torch, who may write into it at any time.

    Torch cannot resize such memory: a numpy array's, a DLPack capsule's, the outputs of OpenVINO and of
    ONNX Runtime's IO binding, and those of CUDA graphs that ``torch.compile`` made.
    """
    return any(
        part.layout == torch.strided and not part.untyped_storage().resizable()
        for part in parts(tensor)
    )


def owned(output: Any) -> Any:
    """The same tree with a copy of every tensor, in memory that nobody else has."""
    leaves, form = flatten(output)
    copies = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    return unflatten(copies, form)


def apart(output: Any, state: torch.Tensor | None) -> Any:
    """The very output, or copies where it lies in the memory of the state, which the sampler changes."""
    if state is None or not overlap(extents(tensors(output)), extents([state])):
        return output
    return owned(output)


def num_bytes(leaves: Iterable[torch.Tensor]) -> int:
    """Bytes of the memory kept alive by tensors; what they share counts once."""
    storages = [part.untyped_storage() for leaf in leaves for part in parts(leaf)]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def _extent(tensor: torch.Tensor) -> Extent | None:
    if tensor.layout != torch.strided or tensor.device.type == "meta" or not tensor.numel():
        return None
    if tensor.untyped_storage().device.type == "meta":  # fake tensors name another device
        return None
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return Extent(tensor.device, start, start + (last + 1) * tensor.element_size())
