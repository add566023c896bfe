"""Find the block stacks of a denoiser by watching one of its calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from otcache_diffusers.execution.block_calls import patched
from otcache_diffusers.execution.block_stacks import (
    Call,
    Residuals,
    Shape,
    Slot,
    Stack,
    is_stream,
    is_tensor,
)
from otcache_diffusers.hooks import tensors
from otcache_diffusers.hooks.trees import flatten, is_opaque, unflatten


@dataclass(frozen=True)
class Found:
    """What one traced call showed.

    Attributes:
        output: of the denoiser.
        stacks: what can be passed over; empty if that is not worth it.
        residuals: of each stack, in this call.
        reason: why other lists cannot be passed over; "" if all can.
    """

    output: Any
    stacks: tuple[Stack, ...]
    residuals: Residuals
    reason: str


class Trace:
    """Watch one computed call of a denoiser.

    Args:
        lists: the block lists by name.
    """

    def __init__(self, lists: Mapping[str, Sequence[nn.Module]]) -> None:
        self._names = {block: name for name, blocks in lists.items() for block in blocks}
        self._flow = Flow()
        self._calls: list[TracedCall] = []
        self._ends: dict[str, Ends] = {}
        self._latest: list[Any] = []
        self._inside = False

    def __call__(self, compute: Callable[[], Any]) -> Found:
        """Call the denoiser; its output is the plain one, bit for bit."""
        with patched(self._names, self._around), self._flow:
            output = compute()
        leaked = self._flow.of(output) | self._flow.read
        pairs, reason = find_stacks(self._calls, self._ends, leaked)
        stacks = tuple(stack for stack, _ in pairs)
        return Found(output, stacks, tuple(residual for _, residual in pairs), reason)

    def _around(
        self, block: nn.Module, work: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        if self._inside:  # a block of one list that calls one of another
            return work(*args, **kwargs)
        call, name = Call(args, kwargs), self._names[block]
        reached, carried = self._flow.of((args, kwargs)), self._carried(call)
        with self._flow.paused():
            output = self._worked(name, work, call)
        self._calls.append(TracedCall(name, block, Shape.of(output), reached, carried))
        self._latest, _ = flatten(output)
        for n, leaf in enumerate(self._latest):
            if is_tensor(leaf):
                self._flow.put(leaf, Mark(len(self._calls) - 1, n))
        return output

    def _worked(self, name: str, work: Callable[..., Any], call: Call) -> Any:
        """Return the block's output; copies are kept of what it and the first of its list used."""
        if name not in self._ends:
            self._ends[name] = Ends({slot: h.clone() for slot, h in call.tensors().items()})
        ends = self._ends[name]
        self._inside = True
        output = work(*call.args, **call.kwargs)
        self._inside = False
        if not ends.output:
            ends.writes = _written(call, ends.inputs)
        leaves, _ = flatten(output)
        ends.output = [leaf.clone() if is_tensor(leaf) else leaf for leaf in leaves]
        return output

    def _carried(self, call: Call) -> dict[Slot, set[int]]:
        """Return which leaves of the latest output each argument is, or else is made from."""
        latest, self._latest = self._latest, []
        found: dict[Slot, set[int]] = {}
        for slot, value in call.tensors().items():
            same = {n for n, leaf in enumerate(latest) if leaf is value}
            found[slot] = same or {
                mark.leaf
                for mark in self._flow.of(value)
                if mark.call == len(self._calls) - 1 and latest[mark.leaf].shape == value.shape
            }
        return found


def _written(call: Call, copies: Mapping[Slot, torch.Tensor]) -> bool:
    # Synchronizes; the call is a computed one. NaN is equal to itself here.
    return any(
        not torch.allclose(call.tensors()[slot], copy, rtol=0, atol=0, equal_nan=True)
        for slot, copy in copies.items()
    )


@dataclass(frozen=True)
class TracedCall:
    """One block call.

    Attributes:
        name: of the block's list.
        block: which was called.
        shape: of what it returned.
        reached: marks of everything that came in.
        carried: for each argument the leaves of the output of the call before that it continues.
    """

    name: str
    block: nn.Module
    shape: Shape
    reached: set[Mark]
    carried: dict[Slot, set[int]]


@dataclass
class Ends:
    """What went into a list's first block and came out of its latest one; copies.

    Attributes:
        inputs: the floating-point tensors among the arguments.
        output: the leaves of the output.
        writes: whether the first block writes into its arguments.
    """

    inputs: dict[Slot, torch.Tensor]
    output: list[Any] = field(default_factory=list)
    writes: bool = False


#: Least share of the blocks' weights in one stack, and in all of them together. A small stack (two blocks
#: that refine the text before thirty others, say) adds to the error and saves next to nothing.
ONE, ALL = 0.1, 0.5
#: A stack, and its residual in the traced call.
Pair = tuple[Stack, list[Any]]


