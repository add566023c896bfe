"""Run a pipeline by a schedule or a policy."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from otcache.targets import choose
from otcache_core import OtcacheError, Schedule
from otcache_core.contracts import RunHandle
from otcache_core.errors import OtcacheNotice, expected
from otcache_core.plugins import Registry
from otcache_core.policy import Policy


def accelerate(
    target: Any,
    plan: Schedule | Policy,
    budget: int | None = None,
    *,
    strict: bool = False,
    registry: Registry | None = None,
) -> AbstractContextManager[RunHandle]:
    """A context in which ``target`` skips steps; nothing remains on it afterwards.

    Args:
        target: a diffusers pipeline, ``otcache.loop(...)`` or any ``nn.Module`` in a loop of your own.
        plan: a schedule, or a policy together with ``budget``; a policy is checked against the target.
        budget: B, with a policy.
        strict: refuse, instead of noticing, a step count or grid other than planned.
        registry: where plugins come from.

    Returns:
        A context manager; ``run.report`` tells what was planned and what was executed.

    Raises:
        OtcacheError: if the target is not supported, or does not fit the policy.

    Examples:
        >>> with otcache.accelerate(pipe, policy.schedule(budget=10)) as run:  # doctest: +SKIP
        ...     image = pipe("a red circle", num_inference_steps=30).images[0]
    """
    registry = registry or Registry()
    schedule = (
        plan if isinstance(plan, Schedule) else _planned(registry, target, plan, budget, strict)
    )
    handle: AbstractContextManager[RunHandle] = choose(registry, "executors", target).attach(
        target, schedule, strict=strict
    )
    return handle


def load_policy(path: str | Path) -> Policy:
    """Read a policy file.

    Raises:
        FileError: if it is missing, truncated, of another version or holds a bad value.
    """
    return Policy.load(Path(path))


class Enabled:
    """A policy that stays on a pipeline until it is removed; for servers.

    Args:
        target: the pipeline.
        policy: checked against it once.
        budget: of the coming requests; None computes every step.
    """

    def __init__(
        self,
        target: Any,
        policy: Policy,
        budget: int | None = None,
        *,
        registry: Registry | None = None,
    ) -> None:
        self._target, self._policy = target, policy
        self._registry = registry or Registry()
        self._context: AbstractContextManager[RunHandle] | None = None
        self._run: RunHandle | None = None
        self.set_budget(budget)

    @property
    def run(self) -> RunHandle | None:
        """The handle of the current budget's runs."""
        return self._run

    def set_budget(self, budget: int | None) -> None:
        """Use another budget from the next request on."""
        self.remove()
        if budget is not None:
            context = accelerate(self._target, self._policy, budget, registry=self._registry)
            self._run, self._context = context.__enter__(), context

    def remove(self) -> None:
        """Take everything off the pipeline; may be called twice."""
        context, self._context, self._run = self._context, None, None
        if context is not None:
            context.__exit__(None, None, None)


def enable(target: Any, policy: Policy, budget: int | None = None) -> Enabled:
    """Put a policy on a pipeline until ``handle.remove()``."""
    return Enabled(target, policy, budget)


def _planned(
    registry: Registry, target: Any, policy: Policy, budget: int | None, strict: bool
) -> Schedule:
    if not isinstance(policy, Policy):
        raise OtcacheError(expected("plan", policy, "a Schedule or a Policy"))
    if budget is None:
        raise OtcacheError("a policy needs a budget: accelerate(pipe, policy, budget=10).")
    probe = choose(registry, "probes", target)
    for notice in policy.check(probe.provenance(target, None), strict=strict):
        warnings.warn(notice, OtcacheNotice, stacklevel=3)
    return policy.schedule(budget)
