"""The block lists of a denoiser, and stacks of blocks that run one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from otcache_core.callable_denoiser import name_of
from otcache_core.errors import ExecutionError
from otcache_diffusers.compat import hooks_of
from otcache_diffusers.hooks import combine
from otcache_diffusers.hooks.trees import Form, flatten, unflatten

#: Which argument of a block: its position or its name.
Slot = int | str
#: R of each stack of a denoiser, leaf by leaf.
Residuals = tuple[list[Any], ...]


@dataclass(frozen=True)
class Call:
    """The arguments of one block call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def at(self, slot: Slot) -> Any:
        """Return one argument; None if there is none."""
        if isinstance(slot, str):
            return self.kwargs.get(slot)
        return self.args[slot] if slot < len(self.args) else None

    def tensors(self) -> dict[Slot, torch.Tensor]:
        """Return the floating-point tensors among the arguments."""
        pairs: list[tuple[Slot, Any]] = [*enumerate(self.args), *self.kwargs.items()]
        return {slot: value for slot, value in pairs if is_stream(value)}


@dataclass(frozen=True)
class Shape:
    """The structure of an output without its numbers."""

    form: Form
    leaves: tuple[Any, ...]  # of a tensor (shape, dtype, device), else the leaf itself

    @classmethod
    def of(cls, output: Any) -> Shape:
        """Return that of a block's output."""
        leaves, form = flatten(output)
        return cls(form, tuple(map(_emptied, leaves)))

    def blank(self) -> Any:
        """Return an output that is never read: memory of the right size that is never filled."""
        leaves = [leaf() if isinstance(leaf, _Blank) else leaf for leaf in self.leaves]
        return unflatten(leaves, self.form)


class _Blank(partial[torch.Tensor]):
    """Makes a tensor of some size, type and device that is never filled."""


def _emptied(leaf: Any) -> Any:
    if not is_tensor(leaf):
        return leaf
    return _Blank(torch.empty, leaf.shape, dtype=leaf.dtype, device=leaf.device)


@dataclass(frozen=True)
class Stack:
    r"""Blocks f_1 .. f_n through which streams h run, seen in one denoiser call.

    .. math:: R = f_n \circ \dots \circ f_1 (h) - h

    is the residual of a computed step. Passed over, the stack gives h + R' for a forecast R' of it,
    h being what reaches it now. A stream that only comes out is its own residual.

    Attributes:
        name: of the lists in the denoiser.
        blocks: in the order they ran.
        streams: for each leaf of the last block's output, the argument of the first block it
            continues; None if there is none.
        shapes: what each block returned.
    """

    name: str
    blocks: tuple[nn.Module, ...]
    streams: tuple[Slot | None, ...]
    shapes: tuple[Shape, ...]

    def inputs(self, call: Call) -> list[Any]:
        """Return h: for each leaf of the output the tensor it continues, or None."""
        return [None if slot is None else call.at(slot) for slot in self.streams]

    def residual(self, inputs: Sequence[Any], output: Any) -> list[Any]:
        """Return R in the dtype of the output, leaf by leaf; new tensors."""
        leaves, _ = flatten(output)
        return [_less(leaf, h) for leaf, h in zip(leaves, inputs, strict=True)]

    def answer(self, inputs: Sequence[Any], residual: Sequence[Any]) -> Any:
        """Return h + R', accumulated in float32 and cast once, as the last block would.

        Raises:
            ExecutionError: if a stream has another shape than when R was recorded.
        """
        leaves = [_plus(h, r) for h, r in zip(inputs, residual, strict=True)]
        return unflatten(leaves, self.shapes[-1].form)


def is_tensor(value: Any) -> bool:
    """Return whether it is a tensor."""
    return isinstance(value, torch.Tensor)


def is_stream(value: Any) -> bool:
    """Return whether it can be forecast."""
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _less(leaf: Any, h: Any) -> Any:
    if h is not None:
        return leaf - h
    return leaf.clone() if is_tensor(leaf) else leaf


def _plus(h: Any, r: Any) -> Any:
    if h is None:
        return r.clone() if is_tensor(r) else r
    if not is_stream(h) or h.shape != r.shape:
        got = tuple(h.shape) if is_tensor(h) else h
        raise ExecutionError(
            f"a block stack must get streams of one shape in the whole run, got {got} after "
            f"{tuple(r.shape)}: cache whole outputs."
        )
    return combine([h, r], [1.0, 1.0])


def block_lists(module: nn.Module, prefix: str = "") -> dict[str, list[nn.Module]]:
    """Return every outermost ``nn.ModuleList`` in ``module`` by its dotted name.

    A list inside a block belongs to the block. Lists of bare layers, such as norms, are not blocks.
    """
    found: dict[str, list[nn.Module]] = {}
    for name, child in module.named_children():
        if not isinstance(child, nn.ModuleList):
            found |= block_lists(child, f"{prefix}{name}.")
        elif any(True for block in child for _ in block.children()):
            found[prefix + name] = list(child)
    return found


def no_blocks(module: nn.Module) -> str:
    """Return "" if the denoiser can be searched for blocks, else the reason why not."""
    if not isinstance(module, nn.Module):
        return f"{name_of(module)} is not a torch module, so it has no blocks"
    kind = type(getattr(module, "_orig_mod", module)).__name__
    if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
        return (
            f"{kind} is compiled as a whole, so its blocks cannot be passed over (block by "
            "block, with compile_repeated_blocks, they can)"
        )
    lists = block_lists(module)
    if not lists:
        return f"{kind} has no nn.ModuleList of blocks"
    inside = (part for blocks in lists.values() for block in blocks for part in block.modules())
    if any(_prefetched(part) for part in inside):
        return (
            f"{kind} fetches the weights of one block while the one before it runs (group offloading "
            "with use_stream=True; without it its blocks can be passed over)"
        )
    return ""


def _prefetched(part: nn.Module) -> bool:
    hook = hooks_of(part).get("group_offloading")
    return getattr(getattr(hook, "group", None), "stream", None) is not None
