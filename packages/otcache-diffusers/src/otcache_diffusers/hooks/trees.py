"""Denoiser outputs as trees, and their linear combination, which is a forecast."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from enum import Enum
from numbers import Number
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from otcache_core.errors import ExecutionError
from otcache_diffusers.hooks.objects import Shell, opened


class Placeholder:
    """Represents a tensor in a tree: a leaf that is never opened."""


@dataclass(frozen=True, eq=False)
class Packed(Placeholder):
    """A tensor that is kept in fewer bits or on another device, and has no other owner.

    Attributes:
        codes: what is kept.
        dtype: of the tensor as it came.
        device: of the tensor as it came.
    """

    codes: torch.Tensor
    dtype: torch.dtype
    device: torch.device

    @property
    def shape(self) -> torch.Size:
        """Shape of the tensor."""
        return self.codes.shape

    @property
    def moved(self) -> bool:
        """Whether it is kept on another device."""
        return self.codes.device != self.device

    def read(self) -> torch.Tensor:
        """Return what is kept, on the tensor's own device; only to be read."""
        return self.codes.to(self.device, non_blocking=self.device.type == "cuda")


_TENSORS = (torch.Tensor, Placeholder)
#: What is kept as it is: it holds no tensor.
_PLAIN = (
    *(type(None), Number, str, bytes, Enum, type, range, slice, np.generic, np.dtype),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Generator),
)


@dataclass(frozen=True)
class Known:
    """A container that torch's pytree knows, without its children."""

    cls: type
    context: Any


@dataclass(frozen=True)
class Form:
    """The structure of a tree without its leaves.

    Attributes:
        node: of the root; None for a leaf.
        children: of the root's children, in order.
    """

    node: Shell | Known | None
    children: tuple[Form, ...]


LEAF = Form(None, ())


def flatten(tree: Any, stop: tuple[type, ...] = ()) -> tuple[list[Any], Form]:
    """Open a tree.

    Args:
        tree: any object.
        stop: objects of these types are leaves, too.

    Returns:
        Its leaves in order, and its form. An object without a tensor in it is one leaf. So is what
        cannot be opened, and an object that holds itself.
    """
    leaves: list[Any] = []
    return leaves, _walk(tree, leaves, (*_TENSORS, *stop), ())


def unflatten(leaves: Sequence[Any], form: Form) -> Any:
    """Return the tree of this form with these leaves; the inverse of :func:`flatten`."""
    return _build(form, iter(leaves))


def tensors(tree: Any) -> list[torch.Tensor]:
    """Return the tensors of a tree, in order."""
    return [leaf for leaf in flatten(tree)[0] if isinstance(leaf, torch.Tensor)]


def first_tensor(tree: Any) -> torch.Tensor | None:
    """Return the first tensor of a tree, None if there is none."""
    return next(iter(tensors(tree)), None)


def prediction_at(leaves: Sequence[Any]) -> int:
    """Return the place of the prediction among the leaves of an output, their number if there is none.

    It is the first floating-point or complex tensor that is not a scalar, else the first tensor.
    """
    found = [n for n, leaf in enumerate(leaves) if isinstance(leaf, _TENSORS)]
    arrays = [n for n in found if is_inexact(leaves[n]) and len(leaves[n].shape)]
    return next(iter([*arrays, *found]), len(leaves))


def prediction(output: Any) -> torch.Tensor | None:
    """Return the prediction in a denoiser's output (:func:`prediction_at`), None if there is no tensor."""
    leaves, _ = flatten(output)
    return next(iter(leaves[prediction_at(leaves) :]), None)


def is_inexact(leaf: Any) -> bool:
    """Return whether it is a tensor that can be combined: of floating-point or complex numbers."""
    return isinstance(leaf, _TENSORS) and (leaf.dtype.is_floating_point or leaf.dtype.is_complex)  # type: ignore[union-attr]  # every placeholder has a dtype


def is_opaque(leaf: Any, above: tuple[Any, ...] = ()) -> bool:
    """Return whether a leaf may hold what a step computed and cannot be opened."""
    if isinstance(leaf, (*_TENSORS, *_PLAIN)):
        return False
    found = None if _is_one_of(leaf, above) else _open(leaf)
    return found is None or any(is_opaque(child, (*above, leaf)) for child in found[1])