def find_stacks(
    calls: Sequence[TracedCall], ends: Mapping[str, Ends], leaked: Set[Mark]
) -> tuple[list[Pair], str]:
    """Return the stacks among the block calls of one denoiser call.

    Lists that take turns make one stack. It can be passed over if nothing but its own later blocks is
    reached by what its blocks before the last one return; so what happens between blocks (a ControlNet
    adds its residuals, a long skip joins two blocks) does not matter as long as it stays between them.
    It must be worth it: see :data:`ONE` and :data:`ALL`.

    Args:
        calls: in their order.
        ends: by name of list.
        leaked: marks on the denoiser's output, and on values that Python looked at.

    Returns:
        The stacks with their residuals, and why other lists are none.
    """
    pairs: list[Pair] = []
    reasons: list[str] = []
    for group in groups(calls):
        members = [calls[n] for n in group]
        first, last = ends[members[0].name], ends[members[-1].name]
        why = _why_not(group, calls, leaked) or _blocked(first, last)
        pair = None if why else _pair(members, ends)
        if pair is None:
            reasons.append(f"{_name(members)}: {why or 'no input goes on to the output'}")
        else:
            pairs.append(pair)
    total = _weights(call.block for call in calls)
    pairs = [(stack, r) for stack, r in pairs if _weights(stack.blocks) >= ONE * total]
    if _weights(block for stack, _ in pairs for block in stack.blocks) < ALL * total:
        pairs = []
    return pairs, "; ".join(reasons)


def groups(calls: Sequence[TracedCall]) -> list[range]:
    """Return ranges of calls, one for each list or for lists that take turns."""
    ends = {call.name: n + 1 for n, call in enumerate(calls)}
    found: list[range] = []
    start = stop = 0
    for n, call in enumerate(calls):
        if n == stop > 0:
            found.append(range(start, stop))
            start = n
        stop = max(stop, ends[call.name])
    return [*found, range(start, stop)] if calls else []


def _why_not(group: range, calls: Sequence[TracedCall], leaked: Set[Mark]) -> str:
    """Say what else uses the outputs of blocks before the last one."""
    inner = set(group[:-1])
    others = [call for n, call in enumerate(calls) if n not in group]
    users = {call.name for call in others for mark in call.reached if mark.call in inner}
    if any(mark.call in inner for mark in leaked):
        users.add("the denoiser itself")
    return f"what a block returns is also used by {', '.join(sorted(users))}" if users else ""


def _blocked(first: Ends, last: Ends) -> str:
    if first.writes:
        return "a block writes into its arguments"
    shut = next((type(leaf).__name__ for leaf in last.output if is_opaque(leaf)), "")
    return f"a block returns a {shut}, which cannot be opened" if shut else ""


def _pair(members: Sequence[TracedCall], ends: Mapping[str, Ends]) -> Pair | None:
    """Return the stack; None if no stream runs through it."""
    first, last = ends[members[0].name], ends[members[-1].name]
    streams = tuple(
        _stream(members[1:], first.inputs, n, leaf) for n, leaf in enumerate(last.output)
    )
    if all(slot is None for slot in streams):
        return None
    shapes = tuple(call.shape for call in members)
    stack = Stack(_name(members), tuple(call.block for call in members), streams, shapes)
    inputs = [None if slot is None else first.inputs[slot] for slot in streams]
    output = unflatten(last.output, shapes[-1].form)
    return stack, stack.residual(inputs, output)


def _stream(
    later: Sequence[TracedCall], inputs: Mapping[Slot, torch.Tensor], n: int, leaf: Any
) -> Slot | None:
    """Return the first block's argument that the n-th leaf of the last output continues.

    It is where each block got the n-th leaf of the one before. A single block shows it by shape only.
    """
    fits = [slot for slot, h in inputs.items() if is_stream(leaf) and h.shape == leaf.shape]
    passed = [{slot for slot, leaves in call.carried.items() if n in leaves} for call in later]
    chain = [slots for slots in passed if slots]
    if not chain:
        return fits[0] if len(fits) == 1 else None
    return next((slot for slot in fits if all(slot in slots for slots in chain)), None)


def _name(members: Sequence[TracedCall]) -> str:
    return " and ".join(dict.fromkeys(call.name for call in members))


def _weights(blocks: Iterable[nn.Module]) -> int:
    return sum(p.numel() for block in dict.fromkeys(blocks) for p in block.parameters())


class Mark(NamedTuple):
    """Something a block returned."""

    call: int  # of all block calls, in order
    leaf: int  # of the block's output


class Flow(TorchDispatchMode):
    """Pass marks from the inputs of every torch operation on to its outputs.

    Marks stick to memory, so views and writes into a buffer carry them too. Nothing is kept alive,
    and the operations are those that would run anyway.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._marks: dict[StorageWeakRef, set[Mark]] = {}
        self.read: set[Mark] = set()  # marks of values that Python code looked at

    def put(self, tensor: torch.Tensor, mark: Mark) -> None:
        """Give this memory this mark and no other."""
        self._marks[_memory(tensor)] = {mark}

    def of(self, tree: Any) -> set[Mark]:
        """Return the marks of all tensors in a tree."""
        found: set[Mark] = set()
        for tensor in tensors(tree):
            found |= self._marks.get(_memory(tensor), set())
        return found

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop following operations in a context."""
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        try:
            yield
        finally:
            self.__enter__()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        marks = self.of((args, kwargs))
        if marks:
            made = tensors(output)
            for tensor in made:
                self._marks.setdefault(_memory(tensor), set()).update(marks)
            if not made:
                self.read |= marks
        return output


def _memory(tensor: torch.Tensor) -> StorageWeakRef:
    # A weak reference keeps the address of freed memory from being given to another tensor.
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]  # untyped
