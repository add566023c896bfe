"""Identify the linear recurrence of a sampler from recorded runs, by least squares step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from otcache_core.recurrence import SINGULAR, NotLinear, Recurrence
from otcache_core.storage.recordings import mapped, release, slabs
from otcache_core.trajectory import Trajectory

Floats = NDArray[np.float64]

#: Residual up to which a sampler counts as the Euler rule of its grid, which has nothing to fit.
EULER_LIMIT = 1e-3
#: The same for fitted coefficients: a few of them can fit a smooth run of another rule, but not to this.
LINEAR_LIMIT = 1e-4
#: Four outputs: DPM-Solver and UniPC of third order, PNDM and LMS of fourth.
MAX_ORDER = 3
#: Least recorded numbers for each coefficient.
PER_COEFFICIENT = 4
#: Rounding below which the residual alone identifies a sampler.
FINE = 1e-6
#: Euler leaves 1.2 times the least squares at most, two-step rules 4 times or more (bfloat16 demo).
HIDDEN = 2.0
#: Elements of a sample that are looked at, evenly spread: the coefficients are a handful.
ELEMENTS = 2**16
#: Difference of two samples' call weights, relative to the largest, up to which they are one.
SAME_WEIGHTS = 0.05
#: Terms of a step are at most so many times their sum in samplers of use.
LARGEST_TERMS = 32.0
#: Least singular value, of columns of length 1, that is always kept, however coarse the rounding.
WEAKEST = 1e-3
_TINY = float(np.finfo(float).tiny)


def euler_residual(trajectories: Sequence[Trajectory]) -> float:
    r"""Measure how far the sampler is from a one-step Euler rule beyond rounding: docs/theory.md, section 4.

    .. math:: \max_i \frac{\max(0, \| x_{i+1} - x_i - (s_{i+1} - s_i) v_i \|
        - 4 \epsilon \| x_{i+1} \|)}{\| x_{i+1} - x_i \|}

    with epsilon the rounding of the sampler's own states: in bfloat16 one step moves the state by
    little more than that.
    """
    return max((_residual(t) for t in trajectories), default=0.0)


def _residual(t: Trajectory) -> float:
    """Compute it for one sample, a slab of elements at a time."""
    moved, ends, euler = np.zeros((3, t.num_steps))
    steps = np.diff(t.grid)[:, None]
    for x, v in zip(slabs(t.states), slabs(t.outputs), strict=True):
        states = x.astype(np.float64)
        dx = np.diff(states, axis=0)
        moved += np.square(dx).sum(1)
        ends += np.square(states[1:]).sum(1)
        euler += np.square(dx - steps * v).sum(1)
    noise = 4 * t.rounding * np.sqrt(ends)
    left = np.maximum(0.0, np.sqrt(euler) - noise)
    return float((left / (np.sqrt(moved) + _TINY)).max())


def identify(
    trajectories: Sequence[Trajectory], limit: float = LINEAR_LIMIT
) -> Recurrence | NotLinear:
    r"""Find the recurrence of the sampler that made these runs, of the smallest order that explains them.

    It is the Euler rule of the grid if that holds to ``EULER_LIMIT``. If states are rounded coarsely
    (bfloat16), other rules hold to that too, so the Euler rule must also leave no more than ``HIDDEN`` times
    the least sum of squares, in steps that move the state by well more than its rounding. Otherwise, step
    by step, with coefficients shared by all samples,

    .. math:: \min_{a_i, b_i} \sum_{samples} \Big\| x_{i+1}
        - \sum_{q=0}^{p} (a_{i,q} x_{i-q} + b_{i,q} v_{i-q}) \Big\|^2

    for p = 0 .. 3, through one QR factorisation a sample, in float64. An order explains the runs if
    it leaves at most ``limit`` of any step of any sample beyond rounding (the measure of
    :func:`euler_residual`), and if the largest order leaves no less than chance explains, or what this one
    leaves is at most one rounding (a tenth of it if rounding is coarse): a smooth run can be fitted by
    too small an order, whose coefficients are then wrong as soon as a step is skipped. Collinear columns
    give the smallest coefficients that fit. Step 0 need not be explained: no span needs its row, and if it
    starts from pure noise (zero terminal signal) its epsilon does not determine where it ends.

    Args:
        trajectories: runs on one grid; runs with shuffled outputs determine the most.
        limit: relative residual that may be left. With shuffled runs no wrong order fits, and ``EULER_LIMIT``
            is enough: a sampler that divides rounding by a small noise level leaves more than its states
            show.

    Returns:
        The recurrence, or why there is none: the sampler adds noise, clips, or looks back further.
    """
    if reason := _uncombined(trajectories):
        return NotLinear(reason, np.inf)
    grid, residual = trajectories[0].grid, euler_residual(trajectories)
    passes, fine = residual <= EULER_LIMIT, max(t.rounding for t in trajectories) <= FINE
    if passes and fine:
        return Recurrence.euler(grid, residual)
    runs = [ThinRun.of(t) for t in trajectories]
    steps = [StepFit(runs, i) for i in range(len(grid) - 1)]
    largest = largest_order(steps, 2)
    pairs = list(zip(steps, np.diff(grid), strict=True))
    if passes and (largest < 0 or not any(s.hides(h, largest) for s, h in pairs)):
        return Recurrence.euler(grid, residual)
    found = smallest(steps, largest, limit)
    if isinstance(found, NotLinear) and passes:
        return Recurrence.euler(grid, residual)
    if isinstance(found, NotLinear) and largest >= 0:  # but for a constant in the last step?
        steps[-1] = StepFit(runs, len(steps) - 1, affine=True)
        found = smallest(steps, largest, limit)
    return found


def _uncombined(trajectories: Sequence[Trajectory]) -> str:
    """Return why the outputs of a step's calls are combined in no known way; "" if they are."""
    first = trajectories[0].call_weights
    for t in trajectories:
        if t.unexplained:
            return t.unexplained
        if first is None or t.call_weights is None:
            continue
        if np.abs(t.call_weights - first).max() > SAME_WEIGHTS * np.abs(first).max():
            return "steps combine the outputs of their calls in another way for each prompt"
    return ""


