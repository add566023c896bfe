"""The closed-loop fit against problems with known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from otcache_core.recurrence import Recurrence
from otcache_core.schedule import Span
from otcache_diffusers.evaluation.fit import ClosedLoopFit, SpanWeights, ideal_output

GRID = np.array([1.0, 0.9, 0.75, 0.5, 0.2, 0.0])
SPAN = Span(2, 5, (1, 0))


def _ideal(span: Span, state: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    span_end = Recurrence.euler(GRID).span_end(span.start, span.stop)
    return ideal_output(span_end, [state], [], wanted)


def _outputs(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 4, 5, generator=generator, dtype=torch.float64) for _ in range(3)]


def _solve(
    fit: ClosedLoopFit, span: Span, outputs: list[torch.Tensor], ideal: torch.Tensor
) -> SpanWeights:
    return fit.weights(fit.equations(span, GRID, {"": outputs}, ideal))[""]


def _wanted(
    outputs: list[torch.Tensor], weights: tuple[float, ...], state: torch.Tensor
) -> torch.Tensor:
    v, *older = outputs
    c0, *rest = weights
    forecast = (1 + c0) * v + sum(
        (c * (v - u) for c, u in zip(rest, older, strict=False)), torch.zeros_like(v)
    )
    return state + (GRID[5] - GRID[3]) * forecast


@pytest.mark.parametrize("weights", [(0.3,), (-0.1, 0.8), (0.2, 1.5, -0.4)])
def test_recovers_the_weights_that_made_the_target(weights: tuple[float, ...]) -> None:
    outputs = _outputs(1)
    state = torch.ones(3, 4, 5, dtype=torch.float64)
    wanted = _wanted(outputs, weights, state)
    fit = ClosedLoopFit(memory=len(weights), ridges=(0.0,))
    found = _solve(fit, SPAN, outputs, _ideal(SPAN, state, wanted))
    np.testing.assert_allclose(found.pooled, weights, atol=1e-9)
    np.testing.assert_allclose(found.others, [weights] * 3, atol=1e-9)


def test_a_strong_ridge_gives_two_step_extrapolation() -> None:
    # Adams-Bashforth on this span: mean over skipped steps 3, 4 of (s_t - s_2) / (s_2 - s_1),
    # weighted by step sizes .3 and .2 over .5: ((-.25)(.3) + (-.55)(.2)) / .5 / (-.15) = 2.4666...
    outputs, state = _outputs(2), torch.zeros(3, 4, 5, dtype=torch.float64)
    ideal = _ideal(SPAN, state, torch.randn(3, 4, 5))
    found = _solve(ClosedLoopFit(memory=3, ridges=(1e12,)), SPAN, outputs, ideal)
    np.testing.assert_allclose(found.pooled, (0.0, 0.185 / 0.075, 0.0), atol=1e-6)


def test_identical_outputs_do_not_break_the_solve() -> None:
    v = torch.ones(2, 3, dtype=torch.float64)
    ideal = _ideal(SPAN, torch.zeros(2, 3), torch.ones(2, 3))
    found = _solve(ClosedLoopFit(ridges=(1e-3,)), SPAN, [v, v, v], ideal)
    assert np.isfinite(found.pooled).all()


def test_uses_no_more_outputs_than_there_are() -> None:
    outputs = _outputs(3)[:1]
    state = torch.zeros(3, 4, 5, dtype=torch.float64)
    ideal = _ideal(Span(0, 3), state, state + 1)
    assert len(_solve(ClosedLoopFit(memory=3), Span(0, 3), outputs, ideal).pooled) == 1


@pytest.mark.parametrize("seeds", [(0, 1, 0), (5, 6, 7), (4, 4, 4)])
def test_samples_of_one_seed_are_omitted_together(seeds: tuple[int, ...]) -> None:
    outputs, state = _outputs(3), torch.zeros(3, 4, 5, dtype=torch.float64)
    ideal = _ideal(SPAN, state, torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(4)))
    fit = ClosedLoopFit(ridges=(1e-3, 0.1, 10.0))
    equations = fit.equations(SPAN, GRID, {"": outputs}, ideal)
    found = fit.weights(equations, seeds)[""]
    single = [ClosedLoopFit(ridges=(ridge,)) for ridge in fit.ridges]
    of_all = next(f for f in single if np.allclose(f.weights(equations)[""].pooled, found.pooled))
    alike = len(set(seeds)) == 1  # all samples are then others to one another
    for n, own in enumerate(found.others):
        kept = [m for m in range(3) if m != n and (alike or seeds[m] != seeds[n])]
        alone = fit.equations(SPAN, GRID, {"": [v[kept] for v in outputs]}, ideal[kept])
        rule = fit if len(kept) > 1 else of_all  # one sample cannot choose
        again = rule.weights(alone, [seeds[m] for m in kept])[""]
        np.testing.assert_allclose(own, again.pooled, rtol=1e-9)


def _noisy(samples: int, noise: float, seed: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Make outputs, and a target of weights (0.3, 0.5, 0.1) that no fit can see through the noise."""
    random = torch.Generator().manual_seed(seed)

    def drawn() -> torch.Tensor:
        return torch.randn(samples, 12, generator=random, dtype=torch.float64)

    outputs = [drawn() for _ in range(3)]
    v, *older = outputs
    forecast = 1.3 * v + 0.5 * (v - older[0]) + 0.1 * (v - older[1])
    return outputs, forecast + noise * drawn()


@pytest.mark.parametrize("samples", [2, 3, 8])
@pytest.mark.parametrize("noise", [0.0, 0.3, 10.0])
def test_the_ridge_is_the_one_that_serves_samples_left_out(samples: int, noise: float) -> None:
    """Chosen from the normal equations alone; here checked on the samples themselves."""
    outputs, ideal = _noisy(samples, noise, 5)
    ridges = (1e-4, 1e-2, 1.0)

    def found(*choice: float) -> SpanWeights:
        return _solve(ClosedLoopFit(ridges=choice), SPAN, outputs, ideal)

    def left_out(weights: SpanWeights) -> float:
        v, *older = outputs
        c = torch.tensor(weights.others, dtype=torch.float64)
        made = (1 + c[:, :1]) * v + sum(c[:, r + 1, None] * (v - u) for r, u in enumerate(older))
        return float((made - ideal).square().sum())

    alone = [found(ridge) for ridge in ridges]
    best = min(alone, key=left_out)
    np.testing.assert_allclose(found(*ridges).pooled, best.pooled)
    if noise == 0.0:
        assert best is alone[0]


def test_a_single_sample_has_the_middle_ridge() -> None:
    outputs, ideal = _noisy(1, 0.1, 0)
    for ridges in ((0.1,), (1e-3, 0.1, 10.0)):
        found = _solve(ClosedLoopFit(ridges=ridges), SPAN, outputs, ideal)
        assert found.others == (found.pooled,)
        assert found == _solve(ClosedLoopFit(ridges=(0.1,)), SPAN, outputs, ideal)
