"""TeaCache: its rule on figures worked out by hand, and its runs against what the modules show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from families import FAMILIES
from flux_kit import FluxLaws
from torch import Tensor, nn

from otcache_core.contracts import BaselineSetting, SampleRequest
from otcache_core.errors import ExecutionError
from otcache_core.loop import Loop
from otcache_core.plugins import Registry
from otcache_diffusers.baselines.teacache import (
    TeaCache,
    TeaCacheHook,
    TeaCacheRule,
    change,
    fitted,
)
from otcache_diffusers.hooks import denoisers_of, drive

N = 8
LINE = (1.0, 0.0)  # P(d) = d
REQUEST = SampleRequest(("red", "blue"), (0, 1), N, {"height": 16, "width": 16})


def setting(threshold: float) -> BaselineSetting:
    return BaselineSetting(f"threshold={threshold}", {"threshold": threshold}, N)


def test_changes_add_up_from_the_last_computed_step() -> None:
    """0.3 + 0.3 < 0.7 <= 0.3 + 0.3 + 0.3, and again; the last step is computed whatever it is."""
    assert TeaCacheRule(LINE, 0.7).computed([0.3] * 9) == (0, 3, 6, 9)
    assert TeaCacheRule(LINE, 0.7).computed([0.3, 0.8, 0.1, 0.1]) == (0, 2, 4)
    assert TeaCacheRule(LINE, 0.0).computed([0.3] * 3) == (0, 1, 2, 3)
    assert TeaCacheRule(LINE, 9.9).computed([0.3] * 3) == (0, 3)


def test_a_polynomial_that_runs_below_zero_counts_as_change() -> None:
    assert TeaCacheRule((1.0, 0.0, -0.5), 1.0).predicted(0.5) == pytest.approx(0.25)


def test_the_change_is_relative_to_the_step_before() -> None:
    assert change(torch.tensor([1.0, -3.0]), torch.tensor([2.0, -2.0])) == pytest.approx(0.5)


def test_the_polynomial_is_least_squares_of_degree_four() -> None:
    """Normal equations, solved in float64, give the same predictions."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0.1, 0.9, 60)
    y = 2 * x**4 - x + 0.5 + 0.01 * rng.normal(size=60)
    powers = np.vander(x, 5)
    solved = np.linalg.solve(powers.T @ powers, powers.T @ y)
    np.testing.assert_allclose(np.polyval(fitted(x, y), x), powers @ solved, atol=1e-8)


