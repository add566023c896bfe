"""Denoiser outputs as trees of tensors: a tensor, a tuple, a list or a diffusers output object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from otcache_core.errors import ExecutionError


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
    the very object v. Leaves that are no floating-point tensors are taken from the first output.

    Args:
        outputs: v_0, v_1, ..., trees of one structure.
        coefficients: A_0, A_1, ..., as many.

    Raises:
        ExecutionError: if the trees or their shapes differ.
    """
    if len(outputs) == 1 and coefficients[0] == 1.0:
        return outputs[0]
    flat = [pytree.tree_flatten(output) for output in outputs]
    spec = flat[0][1]
    if any(other != spec for _, other in flat[1:]):
        raise ExecutionError(
            "the denoiser's outputs changed their structure during the run: use reuse."
        )
    columns = zip(*(leaves for leaves, _ in flat), strict=True)
    return pytree.tree_unflatten([_combine_leaf(c, coefficients) for c in columns], spec)


def _combine_leaf(leaves: Sequence[Any], coefficients: Sequence[float]) -> Any:
    first = leaves[0]
    if not isinstance(first, torch.Tensor) or not first.is_floating_point():
        return first
    if any(leaf.shape != first.shape for leaf in leaves):
        shapes = [tuple(leaf.shape) for leaf in leaves]
        raise ExecutionError(f"outputs of one branch must have one shape, got {shapes}: use reuse.")
    wide = torch.promote_types(first.dtype, torch.float32)
    # One wide tensor and no other: what is added to it is widened as it is read.
    total = first.to(wide, copy=True).mul_(coefficients[0])
    for leaf, c in zip(leaves[1:], coefficients[1:], strict=True):
        total.add_(leaf, alpha=c)
    return total.to(first.dtype)