def examine(output: Any) -> None:
    """Check that a denoiser's output can be kept and forecast.

    Raises:
        ExecutionError: if there is no tensor in it, or something in it cannot be opened.
    """
    leaves, _ = flatten(output)
    shut = next((leaf for leaf in leaves if is_opaque(leaf)), None)
    if shut is None and any(isinstance(leaf, _TENSORS) for leaf in leaves):
        return
    got = f"{_name(output)} without a tensor" if shut is None else _name(shut)
    inside = f" inside {_name(output)}" if shut is not None and shut is not output else ""
    raise ExecutionError(
        "the denoiser must return tensors, alone or inside tuples, lists, dicts, dataclasses and plain "
        f"Python objects, got {got}{inside}: {_remedy(shut)}"
    )


def combine(outputs: Sequence[Any], coefficients: Sequence[Any]) -> Any:
    r"""Return the linear combination of outputs, leaf by leaf.

    .. math:: \sum_r A_r v_r

    Accumulated in float32 (float64 for float64 leaves) and cast once. The single term 1 v returns
    the very object v. Whatever is not a tensor of floating-point or complex numbers (Python numbers, None,
    integer tensors) is taken from the first output, the newest. Packed leaves are read one at a time;
    the sum has the type they came in.

    Args:
        outputs: v_0, v_1, ..., trees of one structure.
        coefficients: A_0, A_1, ..., as many, as :func:`combine_leaves` takes them.

    Raises:
        ExecutionError: if the trees or their shapes differ, or hold nothing that can be combined.
    """
    flat = [flatten(output) for output in outputs]
    first, form = flat[0]
    plain = len(outputs) == 1 and is_one(coefficients[0])
    if plain and not any(isinstance(leaf, Packed) for leaf in first):
        return outputs[0]
    if any(other != form for _, other in flat[1:]):
        raise ExecutionError(
            "the denoiser's outputs changed their structure during the run: use reuse, or "
            "otcache.Recipe(batch_size=1) to calibrate if it is the batch that changes it."
        )
    return combine_leaves([leaves for leaves, _ in flat], form, coefficients)


def combine_leaves(rows: Sequence[Sequence[Any]], form: Form, coefficients: Sequence[Any]) -> Any:
    """Return the combination of outputs of one form that are open already, as :func:`combine`.

    Args:
        rows: the leaves of each output.
        form: of all of them.
        coefficients: one an output: a number, or a tensor with one of each sample, which every leaf with
            that many entries in its first dimension takes, and others by their mean.
    """
    if form is LEAF and is_inexact(rows[0][0]):
        return _combine_leaf([leaves[0] for leaves in rows], coefficients)
    plain = len(rows) == 1 and is_one(coefficients[0])
    if not plain and not any(is_inexact(leaf) for leaf in rows[0]):
        name = _name(unflatten(rows[0], form))
        raise ExecutionError(
            f"a forecast needs outputs of floating-point numbers, got {name} without: use reuse."
        )
    columns = zip(*rows, strict=True)
    return unflatten([_combine_leaf(c, coefficients) for c in columns], form)


def is_one(coefficient: Any) -> bool:
    """Return whether a coefficient is the number 1; a tensor is not looked at, wherever it is."""
    return not isinstance(coefficient, torch.Tensor) and coefficient == 1.0


def _combine_leaf(leaves: Sequence[Any], coefficients: Sequence[Any]) -> Any:
    first = leaves[0]
    if not is_inexact(first):
        return _read(first)
    if any(getattr(leaf, "shape", None) != first.shape for leaf in leaves):
        shapes = [tuple(getattr(leaf, "shape", ())) for leaf in leaves]
        raise ExecutionError(
            f"outputs of one branch must have one shape, got {shapes}: use reuse, or "
            "otcache.Recipe(batch_size=1) to calibrate if it is the batch that changes it."
        )
    wide = torch.promote_types(first.dtype, torch.float32)
    # One wide tensor and no other: what is added to it is widened as it is read.
    read = _read(first)
    total, c = read.to(wide), _of_samples(coefficients[0], read)
    total = total.mul(c) if total is read else total.mul_(c)
    for leaf, c in zip(leaves[1:], coefficients[1:], strict=True):
        if isinstance(c, torch.Tensor):
            total.addcmul_(_read(leaf).to(wide), _of_samples(c, total))
        else:
            total.add_(_read(leaf), alpha=c)
    return total.to(first.dtype)


