"""The blocks of a denoiser as TeaCache sees them: observe the first norm, skip the blocks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from otcache_core.errors import ExecutionError
from otcache_diffusers.execution.block_calls import tapped
from otcache_diffusers.execution.block_stacks import Call, Residuals, Stack, block_lists, no_blocks
from otcache_diffusers.execution.block_trace import Trace
from otcache_diffusers.hooks.trees import first_tensor


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


class _SkipError(Exception):
    """Leaves the first block once its norm has told enough."""


class Walk:
    """Calls the denoiser; each stack adds what it adds now, or what it added when last computed.

    The decision falls inside the first block, so nothing before it is done twice.

    Args:
        stacks: of the denoiser, found in a computed call of the same branch.
        residuals: of each, from the last computed call.
        computes: given the modulated input, whether to compute; asked once.

    Attributes:
        residuals: those of this call where it was computed, else the same.
    """

    def __init__(
        self, stacks: Sequence[Stack], residuals: Residuals, computes: Callable[[Tensor], bool]
    ) -> None:
        self._stacks, self.residuals, self._computes = stacks, residuals, computes
        self._skips: bool | None = None
        self._runs = [_Run(stack) for stack in stacks]
        self._by_block = {id(block): run for run in self._runs for block in run.stack.blocks}

    def __call__(self, compute: Callable[[], Any]) -> Any:
        """The denoiser's output.

        Raises:
            ExecutionError: if the blocks do not run as they did when the stacks were found.
        """
        blocks = [block for stack in self._stacks for block in stack.blocks]
        norm = modulated_norm(blocks[0])
        assert norm is not None, "looked_at() has made sure of it"
        with tapped([norm], self._at_norm), tapped(blocks, self._at_block):
            output = compute()
        if any(run.left for run in self._runs):
            raise _surprise(self._stacks[0])
        if not self._skips:
            self.residuals = tuple(run.residual for run in self._runs)
        return output

    def _at_norm(self, norm: nn.Module, work: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        output = work(*args, **kwargs)
        if self._skips is None:
            self._skips = not self._computes(modulated(output))
            if self._skips:
                raise _SkipError
        return output

    def _at_block(self, block: nn.Module, work: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        run, call = self._by_block[id(block)], Call(args, kwargs)
        run.arrive(block, call)
        if not self._skips:
            try:
                return run.computed(work(*args, **kwargs))
            except _SkipError:
                pass
        return run.passed(self.residuals[self._runs.index(run)])


class _Run:
    """How far one stack has come in this call."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.residual = stack, list[Any]()
        self.left = len(stack.blocks)
        self._inputs: list[Any] = []

    def arrive(self, block: nn.Module, call: Call) -> None:
        at = len(self.stack.blocks) - self.left
        if not self.left or block is not self.stack.blocks[at]:
            raise _surprise(self.stack)
        if at == 0:
            self._inputs = self.stack.inputs(call)
        self.left -= 1

    def computed(self, output: Any) -> Any:
        if not self.left:
            self.residual = self.stack.residual(self._inputs, output)
        return output

    def passed(self, residual: Sequence[Any]) -> Any:
        if not self.left:
            return self.stack.answer(self._inputs, residual)
        # What blocks before the last return is read by no one: the stack was chosen so.
        return self.stack.shapes[len(self.stack.blocks) - self.left - 1].blank()


def _surprise(stack: Stack) -> ExecutionError:
    return ExecutionError(
        f"TeaCache: the blocks of {stack.name} must run as they did in the first step."
    )
