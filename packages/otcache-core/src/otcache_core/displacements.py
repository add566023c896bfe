"""Displacements of spans, kept as their inner products."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import OtcacheError, expected

Array = NDArray[np.float64]
Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Displacements:
    r"""What skipping each span does to the result, as vectors up to rotation.

    .. math:: M_{e e'} = E \langle d_e, d_{e'} \rangle, \qquad e = (i \to j),\; j \ge i + 2

    with d(i -> j) the result of a run in which only this span is skipped, minus that of the full
    run; E is the mean over elements, then samples. The error of a schedule is then about f' M f,
    with f the unit flow of its path on the span graph. Spans of length one skip nothing and are
    left out: their d is 0. Other spans left out may not be used at all.

    One matrix is kept a sample: shards may be measured on different machines and merged in any
    order to the same bits.

    Args:
        num_steps: N.
        spans: the pairs (i, j), 0 <= i, i + 2 <= j <= N, sorted and distinct; E of them.
        per_sample: <d_e, d_e'> of each sample, shape (samples, E, E), symmetric positive
            semidefinite; units of x squared.
        objective: what is displaced, and under which forecaster.
        propagation: how deviations were carried from the end of a span to the end of the run.
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

    num_steps: int
    spans: Spans
    per_sample: Array
    objective: str = "latent displacement under reuse"
    propagation: str = "none"
    nfe: int = 0

    def __post_init__(self) -> None:
        _check_spans(self.spans, self.num_steps)
        _check_gram(self.per_sample, len(self.spans))

    def merge(self, other: Displacements) -> Displacements:
        """The displacements of both shards' samples.

        Raises:
            OtcacheError: if the shards differ in anything but their samples.
        """
        for name in ("num_steps", "spans", "objective", "propagation"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise OtcacheError(
                    expected(f"Displacements.{name}", theirs, f"{mine!r}, as the other shard's")
                )
        both = np.concatenate([self.per_sample, other.per_sample])
        nfe = self.nfe + other.nfe
        return Displacements(
            self.num_steps, self.spans, both, self.objective, self.propagation, nfe
        )

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.per_sample)

    @cached_property
    def matrix(self) -> Array:
        """M, shape (E, E)."""
        if self.samples == 1:
            return np.array(self.per_sample[0])
        # math.fsum rounds once, so the order in which shards were merged leaves no trace.
        columns = self.per_sample.reshape(self.samples, -1).T.tolist()
        mean = np.array([math.fsum(column) for column in columns]) / self.samples
        return np.asarray(mean.reshape(self.per_sample[0].shape))

    @cached_property
    def index(self) -> NDArray[np.intp]:
        """Row of M of span (i, j); E for spans of length one, -1 where a span may not be used.

        Shape (N, N + 1).
        """
        n = self.num_steps
        rows = np.full((n, n + 1), -1, dtype=np.intp)
        rows[np.arange(n), np.arange(n) + 1] = len(self.spans)
        if self.spans:
            rows[tuple(np.transpose(self.spans))] = np.arange(len(self.spans))
        return rows

    def weights(self) -> Array:
        """Root mean square of each d(i -> j) as an additive span cost, shape (N, N + 1).

        ``inf`` where a span is left out, 0 at length one.
        """
        size = np.sqrt(np.maximum(np.diagonal(self.matrix), 0.0))
        costs = np.append(size, [0.0, np.inf])[self.index]
        return np.asarray(np.where(np.tri(*costs.shape) > 0, 0.0, costs))

    def error(self, computed: tuple[int, ...]) -> float:
        """f' M f of the schedule with these computed steps; ``inf`` if it uses an absent span."""
        rows = self.index[list(computed), [*computed[1:], self.num_steps]]
        if (rows < 0).any():
            return math.inf
        used = rows[rows < len(self.spans)]
        return max(0.0, float(self.matrix[np.ix_(used, used)].sum()))


def all_spans(num_steps: int, span_cap: int | None = None) -> Spans:
    """Every span of two steps or more, and of at most ``span_cap``; sorted."""
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
        wanted = f"of shape (samples, {size}, {size}), one row a span"
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
