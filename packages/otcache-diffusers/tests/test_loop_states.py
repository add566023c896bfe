"""Where the state stands among a denoiser's arguments, and the prediction in its outputs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from otcache_core import ExecutionError
from otcache_core.contracts import SampleRequest
from otcache_core.errors import OtcacheNotice
from otcache_core.identification import identify
from otcache_core.loop import Loop
from otcache_core.recurrence import Recurrence
from otcache_core.schedule import Schedule
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.recording.probe import TorchProbe

N, SAMPLES = 7, 3
GRID = [(1 - i / N) ** 1.5 for i in range(N + 1)]
REQUEST = SampleRequest(("a",) * SAMPLES, tuple(range(SAMPLES)), N, batch_size=6)
WEIGHT = torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).double() / 2
Step = Callable[[Any, Tensor, float], Any]


def field(x: Tensor, s: float) -> Tensor:
    return torch.tanh(x @ WEIGHT * (1 + s)) + np.sin(3 * s)


def noise(seeds: Any, shape: tuple[int, ...] = (6,)) -> Tensor:
    made = [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
    return torch.stack(made).double()


def sampler(denoiser: Any, call: Step, end: Any = lambda x: x, start: Any = noise) -> Loop:
    """Euler steps; ``call`` hands x to the denoiser and reads the velocity."""

    def sample(prompts: Any, seeds: Any, num_steps: int) -> Any:
        x = start(seeds)
        for s, after in pairwise(GRID):
            x = x + (after - s) * call(loop.denoiser, x, s)
        return end(x)

    loop = Loop(sample, denoiser, GRID)
    return loop


def _last(x: Tensor, condition: Tensor) -> Tensor:
    return torch.cat([x, condition], dim=1)


def _variance(v: Tensor) -> Tensor:
    return torch.cat([v, 9 * v], dim=1)


TEMB = torch.ones(SAMPLES, 32).double()
COND = torch.ones(SAMPLES, 6).double()
LOOPS: dict[str, Callable[[], Loop]] = {
    "a condition of the same shape first": lambda: sampler(
        lambda c, x, s: field(x, s), lambda net, x, s: net(torch.ones_like(x), x, s)
    ),
    "a condition beside the state": lambda: sampler(
        lambda xc, s: field(xc[:, :6], s), lambda net, x, s: net(_last(x, torch.ones_like(x)), s)
    ),
    "an embedding before the prediction": lambda: sampler(
        lambda x, s: (x.new_ones(len(x), 32), field(x, s)), lambda net, x, s: net(x, s)[1]
    ),
    "learned variances": lambda: sampler(
        lambda x, s: _variance(field(x, s)), lambda net, x, s: net(x, s)[:, :6]
    ),
    "numpy arguments": lambda: sampler(
        lambda x, s: field(torch.from_numpy(x), s), lambda net, x, s: net(x.numpy(), s)
    ),
    "a numpy result": lambda: sampler(field, lambda net, x, s: net(x, s), end=lambda x: x.numpy()),
    "complex states": lambda: sampler(
        lambda z, s: torch.complex(field(z.real, s), field(z.imag, s)),
        lambda net, z, s: net(z, s),
        start=lambda seeds: torch.view_as_complex(noise(seeds, (6, 2))),
    ),
    "the time first": lambda: sampler(
        lambda t, x: field(x, float(t[0])),
        lambda net, x, s: net(torch.full((len(x),), s).double(), x),
    ),
}


def _errors(loop: Loop, schedule: Schedule) -> Any:
    full = torch.as_tensor(loop(REQUEST.prompts, REQUEST.seeds, N))
    with TorchExecutor().attach(loop, schedule):
        fast = torch.as_tensor(loop(REQUEST.prompts, REQUEST.seeds, N))
    off = torch.view_as_real(fast - full) if full.is_complex() else fast - full
    return off.square().flatten(1).mean(1).sqrt().numpy()


@pytest.mark.parametrize("name", LOOPS)
def test_the_state_and_the_prediction_are_found(name: str) -> None:
    loop = LOOPS[name]()
    trajectories = list(TorchProbe().record(loop, REQUEST))
    recurrence = identify(trajectories)
    assert isinstance(recurrence, Recurrence)
    assert recurrence.grid is not None
    evaluator = TorchProbe().evaluator(loop, REQUEST, trajectories)
    assert evaluator.replay([2, 0]).max() < 1e-5
    schedules = [Schedule(N, (0, 1, 4)), Schedule(N, (0, 2, 3), "linear")]
    for schedule, errors in zip(schedules, evaluator.evaluate(schedules).errors, strict=True):
        np.testing.assert_allclose(errors, _errors(loop, schedule), rtol=1e-4)


@pytest.mark.parametrize("wide", [False, True])
def test_guidance_by_two_calls_with_more_than_predictions(wide: bool) -> None:
    """Learned variances, and features beside the prediction: both calls share their weights."""

    def net(x: Tensor, s: float, shift: float = 0.0) -> Any:
        v = field(x + shift, s)
        return _variance(v) if wide else (v, v.new_ones(len(x), 4))

    def read(output: Any) -> Tensor:
        return output[:, :6] if wide else output[0]

    def call(denoiser: Any, x: Tensor, s: float) -> Tensor:
        cond, uncond = read(denoiser(x, s)), read(denoiser(x, s, 0.3))
        return uncond + 2 * (cond - uncond)

    loop = sampler(net, call)
    loop.calls_per_step = 2
    trajectories = list(TorchProbe().record(loop, REQUEST))
    np.testing.assert_allclose(trajectories[0].call_weights, [[2, -1]] * N, atol=1e-4)
    evaluator = TorchProbe().evaluator(loop, REQUEST, trajectories)
    fitted = evaluator.evaluate([Schedule(N, (0, 1, 4))], fit=True)
    assert fitted.schedules[0].branch_weights == ()
    (own,) = {fitted.ran[0][0]}
    np.testing.assert_allclose(fitted.errors[0, 0], _errors(loop, own)[0], rtol=1e-4)


def test_a_result_in_a_reused_buffer_is_copied() -> None:
    buffer = torch.zeros(SAMPLES, 6).double()
    loop = sampler(field, lambda net, x, s: net(x, s), end=lambda x: buffer[: len(x)].copy_(x))
    trajectories = list(TorchProbe().record(loop, REQUEST))
    evaluator = TorchProbe().evaluator(loop, REQUEST, trajectories)
    schedule = Schedule(N, (0, 1, 4))
    plain = _errors(LOOPS["numpy arguments"](), schedule)
    np.testing.assert_allclose(evaluator.evaluate([schedule]).errors[0], plain, rtol=1e-5)


def test_a_list_of_all_states_is_refused() -> None:
    def sample(prompts: Any, seeds: Any, num_steps: int) -> list[Tensor]:
        states = [noise(seeds)]
        for s, after in pairwise(GRID):
            states.append(states[-1] + (after - s) * loop.denoiser(states[-1], s))
        return states

    loop = Loop(sample, field, GRID)
    with pytest.raises(ExecutionError, match="got the state it began with"):
        list(TorchProbe().record(loop, REQUEST))


def test_what_is_no_state_is_said_to_a_loop_in_its_own_words() -> None:
    loop = sampler(field, lambda net, x, s: net(x, s), end=lambda x: None)
    with pytest.raises(ExecutionError, match="must return its final state, got no tensor"):
        list(TorchProbe().record(loop, REQUEST))


def test_states_of_several_tensors_are_measured_by_the_first_and_said_so() -> None:
    def sample(prompts: Any, seeds: Any, num_steps: int) -> tuple[Tensor, Tensor]:
        x, y = noise(seeds), 2 * noise(seeds)
        for s, after in pairwise(GRID):
            u, v = loop.denoiser(x, y, s)
            x, y = x + (after - s) * u, y + (after - s) * v
        return x, y

    loop = Loop(sample, lambda x, y, s: (field(x + y, s), field(y - x, s)), GRID)
    with pytest.warns(OtcacheNotice, match="several tensors of the state's kind"):
        list(TorchProbe().record(loop, REQUEST))


def test_a_fit_on_a_run_that_explodes_reuses() -> None:
    net = torch.nn.Linear(6, 6).double()
    loop = sampler(lambda x, s: torch.exp(net(x) * 40), lambda den, x, s: den(x, s).detach())
    trajectories = list(TorchProbe().record(sampler(field, lambda d, x, s: d(x, s)), REQUEST))
    evaluator = TorchProbe().evaluator(loop, REQUEST, trajectories)
    done = evaluator.evaluate([Schedule(N, (0, 1, 4))], fit=True)
    assert all(np.isfinite(c) for row in done.schedules[0].weights for c in row)
