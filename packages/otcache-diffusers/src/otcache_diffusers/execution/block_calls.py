"""Denoiser calls with stacks of blocks recorded, or passed over."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from otcache_core.errors import ExecutionError
from otcache_diffusers.execution.block_stacks import Call, Residuals, Stack

_MISSING = object()

#: (block, its own call, positional arguments, named arguments) -> what the caller gets
Around = Callable[[nn.Module, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


def recorded(stacks: Sequence[Stack], compute: Callable[[], Any]) -> tuple[Any, Residuals]:
    """Call the denoiser; only the first and the last block of each stack are looked at.

    Returns:
        Its output, and the residual of each stack.

    Raises:
        ExecutionError: if the blocks did not run as they did when the stacks were found.
    """
    runs = [_Recording(stack) for stack in stacks]
    ends = [block for stack in stacks for block in (stack.blocks[0], stack.blocks[-1])]
    return _through(runs, ends, compute), tuple(run.residual for run in runs)


def passed_over(stacks: Sequence[Stack], residuals: Residuals, compute: Callable[[], Any]) -> Any:
    """Call the denoiser without its stacks: no block does any work.

    Args:
        stacks: found in a computed step of the same branch.
        residuals: a forecast of each stack's.
        compute: calls the denoiser.

    Raises:
        ExecutionError: if the blocks are not called as they were when the stacks were found.
    """
    runs = [_Passing(stack, r) for stack, r in zip(stacks, residuals, strict=True)]
    return _through(runs, [block for stack in stacks for block in stack.blocks], compute)


class _Recording:
    """One stack in a computed call."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.residual = stack, list[Any]()
        first, last = stack.blocks[0], stack.blocks[-1]
        self._first = True
        # A block that runs more than once is looked at each time.
        self._left = sum(block is first or block is last for block in stack.blocks)

    @property
    def done(self) -> bool:
        return self._left == 0

    def __call__(self, block: nn.Module, work: Callable[..., Any], call: Call) -> Any:
        if self._first:
            self._inputs, self._first = self.stack.inputs(call), False
        output = work(*call.args, **call.kwargs)
        self._left -= 1
        if self._left == 0:
            self.residual = self.stack.residual(self._inputs, output)
            del self._inputs
        return output


class _Passing:
    """One stack in a call that passes it over."""

    def __init__(self, stack: Stack, residual: Sequence[Any]) -> None:
        self.stack, self._residual = stack, residual
        self._position = 0

    @property
    def done(self) -> bool:
        return self._position == len(self.stack.blocks)

    def __call__(self, block: nn.Module, work: Callable[..., Any], call: Call) -> Any:
        stack, at = self.stack, self._position
        if self.done or block is not stack.blocks[at]:
            raise _changed(stack)
        if at == 0:
            self._inputs = stack.inputs(call)
        self._position += 1
        # Nothing reads what blocks before the last return: Trace made sure of it.
        return stack.answer(self._inputs, self._residual) if self.done else stack.shapes[at].blank()


def _through(
    runs: Sequence[_Recording] | Sequence[_Passing],
    blocks: Sequence[nn.Module],
    compute: Callable[[], Any],
) -> Any:
    by_block = {id(block): run for run in runs for block in run.stack.blocks}

    def around(
        block: nn.Module, work: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return by_block[id(block)](block, work, Call(args, kwargs))

    with patched(blocks, around):
        output = compute()
    for run in runs:
        if not run.done:
            raise _changed(run.stack)
    return output


def _changed(stack: Stack) -> ExecutionError:
    return ExecutionError(
        f"the blocks of {stack.name} must run as they did in the first computed step, "
        f"{len(stack.blocks)} calls in the same order: cache whole outputs."
    )


@contextmanager
def patched(blocks: Iterable[nn.Module], around: Around) -> Iterator[None]:
    """Let every call of these blocks go through ``around`` in a context.

    Existing wrappers of a block (hooks, offloading, its compiled call) are inside. On exit, also by
    exception, each block's ``__dict__`` is as it was.
    """
    before: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for block in dict.fromkeys(blocks):
            compiled = getattr(block, "_compiled_call_impl", None) is not None
            name = "_compiled_call_impl" if compiled else "forward"
            before.append((block.__dict__, name, block.__dict__.get(name, _MISSING)))
            block.__dict__[name] = _patch(block, getattr(block, name), around)
        yield
    finally:
        for own, name, value in before:
            if value is _MISSING:
                del own[name]
            else:
                own[name] = value


def _patch(block: nn.Module, call: Callable[..., Any], around: Around) -> Callable[..., Any]:
    @functools.wraps(call)
    def called(*args: Any, **kwargs: Any) -> Any:
        return around(block, call, args, kwargs)

    return called
