"""Denoiser outputs cut into samples and put together again.

A pipeline call on n samples may hand the denoiser C n rows (C = 2 where guidance is fused into one
batch), chunk after chunk. A sample's share of an output is then of shape (C, ...).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from otcache_core.errors import ExecutionError


def split_rows(output: Any, num_samples: int) -> list[Any]:
    """Cut an output into one tree a sample, leaves of shape (C, ...).

    Raises:
        ExecutionError: if a leaf's first dimension is no multiple of the number of samples.
    """
    leaves, spec = pytree.tree_flatten(output)
    cut = [_split(leaf, num_samples) for leaf in leaves]
    return [pytree.tree_unflatten([leaf[:, n] for leaf in cut], spec) for n in range(num_samples)]


def join_rows(outputs: Sequence[Any]) -> Any:
    """Put samples' outputs together; the inverse of :func:`split_rows`."""
    flat = [pytree.tree_flatten(output) for output in outputs]
    leaves = [
        torch.stack(parts, dim=1).flatten(0, 1) for parts in zip(*(f[0] for f in flat), strict=True)
    ]
    return pytree.tree_unflatten(leaves, flat[0][1])


def stack_rows(outputs: Sequence[Any]) -> torch.Tensor:
    """Samples' outputs as one tensor of shape (samples, C, ...), if each is one tensor and no more.

    Raises:
        ExecutionError: otherwise.
    """
    leaves = [pytree.tree_leaves(output) for output in outputs]
    if any(len(found) != 1 or not isinstance(found[0], torch.Tensor) for found in leaves):
        raise ExecutionError("a denoiser output must be one tensor to be taken apart by branches.")
    return torch.stack([found[0] for found in leaves])


def _split(leaf: Any, num_samples: int) -> torch.Tensor:
    if not isinstance(leaf, torch.Tensor) or leaf.ndim == 0 or leaf.shape[0] % num_samples:
        raise ExecutionError(
            f"a denoiser output must have a multiple of {num_samples} rows to be evaluated in a batch, "
            f"got {tuple(getattr(leaf, 'shape', ()))}: use batch_size=1."
        )
    return leaf.reshape(leaf.shape[0] // num_samples, num_samples, *leaf.shape[1:])