def identify_differences(
    runs: Sequence[Trajectory], shuffled: Sequence[Trajectory]
) -> Recurrence | NotLinear:
    r"""Identify a sampler that adds the same noise to two runs of one seed.

    .. math:: x_{i+1} - x'_{i+1} = \sum_{q=0}^{p} a_{i,q} (x_{i-q} - x'_{i-q})
        + b_{i,q} (v_{i-q} - v'_{i-q})

    Noise drawn from the seed, and any other term that depends on neither states nor outputs, is the same
    in both runs and cancels. Orders are chosen as :func:`identify` does.

    Args:
        runs: full runs.
        shuffled: as many runs of the same samples on outputs of other steps.

    Returns:
        The recurrence, marked as ``noisy``; or why there is none.
    """
    pairs = zip(runs, shuffled, strict=True)
    thin = [ThinRun.of(a).difference(ThinRun.of(b)) for a, b in pairs]
    steps = [StepFit(thin, i) for i in range(len(runs[0].outputs))]
    still = [i for i, step in enumerate(steps[1:], 1) if not step.varies]
    if still:
        return NotLinear(
            f"step {still[0]} ends at the same state whatever the outputs before it were", np.inf
        )
    found = smallest(steps, largest_order(steps, 2), EULER_LIMIT)
    return found if isinstance(found, NotLinear) else replace(found, noisy=True)


def smallest(steps: Sequence[StepFit], largest: int, limit: float) -> Recurrence | NotLinear:
    """Return the recurrence of the smallest order that explains every step but the first."""
    if largest < 0:
        return NotLinear(
            f"{steps[0].numbers} numbers a step are too few to identify the sampler", np.inf
        )
    for order in range(largest + 1):
        if all(step.explained(order, largest, limit) for step in steps[1:] or steps):
            return _assembled(steps, order)
    return refusal(steps, largest, limit)


def _assembled(steps: Sequence[StepFit], order: int) -> Recurrence:
    fits = [step.fit(order) for step in steps]
    a, b = np.zeros((2, len(steps), order + 1))
    for i, fit in enumerate(fits):
        lags = len(fit.coefficients) // 2
        a[i, :lags], b[i, :lags] = fit.coefficients[0::2], fit.coefficients[1::2]
    inherited = _inherited(a, b)
    loose = tuple(i for i, fit in enumerate(fits) if fit.deficit > inherited[i])
    left = max(fit.excess for fit in fits[1:] or fits)
    return Recurrence(a, b, left, None, loose, fits[-1].offset)


def largest_order(steps: Sequence[StepFit], per_lag: int) -> int:
    """Return the largest order that the recorded numbers can determine; below 0 if there is none."""
    affordable: int = steps[0].numbers // (per_lag * PER_COEFFICIENT) - 1
    return min(MAX_ORDER, len(steps) - 1, affordable)


