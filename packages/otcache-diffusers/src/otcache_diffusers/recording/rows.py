"""Denoiser outputs cut into samples and put together again.

A pipeline call on n samples may hand the denoiser C n rows (C = 2 where guidance is fused into one
batch), chunk after chunk. A sample's share of an output is then of shape (C, ...). What has no rows
(None, numbers, scalars, statistics of a whole batch) goes with each sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otcache_core.errors import ExecutionError
from otcache_diffusers.hooks.trees import examine, flatten, prediction_at, unflatten


@dataclass(frozen=True, eq=False)
class Whole:
    """A tensor that every sample of a batch has, as it cannot be cut.

    Attributes:
        tensor: as the denoiser returned it.
    """

    tensor: Any


def split_rows(output: Any, num_samples: int) -> list[Any]:
    """Cut an output into one tree a sample, leaves of shape (C, ...); copies, in memory of their own.

    The prediction (:func:`~otcache_diffusers.hooks.trees.prediction_at`) must have rows. Another tensor
    is cut if it has as many, or one per sample; else every sample gets it whole, as it gets scalars.

    Raises:
        ExecutionError: if the prediction has no multiple of the number of samples as rows, or something
            in the output cannot be opened.
    """
    examine(output)
    leaves, form = flatten(output)
    rows = _num_rows(leaves[prediction_at(leaves)], num_samples)
    cut = [_split(leaf, num_samples, rows) for leaf in leaves]
    return [unflatten([parts[n] for parts in cut], form) for n in range(num_samples)]


def fold_rows(num_samples: int, *states: Tensor) -> tuple[Tensor, ...]:
    """Give every sample one row: of shape (C n, ...), chunk after chunk, each becomes (n, C, ...).

    DiT's sampler keeps both branches of guidance in its state. What has a row per sample, or no multiple of
    that, stays as it is.
    """
    return tuple(
        x
        if x.ndim == 0 or len(x) == num_samples or len(x) % num_samples
        else x.reshape(-1, num_samples, *x.shape[1:]).transpose(0, 1)
        for x in states
    )


def join_rows(outputs: Sequence[Any]) -> Any:
    """Put samples' outputs together; the inverse of :func:`split_rows`.

    What has no rows is taken from the first sample.

    Raises:
        ExecutionError: if the outputs differ in structure or shape.
    """
    flat = [flatten(output, (Whole,)) for output in outputs]
    forms, columns = [form for _, form in flat], [leaves for leaves, _ in flat]
    if any(form != forms[0] for form in forms[1:]):
        raise ExecutionError(
            "the denoiser's outputs changed their structure from sample to sample: they must have one "
            "to be put together in a batch; use otcache.Recipe(batch_size=1)."
        )
    return unflatten([_join(parts) for parts in zip(*columns, strict=True)], forms[0])


def stack_rows(outputs: Sequence[Any]) -> Tensor:
    """Return samples' predictions as one tensor of shape (samples, C, ...); nothing else may have rows.

    Raises:
        ExecutionError: otherwise.
    """
    leaves = [
        [leaf for leaf in flatten(output, (Whole,))[0] if _has_rows(leaf)] for output in outputs
    ]
    if any(len(found) != 1 for found in leaves):
        raise ExecutionError(
            "a denoiser output must hold one tensor with rows to be taken apart by branches."
        )
    return torch.stack([found[0] for found in leaves])


def _num_rows(prediction: Tensor, num_samples: int) -> int:
    if prediction.ndim == 0:
        raise ExecutionError(
            "a denoiser output must have a row per sample, got a scalar and no other tensor: return a "
            "tensor of shape (batch, ...)."
        )
    if prediction.shape[0] % num_samples:
        raise ExecutionError(
            f"a denoiser output must have a multiple of {num_samples} rows to be cut into as many "
            f"samples, got {tuple(prediction.shape)}: use otcache.Recipe(batch_size=1)."
        )
    return prediction.shape[0]


def _split(leaf: Any, num_samples: int, rows: int) -> Sequence[Any]:
    if not isinstance(leaf, Tensor) or leaf.shape[:1] not in ((num_samples,), (rows,)):
        if not isinstance(leaf, Tensor):
            return [leaf] * num_samples
        return [Whole(leaf.clone()) if leaf.ndim else leaf.clone()] * num_samples
    parts = leaf.reshape(-1, num_samples, *leaf.shape[1:]).transpose(0, 1)
    return parts.clone(memory_format=torch.contiguous_format).unbind(0)


def _has_rows(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0


def _join(parts: Sequence[Any]) -> Any:
    first = next((part for part in parts if isinstance(part, Whole)), parts[0])
    if isinstance(first, Whole):
        return first.tensor
    if not _has_rows(first):
        return first
    shapes = [getattr(part, "shape", None) for part in parts]
    if any(shape != first.shape for shape in shapes):
        raise ExecutionError(
            "samples' outputs must have one shape to be put together in a batch, got "
            f"{', '.join(str(shape and tuple(shape)) for shape in dict.fromkeys(shapes))}: use "
            "otcache.Recipe(batch_size=1)."
        )
    return torch.stack(list(parts), dim=1).flatten(0, 1)
