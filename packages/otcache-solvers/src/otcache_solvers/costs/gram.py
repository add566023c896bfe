"""The Gram matrix of a pipeline's outputs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError, Trajectory
from otcache_core.errors import expected
from otcache_core.storage.recordings import inner_products


@dataclass(frozen=True, eq=False)
class Gram:
    r"""Inner products of the recorded outputs, kept per sample.

    .. math:: H_{ab} = E \langle v_a, v_b \rangle

    the mean over elements, then samples: kilobytes, whatever the model's size. Shards may be made
    on different machines and merged in any order: the mean is a correctly rounded sum, so the same
    samples give the same bits.

    Args:
        per_sample: one N x N matrix a sample, shape (samples, N, N); units of v squared.

    Raises:
        OtcacheError: if the shape is wrong or a value is not finite.

    Examples:
        >>> shard = Gram(np.ones((1, 2, 2)))
        >>> shard.merge(Gram(np.zeros((3, 2, 2)))).matrix.tolist()
        [[0.25, 0.25], [0.25, 0.25]]
    """

    per_sample: NDArray[np.float64]

    def __post_init__(self) -> None:
        shape = self.per_sample.shape
        if len(shape) != 3 or shape[0] < 1 or shape[1] != shape[2]:
            raise OtcacheError(expected("Gram.per_sample", shape, "of shape (samples, N, N)"))
        if not np.isfinite(self.per_sample).all():
            raise OtcacheError("Gram.per_sample holds NaN or infinity: record the runs again.")

    @classmethod
    def of(cls, trajectories: Iterable[Trajectory]) -> Gram:
        """Read the Gram off recorded runs, one at a time.

        Raises:
            OtcacheError: if there is none, or they differ in N.
        """
        matrices = [inner_products(t.outputs) for t in trajectories]
        if not matrices:
            raise OtcacheError("a Gram needs a recorded run, got none: record one first.")
        sizes = sorted({len(m) for m in matrices})
        if len(sizes) > 1:
            raise OtcacheError(expected("num_steps", sizes, "one and the same for all runs"))
        return cls(np.stack(matrices))

    def merge(self, other: Gram) -> Gram:
        """The Gram of both shards' samples.

        Raises:
            OtcacheError: if N differs.
        """
        if self.num_steps != other.num_steps:
            raise OtcacheError(expected("num_steps", other.num_steps, str(self.num_steps)))
        return Gram(np.concatenate([self.per_sample, other.per_sample]))

    @property
    def num_steps(self) -> int:
        """N."""
        return len(self.per_sample[0])

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return len(self.per_sample)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """H, shape (N, N)."""
        # math.fsum rounds once, so the order in which shards were merged leaves no trace.
        columns = self.per_sample.reshape(self.num_samples, -1).T
        total = np.array([math.fsum(column) for column in columns.tolist()])
        return np.asarray(total / self.num_samples).reshape(self.num_steps, self.num_steps)
