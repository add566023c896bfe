"""Wan 2.2's two transformers: one stream of outputs on one clock, whoever computed them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from video_families import wan

from otcache_core import Schedule
from otcache_diffusers.execution.block_executor import BlockExecutor
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.hooks import sigma_grid, tensors
from otcache_diffusers.testing import Calls, Case, N, Outputs, same_tensors

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
#: Steps of the first transformer; the second one has the rest.
FIRST = 3


@pytest.fixture(scope="module")
def case() -> Case:
    return wan.experts()


def _outputs(case: Case, schedule: Schedule) -> tuple[Outputs, list[int]]:
    outputs, calls = Outputs(case), Calls(case.inner)
    with TorchExecutor().attach(case.pipe, schedule) as run:
        case()
    calls.remove()
    assert run.report.warnings == []
    assert set(run.report.computed) == set(case.branches)
    return outputs, calls.each


def _values(outputs: Outputs, step: int) -> list[torch.Tensor]:
    return [tensors(output)[0] for _, output in outputs.at(step)]


def test_the_second_takes_over(case: Case) -> None:
    assert _outputs(case, Schedule.full(N))[1] == [2 * FIRST, 2 * (N - FIRST)]


@settings(deadline=None, max_examples=20)
@given(st.sets(st.integers(1, N - 1)))
def test_each_computes_its_own_steps_of_the_schedule(later: set[int]) -> None:
    computed = (0, *sorted(later))
    _, calls = _outputs(wan.experts(), Schedule(N, computed))
    assert calls == [2 * sum(k < FIRST for k in computed), 2 * sum(k >= FIRST for k in computed)]


def test_the_first_s_outputs_are_reused_in_the_second_s_steps() -> None:
    outputs, calls = _outputs(wan.experts(), Schedule(N, (0, 1)))
    assert calls == [4, 0]
    for step in range(2, N):
        for (_, made), (_, own) in zip(outputs.at(step), outputs.at(1), strict=True):
            assert same_tensors(made, own)


@pytest.mark.parametrize("computed", [(0, 2), (0, 2, 4), (0, 3)])
def test_a_line_goes_through_outputs_of_both(computed: tuple[int, ...]) -> None:
    """v_t = v_k + (s_t - s_k) / (s_k - s_h) (v_k - v_h), h and k the last two computed steps."""
    case = wan.experts()
    outputs, _ = _outputs(case, Schedule(N, computed, "linear"))
    s: Any = sigma_grid(case.pipe.scheduler)
    for t in range(computed[1] + 1, N):
        if t in computed:
            continue
        h, k = [c for c in computed if c < t][-2:]
        slope = (s[t] - s[k]) / (s[k] - s[h])
        for branch in range(2):
            v_h, v_k, v_t = (_values(outputs, step)[branch] for step in (h, k, t))
            torch.testing.assert_close(v_t, v_k + slope * (v_k - v_h), rtol=1e-4, atol=1e-5)


def test_three_fitted_weights_reach_across_the_boundary() -> None:
    """v_t = v_3 + 0.1 v_3 + 0.3 (v_3 - v_2) - 0.2 (v_3 - v_0); step 3 is the second's, 0 and 2 not."""
    weights = ((0.0,), (0.0,), (0.1, 0.3, -0.2))
    outputs, calls = _outputs(wan.experts(), Schedule(N, (0, 2, 3), "fitted", weights=weights))
    assert calls == [4, 2]
    for branch in range(2):
        v_0, v_2, v_3, v_5 = (_values(outputs, step)[branch] for step in (0, 2, 3, 5))
        wanted = v_3 + 0.1 * v_3 + 0.3 * (v_3 - v_2) - 0.2 * (v_3 - v_0)
        torch.testing.assert_close(v_5, wanted, rtol=1e-4, atol=1e-5)


def test_work_inside_each_stays_its_own() -> None:
    """Blocks of the second add what its own blocks added: it computes its first step though skipped."""
    case = wan.experts()
    plain = case()
    with BlockExecutor().attach(case.pipe, Schedule.full(N)):
        assert torch.equal(case(), plain)
    with BlockExecutor().attach(case.pipe, Schedule(N, (0, 1))) as run:
        assert case().isfinite().all()
    assert run.report.computed == {
        "cond": 2,
        "uncond": 2,
        "transformer_2 cond": N - FIRST,
        "transformer_2 uncond": N - FIRST,
    }
    assert torch.equal(case(), plain)
