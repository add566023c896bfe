"""Which of the block calls in a trace make stacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import torch
from torch import nn

from otcache_diffusers.execution.blocks.flow import Mark
from otcache_diffusers.execution.blocks.sighting import Ends, Sighting
from otcache_diffusers.execution.blocks.stack import Slot, Stack, is_stream
from otcache_diffusers.hooks.tree import is_opaque, unflatten

#: Least share of the blocks' weights in one stack, and in all of them together. A small stack (two blocks
#: that refine the text before thirty others, say) adds to the error and saves next to nothing.
ONE, ALL = 0.1, 0.5
#: A stack, and its residual in the traced call.
Pair = tuple[Stack, list[Any]]


def found_in(
    calls: Sequence[Sighting], ends: Mapping[str, Ends], leaked: Set[Mark]
) -> tuple[list[Pair], str]:
    """The stacks among the block calls of one denoiser call.

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


def groups(calls: Sequence[Sighting]) -> list[range]:
    """Ranges of calls, one for each list or for lists that take turns."""
    ends = {call.name: n + 1 for n, call in enumerate(calls)}
    found: list[range] = []
    start = stop = 0
    for n, call in enumerate(calls):
        if n == stop > 0:
            found.append(range(start, stop))
            start = n
        stop = max(stop, ends[call.name])
    return [*found, range(start, stop)] if calls else []


def _why_not(group: range, calls: Sequence[Sighting], leaked: Set[Mark]) -> str:
    """Who else uses what blocks before the last one return."""
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


def _pair(members: Sequence[Sighting], ends: Mapping[str, Ends]) -> Pair | None:
    """The stack; None if no stream runs through it."""
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
    later: Sequence[Sighting], inputs: Mapping[Slot, torch.Tensor], n: int, leaf: Any
) -> Slot | None:
    """The first block's argument that the n-th leaf of the last output continues.

    It is where each block got the n-th leaf of the one before. A single block shows it by shape only.
    """
    fits = [slot for slot, h in inputs.items() if is_stream(leaf) and h.shape == leaf.shape]
    passed = [{slot for slot, leaves in call.carried.items() if n in leaves} for call in later]
    chain = [slots for slots in passed if slots]
    if not chain:
        return fits[0] if len(fits) == 1 else None
    return next((slot for slot in fits if all(slot in slots for slots in chain)), None)


def _name(members: Sequence[Sighting]) -> str:
    return " and ".join(dict.fromkeys(call.name for call in members))


def _weights(blocks: Iterable[nn.Module]) -> int:
    return sum(p.numel() for block in dict.fromkeys(blocks) for p in block.parameters())
