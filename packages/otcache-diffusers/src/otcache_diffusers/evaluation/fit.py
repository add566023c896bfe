"""The closed-loop fit of forecast weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otcache_core.contracts import Forecaster
from otcache_core.forecasters.strength import linear_weights
from otcache_core.recurrence import Recurrence, SpanEnd
from otcache_core.schedule import Span

SHARED = ""  # the weights of branches that have none of their own
ALIKE = 1e-9  # relative difference of sums of squares that is rounding
EPS = float(np.finfo(float).eps)  # added to ridges, as outputs may be alike
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SpanWeights:
    """Fitted weights of one span and branch.

    Attributes:
        pooled: c_0 .. c_{m-1} from all samples.
        others: for each sample the weights from all samples but itself (``pooled`` where it is the
            only one, or without cross-validation).
    """

    pooled: tuple[float, ...]
    others: tuple[tuple[float, ...], ...]

    def used_by(self, sample: int | None) -> tuple[float, ...]:
        """Return the weights that a sample runs with; None: ``pooled``."""
        return self.pooled if sample is None else self.others[sample]

    def of(self, samples: slice) -> SpanWeights:
        """Return those of some of the samples; ``pooled`` stays that of all."""
        return SpanWeights(self.pooled, self.others[samples])


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """The least squares of one span, kept per sample, so that batches can be joined.

    Attributes:
        normal: A_n' A_n of each sample; shape (samples, weights, weights).
        toward: A_n' times the prior's residual; shape (samples, weights).
        prior: the weights that the ridge pulls to, shape (weights,).
        sizes: number of weights of each branch, in their order above.
    """

    normal: NDArray[np.float64]
    toward: NDArray[np.float64]
    prior: NDArray[np.float64]
    sizes: Mapping[str, int]

    @classmethod
    def joined(cls, parts: Sequence[NormalEquations]) -> NormalEquations:
        """Return those of all samples of several batches, of the same span."""
        normal, toward = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("normal", "toward")
        )
        return cls(normal, toward, parts[0].prior, parts[0].sizes)


@dataclass(frozen=True)
class ClosedLoopFit:
    r"""Least squares for the weights of one span, from the state of the accelerated run.

    Under a deterministic linear sampler a span (k -> j) whose skipped steps return u_c ends in
    x_j = X + R u_c, X and R known at step k (:class:`~otcache_core.recurrence.SpanEnd`); under the
    Euler rule X = x_{k+1} and R = s_j - s_{k+1}. Solve

    .. math:: \min_c \sum_{samples} \| v_k + c_0 v_k + \sum_{r=1}^{m-1} c_r (v_k - v_{k_r})
        - u^* \|^2 + \lambda \sum_r D_r (c_r - \bar c_r)^2, \qquad
        u^* = \frac{x_j^{full} - X}{R}

    where D is the diagonal of the normal matrix and the prior is two-step extrapolation
    (Adams-Bashforth): :math:`\bar c_1` its coefficient, all others 0. Where v = sum_b gamma_b o_b
    is linear in the outputs o_b of several guidance branches, each branch has weights of its own:
    the sum over r becomes one over branches and r, of gamma_b times the branch's outputs.

    With two samples or more every sample also gets the weights fitted on the *other* samples. Run with
    those, its error is out of sample: leave-one-out cross-validation inside the run, for no further
    evaluation. Samples of one seed begin with the same noise and are omitted together. With two or three
    samples these weights come from fewer samples than the pooled ones, so the error is conservative; the
    error of a fit that has seen its sample would be optimistic by an unknown factor.

    How far weights may be trusted away from the prior depends on how many samples there are and how alike
    they are, so lambda is chosen for each span: the one with the least sum of squares when every
    sample has the weights of the others. What a sample gets from the others is the fit of those alone,
    their choice of lambda included; only one other sample leaves no choice, and has that of all. A
    large lambda is two-step extrapolation, which is what few unlike samples should end in.

    Args:
        memory: m, the number of computed outputs combined; 1 to 3.
        ridges: of lambda, relative to the diagonal, those to choose from; the middle one on a
            single sample.
        cross_validate: run each sample with the weights of the others; False runs all with the pooled.

    References:
        This project's reconstruction; measured in docs/evidence.md. Choice of a ridge by cross-validation:
        Golub, Heath and Wahba, Technometrics 21(2), 1979.
    """

    memory: int = 3
    ridges: tuple[float, ...] = (1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0, 100.0)
    cross_validate: bool = True

    def equations(
        self,
        span: Span,
        grid: NDArray[np.float64],
        terms: Mapping[str, Sequence[Tensor]],
        ideal: Tensor,
    ) -> NormalEquations:
        """Return the equations of one batch of samples for the weights of one span.

        Args:
            span: (k -> j), with at least one skipped step.
            grid: s_0 .. s_N.
            terms: by branch gamma_b o_b at k, k_1, ..., whose sum over branches is v_k, v_{k_1}, ...
                as the sampler saw them; each of shape (samples, ...). One entry fits v itself.
            ideal: u*, the output that would end the span on the full run's x_j, as
                :func:`ideal_output` gives it; same shape.
        """
        groups = {name: _basis(outputs[: self.memory]) for name, outputs in terms.items()}
        basis = torch.cat(list(groups.values()), dim=1)  # (samples, weights, elements)
        newest = sum(group[:, 0] for group in groups.values())
        target = _host(ideal) - newest
        slope = linear_weights(span, grid, 2)[1:2]
        prior = np.concatenate([[0.0, *slope, 0.0, 0.0][: g.shape[1]] for g in groups.values()])
        normal = (basis @ basis.mT).numpy()
        toward = (basis @ target[:, :, None])[:, :, 0].numpy() - normal @ prior
        sizes = {name: group.shape[1] for name, group in groups.items()}
        return NormalEquations(normal, toward, prior, sizes)

    def weights(
        self, equations: NormalEquations, seeds: Sequence[int] = ()
    ) -> dict[str, SpanWeights]:
        """Solve for the weights of each branch, pooled and per sample.

        Args:
            equations: of all samples.
            seeds: of each sample; samples of one seed are not "others", unless all have one seed.
        """
        normal, toward, prior = equations.normal, equations.toward, equations.prior
        if not (np.isfinite(normal).all() and np.isfinite(toward).all()):  # the run has exploded
            normal, toward, prior = map(np.zeros_like, (normal, toward, prior))
        origins = np.array(seeds or range(len(normal)))
        ridge = self._ridge(normal, toward, origins)
        pooled = prior + _solved(normal.sum(0), toward.sum(0), ridge)
        alone = np.tile(pooled, (len(normal), 1))
        if self.cross_validate and len(normal) > 1:
            for n, others in enumerate(_others(origins) > 0):
                a, b = normal[others], toward[others]
                own = self._ridge(a, b, origins[others]) if len(a) > 1 else ridge
                alone[n] = prior + _solved(a.sum(0), b.sum(0), own)
        ends = np.cumsum(list(equations.sizes.values()))[:-1]
        names, rows = equations.sizes, np.split(alone, ends, axis=1)
        parts = zip(names, np.split(pooled, ends), rows, strict=True)
        return {
            name: SpanWeights(_plain(c), tuple(map(_plain, others))) for name, c, others in parts
        }

    def _ridge(self, normal: Floats, toward: Floats, origins: NDArray[np.int_]) -> float:
        """Return the lambda with which samples lose least by the weights of their others."""
        ridges = sorted(self.ridges, reverse=True)
        if len(normal) == 1 or len(ridges) == 1:
            return ridges[len(ridges) // 2]
        others = _others(origins)
        systems = np.tensordot(others, normal, 1), others @ toward
        found = np.stack([_solved(*systems, ridge) for ridge in ridges])
        moved = (normal @ found[..., None])[..., 0]
        losses = np.nan_to_num(((moved - 2 * toward) * found).sum((1, 2)), nan=np.inf)
        return ridges[int(np.flatnonzero(losses <= losses.min() + ALIKE * abs(losses.min()))[0])]


def _solved(normal: Floats, toward: Floats, ridge: float) -> Floats:
    """Return c of (A + lambda diag A) c = b for one or several systems; 0 where the diagonal is."""
    diagonal = np.diagonal(normal, axis1=-2, axis2=-1)
    scale = np.where(diagonal > 0, 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0)), 0.0)
    damped = scale[..., :, None] * normal * scale[..., None, :]
    damped = damped + (ridge + EPS) * np.eye(normal.shape[-1])
    return np.asarray(scale * np.linalg.solve(damped, (scale * toward)[..., None])[..., 0])


@dataclass
class Fit:
    """A closed-loop fit while the run goes on.

    Args:
        rule: fits one span.
        forecaster: uses the weights.
        recurrence: the sampler's, through which a span's end is known from its start.
        guidance_weights: gamma of each branch at each step, to give every branch its own forecast
            weights; empty if they share them.
        seeds: of all samples.
    """

    rule: ClosedLoopFit
    forecaster: Forecaster
    recurrence: Recurrence
    guidance_weights: dict[str, tuple[float, ...]] = field(default_factory=dict)
    seeds: Sequence[int] = ()

    def nothing(self, samples: int) -> dict[str, SpanWeights]:
        """Return the weights of a span whose end its skipped outputs do not move: reuse."""
        weights = SpanWeights((0.0,), ((0.0,),) * samples)
        return dict.fromkeys((SHARED, *self.guidance_weights), weights)

    def guidance_weight(self, branch: str, span: Span, span_end: SpanEnd) -> float:
        r"""Return gamma of a branch over a span, in which it may change.

        .. math:: \sum_t r_t \gamma_{b,t}

        with r_t the share of skipped step t in the end of the span.
        """
        pairs = zip(span_end.shares, span.skipped, strict=True)
        return float(sum(share * self.guidance_weights[branch][t] for share, t in pairs))

    @cached_property
    def varies(self) -> bool:
        """Whether the guidance weights change from step to step."""
        return any(np.ptp(weights) > 0 for weights in self.guidance_weights.values())

    def weights(
        self, equations: Sequence[NormalEquations], samples: Sequence[int]
    ) -> dict[str, SpanWeights]:
        """Return the weights of a span: the shared ones, and those of each branch with its own."""
        fitted: dict[str, SpanWeights] = {}
        for one in equations:
            fitted |= self.rule.weights(one, [self.seeds[n] for n in samples] if self.seeds else ())
        return fitted


def _others(origins: NDArray[np.int_]) -> Floats:
    """Return which samples are others to each, 1 or 0, shape (samples, samples).

    Samples of one origin are not others, unless all have one.
    """
    if len(set(origins.tolist())) == 1:
        origins = np.arange(len(origins))
    return np.asarray(origins[:, None] != origins[None, :], dtype=np.float64)


def ideal_output(
    span_end: SpanEnd, states: Sequence[Tensor], outputs: Sequence[Tensor], wanted: Tensor
) -> Tensor:
    r"""Return u*, the one output of all skipped steps that ends a span in a wanted state.

    .. math:: u^* = \frac{1}{R} \Big( x_j^{full} - C - \sum_q A_q x_{k+1-q} - \sum_q B_q v_{k-q} \Big)

    Args:
        span_end: A, B, C and R, not singular.
        states: x_{k+1}, x_k, ... of the accelerated run, at least as many as A; shape (samples, ...).
        outputs: v_k, v_{k-1}, ... as its sampler saw them, at least as many as B; same shape.
        wanted: x_j of the full run, same shape.

    Returns:
        float64 on the host, shape (samples, elements).
    """
    base = span_end.states[0] * _host(states[0])
    for a, x in zip(span_end.states[1:], states[1:], strict=False):
        base += a * _host(x)
    for b, v in zip(span_end.outputs, outputs, strict=False):
        base += b * _host(v)
    return (_host(wanted) - span_end.offset - base) / span_end.reach


def ideal_difference(
    span_end: SpanEnd,
    states: Sequence[Tensor],
    outputs: Sequence[Tensor],
    skipped: Sequence[Tensor],
) -> Tensor:
    r"""Return u*, as :func:`ideal_output` does, from differences to the full run of the same seed.

    .. math:: u^* = \sum_t r_t v_t^{full}
        - \frac{1}{R} \Big( \sum_q A_q \Delta x_{k+1-q} + \sum_q B_q \Delta v_{k-q} \Big)

    Args:
        span_end: A, B, R and the shares r, not singular.
        states: Delta x_{k+1}, Delta x_k, ...: the accelerated run's minus the full run's.
        outputs: Delta v_k, Delta v_{k-1}, ...
        skipped: v_t of the full run at the skipped steps.
    """
    ideal = torch.zeros_like(_host(states[0]))
    for share, v in zip(span_end.shares, skipped, strict=True):
        ideal += share * _host(v)
    for a, x in zip(span_end.states, states, strict=False):
        ideal -= a / span_end.reach * _host(x)
    for b, v in zip(span_end.outputs, outputs, strict=False):
        ideal -= b / span_end.reach * _host(v)
    return ideal


def _basis(outputs: Sequence[Tensor]) -> Tensor:
    """Return v_k, v_k - v_{k_1}, ...; shape (samples, outputs, elements)."""
    newest, *older = [_host(v) for v in outputs]
    return torch.stack([newest, *(newest - v for v in older)], dim=1)


def _host(x: Tensor) -> Tensor:
    return x.detach().cpu().double().flatten(1)


def _plain(c: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in c)
