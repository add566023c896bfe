"""What a schedule solver is given, and what it returns."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import OtcacheError, expected
from otcache_core.schedule import Schedule, check_budget

if TYPE_CHECKING:
    from otcache_core.contracts.evaluator import Evaluator


Array = NDArray[np.float64]
Spans = tuple[tuple[int, int], ...]


class PerSample:
    """Base of measurements that are kept per sample.

    Shards may be measured on different machines, and merged in any order to the same bits.

    Attributes:
        per_sample: one array per sample, along the first axis.
        same: names of the attributes in which shards must agree.
    """

    per_sample: Array
    nfe: int = 0
    same: ClassVar[tuple[str, ...]]

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.per_sample)

    def merge(self, other: Self) -> Self:
        """Return the measurements of both shards' samples.

        Raises:
            OtcacheError: if the shards differ in anything but their samples.
        """
        for name in self.same:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                what = f"{type(self).__name__}.{name}"
                raise OtcacheError(expected(what, theirs, f"{mine!r}, as the other shard's"))
        shard: Any = self  # a dataclass
        spent = {"nfe": self.nfe + other.nfe} if "nfe" in shard.__dataclass_fields__ else {}
        both = np.concatenate([self.per_sample, other.per_sample])
        merged: Self = replace(shard, per_sample=both, **spent)
        return merged

    @cached_property
    def mean(self) -> Array:
        """The mean over samples."""
        # math.fsum rounds once, so the order of merging does not matter.
        columns = self.per_sample.reshape(self.samples, -1).T.tolist()
        mean = np.array([math.fsum(column) for column in columns]) / self.samples
        return np.asarray(mean.reshape(self.per_sample.shape[1:]))


@dataclass(frozen=True, eq=False)
class Displacements(PerSample):
    r"""What skipping each span does to the result, as vectors up to rotation.

    .. math:: M_{e e'} = E \langle d_e, d_{e'} \rangle, \qquad e = (i \to j),\; j \ge i + 2

    with d(i -> j) the result of a run in which only this span is skipped, minus that of the full
    run; E is the mean over elements, then samples. The error of a schedule is then about f' M f,
    with f the unit flow of its path on the span graph. Spans of length one skip nothing and are
    omitted: their d is 0. Other omitted spans may not be used at all.

    One matrix is kept per sample (:class:`PerSample`).

    Args:
        num_steps: N.
        spans: the pairs (i, j), 0 <= i, i + 2 <= j <= N, sorted and distinct; E of them.
        per_sample: <d_e, d_e'> of each sample, shape (samples, E, E), symmetric positive
            semidefinite; units of x squared.
        objective: what is displaced, and under which forecaster.
        propagation: how deviations were propagated from the end of a span to the end of the run.
        nfe: denoiser evaluations spent beyond the recorded runs.

    Raises:
        OtcacheError: if a shape or span is wrong, a value is not finite, or a matrix is no Gram
            matrix.

    Examples:
        >>> shard = Displacements(2, ((0, 2),), np.full((1, 1, 1), 9.0))
        >>> shard.merge(Displacements(2, ((0, 2),), np.full((1, 1, 1), 7.0))).matrix
        array([[8.]])
        >>> shard.weights()
        array([[0., 0., 3.],
               [0., 0., 0.]])
    """

    same = ("num_steps", "spans", "objective", "propagation")

    num_steps: int
    spans: Spans
    per_sample: Array
    objective: str = "latent displacement under reuse"
    propagation: str = "none"
    nfe: int = 0

    def __post_init__(self) -> None:
        _check_spans(self.spans, self.num_steps)
        _check_gram(self.per_sample, len(self.spans))

    @property
    def matrix(self) -> Array:
        """M, shape (E, E)."""
        return self.mean

    @cached_property
    def index(self) -> NDArray[np.intp]:
        """Row of M of span (i, j); E for spans of length one, -1 if a span may not be used.

        Shape (N, N + 1).
        """
        n = self.num_steps
        rows = np.full((n, n + 1), -1, dtype=np.intp)
        rows[np.arange(n), np.arange(n) + 1] = len(self.spans)
        if self.spans:
            rows[tuple(np.transpose(self.spans))] = np.arange(len(self.spans))
        return rows

    def weights(self) -> Array:
        """Compute the root mean square of each d(i -> j) as an additive span cost, shape (N, N + 1).

        ``inf`` for an omitted span, 0 at length one.
        """
        size = np.sqrt(np.maximum(np.diagonal(self.matrix), 0.0))
        costs = np.append(size, [0.0, np.inf])[self.index]
        return np.asarray(np.where(np.tri(*costs.shape) > 0, 0.0, costs))

    def error(self, computed: tuple[int, ...]) -> float:
        """Compute f' M f of the schedule with these computed steps; ``inf`` if it uses an omitted span."""
        rows = self.index[list(computed), [*computed[1:], self.num_steps]]
        if (rows < 0).any():
            return math.inf
        used = rows[rows < len(self.spans)]
        return max(0.0, float(self.matrix[np.ix_(used, used)].sum()))


