"""Runs by the rule, each branch on its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from otcache_diffusers.baselines.teacache.first_norm import looked_at
from otcache_diffusers.baselines.teacache.rule import Rule, change
from otcache_diffusers.baselines.teacache.walk import Walk
from otcache_diffusers.execution.blocks.lists import block_lists
from otcache_diffusers.execution.blocks.stack import Residuals, Stack
from otcache_diffusers.hooks import RunInfo, StepPolicy


@dataclass
class _Branch:
    """What is kept of one branch during a run."""

    stacks: tuple[Stack, ...]
    residuals: Residuals
    modulated: Tensor  # of the step before, computed or not
    total: float = 0.0


class TeaCachePolicy(StepPolicy):
    """The residual of the block stacks is reused until the rule says to compute.

    Everything is forgotten when a run begins.

    Args:
        rule: decides.
        denoisers: gives those whose blocks are meant, by name; asked at the start of each run.

    Attributes:
        computed: steps that were computed in the latest run, by branch.
    """

    watches = False
    apart = True

    def __init__(self, rule: Rule, denoisers: Callable[[], Mapping[str, nn.Module]]) -> None:
        self._rule, self._denoisers = rule, denoisers
        self._lists: dict[str, list[nn.Module]] = {}
        self._branches: dict[str, _Branch] = {}
        self._last = 0
        self.computed: dict[str, list[int]] = {}

    def begin(self, run: RunInfo) -> None:
        self._last = run.num_steps - 1
        self._lists, self._branches, self.computed = lists_of(self._denoisers()), {}, {}

    def before(self, step: int, branch: str) -> Any | None:
        """No output is known without calling the denoiser."""
        return None

    def shorten(self, step: int, branch: str, compute: Callable[[], Any]) -> Any | None:
        known = self._branches.get(branch)
        if known is None:
            return None
        walk = Walk(known.stacks, known.residuals, partial(self._computes, step, branch))
        output = walk(compute)
        known.residuals = walk.residuals
        return output

    def observe(self, step: int, branch: str, compute: Callable[[], Any]) -> Any:
        look = looked_at(self._lists, compute)
        self._branches[branch] = _Branch(look.stacks, look.residuals, look.modulated)
        return look.output

    def after(self, step: int, branch: str, output: Any) -> None:
        self.computed.setdefault(branch, []).append(step)

    def stepped(self, step: int, sample: Tensor, model_output: Tensor, next_sample: Tensor) -> None:
        """The rule does not look at the sampler's state."""

    def end(self, completed: bool) -> None:
        self._branches = {}

    def _computes(self, step: int, branch: str, modulated: Tensor) -> bool:
        known = self._branches[branch]
        known.total += self._rule.predicted(change(modulated, known.modulated))
        known.modulated = modulated
        if step < self._last and known.total < self._rule.threshold:
            return False
        known.total = 0.0
        self.computed[branch].append(step)
        return True


def lists_of(denoisers: Mapping[str, nn.Module]) -> dict[str, list[nn.Module]]:
    """The block lists of all denoisers, by dotted name."""
    found: dict[str, list[nn.Module]] = {}
    for name, module in denoisers.items():
        found |= block_lists(module, f"{name}." if name else "")
    return found
