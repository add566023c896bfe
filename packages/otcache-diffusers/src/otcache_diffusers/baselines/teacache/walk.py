"""One denoiser call whose blocks are computed or passed over as its first norm tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from otcache_core.errors import ExecutionError
from otcache_diffusers.baselines.teacache.first_norm import modulated, modulated_norm
from otcache_diffusers.execution.blocks.stack import Call, Residuals, Stack
from otcache_diffusers.execution.blocks.taps import tapped


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