def refusal(steps: Sequence[StepFit], order: int, limit: float) -> NotLinear:
    """Return which step no order explains."""
    left = [step.fit(order).excess for step in steps]
    worst = int(np.argmax(left[1:])) + 1 if len(left) > 1 else 0
    least = "" if order == MAX_ORDER else " (more samples would allow longer ones)"
    return NotLinear(
        f"step {worst} is not a linear combination of the last {order + 1} states and outputs{least}: "
        f"a relative residual of {left[worst]:.1e} is left (limit {limit:.0e}); the sampler "
        "adds noise, clips, or looks back further",
        left[worst],
    )


def _inherited(a: Floats, b: Floats) -> list[int]:
    """Count the relations that the sampler itself makes among the columns of each step.

    Every state is a combination of x_0 and v_0, v_1, ...: columns may be no more than these.
    """
    num_steps, lags = a.shape
    v = np.eye(num_steps + 1)[1:]
    x, relations = [np.eye(num_steps + 1)[0]], []
    for i in range(num_steps):
        known = range(min(lags, i + 1))
        rows = np.array([row[i - q] for q in known for row in (x, v)])
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        rank = np.linalg.matrix_rank(rows / np.where(norms > 0, norms, 1.0), tol=SINGULAR)
        relations.append(len(rows) - int(rank))
        x.append(np.asarray(sum(a[i, q] * x[i - q] + b[i, q] * v[i - q] for q in known)))
    return relations


@dataclass(frozen=True, eq=False)
class ThinRun:
    """A recorded run with at most about ``ELEMENTS`` of its elements.

    Attributes:
        states: x_0 .. x_N, shape (N + 1, d).
        outputs: P arrays of shape (N, d): what each of a step's calls returned, or v alone.
        rounding: relative rounding of the states.
        sizes: what the rounding is relative to, the norm of each state; shape (N + 1,).
    """

    states: NDArray[np.floating]
    outputs: Sequence[NDArray[np.floating]]
    rounding: float
    sizes: Floats

    def difference(self, other: ThinRun) -> ThinRun:
        """Return this run minus another of the same sample; it is rounded as both are."""
        outputs = [
            a.astype(np.float64) - b for a, b in zip(self.outputs, other.outputs, strict=True)
        ]
        states = self.states.astype(np.float64) - other.states
        return ThinRun(states, outputs, self.rounding, self.sizes + other.sizes)

    def combined(self, call_weights: Floats) -> ThinRun:
        """Return the run with the outputs of each step combined into one."""
        v = sum(g[:, None] * o for g, o in zip(call_weights.T, self.outputs, strict=True))
        return replace(self, outputs=[np.asarray(v)])

    @classmethod
    def of(cls, t: Trajectory) -> ThinRun:
        """Thin a recorded run."""
        return cls.thinned(t.states, [t.outputs], t.rounding)

    @classmethod
    def thinned(
        cls,
        states: NDArray[np.floating],
        outputs: Sequence[NDArray[np.floating]],
        rounding: float,
    ) -> ThinRun:
        """Thin states and outputs to the same elements, evenly spread."""
        stride = states.shape[1] // ELEMENTS | 1  # odd: every channel takes part
        thin = _thinned(states, stride)
        sizes = np.linalg.norm(thin.astype(np.float64), axis=1)
        return cls(thin, [_thinned(v, stride) for v in outputs], rounding, sizes)


