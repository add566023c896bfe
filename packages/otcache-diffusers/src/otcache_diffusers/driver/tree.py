"""Denoiser outputs as trees of tensors: a tensor, a tuple, a list or a diffusers output object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from otcache_core.errors import ExecutionError
from otcache_diffusers.driver.packed import Packed


def tensors(tree: Any) -> list[torch.Tensor]:
    """The tensors of a tree, in order."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def first_tensor(tree: Any) -> torch.Tensor | None:
    """The first tensor of a tree, None where there is none."""
    return next(iter(tensors(tree)), None)


def combine(outputs: Sequence[Any], coefficients: Sequence[float]) -> Any:
    r"""The linear combination of outputs, leaf by leaf.

    .. math:: \sum_r A_r v_r

    Accumulated in float32 (float64 for float64 leaves) and cast once. The single term 1 v returns
    the very object v. Leaves that are no floating-point tensors are taken from the first output. Packed
    leaves are read one at a time; the sum has the type they came in.

    Args:
        outputs: v_0, v_1, ..., trees of one structure.
        coefficients: A_0, A_1, ..., as many.

    Raises:
        ExecutionError: if the trees or their shapes differ.
    """
    flat = [pytree.tree_flatten(output) for output in outputs]
    first, spec = flat[0]
    if len(outputs) == 1 and coefficients[0] == 1.0 and Packed not in map(type, first):
        return outputs[0]
    if any(other != spec for _, other in flat[1:]):
        raise ExecutionError(
            "the denoiser's outputs changed their structure during the run: use reuse."
        )
    columns = zip(*(leaves for leaves, _ in flat), strict=True)
    return pytree.tree_unflatten([_combine_leaf(c, coefficients) for c in columns], spec)


def _combine_leaf(leaves: Sequence[Any], coefficients: Sequence[float]) -> Any:
    first = leaves[0]
    if not isinstance(first, (torch.Tensor, Packed)) or not first.dtype.is_floating_point:
        return _read(first)
    if any(leaf.shape != first.shape for leaf in leaves):
        shapes = [tuple(leaf.shape) for leaf in leaves]
        raise ExecutionError(f"outputs of one branch must have one shape, got {shapes}: use reuse.")
    wide = torch.promote_types(first.dtype, torch.float32)
    # One wide tensor and no other: what is added to it is widened as it is read.
    total = _read(first).to(wide, copy=True).mul_(coefficients[0])
    for leaf, c in zip(leaves[1:], coefficients[1:], strict=True):
        total.add_(_read(leaf), alpha=c)
    return total.to(first.dtype)


def _read(leaf: Any) -> Any:
    return leaf.read() if isinstance(leaf, Packed) else leaf