def all_spans(num_steps: int, span_cap: int | None = None) -> Spans:
    """Return every span of two steps or more, and of at most ``span_cap``; sorted."""
    cap = num_steps if span_cap is None else span_cap
    last = num_steps + 1
    return tuple((i, j) for i in range(num_steps) for j in range(i + 2, min(i + cap + 1, last)))


def _check_spans(spans: Spans, n: int) -> None:
    if n < 1:
        raise OtcacheError(expected("Displacements.num_steps", n, "at least 1"))
    if list(spans) != sorted(set(spans)):
        raise OtcacheError("Displacements.spans must be sorted and distinct, got another order.")
    for i, j in spans:
        if not 0 <= i <= j - 2 <= n - 2:
            wanted = f"pairs (i, j) with 0 <= i and i + 2 <= j <= {n}"
            raise OtcacheError(expected("Displacements.spans", (i, j), wanted))


def _check_gram(per_sample: Array, size: int) -> None:
    shape = per_sample.shape
    if len(shape) != 3 or shape[0] < 1 or shape[1:] != (size, size):
        wanted = f"of shape (samples, {size}, {size}), one row per span"
        raise OtcacheError(expected("Displacements.per_sample", shape, wanted))
    if not np.isfinite(per_sample).all():
        raise OtcacheError(
            "Displacements.per_sample holds NaN or infinity: "
            "the pipeline returned them; try float32 or bfloat16."
        )
    for sample, gram in enumerate(per_sample):
        slack = 1e-9 * float(np.abs(gram).max(initial=0.0)) * max(1, size)
        lowest = float(np.linalg.eigvalsh(gram)[0]) if size else 0.0
        if np.abs(gram - gram.T).max(initial=0.0) > slack or lowest < -slack:
            what = f"Displacements.per_sample[{sample}]"
            wanted = "symmetric positive semidefinite"
            advice = "inner products of vectors always are: is it <d_e, d_e'>?"
            raise OtcacheError(expected(what, f"least eigenvalue {lowest:.3g}", wanted, advice))


class Need(enum.Enum):
    """What a solver may need of its problem, by the field that holds it."""

    COSTS = "costs"
    GRAM = "gram"
    GRID = "grid"
    GAINS = "gains"
    DISPLACEMENTS = "displacements"
    ANCHOR = "anchor"
    REFERENCE = "reference"
    EVALUATOR = "evaluator"


@dataclass(frozen=True, eq=False)
class ScheduleProblem:
    """Choose B of N steps, from what was measured of a pipeline.

    Every measurement may be missing; a solver says what it needs by
    :attr:`~otcache_core.contracts.ScheduleSolver.abilities`.

    Args:
        num_steps: N.
        budget: B, in 1..N.
        costs: w(i -> j) for 0 <= i < j <= N in entry [i, j]; shape (N, N + 1), entries with
            j <= i are ignored; spans of length one cost 0. None for solvers that need no costs.
            ``inf`` marks a span that may not be used.
        anchor: schedule at an extreme budget, for solvers that interpolate.
        reference: schedule at a conservative budget, for solvers that interpolate.
        evaluator: the pipeline, for solvers that search.
        seed: seed of every random choice.
        gram: H[a, b] = E <v_a, v_b> of the recorded outputs, mean over elements, then samples; shape
            (N, N).
        grid: s_0 .. s_N, monotone; shape (N + 1,).
        gains: g_0 .. g_N, growth of a deviation from step j to the end of the run; shape (N + 1,).
        displacements: measures what skipping each span does to the result, as vectors. It takes time, so
            only a ``solve`` that needs it calls it; it returns the same object every time.

    Raises:
        OtcacheError: if a shape is wrong or a cost is NaN or negative.
    """

    num_steps: int
    budget: int
    costs: NDArray[np.float64] | None = None
    anchor: Schedule | None = None
    reference: Schedule | None = None
    evaluator: Evaluator | None = None
    seed: int = 0
    gram: NDArray[np.float64] | None = None
    grid: NDArray[np.float64] | None = None
    gains: NDArray[np.float64] | None = None
    displacements: Callable[[], Displacements] | None = None

    def __post_init__(self) -> None:
        check_budget(self.budget, self.num_steps)
        if self.costs is not None:
            check_costs(self.costs, self.num_steps)
        n = self.num_steps
        for name, shape in (("gram", (n, n)), ("grid", (n + 1,)), ("gains", (n + 1,))):
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise OtcacheError(expected(name, array.shape, f"of shape {shape}"))
        for name in ("anchor", "reference"):
            schedule = getattr(self, name)
            if schedule is not None and schedule.num_steps != n:
                raise OtcacheError(expected(f"{name}.num_steps", schedule.num_steps, str(n)))

    def lacks(self, needs: Collection[Need]) -> tuple[Need, ...]:
        """Return which of these the problem does not hold, in the order of :class:`Need`."""
        return tuple(n for n in Need if n in needs and getattr(self, n.value) is None)