def _thinned(array: NDArray[np.floating], stride: int) -> NDArray[np.floating]:
    """Return every stride-th column: a view, or of a memory map a copy, row by row."""
    if not mapped(array):
        return array[:, ::stride]
    thin = np.empty((len(array), -(-array.shape[1] // stride)), array.dtype)
    for row, whole in zip(thin, array, strict=True):
        row[:] = whole[::stride]
        release(array)
    return thin


@dataclass(frozen=True)
class _Coefficients:
    """Coefficients a_0, b_0, a_1, b_1, ... of one step.

    Attributes:
        coefficients: as named.
        left: norm of the residual of all samples together.
        excess: that of the worst sample, relative to its step, beyond rounding.
        deficit: number of coefficients that the columns do not determine.
        offset: the constant of an affine step.
    """

    coefficients: Floats
    left: float
    excess: float
    deficit: int
    offset: float = 0.0


class StepFit:
    """All samples' columns x_i, v_i, x_{i-1}, v_{i-1}, ... and x_{i+1}, by their triangular factors.

    Where a step has P outputs, each lag has P + 1 columns. An affine step has one more, of ones.
    """

    def __init__(self, runs: Sequence[ThinRun], i: int, affine: bool = False) -> None:
        self._lags, self._affine = min(MAX_ORDER, i) + 1, affine
        self._per_lag = 1 + len(runs[0].outputs)
        self._factors = [_factor(t, i, self._lags) for t in runs]
        ends = [float(t.sizes[i + 1]) for t in runs]
        self._moved = [np.linalg.norm(f[:, -1] - f[:, 0]) for f in self._factors]
        self._noise = [4 * t.rounding * end for t, end in zip(runs, ends, strict=True)]
        self._rounding = max(t.rounding for t in runs)
        share = 1.0 if self._rounding <= FINE else 0.1
        self._floor = share * self._rounding * float(np.linalg.norm(ends))
        self._fits: dict[int, _Coefficients] = {}
        self.numbers = sum(t.states.shape[1] for t in runs)

    @property
    def varies(self) -> bool:
        """Whether some run ends at more than its rounding."""
        ends = [float(np.linalg.norm(f[:, -1])) for f in self._factors]
        return any(end > 10 * noise for end, noise in zip(ends, self._noise, strict=True))

    def explained(self, order: int, largest: int, limit: float) -> bool:
        """Return whether this order leaves at most rounding, and no more than the largest and chance."""
        fit, best = self.fit(order), self.fit(largest)
        chance = 1.02 + 20 / max(1, self.numbers - len(best.coefficients))
        return fit.excess <= limit and fit.left**2 <= chance * best.left**2 + self._floor**2

    def hides(self, h: float, order: int) -> bool:
        """Return whether the Euler step h leaves far more than this order, beyond rounding."""
        if any(m < 1.5 * n for m, n in zip(self._moved, self._noise, strict=True)):
            return False  # a state that hardly moves is rounded the same way again and again
        euler = self._left(np.array([1.0, h]))
        return bool(np.sum(euler**2) > HIDDEN * self.fit(order).left ** 2 + self._floor**2)

    def fit(self, order: int) -> _Coefficients:
        """Return the least squares of one order; solved once."""
        if order not in self._fits:
            self._fits[order] = self._solve(self._per_lag * min(order + 1, self._lags))
        return self._fits[order]

    def _solve(self, width: int) -> _Coefficients:
        stacked, ones = np.concatenate(self._factors), self._per_lag * self._lags
        used = [*range(width), ones] if self._affine else list(range(width))
        columns, end = stacked[:, used], stacked[:, -1]
        scale = np.linalg.norm(columns, axis=0)
        scale[scale == 0] = 1.0
        # Along weaker directions than this a coefficient would be rounding, not signal.
        weak = min(100 * self._rounding / np.sqrt(self.numbers), WEAKEST)
        scaled, _, rank, _ = np.linalg.lstsq(columns / scale, end, rcond=weak)
        found = scaled / scale
        c, offset = (found[:-1], float(found[-1])) if self._affine else (found, 0.0)
        left = self._left(c, offset)
        beyond = np.maximum(0.0, left - self._rounded(c)) / (np.array(self._moved) + _TINY)
        worst, loose = float(beyond.max()), len(used) - int(rank)
        return _Coefficients(c, float(np.linalg.norm(left)), worst, loose, offset)

    def _left(self, c: Floats, offset: float = 0.0) -> Floats:
        """Compute the residual of each sample."""
        ones = self._per_lag * self._lags
        return np.array(
            [
                np.linalg.norm(f[:, -1] - f[:, : len(c)] @ c - offset * f[:, ones])
                for f in self._factors
            ]
        )

    def _rounded(self, c: Floats) -> Floats:
        """Compute the rounding of each sample's end, and of the terms it is the sum of, in proportion.

        At a small noise level a sampler divides by it: terms are then larger than their sum. Terms of more
        than ``LARGEST_TERMS`` times that belong to a wrong rule that happens to fit.
        """
        noise = np.array(self._noise)
        terms = [np.abs(c) @ np.linalg.norm(f[:, : len(c)], axis=0) for f in self._factors]
        ends = [np.linalg.norm(f[:, -1]) + _TINY for f in self._factors]
        return noise * np.clip(np.array(terms) / np.array(ends), 1.0, LARGEST_TERMS)


def _factor(t: ThinRun, i: int, lags: int) -> Floats:
    kept = (t.states, *t.outputs)
    columns = [array[i - q] for q in range(lags) for array in kept]
    ones = np.ones_like(t.states[i])
    matrix = np.stack([*columns, ones, t.states[i + 1]], axis=1, dtype=np.float64)
    return np.asarray(np.linalg.qr(matrix, mode="r"))
