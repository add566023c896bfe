"""One closed-loop fit on more samples than a pipeline call holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from otcache_core.schedule import Span
from otcache_diffusers.evaluation.closed_loop import Fit, NormalEquations
from otcache_diffusers.evaluation.replay import ReplayPolicy, Track
from otcache_diffusers.recording.run import Recording


@dataclass(frozen=True, eq=False)
class PooledFit:
    r"""Fits a schedule span by span, every span on the samples of all batches.

    .. math:: \min_c \sum_{batches} \sum_{n \in batch} \| A_n c - b_n \|^2 + \lambda \dots

    The weights of a span are needed before any batch may go on, and a pipeline call cannot wait for
    another. So for every span each batch is run up to its start, what was computed before is
    replayed, and the rest of the call replays the full run: no output is computed twice, but a
    schedule takes as many calls a batch as it has spans that skip, and one more to be run.

    Args:
        fit: how to fit.
        recording: the full runs.
        run: makes one pipeline call on the samples with these indices, driven by the policy.
        count: called with the rows of each denoiser evaluation.
    """

    fit: Fit
    recording: Recording
    run: Callable[[ReplayPolicy, Sequence[int]], None]
    count: Callable[[int], None]

    def __call__(self, tracks: Sequence[Track], batches: Sequence[Sequence[int]]) -> None:
        """Fit the schedule that all tracks have.

        Args:
            tracks: one a batch, with what is known of its samples; the weights, and what is
                computed on the way, are added to them.
            batches: indices of the samples.
        """
        for span in tracks[0].schedule.spans():
            if span.skipped:
                self._fit_span(span, tracks, batches)

    def _fit_span(
        self, span: Span, tracks: Sequence[Track], batches: Sequence[Sequence[int]]
    ) -> None:
        k, total = span.start, sum(map(len, batches))
        found = self.fit.nothing(total)
        if not self.fit.recurrence.landing(k, span.stop).singular:
            asked = [self._ask(k, *pair) for pair in zip(tracks, batches, strict=True)]
            together = [NormalEquations.joined(parts) for parts in zip(*asked, strict=True)]
            found = self.fit.weights(together, [n for batch in batches for n in batch])
        at = 0
        for track, batch in zip(tracks, batches, strict=True):
            rows = slice(at, at + len(batch))
            mine = {name: weights.of(rows) for name, weights in found.items()}
            track.install(k, mine, self.fit.forecaster)
            at += len(batch)

    def _ask(self, k: int, track: Track, batch: Sequence[int]) -> list[NormalEquations]:
        """What one batch says about the span that starts at k."""
        live = [step for step in track.live if step <= k]
        policy = ReplayPolicy([track], batch, self.recording, self.fit, self.count, until=k)
        self.run(policy, batch)
        track.given |= {step: policy.computed(0, step) for step in live}
        return policy.equations
