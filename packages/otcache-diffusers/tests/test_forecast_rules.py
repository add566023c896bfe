"""The executor against sampling rules run by hand, with every state and output kept."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from otcache_core import Schedule
from otcache_core.loop import Loop
from otcache_diffusers.execution.executor import TorchExecutor

N = 14
GRID = torch.linspace(1, 0, N + 1, dtype=torch.float64) ** 1.5
COMPUTED = (0, 1, 2, 5, 6, 10)
LOOKBACKS = (1, 2, 3, 3, 1, 5)
Rule = Callable[[int, list[torch.Tensor], list[torch.Tensor]], torch.Tensor]


class Field(torch.nn.Module):
    """A velocity that is linear in nothing."""

    def forward(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x.flip(-1) * (1 + s)) + torch.sin(3 * s)


def start() -> torch.Tensor:
    return torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def loop() -> Loop:
    field = Field()

    def sample(num_steps: int) -> torch.Tensor:
        x = start()
        for i in range(num_steps):
            x = x + (GRID[i + 1] - GRID[i]) * field(x, GRID[i])
        return x

    return Loop(sample, field, grid=GRID.tolist())


def by_hand(rule: Rule) -> torch.Tensor:
    field, x, v = Field(), [start()], []
    for i in range(N):
        v.append(field(x[i], GRID[i]) if i in COMPUTED else rule(i, x, v))
        x.append(x[i] + (GRID[i + 1] - GRID[i]) * v[i])
    return x[N]


def released(i: int, x: list[torch.Tensor], v: list[torch.Tensor]) -> torch.Tensor:
    m = max(m for m, k in enumerate(COMPUTED) if k < i)
    a = max(0, i - LOOKBACKS[m])
    average = (x[i] - x[a]) / (GRID[i] - GRID[a])
    return v[-1] - (GRID[i + 1] - GRID[i]) * (v[a] - average) / (GRID[i] - GRID[a])


def paper(i: int, x: list[torch.Tensor], v: list[torch.Tensor]) -> torch.Tensor:
    m = max(m for m, k in enumerate(COMPUTED) if k < i)
    k, j = (*COMPUTED, N)[m : m + 2]
    r = max(0, k - LOOKBACKS[m])
    jvp = torch.zeros(())
    if k > r:
        jvp = ((x[k] - x[r]) / (GRID[k] - GRID[r]) - v[r]) / (GRID[k] - GRID[r])
    target = x[k] + (GRID[j] - GRID[k]) * (v[k] + (GRID[j] - GRID[k]) * jvp)
    return (target - x[k + 1]) / (GRID[j] - GRID[k + 1])


def taylor(order: int) -> Rule:
    def rule(i: int, x: list[torch.Tensor], v: list[torch.Tensor]) -> torch.Tensor:
        def delta(q: int, steps: list[int]) -> torch.Tensor:
            if q == 0:
                return v[steps[-1]]
            rise = delta(q - 1, steps) - delta(q - 1, steps[:-1])
            return rise / (steps[-1] - steps[-2])

        known = [k for k in COMPUTED if k < i]
        most = min(order, len(known) - 1)
        terms = (
            delta(q, known) * (i - known[-1]) ** q / math.factorial(q) for q in range(most + 1)
        )
        return sum(terms, torch.zeros(()))

    return rule


RULES = {
    "mean-velocity": released,
    "mean-velocity-paper": paper,
    "taylor-1": taylor(1),
    "taylor": taylor(2),
    "taylor-3": taylor(3),
}


@pytest.mark.parametrize("name", list(RULES))
def test_an_accelerated_loop_is_the_rule(name: str) -> None:
    weights = [tuple(reversed(LOOKBACKS[: m + 1])) for m in range(len(COMPUTED))]
    stored = weights if name.startswith("mean") else ()
    target = loop()
    full = target(N)
    with TorchExecutor().attach(target, Schedule(N, COMPUTED, name, stored)) as run:
        got = target(N)
    wanted = by_hand(RULES[name])
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(got, full, atol=1e-4)
    assert sum(run.report.computed.values()) == len(COMPUTED)
    assert run.report.warnings == []
    assert run.report.cached_bytes == 0
