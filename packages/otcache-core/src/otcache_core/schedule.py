"""Which denoising steps are computed, and what fills the others."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from otcache_core.errors import ScheduleError, expected
from otcache_core.numbers import integer, is_truth, reals
from otcache_core.storage.json_files import load_json, save_json

FORMAT, VERSION = "otcache-schedule", 1
#: Largest N: DDPM makes 1,000 steps; much more is a typing error.
MAX_STEPS = 100_000
#: Largest weight: sums of a few still fit float32, in which forecasts are made.
MAX_WEIGHT = 1e30


@dataclass(frozen=True, slots=True)
class Span:
    """The steps from one computed step up to the next: ``(i -> j)`` in the glossary.

    Attributes:
        start: computed step k.
        stop: next computed step j, or N at the end of the run.
        history: computed steps before ``start``, latest first: k_1, k_2, ...
        weights: forecast weights c_0 .. c_{m-1} of this span; empty if the forecaster stores
            none.
        branch: of guidance; "" of every branch without a plan of its own.
    """

    start: int
    stop: int
    history: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    branch: str = ""

    @property
    def skipped(self) -> range:
        """The skipped steps k+1 .. j-1."""
        return range(self.start + 1, self.stop)


class Schedule(msgspec.Struct, frozen=True, order=True, forbid_unknown_fields=True):
    r"""Computed steps S = {0 = k_1 < ... < k_B} of N, and the forecaster of the steps between them.

    On a skipped step t of the span (k -> j) the denoiser is not called; its output is forecast
    as a linear combination of the last m computed outputs,

    .. math:: \hat v_t = \sum_{r=0}^{m-1} A_{t,r}\, v_{k_r}, \qquad k_0 = k,

    where the coefficients come from the named
    :class:`~otcache_core.contracts.planning.Forecaster`
    (``reuse``: A = (1)). ``fitted`` reads them from ``weights``, one tuple c_0 .. c_{m-1} a span:
    v_k + c_0 v_k + sum_r c_r (v_k - v_{k_r}). Under guidance each branch may have weights of its own.

    Args:
        num_steps: N, the number of denoising steps; at least 1.
        computed: the computed steps, increasing; step 0 is always among them.
        forecaster: name of a forecaster plugin.
        weights: one tuple of finite floats for each of the B spans, or empty.
        branches: computed steps of branches that differ from ``computed``, as pairs
            (branch name, steps); each a subset of ``computed``, sorted by name.
        branch_weights: weights of branches that differ from ``weights``, as pairs
            (branch name, rows), sorted by name; rows as in ``weights``.

    Raises:
        ScheduleError: if a value is out of range; the message names it.

    Examples:
        >>> s = Schedule(num_steps=10, computed=(0, 1, 4))
        >>> s.budget, [(p.start, p.stop) for p in s.spans()]
        (3, [(0, 1), (1, 4), (4, 10)])
    """

    num_steps: int
    computed: tuple[int, ...]
    forecaster: str = "reuse"
    weights: tuple[tuple[float, ...], ...] = ()
    branches: tuple[tuple[str, tuple[int, ...]], ...] = ()
    branch_weights: tuple[tuple[str, tuple[tuple[float, ...], ...]], ...] = ()

    def __post_init__(self) -> None:
        _make_plain(self)
        check_num_steps(self.num_steps)
        _check_steps("computed", self.computed, self.num_steps)
        _check_weights("weights", self.weights, self.budget)
        for name, rows in self.branch_weights:
            _check_weights(f"branch {name!r}: weights", rows, self.budget)
        for what in ("branches", "branch_weights"):
            pairs = getattr(self, what)
            if list(pairs) != sorted(set(dict(pairs).items())):
                raise ScheduleError(expected(what, pairs, "pairs with distinct, sorted names"))
        for name, steps in self.branches:
            _check_steps(f"branch {name!r}", steps, self.num_steps)
            if not set(steps) <= set(self.computed):
                wanted = f"a subset of {self.computed}"
                raise ScheduleError(expected(f"branch {name!r}", steps, wanted))

    @classmethod
    def full(cls, num_steps: int) -> Schedule:
        """Compute every step.

        Raises:
            ScheduleError: if the step count is not an integer in 1 .. ``MAX_STEPS``.
        """
        n = integer("num_steps", num_steps, 1, MAX_STEPS, kind=ScheduleError)
        return cls(num_steps=n, computed=tuple(range(n)))

    @property
    def budget(self) -> int:
        """B, the number of computed steps."""
        return len(self.computed)

    @property
    def ideal_speedup(self) -> float:
        """N / B."""
        return self.num_steps / self.budget

    @property
    def memory(self) -> int:
        """m, the largest number of weights of a span (1 if none are stored)."""
        rows = (self.weights, *dict(self.branch_weights).values())
        return max((len(row) for table in rows for row in table), default=1) or 1

    def computed_for(self, branch: str | None) -> tuple[int, ...]:
        """Return the computed steps of one branch (``computed`` unless the branch has steps of its own)."""
        return dict(self.branches).get(branch or "", self.computed)

    def spans(self, branch: str | None = None) -> Iterator[Span]:
        """Yield the B spans in order; together they cover 0 .. N."""
        steps = self.computed_for(branch)
        weights = dict(self.branch_weights).get(branch or "", self.weights)
        weights = weights if steps == self.computed else ()
        for m, start in enumerate(steps):
            stop = steps[m + 1] if m + 1 < len(steps) else self.num_steps
            history = steps[m - 1 :: -1] if m else ()
            yield Span(start, stop, history, weights[m] if weights else (), branch or "")

    def with_weights(
        self,
        weights: Sequence[Sequence[float]],
        branch_weights: Mapping[str, Sequence[Sequence[float]]] | None = None,
    ) -> Schedule:
        """Return the same steps, forecast by ``fitted`` with these weights and no others."""
        pairs = tuple(sorted((branch_weights or {}).items()))
        return msgspec.structs.replace(
            self, weights=weights, branch_weights=pairs, forecaster="fitted"
        )

    def without_weights(self) -> Schedule:
        """Return the same steps, reusing outputs."""
        return msgspec.structs.replace(self, weights=(), branch_weights=(), forecaster="reuse")

    def to_sigmas(self, grid: Sequence[float]) -> tuple[float, ...]:
        """Return the sub-grid {s_k : k in S} with s_N.

        Plain sampling on it equals output reuse (docs/theory.md, section 2).

        Args:
            grid: s_0 .. s_N, N + 1 numbers of any kind.

        Raises:
            ScheduleError: if the grid is not a row of numbers, or has another length.
        """
        points = reals("grid", grid, kind=ScheduleError)
        if len(points) != self.num_steps + 1:
            wanted = f"{self.num_steps + 1} values"
            raise ScheduleError(expected("grid", f"{len(points)} values", wanted))
        return (*(points[k] for k in self.computed), points[-1])

    def to_mask(self) -> tuple[int, ...]:
        """Return 1 at computed steps, 0 elsewhere: cache-dit's ``steps_computation_mask``.

        Raises:
            ScheduleError: if branches compute different steps, which a mask cannot hold.
        """
        if any(steps != self.computed for _, steps in self.branches):
            raise ScheduleError(
                "branches compute different steps, and a mask holds one row of steps."
            )
        computed = set(self.computed)
        return tuple(int(step in computed) for step in range(self.num_steps))

    @classmethod
    def from_mask(cls, mask: Sequence[int]) -> Schedule:
        """Make the schedule of a mask, as :meth:`to_mask` returns it, forecast by reuse.

        Raises:
            ScheduleError: if an entry is neither 0 nor 1, or the first is not 1.
        """
        entries = reals("mask", mask, kind=ScheduleError)
        if not entries or not set(entries) <= {0.0, 1.0}:
            raise ScheduleError(expected("mask", entries, "a row of 0 and 1"))
        return cls(len(entries), tuple(step for step, one in enumerate(entries) if one))

    def save(self, path: str | Path) -> None:
        """Write it as JSON, atomically.

        Raises:
            FileError: if the file cannot be written.
        """
        save_json(path, FORMAT, VERSION, self)

    @classmethod
    def load(cls, path: str | Path) -> Schedule:
        """Read what :meth:`save` wrote.

        Raises:
            FileError: naming file, field, got and expected.
        """
        return load_json(path, FORMAT, VERSION, cls)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        data: dict[str, Any] = msgspec.to_builtins(self)
        return data


def check_num_steps(num_steps: int, what: str = "num_steps") -> None:
    """Check that a number is a step count N.

    Raises:
        ScheduleError: if it is not in 1 .. ``MAX_STEPS``.
    """
    if num_steps < 1:
        raise ScheduleError(expected(what, num_steps, "at least 1"))
    if num_steps > MAX_STEPS:
        raise ScheduleError(expected(what, num_steps, f"at most {MAX_STEPS}"))


def check_budget(budget: object, num_steps: int) -> int:
    """Return ``budget`` as an int in 1..N.

    Raises:
        ScheduleError: otherwise.
    """
    return integer("budget", budget, 1, num_steps, kind=ScheduleError)


def _make_plain(schedule: Schedule) -> None:
    """Turn lists and numpy numbers into tuples of int and float, so that a schedule is hashable."""
    try:
        plain = {
            "num_steps": _no_truth(schedule.num_steps),
            "computed": tuple(map(operator.index, _no_mask(schedule.computed))),
            "weights": _rows(schedule.weights),
            "branch_weights": tuple((name, _rows(rows)) for name, rows in schedule.branch_weights),
            "branches": tuple(
                (name, tuple(operator.index(k) for k in steps)) for name, steps in schedule.branches
            ),
        }
    except (TypeError, ValueError) as error:
        wanted = "integers num_steps and computed, rows of numbers as weights"
        raise ScheduleError(f"a schedule takes {wanted}: {error}.") from error
    for name, value in plain.items():
        msgspec.structs.force_setattr(schedule, name, value)


def _no_truth(number: int) -> int:
    if isinstance(number, bool):
        raise TypeError(f"num_steps is {number}")
    return operator.index(number)


def _no_mask(steps: Iterable[int]) -> tuple[int, ...]:
    row = tuple(steps)
    if set(map(type, row)) != {int} and any(map(is_truth, row)):
        raise TypeError("computed are truth values: Schedule.from_mask(...) takes a mask")
    return row


def _rows(weights: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, row)) for row in weights)


def _check_weights(what: str, rows: tuple[tuple[float, ...], ...], budget: int) -> None:
    if rows and len(rows) != budget:
        raise ScheduleError(expected(what, len(rows), f"one tuple for each of the {budget} spans"))
    long = tuple(map(operator.gt, map(len, rows), itertools.count(1)))
    if any(long):
        m = long.index(True)
        wanted = f"at most {m + 1} numbers, one for each output computed so far"
        raise ScheduleError(expected(f"{what}[{m}]", f"{len(rows[m])} numbers", wanted))
    if all(map(MAX_WEIGHT.__ge__, map(abs, itertools.chain.from_iterable(rows)))):
        return
    if not all(map(math.isfinite, itertools.chain.from_iterable(rows))):
        raise ScheduleError("weights must be finite, got NaN or infinity: fit them again.")
    largest = max(map(abs, itertools.chain.from_iterable(rows)))
    wanted = f"at most {MAX_WEIGHT:g} in size"
    raise ScheduleError(expected(what, largest, wanted, "fit them again."))


def _check_steps(what: str, steps: tuple[int, ...], num_steps: int) -> None:
    if not steps or steps[0] != 0:
        advice = "the first step has nothing to reuse."
        raise ScheduleError(expected(what, steps, "steps that begin with 0", advice))
    if any(b <= a for a, b in itertools.pairwise(steps)) or steps[-1] >= num_steps:
        raise ScheduleError(expected(what, steps, f"distinct increasing steps below {num_steps}"))
