"""Which of a step's denoiser calls is which."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from otcache_core.errors import ExecutionError


class Group(NamedTuple):
    """Calls that only their order within the step tells apart.

    Attributes:
        denoiser: its name in the pipeline where its calls are told apart from the main one's, else "".
        context: name the pipeline gave the call through ``cache_context``; "" for none.
        shape: shape of the state among the arguments, so that a batch that shrinks when guidance ends
            is never mixed with the one before.
    """

    denoiser: str
    context: str
    shape: tuple[int, ...]


class Branches:
    """Names the calls of one run and notices when their order cannot be trusted.

    A group that makes n calls in the first step it appears in must make n in every later step, or
    none. Where it does not, the n-th call may be another branch than before. If a forecast was
    handed out in that step an ExecutionError says so, since it may have been the wrong branch's;
    otherwise ``trusted`` is False from then on and the reason is returned once.
    """

    def __init__(self) -> None:
        self.trusted = True
        self._expected: dict[Group, int] = {}
        self._names: dict[Group, str] = {}
        self._counts: Counter[Group] = Counter()
        self._forecast = False
        #: Branches of the step before; empty in the first one.
        self.latest: tuple[str, ...] = ()

    def name(self, group: Group, step: int) -> str:
        """The branch of the next call; may flip ``trusted``."""
        n = self._counts[group]
        self._counts[group] += 1
        if n >= self._expected.get(group, n + 1):
            self._distrust(group, step)
        self._names.setdefault(group, self._base(group))
        return self._numbered(group, n)

    def regroup(self, group: Group, other: Group) -> None:
        """Count the first call of a run, whose output has shown which argument is the state."""
        if group != other and group in self._names:
            self._counts[other] += self._counts.pop(group)
            self._names.setdefault(other, self._names.pop(group))

    def forecast(self) -> None:
        """A forecast was handed out in this step."""
        self._forecast = True

    def close(self, step: int) -> None:
        """The step is over; may flip ``trusted``."""
        for group, n in self._counts.items():
            if n != self._expected.setdefault(group, n):
                self._distrust(group, step)
        counts = self._counts.items()
        self.latest = tuple(self._numbered(group, k) for group, n in counts for k in range(n))
        self._counts.clear()
        self._forecast = False

    def _numbered(self, group: Group, n: int) -> str:
        """The branch of a group's call number n, from 0 on."""
        return self._names[group] if n == 0 else f"{self._names[group]}#{n + 1}"

    def _base(self, group: Group) -> str:
        base = " ".join(part for part in (group.denoiser, group.context or "call") if part)
        if base not in self._names.values():
            return base
        return f"{base} {'x'.join(map(str, group.shape))}"

    def _distrust(self, group: Group, step: int) -> None:
        if self.trusted and self._forecast:
            raise ExecutionError(
                f"step {step}: the denoiser must be called {self._expected[group]} times, as "
                f"in the first step, got {self._counts[group]}: the pipeline does not name "
                "its branches, so a forecast may have gone to the wrong one. "
                "Keep guidance on for the whole run."
            )
        self.trusted = False
