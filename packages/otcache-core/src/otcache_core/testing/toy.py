"""A tiny Euler sampler in NumPy, for tests: a nonlinear ODE, with an evaluator and a loop."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.evaluator import (
    Drift,
    Evaluation,
    Evaluator,
    ForwardingEvaluator,
)
from otcache_core.contracts.planning import LOOKED_AT, Forecaster
from otcache_core.errors import OtcacheError, expected
from otcache_core.forecasters import Fitted, Linear, MeanVelocity, Reuse, Taylor, VariableOrder
from otcache_core.forecasters.strength import linear_weights
from otcache_core.loop import Loop
from otcache_core.playback import Arithmetic
from otcache_core.recurrence import Recurrence
from otcache_core.schedule import Schedule, Span
from otcache_core.trajectory import Trajectory

Floats = NDArray[np.float64]
_FORECASTERS: dict[str, Forecaster] = {
    "reuse": Reuse(),
    "linear": Linear(),
    "fitted": Fitted(),
    "taylor": Taylor(),
    "mean-velocity": MeanVelocity(),
    "variable-order": VariableOrder(),
    "variable-order-flow": VariableOrder(flow=True),
}


@dataclass(frozen=True, eq=False)
class ToySampler:
    r"""Integrate dx/ds = v(x, s) from s = 1 down to 0 by Euler's method.

    .. math:: v(x, s) = W x + a \tanh(x + b) + c \sin(4 s), \qquad
        x_{i+1} = x_i + (s_{i+1} - s_i) v(x_i, s_i), \qquad s_i = (1 - i/N)^{p}

    Args:
        num_steps: N.
        num_samples: number of samples, each with its own standard normal x_0.
        dim: d, elements of a state.
        power: p; 1 gives an even grid.
        nonlinearity: a; 0 makes the ODE linear in x.
        seed: for W, b, c and all x_0.
        starts: which initial state each sample takes, by index; 0, 1, ... if empty.
    """

    num_steps: int = 12
    num_samples: int = 3
    dim: int = 6
    power: float = 1.0
    nonlinearity: float = 1.0
    seed: int = 0
    starts: tuple[int, ...] = ()

    @cached_property
    def grid(self) -> Floats:
        """s_0 .. s_N, shape (N + 1,)."""
        return np.asarray(np.linspace(1.0, 0.0, self.num_steps + 1) ** self.power)

    @cached_property
    def start(self) -> Floats:
        """x_0 of every sample, shape (samples, d)."""
        starts = list(self.starts or range(self.num_samples))
        rng = np.random.default_rng([self.seed, 1])
        return rng.standard_normal((max(starts) + 1, self.dim))[starts]

    @cached_property
    def _field(self) -> tuple[Floats, Floats, Floats]:
        rng = np.random.default_rng([self.seed, 0])
        w = rng.standard_normal((self.dim, self.dim)) / self.dim
        return w, rng.standard_normal(self.dim), rng.standard_normal(self.dim)

    def velocity(self, x: Floats, s: float) -> Floats:
        """Return v(x, s) for each sample (row) of x, shape (samples, d)."""
        w, b, c = self._field
        return np.asarray(x @ w.T + self.nonlinearity * np.tanh(x + b) + c * np.sin(4.0 * s))

    def trajectories(self) -> list[Trajectory]:
        """Return the full run of each sample."""
        states, outputs = [self.start], []
        for s, after in zip(self.grid[:-1], self.grid[1:], strict=True):
            outputs.append(self.velocity(states[-1], s))
            states.append(states[-1] + (after - s) * outputs[-1])
        x, v = np.stack(states), np.stack(outputs)
        return [
            Trajectory(self.grid, x[:, n], v[:, n], {"main": self.num_steps}, f"sample {n}")
            for n in range(self.num_samples)
        ]

    def evaluator(self, memory: int = 3) -> ToyEvaluator:
        """Return an evaluator over exactly these samples."""
        return ToyEvaluator(self, memory)


class ToyEvaluator(Evaluator):
    """Run schedules on a :class:`ToySampler`; objectives ``latent-rmse`` and ``latent-l1``.

    Args:
        sampler: what makes the full runs and the accelerated ones.
        memory: m of the closed-loop fit, at least 1.
        ridge: regularization of the fit, relative to the diagonal of its normal matrix.
    """

    def __init__(self, sampler: ToySampler, memory: int = 3, ridge: float = 1e-3) -> None:
        self.sampler, self.memory, self.ridge = sampler, memory, ridge
        self._full: Floats = np.stack(
            [np.asarray(t.states, dtype=np.float64) for t in sampler.trajectories()], axis=1
        )

    @property
    def grid(self) -> Floats:
        """s_0 .. s_N."""
        return self.sampler.grid

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return self.sampler.num_samples

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the root mean square and the mean absolute error of x_N."""
        return ("latent-rmse", "latent-l1")

    @property
    def recurrence(self) -> Recurrence:
        """The recurrence of Euler's method on this grid."""
        return Recurrence.euler(self.grid)

    def evaluate(
        self,
        schedules: Sequence[Schedule],
        *,
        objective: str | None = None,
        samples: Sequence[int] | None = None,
        fit: bool = False,
    ) -> Evaluation:
        """Run every schedule on every sample.

        Raises:
            OtcacheError: if the objective is unknown, or a schedule's N is not the sampler's.
        """
        name = objective or self.objectives[0]
        if name not in self.objectives:
            wanted = f"one of {', '.join(self.objectives)}"
            raise OtcacheError(expected("objective", name, wanted))
        chosen = list(range(self.num_samples) if samples is None else samples)
        ran = [self._run(schedule, chosen, fit) for schedule in schedules]
        e = np.stack([states[-1] - self._full[-1, chosen] for _, states in ran])
        every = {"latent-rmse": np.sqrt((e**2).mean(-1)), "latent-l1": np.abs(e).mean(-1)}
        errors = every.pop(name)
        grams = np.einsum("and,bnd->nab", e, e) / self.sampler.dim
        nfe = len(chosen) * sum(s.budget for s in schedules)
        schedules = tuple(s for s, _ in ran)
        ran_with = tuple((s,) * len(chosen) for s in schedules)
        return Evaluation(schedules, errors, nfe, grams, ran_with, every)

    def replay(self, samples: Sequence[int]) -> Floats:
        """Return each sample's largest relative deviation of states recomputed from recorded outputs."""
        chosen, runs = list(samples), self.sampler.trajectories()
        states = [self.sampler.start[chosen]]
        for i, h in enumerate(np.diff(self.grid)):
            states.append(states[-1] + h * np.stack([runs[n].outputs[i] for n in chosen]))
        full = self._full[:, chosen]
        deviations = np.linalg.norm(np.stack(states) - full, axis=2) / np.linalg.norm(full, axis=2)
        return np.asarray(deviations.max(axis=0))

    def drift(
        self, schedules: Sequence[Schedule], *, samples: Sequence[int] | None = None
    ) -> Drift:
        """Return the root mean square deviation of every state from the full run."""
        chosen = list(range(self.num_samples) if samples is None else samples)
        states = np.stack([self._run(schedule, chosen, False)[1] for schedule in schedules])
        deviation = np.moveaxis(states - self._full[:, chosen], 1, 2)
        nfe = len(chosen) * sum(s.budget for s in schedules)
        return Drift(np.sqrt((deviation**2).mean(-1)), nfe)

    def _run(self, schedule: Schedule, chosen: list[int], fit: bool) -> tuple[Schedule, Floats]:
        """Return the schedule (with fitted weights if ``fit``) and x_0 .. x_N, shape (N + 1, samples, d)."""
        if schedule.num_steps != self.sampler.num_steps:
            wanted = str(self.sampler.num_steps)
            raise OtcacheError(expected("schedule.num_steps", schedule.num_steps, wanted))
        s, x = self.grid, self.sampler.start[chosen]
        states = [x]
        rule = _FORECASTERS["fitted" if fit else schedule.forecaster]
        outputs: list[Floats] = []  # of the computed steps, latest first
        weights = []
        for span in schedule.spans():
            k = span.start
            outputs.insert(0, self.sampler.velocity(x, s[k]))
            x = x + (s[k + 1] - s[k]) * outputs[0]
            states.append(x)
            if fit:
                weights.append(self._weights(span, x, outputs, self._full[span.stop, chosen]))
            stored = weights[-1] if fit else span.weights
            filled = Span(k, span.stop, span.history, stored)
            for t, row in zip(filled.skipped, _rows(rule, filled, s, outputs), strict=True):
                forecast = sum(a * v for a, v in zip(row, outputs, strict=False))
                x = x + (s[t + 1] - s[t]) * forecast
                states.append(x)
        return (schedule.with_weights(weights) if fit else schedule), np.stack(states)

    def _weights(
        self, span: Span, x: Floats, outputs: list[Floats], target: Floats
    ) -> tuple[float, ...]:
        """Fit weights that end the span at ``target``, by ridge least squares around linear extrapolation."""
        prior = np.array(linear_weights(span, self.grid, self.memory))
        prior[2:] = 0.0
        if not span.skipped:
            return (0.0,) * len(prior)
        length = self.grid[span.stop] - self.grid[span.start + 1]
        v, *older = outputs[: len(prior)]
        basis = length * np.stack([v.ravel(), *((v - past).ravel() for past in older)])
        residual = (target - x - length * v).ravel() - prior @ basis
        normal = basis @ basis.T
        damped = normal + np.diag(self.ridge * np.diagonal(normal) + np.finfo(float).tiny)
        return tuple(
            float(c) for c in prior + np.linalg.lstsq(damped, basis @ residual, rcond=None)[0]
        )


