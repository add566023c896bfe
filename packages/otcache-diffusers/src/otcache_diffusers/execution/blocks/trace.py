"""Finds the stacks of a denoiser by watching one of its calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from otcache_diffusers.execution.blocks.flow import Flow, Mark
from otcache_diffusers.execution.blocks.grouping import found_in
from otcache_diffusers.execution.blocks.sighting import Ends, Sighting
from otcache_diffusers.execution.blocks.stack import Call, Residuals, Shape, Slot, Stack, is_tensor
from otcache_diffusers.execution.blocks.taps import tapped
from otcache_diffusers.hooks.tree import flatten


@dataclass(frozen=True)
class Found:
    """What one traced call showed.

    Attributes:
        output: of the denoiser.
        stacks: what can be passed over; empty where that is not worth it.
        residuals: of each stack, in this call.
        reason: why other lists cannot be passed over; "" where all can.
    """

    output: Any
    stacks: tuple[Stack, ...]
    residuals: Residuals
    reason: str


class Trace:
    """Watches one computed call of a denoiser.

    Args:
        lists: the block lists by name.
    """

    def __init__(self, lists: Mapping[str, Sequence[nn.Module]]) -> None:
        self._names = {block: name for name, blocks in lists.items() for block in blocks}
        self._flow = Flow()
        self._calls: list[Sighting] = []
        self._ends: dict[str, Ends] = {}
        self._latest: list[Any] = []
        self._inside = False

    def __call__(self, compute: Callable[[], Any]) -> Found:
        """Call the denoiser; its output is the plain one, bit for bit."""
        with tapped(self._names, self._around), self._flow:
            output = compute()
        leaked = self._flow.of(output) | self._flow.read
        pairs, reason = found_in(self._calls, self._ends, leaked)
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
        self._calls.append(Sighting(name, block, Shape.of(output), reached, carried))
        self._latest, _ = flatten(output)
        for n, leaf in enumerate(self._latest):
            if is_tensor(leaf):
                self._flow.put(leaf, Mark(len(self._calls) - 1, n))
        return output

    def _worked(self, name: str, work: Callable[..., Any], call: Call) -> Any:
        """The block's output; copies are kept of what it and the first of its list touched."""
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
        """Which leaves of the latest output each argument is, or else is made from."""
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
    # Asks the device; the call is a computed one. NaN is equal to itself here.
    return any(
        not torch.allclose(call.tensors()[slot], copy, rtol=0, atol=0, equal_nan=True)
        for slot, copy in copies.items()
    )