def _of_samples(coefficient: Any, leaf: torch.Tensor) -> Any:
    """Return a coefficient of each sample, shape (n, 1, ...), so that it multiplies a leaf."""
    if not isinstance(coefficient, torch.Tensor):
        return coefficient
    samples = coefficient.numel()
    if leaf.ndim == 0 or samples not in (1, len(leaf)):
        return coefficient.mean()
    shape = (samples, *[1] * (leaf.ndim - 1))
    return coefficient if coefficient.shape == shape else coefficient.reshape(shape)


def _read(leaf: Any) -> Any:
    return leaf.read() if isinstance(leaf, Packed) else leaf


def _walk(node: Any, leaves: list[Any], stop: tuple[type, ...], above: tuple[Any, ...]) -> Form:
    closed = isinstance(node, (*stop, *_PLAIN)) or _is_one_of(node, above)
    found = None if closed else _open(node)
    if found is None:
        leaves.append(node)
        return LEAF
    shell, children = found
    start, above = len(leaves), (*above, node)
    forms = tuple(_walk(child, leaves, stop, above) for child in children)
    if isinstance(shell, Shell) and not any(isinstance(leaf, stop) for leaf in leaves[start:]):
        leaves[start:] = [node]  # the very object is kept
        return LEAF
    return Form(shell, forms)


def _open(node: Any) -> tuple[Any, list[Any]] | None:
    """Return the structure of a node and its children; None if it is made by code of its own."""
    known = pytree.SUPPORTED_NODES.get(type(node))
    if known is None or is_dataclass(node) or hasattr(type(node), "_fields"):
        return opened(node)
    children, context = known.flatten_fn(node)
    return Known(type(node), context), children


def _is_one_of(node: Any, others: Sequence[Any]) -> bool:
    return any(node is other for other in others)


def _build(form: Form, leaves: Iterator[Any]) -> Any:
    if form.node is None:
        return next(leaves)
    children = [_build(child, leaves) for child in form.children]
    if isinstance(form.node, Shell):
        return form.node.filled(children)
    return pytree.SUPPORTED_NODES[form.node.cls].unflatten_fn(children, form.node.context)


def _name(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _remedy(shut: Any) -> str:
    if isinstance(shut, np.ndarray):
        return "return torch.from_numpy(array)."
    return "return the tensors, or wrap the denoiser in an nn.Module that does."


class Extent(NamedTuple):
    """Addresses that a tensor reaches: from ``start`` up to and without ``stop``, on one device."""

    device: torch.device
    start: int
    stop: int


def parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Return the tensors with memory in a tensor; what a collective returns is a wrapper without."""
    if not is_traceable_wrapper_subclass(tensor):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names for part in parts(getattr(tensor, name))]


def extents(leaves: Iterable[torch.Tensor]) -> list[Extent]:
    """Return the memory of tensors, without synchronizing. Tensors without memory (meta, fake) have none."""
    found = (_extent(part) for leaf in leaves for part in parts(leaf))
    return [extent for extent in found if extent is not None]


def overlap(some: Iterable[Extent], others: Iterable[Extent]) -> bool:
    """Return whether two sets of extents have an address in common."""
    others = list(others)
    return any(
        a.device == b.device and a.start < b.stop and b.start < a.stop for a in some for b in others
    )


def is_external(tensor: torch.Tensor) -> bool:
    """Return whether its memory is not torch's own, so that it may be written into at any time.

    Torch cannot resize such memory: a numpy array's, a DLPack capsule's, the outputs of OpenVINO and of
    ONNX Runtime's IO binding, and those of CUDA graphs that ``torch.compile`` made.
    """
    if type(tensor) is torch.Tensor:  # the usual case, at each forecast
        return tensor.layout == torch.strided and not tensor.untyped_storage().resizable()
    return any(
        part.layout == torch.strided and not part.untyped_storage().resizable()
        for part in parts(tensor)
    )


def owned(output: Any) -> Any:
    """Return the same tree with a copy of every tensor."""
    leaves, form = flatten(output)
    copies = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    return unflatten(copies, form)


def separate(output: Any, state: torch.Tensor | None) -> Any:
    """Return the very output, or copies if it is in the memory of the state, which the sampler changes."""
    if state is None or not overlap(extents(tensors(output)), extents([state])):
        return output
    return owned(output)


def num_bytes(leaves: Iterable[torch.Tensor]) -> int:
    """Return the bytes of memory kept alive by tensors; what they share counts once."""
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