def _rows(
    rule: Forecaster, span: Span, grid: Floats, outputs: Sequence[Floats]
) -> Sequence[Sequence[Any]]:
    """Return the coefficients of each skipped step, numbers or one of each sample."""
    orders = rule.orders(span, grid)
    if orders is None:
        return list(map(list, rule.coefficients(span, grid)))
    weights = Arithmetic().order_weights(outputs[:LOOKED_AT], orders.ramps)
    return [orders.coefficients(row, weights) for row in range(len(span.skipped))]


class CountingEvaluator(ForwardingEvaluator):
    """Forward to another evaluator, and add up the NFE it spends.

    Args:
        inner: the evaluator that does the work.
    """

    def __init__(self, inner: Evaluator) -> None:
        self.inner = inner
        self.nfe = 0

    def evaluate(self, schedules: Sequence[Schedule], **options: Any) -> Evaluation:
        """Evaluate, and add the NFE."""
        result = self.inner.evaluate(schedules, **options)
        self.nfe += result.nfe
        return result

    def drift(self, schedules: Sequence[Schedule], **options: Any) -> Drift:
        """Measure the drift, and add its NFE."""
        result = self.inner.drift(schedules, **options)
        self.nfe += result.nfe
        return result


class ToyDenoiser:
    """The velocity of a :class:`~otcache_core.testing.ToySampler` behind a ``forward`` that can be replaced.

    Executors replace the ``forward`` of an ``nn.Module`` in the same way.

    Args:
        sampler: defines the velocity.

    Attributes:
        worked: how often the velocity was computed.
    """

    def __init__(self, sampler: ToySampler) -> None:
        self.sampler = sampler
        self.worked = 0

    def __call__(self, x: Floats, s: float) -> Floats:
        """Call ``forward`` (or its replacement); returns v(x, s), shape (samples, d)."""
        return self.forward(x, s)

    def forward(self, x: Floats, s: float) -> Floats:
        """Compute v(x, s) for each sample (row) of x, shape (samples, d)."""
        self.worked += 1
        return self.sampler.velocity(x, s)


