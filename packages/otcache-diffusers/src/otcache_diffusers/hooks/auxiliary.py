"""Auxiliary networks, which only feed a denoiser as a ControlNet does: omitted if it is not called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils import _pytree as pytree

from otcache_core.errors import ExecutionError
from otcache_diffusers.hooks.arguments import Arguments
from otcache_diffusers.hooks.trees import tensors

#: The attributes in which pipelines keep them.
NETWORKS = ("controlnet",)


def auxiliary_networks(target: Any) -> dict[str, nn.Module]:
    """Return the auxiliary networks of a pipeline by name; several ControlNets are one module."""
    found = {name: getattr(target, name, None) for name in NETWORKS}
    return {name: module for name, module in found.items() if isinstance(module, nn.Module)}


class _Omitted(NamedTuple):
    """A call that was omitted: what was given instead, and what makes the real output."""

    name: str
    given: list[torch.Tensor]
    compute: Callable[[], Any]


class AuxiliaryCalls:
    """Omit auxiliary networks in the steps of one run in which no denoiser will be called.

    Instead of an output goes one of the same structure whose tensors are zeros without memory.
    It is not read unless a denoiser is called in that step after all: then the network is
    computed, and its output put into the denoiser's arguments first.

    Args:
        totals: calls (made, skipped) of each network, summed over runs.
    """

    def __init__(self, totals: dict[str, tuple[int, int]]) -> None:
        self._totals = totals
        self._blanks: dict[Any, Any] = {}
        self._omitted: list[_Omitted] = []
        self._computed: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()
        self._needed_at = -1

    def call(
        self, name: str, arguments: Arguments, compute: Callable[[], Any], idle: Callable[[], bool]
    ) -> Any:
        """Return the output of a network, or a placeholder if ``idle()``.

        A call whose arguments have other shapes than any before in the run is computed.
        """
        leaves = tensors([arguments.args, arguments.kwargs])
        key = (name, tuple(leaf.shape for leaf in leaves))
        if key in self._blanks and idle():
            # New tensor objects each time: they are distinguished by identity.
            given = pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, self._blanks[key])
            self._omitted.append(_Omitted(name, tensors(given), compute))
            self._skipped[name] += 1
            return given
        output = compute()
        self._computed[name] += 1
        if key not in self._blanks:
            self._blanks[key] = pytree.tree_map_only(torch.Tensor, _blank, output)
        return output

    def supply(self, arguments: Arguments, step: int) -> None:
        """Put real outputs into the arguments of a denoiser that is about to be computed.

        Raises:
            ExecutionError: if a network was omitted in this step, and the pipeline made something
                else of the placeholder.
        """
        self._needed_at = step
        if not self._omitted:
            return
        known = {id(leaf) for leaf in tensors(arguments.kwargs)}
        usable = [o for o in self._omitted if all(id(leaf) in known for leaf in o.given)]
        if not usable:
            raise ExecutionError(
                f"step {step}: the denoiser must be computed, as a branch is new or changed its "
                f"shape, but {self._omitted[0].name} was omitted and its output cannot be "
                "supplied: keep guidance and batch size as they are during a run."
            )
        for omitted in usable:
            fresh = tensors(omitted.compute())
            arguments.replace({id(a): b for a, b in zip(omitted.given, fresh, strict=True)})
            self._omitted.remove(omitted)
            self._skipped[omitted.name] -= 1
            self._computed[omitted.name] += 1

    def close(self, step: int, shortened: bool) -> list[str]:
        """End a step: add what each network did to the totals, and return those that ran in vain.

        Args:
            step: t.
            shortened: whether a denoiser call of the step was made with part of its work omitted.
        """
        in_vain = shortened or self._needed_at != step
        ran = [name for name, calls in self._computed.items() if calls and in_vain]
        for name in sorted(self._computed.keys() | self._skipped.keys()):
            computed, skipped = self._totals.get(name, (0, 0))
            now = computed + self._computed[name], skipped + self._skipped[name]
            self._totals[name] = now
        self._omitted = []
        self._computed.clear()
        self._skipped.clear()
        return sorted(ran)


def _blank(tensor: torch.Tensor) -> torch.Tensor:
    """Return zeros of the same shape that take the memory of one number."""
    return tensor.new_zeros(()).expand(tensor.shape)