@dataclass(frozen=True)
class KeptOut:
    """Errors of a refinement on samples that it did not see.

    Args:
        start: error of the schedule that was refined.
        refined: error of the refined one.
    """

    start: float
    refined: float

    @property
    def accepted(self) -> bool:
        """Whether it is an improvement there too."""
        return self.refined < self.start


class Result(enum.Enum):
    """How a solver ended; the value is advice to the user."""

    OPTIMAL = "The schedule is optimal for the stated objective."
    FOUND = "A feasible schedule was found by search; nothing is claimed about better ones."
    INFEASIBLE = (
        "No path of this budget exists in the span graph. Raise the budget or the span cap."
    )
    BUDGET_SPENT = (
        "The solver stopped at one of its limits before it was done. "
        'Raise it: `stats["advice"]` names it.'
    )


@dataclass(frozen=True, eq=False)
class Solution:
    """A schedule and how good it is.

    Args:
        schedule: None exactly when ``result`` is INFEASIBLE.
        objective: value of the solver's own objective at the schedule (``inf`` if infeasible).
        result: how the solver ended.
        lower_bound: no schedule of this budget has an objective below it; None if the solver gives none.
        certificate: what the bound bounds (objective, forecaster, samples); empty without one.
        stats: counters such as ``{"trials": 40}``; if the result is BUDGET_SPENT, ``advice`` names the
            solver's own limit that ended it.
        nfe: denoiser evaluations spent through the problem's evaluator.
        kept_out: errors on samples that a refinement did not see; None without a refinement.
    """

    schedule: Schedule | None
    objective: float
    result: Result
    lower_bound: float | None = None
    certificate: str = ""
    stats: dict[str, Any] = field(default_factory=dict)
    nfe: int = 0
    kept_out: KeptOut | None = None

    def __post_init__(self) -> None:
        if (self.schedule is None) != (self.result is Result.INFEASIBLE):
            raise OtcacheError(
                expected("Solution.schedule", self.schedule, "None exactly when infeasible")
            )
        if self.lower_bound is not None and self.lower_bound > self.objective * (1 + 1e-9) + 1e-12:
            raise OtcacheError(
                expected("Solution.lower_bound", self.lower_bound, f"at most {self.objective}")
            )


def check_costs(costs: NDArray[np.float64], num_steps: int) -> None:
    """Check that costs[i, j] >= 0 (inf allowed) for i < j, and 0 for j = i + 1; raise OtcacheError if not."""
    shape = (num_steps, num_steps + 1)
    if costs.shape != shape:
        advice = "rows are starts 0..N-1, columns stops 0..N."
        raise OtcacheError(expected("costs", costs.shape, f"of shape {shape}", advice))
    above = costs[np.triu_indices(num_steps, k=1, m=num_steps + 1)]
    if np.isnan(above).any() or (above < 0).any():
        raise OtcacheError(
            "costs must be >= 0, got NaN or a negative entry: give spans that must not be skipped the "
            "cost infinity."
        )
    if np.diagonal(costs, offset=1).any():
        raise OtcacheError(
            "costs of spans of length one must be 0, got another value: nothing is skipped there."
        )
