"""Identify from recorded runs how a sampler combines the outputs of several denoiser calls in a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from otcache_core.identification import (
    EULER_LIMIT,
    StepFit,
    ThinRun,
    largest_order,
    refusal,
    smallest,
)
from otcache_core.recurrence import NotLinear, Recurrence
from otcache_core.storage.recordings import slabs

Floats = NDArray[np.float64]
#: A sum of coefficients below this share of the largest one has cancelled: it cannot scale them.
_CANCELLED = 1e-3
_TINY = float(np.finfo(float).tiny)


@dataclass(frozen=True, eq=False)
class CallRun:
    """One sample's run of a sampler that calls the denoiser P times a step.

    Attributes:
        states: x_0 .. x_N, flattened; shape (N + 1, d).
        outputs: o_1 .. o_P: o_p holds what call p of each step returned, shape (N, d).
        rounding: relative rounding error of the states.
    """

    states: NDArray[np.floating]
    outputs: Sequence[NDArray[np.floating]]
    rounding: float = 6e-8

    def combined(self, call_weights: Floats) -> NDArray[np.float32]:
        """Return v_i, the sum of the outputs of step i weighted by ``call_weights``; shape (N, d)."""
        made = np.empty(self.outputs[0].shape, np.float32)
        parts = zip(slabs(made), *map(slabs, self.outputs), strict=True)
        for target, *outputs in parts:
            target[:] = sum(g[:, None] * o for g, o in zip(call_weights.T, outputs, strict=True))
        return made


def identify_combination(
    runs: Sequence[CallRun], shuffled: Sequence[CallRun] = ()
) -> Floats | NotLinear:
    r"""Find the weights gamma_{i,p} by which step i combines the outputs of its P denoiser calls.

    .. math:: v_i = \sum_p \gamma_{i,p}\, o_{i,p}, \qquad \sum_p \gamma_{i,p} = 1

    so that x_{i+1} depends on the outputs only through v_i and earlier v
    (:func:`~otcache_core.identification.identify`): (w, 1 - w) for classifier-free guidance of scale w,
    (1/2, 1/2) for Heun's method, (0, 1) for the midpoint rule, (1/6, 1/3, 1/3, 1/6) for the classical
    Runge-Kutta method. Given the outputs, the states at which the calls within a step were made do not
    matter.

    They are the coefficients of o_{i,1} .. o_{i,P} in

    .. math:: x_{i+1} = \sum_q a_{i,q} x_{i-q} + \sum_{q,p} \beta_{i,q,p}\, o_{i-q,p}

    fitted by least squares over all runs, with the smallest order that explains them, and divided by their
    sum. If the same gamma for all steps explains the runs too, as with a constant guidance scale, that is
    returned. If nothing explains the runs, differences of two runs of a sample are tried, in which the
    noise of their common seed cancels.

    Args:
        runs: full runs.
        shuffled: further runs of the first samples, in which each call returns the output of another step.
            They are needed because in a full run the outputs within a step are nearly equal.

    Returns:
        gamma, shape (N, P), or a :class:`NotLinear` that says why there is none.
    """
    if len(runs[0].outputs) == 1:
        return np.ones((len(runs[0].states) - 1, 1))
    full, others = ([_thin(run) for run in some] for some in (runs, shuffled))
    found = _call_weights([*full, *others], affine=True)
    if isinstance(found, NotLinear) and others:
        pairs = zip(cycle(full[: len(others)]), others, strict=False)
        by_difference = _call_weights([a.difference(b) for a, b in pairs], affine=False)
        return found if isinstance(by_difference, NotLinear) else by_difference
    return found


def _thin(run: CallRun) -> ThinRun:
    return ThinRun.thinned(run.states, run.outputs, run.rounding)


def _call_weights(runs: Sequence[ThinRun], affine: bool) -> Floats | NotLinear:
    """Find gamma from runs or their differences; with ``affine`` the last step may add a constant."""
    last = len(runs[0].states) - 2
    steps = [StepFit(runs, i, affine=affine and i == last) for i in range(last + 1)]
    beta = _coefficients(steps, len(runs[0].outputs))
    if isinstance(beta, NotLinear):
        return beta
    call_weights = np.stack([_normalised(row) for row in beta])
    weights = np.square(beta).sum(1) + _TINY
    pooled = np.tile(weights @ call_weights / weights.sum(), (last + 1, 1))
    found: Recurrence | NotLinear | None = None
    for candidate in (pooled, call_weights):
        made = [run.combined(candidate) for run in runs]
        steps = [StepFit(made, i, affine=affine and i == last) for i in range(last + 1)]
        found = smallest(steps, largest_order(steps, 2), EULER_LIMIT)
        if isinstance(found, Recurrence):
            return candidate
    assert isinstance(found, NotLinear)
    return found


def _coefficients(steps: Sequence[StepFit], num_calls: int) -> Floats | NotLinear:
    """Return beta_{i,0,p} of the smallest order that explains every step but the first; shape (N, P)."""
    largest = largest_order(steps, 1 + num_calls)
    if largest < 0:
        return NotLinear(
            f"{steps[0].numbers} numbers a step are too few to identify how it combines {num_calls} calls",
            np.inf,
        )
    for order in range(largest + 1):
        if all(step.explained(order, largest, EULER_LIMIT) for step in steps[1:] or steps):
            fits = [step.fit(order).coefficients for step in steps]
            return np.array([c[1 : 1 + num_calls] for c in fits])
    return refusal(steps, largest, EULER_LIMIT)


def _normalised(beta: Floats) -> Floats:
    """Divide coefficients by their sum, or by the largest magnitude if they cancel."""
    total, largest = float(beta.sum()), float(np.abs(beta).max())
    if not largest:
        return np.full(len(beta), 1 / len(beta))
    return beta / (total if abs(total) > _CANCELLED * largest else largest)
