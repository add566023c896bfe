"""Which outputs of one schedule another may use: those up to where the two part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

from otcache_core.schedule import Schedule
from otcache_diffusers.evaluation.replay import Outputs, known_prefix


class Prefixes:
    """Outputs of several schedules on the same samples, computed once where schedules begin alike.

    What the denoiser returns at a schedule's m-th computed step depends on the steps computed so far and
    on the forecasts of the spans before it. In a closed-loop fit those forecasts follow from the steps.

    Args:
        schedules: all of one evaluation.
        fit: whether their weights are fitted on the way.
    """

    def __init__(self, schedules: Sequence[Schedule], fit: bool) -> None:
        self._schedules = schedules
        self._keys = [_keys(schedule, fit) for schedule in schedules]
        self._wanted = Counter(key for keys in self._keys for key in keys)
        self._held: dict[Hashable, Outputs] = {}

    def given(self, index: int) -> dict[int, Outputs]:
        """Outputs of a schedule's first live steps, by step, as far as another has computed them."""
        found: dict[int, Outputs] = {}
        for step, key in self._live(index):
            if key not in self._held:
                break
            found[step] = self._held[key]
        return found

    def keep(self, index: int, step: int, outputs: Outputs) -> None:
        """Hold on to an output if another schedule wants it."""
        key = dict(self._live(index))[step]
        if self._wanted[key] > 1:
            self._held[key] = outputs

    def rounds(self) -> Iterator[list[int]]:
        """All schedules, round after round: in one round no two compute the same output.

        A schedule that waited finds what it needs in :meth:`given` in the next round.
        """
        pending = list(range(len(self._schedules)))
        while pending:
            claimed: set[Hashable] = set()
            ready = []
            for index in pending:
                missing = self._first_missing(index)
                if missing is None or missing not in claimed:
                    claimed.add(missing)
                    ready.append(index)
            yield ready
            done = set(ready)
            pending = [index for index in pending if index not in done]
            for index in ready:
                self._release(index)

    def _live(self, index: int) -> list[tuple[int, Hashable]]:
        """Computed steps after the known prefix, and their keys."""
        schedule = self._schedules[index]
        first = known_prefix(schedule)
        return list(zip(schedule.computed[first:], self._keys[index][first:], strict=True))

    def _first_missing(self, index: int) -> Hashable | None:
        return next((key for _, key in self._live(index) if key not in self._held), None)

    def _release(self, index: int) -> None:
        """Drop what no schedule that is still to run wants."""
        for key in self._keys[index]:
            self._wanted[key] -= 1
            if not self._wanted[key]:
                self._held.pop(key, None)


def _keys(schedule: Schedule, fit: bool) -> list[Hashable]:
    """One key a computed step: equal keys, equal outputs."""
    rule = (schedule.branches, "" if fit else schedule.forecaster)
    tables = [] if fit else [("", schedule.weights), *schedule.branch_weights]
    return [
        (rule, schedule.computed[: m + 1], tuple((name, rows[:m]) for name, rows in tables))
        for m in range(schedule.budget)
    ]
