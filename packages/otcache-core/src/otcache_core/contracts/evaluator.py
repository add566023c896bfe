"""Contract of an evaluator, by which solvers and fits run the pipeline without seeing a tensor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import OtcacheError
from otcache_core.recurrence import NotLinear, Recurrence
from otcache_core.schedule import Schedule


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a batch of accelerated runs measured.

    Args:
        schedules: the schedules that ran; with ``fit``, they carry the weights fitted on the way.
        errors: error of each schedule on each sample against the full run,
            shape (schedules, samples).
        nfe: denoiser evaluations spent, in samples times computed steps.
        grams: <e_a, e_b> of the final-latent errors of schedules a and b on each sample, mean over
            elements; shape (samples, schedules, schedules). Kept per sample, so that a fit may
            weigh or omit samples without running anything again.
        ran: ran[a][n], schedule a with the weights that sample n ran with, which under cross-validation are
            fitted on the other samples; may be empty.
        others: errors by other objectives that were measured on the way, of the shape of ``errors``; may be
            empty.
    """

    schedules: tuple[Schedule, ...]
    errors: NDArray[np.float64]
    nfe: int
    grams: NDArray[np.float64]
    ran: tuple[tuple[Schedule, ...], ...] = ()
    others: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def gram(self) -> NDArray[np.float64]:
        """E <e_a, e_b>, the mean over samples; shape (schedules, schedules)."""
        return np.asarray(self.grams.mean(axis=0))


@dataclass(frozen=True, eq=False)
class Drift:
    """How far the states of accelerated runs are from the full run's, at every step.

    Args:
        errors: root mean square over elements of x_i(accelerated) - x_i(full), i = 0 .. N,
            shape (schedules, samples, N + 1).
        nfe: denoiser evaluations spent, in samples times computed steps.
    """

    errors: NDArray[np.float64]
    nfe: int


class Evaluator(ABC):
    """Runs schedules on the calibration samples and measures their true error.

    Requirements: the all-compute schedule has error 0 on every sample; the same call gives the same numbers;
    recorded outputs replayed through the target's own sampler give the recorded states; the error of a
    schedule is that of a real accelerated run, with a fit that of a run with the weights each sample
    ran with (:class:`otcache_core.testing.EvaluatorConformance`).
    """

    @property
    @abstractmethod
    def grid(self) -> NDArray[np.float64]:
        """s_0 .. s_N, shape (N + 1,)."""

    @property
    @abstractmethod
    def num_samples(self) -> int:
        """Number of calibration samples."""

    @property
    @abstractmethod
    def objectives(self) -> tuple[str, ...]:
        """Names that ``evaluate`` takes as ``objective``; the first is the default."""

    @abstractmethod
    def evaluate(
        self,
        schedules: Sequence[Schedule],
        *,
        objective: str | None = None,
        samples: Sequence[int] | None = None,
        fit: bool = False,
    ) -> Evaluation:
        """Run every schedule on every sample.

        Args:
            schedules: all with N of the recorded runs.
            objective: a name of ``objectives``: ``latent-rmse``, ``latent-l1`` or a perceptual one.
            samples: indices of the samples to use; all by default.
            fit: fit the forecast weights of each schedule in closed loop while it runs
                (memory as the implementation states), and return them in ``Evaluation.schedules``.
                An implementation may then run each sample with weights fitted on the others, so
                that ``errors`` are cross-validated; it documents that.
        """

    @property
    def recurrence(self) -> Recurrence | NotLinear:
        """Return what is known of the sampler, through which ``fit`` fits; or why it cannot fit."""
        return NotLinear(f"{type(self).__name__} does not say what its sampler does", np.inf)

    @property
    def largest_batch(self) -> int:
        """Return the most rows that one call of the target has in :meth:`evaluate`."""
        return self.num_samples

    def replay(self, samples: Sequence[int]) -> NDArray[np.float64]:
        r"""Run recorded outputs through the target's own sampler, with no denoiser evaluation.

        .. math:: \max_i \| x_i^{replayed} - x_i^{recorded} \| / \| x_i^{recorded} \|

        Args:
            samples: indices of the samples, one per row of one call; an index may come several times.

        Returns:
            The deviation of each row, shape (len(samples),): 0 up to rounding if the target gives a
            sample the same result whatever else is in its batch.

        Raises:
            OtcacheError: if the implementation cannot replay.
        """
        raise OtcacheError(
            f"{type(self).__name__} cannot replay recorded outputs, so nothing shows that it measures "
            "what the probe recorded: implement Evaluator.replay."
        )

    def drift(
        self, schedules: Sequence[Schedule], *, samples: Sequence[int] | None = None
    ) -> Drift:
        """Run every schedule on every sample and compare all states, not only the last.

        Args:
            schedules: all with N of the recorded runs.
            samples: indices of the samples to use; all by default.

        Raises:
            OtcacheError: if the implementation sees results only.
        """
        raise OtcacheError(
            f"{type(self).__name__} compares results only, not the states on the way: "
            "this solver cannot be used with it."
        )


class ForwardingEvaluator(Evaluator):
    """Base of an evaluator around another one, ``inner``, whose facts are its own."""

    inner: Evaluator

    @property
    def grid(self) -> NDArray[np.float64]:
        """Of the inner one."""
        return self.inner.grid

    @property
    def num_samples(self) -> int:
        """Of the inner one."""
        return self.inner.num_samples

    @property
    def objectives(self) -> tuple[str, ...]:
        """Of the inner one."""
        return self.inner.objectives

    @property
    def recurrence(self) -> Recurrence | NotLinear:
        """Of the inner one."""
        return self.inner.recurrence

    @property
    def largest_batch(self) -> int:
        """Of the inner one."""
        return self.inner.largest_batch

    def replay(self, samples: Sequence[int]) -> NDArray[np.float64]:
        """Replay by the inner one."""
        return self.inner.replay(samples)
