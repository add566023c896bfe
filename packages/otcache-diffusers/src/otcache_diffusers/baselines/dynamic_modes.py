"""Forecasts by dynamic-mode decomposition of the computed outputs, as HiCache++ has them, as a baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest
from otcache_core.forecasters import Hermite
from otcache_core.schedule import Schedule, Span
from otcache_diffusers.hooks import DenoiserCall, RunInfo, StepHook, drive, unsupported
from otcache_diffusers.hooks.trees import examine, flatten, prediction_at, unflatten

#: Outputs that are kept, at most, and how many of them must lie at equal gaps.
HISTORY, FEWEST = 6, 4
#: Modes of less than this share of the largest singular value are omitted; the ridge of the others.
RANK, RIDGE = 1e-4, 1e-8
Floats = NDArray[np.float64]


@final
class DynamicModes(Baseline):
    r"""Forecast by the modes of a linear propagator that is fitted within each run: no calibration.

    The last outputs at equal gaps g, v_0 .. v_n, are taken for a trajectory of :math:`v_{i+1} = A v_i`. With
    the singular value decomposition of the first n of them,

    .. math:: X = U \Sigma V^*, \qquad \tilde A = U^* X' V \Sigma^{-1} = W \Lambda W^{-1}, \qquad
        \hat v_t = \Phi \Lambda^{(t-k)/g} b, \qquad \Phi = X' V \Sigma^{-1} W, \quad b = \Phi^+ v_n

    where X' holds the last n, singular values below 1e-4 of the largest are omitted, and t - k is the
    distance to the newest output. With fewer than four outputs at equal gaps (of the last six) a step is
    left to the Hermite polynomial of order 1 (:class:`~otcache_core.forecasters.Hermite`), as in the
    source, and without an earlier output, or with a fit that is not finite, to reuse. All of it follows
    from the inner products of the outputs, so the decomposition is that of a matrix of at most six rows, on
    the host: one copy a computed step.

    Computed are the first f steps, then every g-th: f = 2, the source's own, or what comes next to it
    and reaches the budget. Every sample of a batch, and every branch of guidance, has a fit of its
    own; the source fits what guidance made of them, and a batch as one.

    References:
        HiCache++, https://github.com/Archerkattri/hicache-plus-plus (MIT, commit d7bb862), read for the rule;
        Schmid, Dynamic mode decomposition of numerical and experimental data, 2010; docs/theory.md,
        section 9.8.
    """

    source = "HiCache++ 1.2, dynamic-mode decomposition, its rule on whole outputs, by otcache"
    by_budget = True

    def supports(self, target: Any, request: SampleRequest) -> str:
        """Support what steps can be counted of."""
        return unsupported(target)

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        """Return the steps of each budget."""
        rows = [spaced_steps(num_steps, budget) for budget in budgets]
        return [
            BaselineSetting(f"B = {len(steps)}", {"computed": list(steps)}, num_steps, steps)
            for steps in rows
        ]

    @contextmanager
    def apply(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> Iterator[None]:
        """Run the target by the rule."""
        hook = DynamicModesHook(Schedule(setting.num_steps, setting.values["computed"]))
        with drive(target, hook, num_steps=setting.num_steps):
            yield


def spaced_steps(num_steps: int, budget: int) -> tuple[int, ...]:
    """Return B of N steps: the first f, then every g-th, with f nearest to 2 and then the least g.

    Examples:
        >>> spaced_steps(30, 6)
        (0, 1, 7, 13, 19, 25)
    """
    for first in sorted(range(1, budget + 1), key=lambda f: (abs(f - 2), f)):
        for gap in range(1, num_steps + 1):
            steps = (*range(first), *range(first + gap - 1, num_steps, gap))
            if len(steps) == budget:
                return steps
    raise AssertionError("the first B steps alone are B steps")


class Snapshot(NamedTuple):
    """One computed output of a branch.

    Attributes:
        step: where.
        value: the prediction, in memory of its own.
        products: inner products with this and the earlier snapshots of the branch, latest first; one row a
            sample, on the device.
    """

    step: int
    value: Tensor
    products: Tensor


class DynamicModesHook(StepHook):
    """Follow a schedule, with forecasts by dynamic modes.

    Args:
        schedule: its computed steps count, and nothing else.
    """

    watches = False

    def __init__(self, schedule: Schedule) -> None:
        self._spans = {t: span for span in schedule.spans() for t in span.skipped}
        self._branches: dict[str, _Branch] = {}

    def begin(self, run: RunInfo) -> None:
        """Forget the run before."""
        self._branches = {}

    def forecast(self, call: DenoiserCall) -> Any | None:
        """Return the forecast of a skipped step; None of another one, or if the branch lacks an output."""
        span, branch = self._spans.get(call.step), self._branches.get(call.branch)
        if span is None or branch is None or not branch.ends_at(span.start):
            return None
        forecast = branch.forecast(call.step)
        return call.to_output(forecast) if call.converts else forecast

    def compute(self, call: DenoiserCall) -> Any:
        """Call the denoiser and keep its output."""
        output = call.compute()
        self._branches.setdefault(call.branch, _Branch()).keep(
            call.step, call.to_run_quantity(output)
        )
        return output

    def skips(self, step: int, branch: str) -> bool:
        """Return whether a step is skipped by plan, and the branch has an output."""
        span, known = self._spans.get(step), self._branches.get(branch)
        return span is not None and known is not None and known.ends_at(span.start)

    def end(self, completed: bool) -> None:
        """Release what is kept."""
        self._branches = {}


class _Branch:
    """The outputs of a branch, newest last, and what forecasts from them take."""

    def __init__(self) -> None:
        self._snapshots: list[Snapshot] = []
        self._tree: tuple[list[Any], Any, int] = ([], None, 0)
        self._modes: list[Modes | None] | None = None

    def ends_at(self, step: int) -> bool:
        return bool(self._snapshots) and self._snapshots[-1].step == step

    def keep(self, step: int, output: Any) -> None:
        examine(output)
        leaves, form = flatten(output)
        self._tree = leaves, form, prediction_at(leaves)
        value = leaves[self._tree[2]].clone()
        known = [s for s in self._snapshots if s.value.shape == value.shape][-HISTORY + 1 :]
        products = [inner(value, value), *(inner(value, s.value) for s in reversed(known))]
        self._snapshots = [*known, Snapshot(step, value, torch.stack(products, dim=1))]
        self._modes = None

    def forecast(self, step: int) -> Any:
        leaves, form, at = self._tree
        copies = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        copies[at] = self._prediction(step)
        return unflatten(copies, form)

    def _prediction(self, step: int) -> Tensor:
        steps = [snapshot.step for snapshot in self._snapshots]
        count = uniform_tail(steps)
        rows = None
        if count >= FEWEST:
            if self._modes is None:
                self._modes = [fitted(gram) for gram in self._grams(count)]
            ahead = (step - steps[-1]) / (steps[-1] - steps[-2])
            rows = [modes and modes.coefficients(ahead) for modes in self._modes]
        if rows is None:
            span = Span(steps[-1], step + 1, tuple(reversed(steps[:-1])))
            row = Hermite(1).coefficients(span, np.zeros(0))[-1]
            rows = [row[::-1]] * samples_of(self._snapshots[-1].value)
        return combined([s.value for s in self._snapshots], rows)

    def _grams(self, count: int) -> list[Floats]:
        """Return the inner products of the newest outputs, oldest first, of each sample."""
        tail = self._snapshots[-count:]
        rows = [s.products[:, : n + 1].flip(1).cpu().double().numpy() for n, s in enumerate(tail)]
        grams = np.zeros((len(rows[0]), count, count))
        for n, row in enumerate(rows):
            grams[:, n, : n + 1] = grams[:, : n + 1, n] = row
        return list(grams)


class Modes(NamedTuple):
    """Eigenvalues of a propagator, and what each mode adds to the weights of the outputs.

    Attributes:
        values: eigenvalues, shape (r,).
        parts: mode by mode the weights of v_1 .. v_n at no distance, shape (n, r).
    """

    values: NDArray[np.complex128]
    parts: NDArray[np.complex128]

    def coefficients(self, ahead: float) -> Floats | None:
        """Return the weights of v_1 .. v_n at a distance in gaps; None if they are not finite."""
        with np.errstate(all="ignore"):
            found = (self.parts @ self.values**ahead).real
        return found if np.isfinite(found).all() else None


def fitted(gram: Floats) -> Modes | None:
    """Decompose a trajectory by the inner products of v_0 .. v_n; None if it cannot be."""
    if not np.isfinite(gram).all():
        return None
    squares, vectors = np.linalg.eigh(gram[:-1, :-1])
    sizes = np.sqrt(np.maximum(squares, 0.0))[::-1]
    kept = sizes > RANK * sizes[0] if sizes[0] > 0 else np.zeros(len(sizes), bool)
    if not kept.any():
        return None
    V, S = vectors[:, ::-1][:, kept], sizes[kept]
    reduced = (V / S).T @ gram[:-1, 1:] @ (V / (S + RIDGE))
    values, W = np.linalg.eig(reduced)
    shape = (V / (S + RIDGE)) @ W  # Phi in terms of v_1 .. v_n
    squares, vectors = np.linalg.eigh(gram[1:, 1:])
    root = np.sqrt(np.maximum(squares, 0.0))[:, None] * vectors.T  # root.T @ root = gram[1:, 1:]
    amplitudes = np.linalg.lstsq(root @ shape, root[:, -1].astype(complex), rcond=None)[0]
    return Modes(values.astype(complex), shape.astype(complex) * amplitudes)


def uniform_tail(steps: Sequence[int]) -> int:
    """Return how many of the last steps lie at equal gaps."""
    gaps = [b - a for a, b in pairwise(steps)]
    same = next((n for n, gap in enumerate(reversed(gaps)) if gap != gaps[-1]), len(gaps))
    return min(same + 1, len(steps))


def samples_of(value: Tensor) -> int:
    """Return how many samples a prediction holds; one if it has a single dimension."""
    return len(value) if value.ndim > 1 else 1


def inner(one: Tensor, other: Tensor) -> Tensor:
    """Return inner products by sample, in float64 where the device has it."""
    wide = torch.float32 if one.device.type == "mps" else torch.float64
    rows = samples_of(one)
    return (one.to(wide) * other.to(wide)).reshape(rows, -1).sum(dim=1)


def combined(values: Sequence[Tensor], rows: Sequence[Floats | None]) -> Tensor:
    """Return weighted sums of outputs by sample; the newest one where there are no weights.

    Args:
        values: outputs, newest last.
        rows: of each sample, weights of the last outputs, newest last.
    """
    newest = values[-1]
    count = max([1, *(len(row) for row in rows if row is not None)])
    table = np.zeros((len(rows), count))
    table[:, -1] = 1.0
    for n, row in enumerate(rows):
        if row is not None:
            table[n] = 0.0
            table[n, count - len(row) :] = row
    wide = torch.promote_types(newest.dtype, torch.float32)
    weights = torch.tensor(table, dtype=wide).to(newest.device)
    shape = (-1, *[1] * (newest.ndim - 1)) if newest.ndim else ()
    total = torch.zeros_like(newest, dtype=wide)
    for n, value in enumerate(values[-count:]):
        total += weights[:, n].reshape(shape) * value.to(wide)
    return total.to(newest.dtype)
