"""The cost of a span for each lookback of a mean-velocity forecast."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError, Schedule
from otcache_core.errors import expected


@dataclass(frozen=True, eq=False)
class LookbackCosts:
    r"""E_h(i -> j) of every span and candidate h, kept per sample.

    .. math:: C(i \to j) = \min_h E_h(i \to j), \qquad h^*(i \to j) = \arg\min_h E_h(i \to j)

    with E_h the mean over samples, and the smallest of equally good h. Shards may be measured on
    different machines and merged in any order to the same bits.

    Args:
        candidates: the lookbacks h, increasing whole numbers, 1 or more; H of them.
        per_sample: E_h of each sample, shape (samples, H, N, N + 1), >= 0; 0 where j < i + 2.
            Units of v.

    Raises:
        OtcacheError: if the candidates or the shape are wrong, or a value is negative or not
            finite.

    Examples:
        >>> E = np.zeros((1, 2, 2, 3))
        >>> E[0, :, 0, 2] = 3.0, 1.0
        >>> shard = LookbackCosts((1, 2), E)
        >>> merged = shard.merge(LookbackCosts((1, 2), 3 * E))
        >>> float(merged.costs[0, 2]), int(merged.lookbacks[0, 2])
        (2.0, 2)
    """

    candidates: tuple[int, ...]
    per_sample: NDArray[np.float64]

    def __post_init__(self) -> None:
        check_candidates(self.candidates)
        shape = self.per_sample.shape
        right = len(shape) == 4 and shape[0] >= 1 and shape[3] == shape[2] + 1 > 1
        if not right or shape[1] != len(self.candidates):
            wanted = f"of shape (samples, {len(self.candidates)}, N, N + 1)"
            raise OtcacheError(expected("LookbackCosts.per_sample", shape, wanted))
        if not (np.isfinite(self.per_sample).all() and (self.per_sample >= 0).all()):
            raise OtcacheError(
                "LookbackCosts.per_sample must be finite and >= 0, got another value: "
                "record the runs again."
            )

    def merge(self, other: LookbackCosts) -> LookbackCosts:
        """The costs of both shards' samples.

        Raises:
            OtcacheError: if N or the candidates differ.
        """
        for name in ("num_steps", "candidates"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise OtcacheError(
                    expected(f"LookbackCosts.{name}", theirs, f"{mine!r}, as the other shard's")
                )
        return LookbackCosts(self.candidates, np.concatenate([self.per_sample, other.per_sample]))

    @property
    def num_steps(self) -> int:
        """N."""
        return int(self.per_sample.shape[2])

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.per_sample)

    @cached_property
    def table(self) -> NDArray[np.float64]:
        """E_h, the mean over samples; shape (H, N, N + 1)."""
        # math.fsum rounds once, so the order in which shards were merged leaves no trace.
        columns = self.per_sample.reshape(self.samples, -1).T.tolist()
        mean = np.array([math.fsum(column) for column in columns]) / self.samples
        return np.asarray(mean.reshape(self.per_sample.shape[1:]))

    @property
    def costs(self) -> NDArray[np.float64]:
        """C, shape (N, N + 1)."""
        return np.asarray(self.table.min(axis=0))

    @property
    def lookbacks(self) -> NDArray[np.intp]:
        """h* of each span, shape (N, N + 1); the smallest candidate where nothing is skipped."""
        return np.asarray(np.array(self.candidates, dtype=np.intp)[self.table.argmin(axis=0)])

    def applied(self, schedule: Schedule, forecaster: str = "mean-velocity") -> Schedule:
        """The same steps, forecast by mean velocities with the best lookback of each span.

        The weights of span m become (h*_m, h*_{m-1}, ..., h*_1), as
        :class:`~otcache_core.forecasters.MeanVelocity` reads them; they count for all branches that
        follow the schedule's own steps.

        Args:
            schedule: computed steps; its forecaster and weights are replaced.
            forecaster: ``mean-velocity`` or ``mean-velocity-paper``.

        Raises:
            OtcacheError: if N differs.
        """
        if schedule.num_steps != self.num_steps:
            wanted = f"{self.num_steps} as the costs'"
            raise OtcacheError(expected("schedule.num_steps", schedule.num_steps, wanted))
        found = [float(self.lookbacks[span.start, span.stop]) for span in schedule.spans()]
        rows = tuple(tuple(reversed(found[: m + 1])) for m in range(len(found)))
        return msgspec.structs.replace(
            schedule, forecaster=forecaster, weights=rows, branch_weights=()
        )


def check_candidates(candidates: tuple[int, ...]) -> None:
    """Raise OtcacheError unless they are increasing whole numbers, 1 or more, at least one."""
    whole = all(isinstance(h, int) and not isinstance(h, bool) and h >= 1 for h in candidates)
    if not candidates or not whole or list(candidates) != sorted(set(candidates)):
        wanted = "increasing whole numbers, 1 or more"
        raise OtcacheError(expected("lookbacks", candidates, wanted, "1 means plain reuse."))