class Watch:
    """What the modules of a Flux transformer show, call by call, by hooks of torch's own."""

    def __init__(self) -> None:
        self.embedded: list[Tensor] = []
        self.given: list[tuple[Tensor, Tensor]] = []
        self.last: list[Tensor] = []
        self.worked: list[bool] = []

    @contextmanager
    def on(self, transformer: Any) -> Iterator[None]:
        single = transformer.single_transformer_blocks[-1]

        def embedded(module: nn.Module, args: Any, output: Tensor) -> None:
            self.embedded.append(output)
            self.worked.append(False)

        def worked(module: nn.Module, args: Any) -> None:
            self.worked[-1] = True

        norm = transformer.transformer_blocks[0].norm1
        handles = [
            transformer.x_embedder.register_forward_hook(embedded),
            norm.register_forward_pre_hook(self._norm, with_kwargs=True),
            single.proj_mlp.register_forward_pre_hook(worked),
            transformer.norm_out.register_forward_pre_hook(
                lambda m, args: self.last.append(args[0])
            ),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _norm(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.given.append((args[0], kwargs["emb"]))


@pytest.mark.parametrize("cfg", [False, True])
def test_a_run_follows_the_rule_and_adds_the_cached_residual(cfg: bool) -> None:
    """The rule is written out here on what the first norm was given; each branch decides alone."""
    case, watch = tiny.flux(cfg=cfg), Watch()
    threshold, polynomial = 0.25, (0.5, 0.0, 2.0, 0.01)
    with (
        TeaCache().apply(case.pipe, setting(threshold), {"polynomial": polynomial}),
        watch.on(case.denoiser),
    ):
        case(steps=N)
    branches = len(case.branches)
    decided = set()
    for b in range(branches):
        calls = range(b, N * branches, branches)
        norm = case.denoiser.transformer_blocks[0].norm1
        with torch.no_grad():
            m = [norm(x, emb=emb)[0].double().numpy() for x, emb in (watch.given[c] for c in calls)]
        total, k = 0.0, 0
        for t, call in enumerate(calls):
            if t:
                d = np.abs(m[t] - m[t - 1]).mean() / np.abs(m[t - 1]).mean()
                total += abs(0.5 * d**3 + 2 * d + 0.01)
            wanted = t in (0, N - 1) or total >= threshold
            assert watch.worked[call] == wanted
            decided.add((b, t, wanted))
            if wanted:
                total, k = 0.0, call
            else:
                added = watch.embedded[call] + (watch.last[k] - watch.embedded[k])
                torch.testing.assert_close(watch.last[call], added)
    skipped = sum(not wanted for _, _, wanted in decided)
    assert N * branches / 4 < skipped < (N - 2) * branches  # neither corner of the rule


def test_a_threshold_of_nothing_gives_the_plain_bits() -> None:
    case = tiny.flux(cfg=True)
    plain = case(steps=N)
    with TeaCache().apply(case.pipe, setting(0.0), {"polynomial": LINE}):
        assert torch.equal(case(steps=N), plain)


class TestLaws(FluxLaws):
    name = "teacache"


def test_calibration_sees_every_step_of_every_branch() -> None:
    """Against the same figures taken with hooks of torch's own, one sample at a time."""
    case, watch, baseline = tiny.with_prompts(tiny.flux(cfg=True)), Watch(), TeaCache()
    call = {name: value for name, value in case.call.items() if name != "prompt"}
    request = SampleRequest(("red", "blue"), (0, 1), N, call, batch_size=2)
    with watch.on(case.denoiser):
        measured = baseline.calibrate(case.pipe, request, (2, 4))
    assert json.loads(json.dumps(measured)) == measured
    assert measured["nfe"] == 2 * N
    assert [len(run) for run in measured["changes"]] == [N - 1] * 4
    norm = case.denoiser.transformer_blocks[0].norm1
    with torch.no_grad():
        m = [norm(x, emb=emb)[0].double() for x, emb in watch.given]
    of_second_branch = [m[2 * t + 1] for t in range(N)]
    pairs = zip(of_second_branch[1:], of_second_branch, strict=False)
    wanted = [float((now - then).abs().mean() / then.abs().mean()) for now, then in pairs]
    np.testing.assert_allclose(measured["changes"][1], wanted, rtol=1e-5)


def test_the_ladder_lands_on_every_number_of_steps_the_rule_can() -> None:
    measured = {"polynomial": LINE, "changes": [[0.1] * 29, [0.1] * 29]}
    settings = TeaCache().settings(30, (5, 8, 15), measured)
    thresholds = [s.values["threshold"] for s in settings]
    assert thresholds == sorted(thresholds)
    assert len({s.label for s in settings}) == len(settings) <= 16
    landed = {len(TeaCacheRule(LINE, theta).computed([0.1] * 29)) for theta in thresholds}
    assert {5, 6, 9, 16} <= landed  # every g-th step and the last one
    assert min(landed) == 2


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_has_a_reason_or_runs(family: Any) -> None:
    if family.reason:
        pytest.skip(family.reason)
    case = family.build()
    reason = TeaCache().supports(case.pipe, SampleRequest(("a",), (0,), 6))
    if reason:
        assert "norm1 is given the timestep" in reason
        return
    plain = case()
    hook = TeaCacheHook(TeaCacheRule(LINE, 1e9), lambda: denoisers_of(case.pipe))
    with drive(case.pipe, hook):
        skipped = case()
    assert hook.computed == {branch: [0, case.steps - 1] for branch in case.branches}
    assert not torch.equal(skipped, plain)
    assert torch.equal(case(), plain)


def test_it_works_inside_of_denoiser_calls() -> None:
    """So each of a pipeline's two transformers has residuals of its own."""
    assert TeaCacheHook(TeaCacheRule(LINE, 1.0), dict).inside


class Norm(nn.Module):
    """Scaled by the time."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return x * (1 + time)


class Block(nn.Module):
    def __init__(self, modulated: bool) -> None:
        super().__init__()
        self.norm1 = Norm() if modulated else nn.LayerNorm(8)
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        norm = self.norm1(x, time) if isinstance(self.norm1, Norm) else self.norm1(x)
        return x + torch.tanh(self.inner(norm))


class Net(nn.Module):
    """Blocks of the user's own."""

    def __init__(self, modulated: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block(modulated) for _ in range(3))

    def forward(self, x: Tensor, t: float) -> Tensor:
        time = torch.as_tensor(t)
        for block in self.blocks:
            x = block(x, time)
        return x


def test_a_loop_of_the_users_own_is_calibrated_and_run() -> None:
    net = Net()
    loop = Loop(tiny.euler_sampler(net), net)
    request = SampleRequest(("a", "b"), (0, 1), N)
    baseline = Registry().create("baselines", "teacache")
    assert baseline.supports(loop, request) == ""
    measured = baseline.calibrate(loop, request, (4,))
    plain = loop(["a"], [0], N)
    ladder = baseline.settings(N, (4,), measured)
    with baseline.apply(loop, ladder[-1], measured):
        assert not torch.equal(loop(["a"], [0], N), plain)
    assert torch.equal(loop(["a"], [0], N), plain)


@pytest.mark.remedy("no sampler to calibrate on: wrap it in otcache.loop(...)", value=True)
def test_what_cannot_be_run_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    baseline, plain = TeaCache(), Net(modulated=False)
    loop = Loop(tiny.euler_sampler(plain), plain)
    assert "norm1 is given the timestep" in baseline.supports(loop, REQUEST)
    net = Net()
    assert "wrap it in otcache.loop" in baseline.supports(net, REQUEST)
    assert baseline.supports(Loop(tiny.euler_sampler(net), net), REQUEST) == ""
    short = SampleRequest(("a",), (0,), 5)
    assert "runs of 6 steps or more" in baseline.supports(tiny.flux().pipe, short)
    case = tiny.flux()
    monkeypatch.setattr(torch, "compile", lambda call: call)  # compiling itself takes seconds
    for block in case.denoiser.transformer_blocks:
        block.compile()
    assert "compiled blocks" in baseline.supports(case.pipe, REQUEST)
    with (
        pytest.raises(ExecutionError, match="what calibrate"),
        baseline.apply(case.pipe, setting(0.1), {}),
    ):
        pass