def toy_loop(sampler: ToySampler | None = None) -> Loop:
    """Return a new loop of Euler steps on an even grid.

    Two such loops share no state and give the same samples.

    It is called as ``loop(prompts, seeds, num_steps)``, takes x_0 from the seeds, ignores the prompts and
    returns x_N, shape (samples, d). With ``stop=i`` it raises InterruptedError before step i.

    Args:
        sampler: defines the velocity that its denoiser computes.
    """
    denoiser = ToyDenoiser(sampler or ToySampler())

    def sample(
        prompts: Sequence[str], seeds: Sequence[int], num_steps: int, stop: int | None = None
    ) -> Floats:
        dim = denoiser.sampler.dim
        x = np.stack([np.random.default_rng(seed).standard_normal(dim) for seed in seeds])
        for step, (s, after) in enumerate(itertools.pairwise(even_grid(num_steps))):
            if step == stop:
                raise InterruptedError
            x = x + (after - s) * made.denoiser(x, s)
        return x

    made = Loop(sample, denoiser, lambda num_steps: even_grid(num_steps).tolist())
    return made


def even_grid(num_steps: int) -> Floats:
    """Return s_0 .. s_N from 1 down to 0, shape (N + 1,)."""
    return np.linspace(1.0, 0.0, num_steps + 1)
