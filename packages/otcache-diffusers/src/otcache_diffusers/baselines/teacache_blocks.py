"""The blocks of a denoiser as TeaCache sees them.

:func:`observed` calls the denoiser in full and finds the block stacks and the modulated input of the first;
:class:`SkippableCall` decides by that input, inside the first block, whether the blocks are computed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from otcache_core.errors import ExecutionError
from otcache_diffusers.execution.block_calls import patched
from otcache_diffusers.execution.block_stacks import Call, Residuals, Stack, block_lists, no_blocks
from otcache_diffusers.execution.block_trace import Trace
from otcache_diffusers.hooks.trees import first_tensor


def no_first_norm(module: nn.Module) -> str:
    """Return "" if the modulated input can be observed, else the reason why not."""
    reason = no_blocks(module)
    if reason:
        return reason
    firsts = [blocks[0] for blocks in block_lists(module).values()]
    if any(getattr(block, "_compiled_call_impl", None) is not None for block in firsts):
        return f"{type(module).__name__} has compiled blocks, whose first norm cannot be observed"
    if not any(map(_modulated_norm, firsts)):
        return (
            f"{type(module).__name__} has no block whose norm1 is given the timestep, so the modulated "
            "input that the rule watches cannot be seen"
        )
    return ""


def _modulated_norm(block: nn.Module) -> nn.Module | None:
    """Return a block's ``norm1`` if it takes more than what it normalises, else None."""
    norm = getattr(block, "norm1", None)
    if not isinstance(norm, nn.Module):
        return None
    return norm if len(inspect.signature(norm.forward).parameters) > 1 else None


def _modulated(output: Any) -> Tensor:
    """Copy what an adaptive norm made of its input; gates and shifts for later follow it."""
    modulated = first_tensor(output)
    assert modulated is not None, "a norm returns tensors"
    return modulated.clone()


@dataclass(frozen=True)
class Observation:
    """What one computed call showed.

    Attributes:
        output: of the denoiser.
        stacks: what can be skipped, from the first one whose norm is modulated; those before it, as
            blocks that refine the text, are computed always.
        residuals: of each stack, in this call.
        modulated: the modulated input of the first stack.
    """

    output: Any
    stacks: tuple[Stack, ...]
    residuals: Residuals
    modulated: Tensor


def observed(lists: Mapping[str, Sequence[nn.Module]], compute: Callable[[], Any]) -> Observation:
    """Call the denoiser in full, find its stacks, and record the modulated input.

    Args:
        lists: the block lists by name.
        compute: calls the denoiser.

    Raises:
        ExecutionError: if no stack can be skipped, or none has a modulated norm.
    """
    pairs = [(_modulated_norm(blocks[0]), blocks[0]) for blocks in lists.values()]
    owners = {norm: block for norm, block in pairs if norm is not None}
    seen: dict[nn.Module, Tensor] = {}

    def around(norm: nn.Module, work: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        output = work(*args, **kwargs)
        seen[owners[norm]] = _modulated(output)
        return output

    with patched(owners, around):
        trace = Trace(lists)(compute)
    for n, stack in enumerate(trace.stacks):
        if stack.blocks[0] in seen:
            modulated = seen[stack.blocks[0]]
            return Observation(trace.output, trace.stacks[n:], trace.residuals[n:], modulated)
    why = trace.reason or "no first block of theirs has a modulated norm1"
    raise ExecutionError(f"TeaCache: the blocks cannot be skipped ({why}).")


class _SkipError(Exception):
    """Leaves the first block once its norm has decided to skip."""


class SkippableCall:
    """One denoiser call; each stack adds what it adds now, or what it added when last computed.

    The decision falls inside the first block, so nothing before it is done twice.

    Args:
        stacks: of the denoiser, found in a computed call of the same branch.
        residuals: of each, from the last computed call.
        computes: given the modulated input, whether to compute; called once.

    Attributes:
        residuals: those of this call if it was computed, else the same.
    """

    def __init__(
        self, stacks: Sequence[Stack], residuals: Residuals, computes: Callable[[Tensor], bool]
    ) -> None:
        self._stacks, self.residuals, self._computes = stacks, residuals, computes
        self._skips: bool | None = None
        self._progress = [_Progress(stack) for stack in stacks]
        self._by_block = {id(block): p for p in self._progress for block in p.stack.blocks}

    def __call__(self, compute: Callable[[], Any]) -> Any:
        """Return the denoiser's output.

        Raises:
            ExecutionError: if the blocks do not run as they did when the stacks were found.
        """
        blocks = [block for stack in self._stacks for block in stack.blocks]
        norm = _modulated_norm(blocks[0])
        assert norm is not None, "observed() has made sure of it"
        with patched([norm], self._at_norm), patched(blocks, self._at_block):
            output = compute()
        if any(progress.left for progress in self._progress):
            raise _changed(self._stacks[0])
        if not self._skips:
            self.residuals = tuple(progress.residual for progress in self._progress)
        return output

    def _at_norm(self, norm: nn.Module, work: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        output = work(*args, **kwargs)
        if self._skips is None:
            self._skips = not self._computes(_modulated(output))
            if self._skips:
                raise _SkipError
        return output

    def _at_block(self, block: nn.Module, work: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        progress, call = self._by_block[id(block)], Call(args, kwargs)
        progress.arrive(block, call)
        if not self._skips:
            try:
                return progress.computed(work(*args, **kwargs))
            except _SkipError:
                pass
        return progress.skipped(self.residuals[self._progress.index(progress)])


class _Progress:
    """How many blocks of one stack have run in this call."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.residual = stack, list[Any]()
        self.left = len(stack.blocks)
        self._inputs: list[Any] = []

    def arrive(self, block: nn.Module, call: Call) -> None:
        at = len(self.stack.blocks) - self.left
        if not self.left or block is not self.stack.blocks[at]:
            raise _changed(self.stack)
        if at == 0:
            self._inputs = self.stack.inputs(call)
        self.left -= 1

    def computed(self, output: Any) -> Any:
        if not self.left:
            self.residual = self.stack.residual(self._inputs, output)
        return output

    def skipped(self, residual: Sequence[Any]) -> Any:
        if not self.left:
            return self.stack.answer(self._inputs, residual)
        # What blocks before the last return is read by no one: the stack was chosen so.
        return self.stack.shapes[len(self.stack.blocks) - self.left - 1].blank()


def _changed(stack: Stack) -> ExecutionError:
    return ExecutionError(
        f"TeaCache: the blocks of {stack.name} must run as they did in the first step."
    )
