"""How a step of a sampler combines the outputs of its denoiser calls, identified from runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otcache_core.identification import StepFit, ThinRun, identify, largest_order, refusal
from otcache_core.recurrence import NotLinear
from otcache_core.slabs import slabs
from otcache_core.trajectory import Trajectory

Floats = NDArray[np.float64]
#: Share of the largest gain below which the sum of the gains says nothing of their scale.
_CANCELLED = 1e-3


@dataclass(frozen=True, eq=False)
class CallRun:
    """One sample's run of a sampler with P outputs a step.

    Attributes:
        states: x_0 .. x_N, flattened; shape (N + 1, d).
        outputs: o_1, .., o_P, what each call of a step returned; each of shape (N, d).
        rounding: relative rounding error of the states.
    """

    states: NDArray[np.floating]
    outputs: Sequence[NDArray[np.floating]]
    rounding: float = 6e-8

    def combined(self, gains: Floats) -> NDArray[np.float32]:
        """Return v_i, what the sampler made of the outputs of step i; shape (N, d)."""
        made = np.empty(self.outputs[0].shape, np.float32)
        parts = zip(slabs(made), *map(slabs, self.outputs), strict=True)
        for into, *outputs in parts:
            into[:] = sum(g[:, None] * o for g, o in zip(gains.T, outputs, strict=True))
        return made

    def trajectory(self, gains: Floats, grid: Floats) -> Trajectory:
        """Return the run as if its denoiser had returned v_i."""
        return Trajectory(grid, self.states, self.combined(gains), rounding=self.rounding)


def identify_combination(runs: Sequence[CallRun], grid: Floats) -> Floats | NotLinear:
    r"""Find gamma_{i,p} with which step i combines the outputs of its P denoiser calls.

    .. math:: v_i = \sum_p \gamma_{i,p}\, o_{i,p}, \qquad \sum_p \gamma_{i,p} = 1

    so that the sampler is one of x_i and v_i alone (:func:`~otcache_core.identification.identify`):
    (w, 1 - w) for classifier-free guidance of scale w, (1/2, 1/2) for Heun's method, (0, 1) for the
    midpoint rule, (1/6, 1/3, 1/3, 1/6) for the classical Runge-Kutta method. Once outputs are kept for
    later steps, the states at which the calls of a step were made have no further say.

    The coefficients of o_{i,1} .. o_{i,P} in

    .. math:: x_{i+1} = \sum_q a_{i,q} x_{i-q} + \sum_{q,p} \beta_{i,q,p}\, o_{i-q,p}

    by least squares over all runs, of the smallest order that explains them, divided by their sum. If
    one gamma for all steps explains the runs as well, as guidance of one scale does, it is that one.

    Args:
        runs: full runs, and runs in which each call was given outputs of other steps: in a smooth
            full run the calls of a step are too alike to be told apart.
        grid: s_0 .. s_N, only to find the Euler rule by.

    Returns:
        gamma, shape (N, P); or why there is none.
    """
    num_calls, num_steps = len(runs[0].outputs), len(runs[0].states) - 1
    if num_calls == 1:
        return np.ones((num_steps, 1))
    thin = [ThinRun.thinned(run.states, run.outputs, run.rounding) for run in runs]
    # The last step may add a constant to what it returns.
    steps = [StepFit(thin, i, affine=i == num_steps - 1) for i in range(num_steps)]
    beta = _coefficients(steps, num_calls)
    if isinstance(beta, NotLinear):
        return beta
    gains = np.stack([_normalised(row) for row in beta])
    weights = np.square(beta).sum(1)
    pooled = np.tile(weights @ gains / weights.sum(), (num_steps, 1))
    one = identify([run.trajectory(pooled, grid) for run in runs])
    if not isinstance(one, NotLinear):
        return pooled
    own = identify([run.trajectory(gains, grid) for run in runs])
    return own if isinstance(own, NotLinear) else gains


def _coefficients(steps: Sequence[StepFit], num_calls: int) -> Floats | NotLinear:
    """beta_{i,0,p} of the smallest order that explains every step but the first; shape (N, P)."""
    largest = largest_order(steps, 1 + num_calls)
    if largest < 0:
        return NotLinear(
            f"{steps[0].numbers} numbers a step are too few to tell how it combines {num_calls} calls",
            np.inf,
        )
    for order in range(largest + 1):
        if all(step.explained(order, largest) for step in steps[1:] or steps):
            fits = [step.fit(order).coefficients for step in steps]
            return np.array([c[1 : 1 + num_calls] for c in fits])
    return refusal(steps, largest)


def _normalised(beta: Floats) -> Floats:
    """Divide by the sum, or by the largest of what cancels."""
    total, largest = float(beta.sum()), float(np.abs(beta).max())
    if not largest:
        return np.full(len(beta), 1 / len(beta))
    return beta / (total if abs(total) > _CANCELLED * largest else largest)
