"""The norm whose output TeaCache watches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from otcache_core.errors import ExecutionError
from otcache_diffusers.execution.blocks.lists import block_lists, no_blocks
from otcache_diffusers.execution.blocks.stack import Residuals, Stack
from otcache_diffusers.execution.blocks.taps import tapped
from otcache_diffusers.execution.blocks.trace import Trace
from otcache_diffusers.hooks.tree import first_tensor


def no_first_norm(module: nn.Module) -> str:
    """ "" if the modulated input can be looked for, else the reason why not."""
    reason = no_blocks(module)
    if reason:
        return reason
    firsts = [blocks[0] for blocks in block_lists(module).values()]
    if any(getattr(block, "_compiled_call_impl", None) is not None for block in firsts):
        return f"{type(module).__name__} has compiled blocks, whose first norm cannot be watched"
    if not any(map(modulated_norm, firsts)):
        return (
            f"{type(module).__name__} has no block whose norm1 is told the timestep, so the modulated "
            "input that the rule watches cannot be seen"
        )
    return ""


def modulated_norm(block: nn.Module) -> nn.Module | None:
    """A block's ``norm1``, if it is given more than what it normalises; None elsewhere."""
    norm = getattr(block, "norm1", None)
    if not isinstance(norm, nn.Module):
        return None
    return norm if len(inspect.signature(norm.forward).parameters) > 1 else None


@dataclass(frozen=True)
class Look:
    """What one computed call showed.

    Attributes:
        output: of the denoiser.
        stacks: what can be passed over, from the first one whose norm is modulated; those before it, as
            blocks that refine the text, are computed always.
        residuals: of each stack, in this call.
        modulated: the modulated input of the first stack.
    """

    output: Any
    stacks: tuple[Stack, ...]
    residuals: Residuals
    modulated: Tensor


def looked_at(lists: Mapping[str, Sequence[nn.Module]], compute: Callable[[], Any]) -> Look:
    """Call the denoiser in full, find its stacks, and see the modulated input.

    Args:
        lists: the block lists by name.
        compute: calls the denoiser.

    Raises:
        ExecutionError: if no stack can be passed over, or none has a modulated norm.
    """
    norms = {id(norm): block for block, norm in _norms(lists)}
    seen: dict[nn.Module, Tensor] = {}

    def around(norm: nn.Module, work: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        output = work(*args, **kwargs)
        seen[norms[id(norm)]] = modulated(output)
        return output

    with tapped([norm for _, norm in _norms(lists)], around):
        found = Trace(lists)(compute)
    for n, stack in enumerate(found.stacks):
        if stack.blocks[0] in seen:
            m = seen[stack.blocks[0]]
            return Look(found.output, found.stacks[n:], found.residuals[n:], m)
    why = found.reason or "no first block of theirs has a modulated norm1"
    raise ExecutionError(f"TeaCache: the blocks cannot be passed over ({why}).")


def modulated(output: Any) -> Tensor:
    """What an adaptive norm made of its input, a copy; gates and shifts for later come after it."""
    found = first_tensor(output)
    assert found is not None, "a norm returns tensors"
    return found.clone()


def _norms(lists: Mapping[str, Sequence[nn.Module]]) -> list[tuple[nn.Module, nn.Module]]:
    pairs = [(blocks[0], modulated_norm(blocks[0])) for blocks in lists.values()]
    return [(block, norm) for block, norm in pairs if norm is not None]
