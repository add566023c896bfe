"""What an error of several packages together advises is done here, and the error is gone."""

from __future__ import annotations

import asyncio
import contextvars
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny_flux
import torch
from toy import STEPS, Swirl, make_loop

import otcache
from otcache.calibration.record import request_of
from otcache_core import Provenance, Registry

N = 6
FEW: dict[str, Any] = {"ladder": (2, 3), "anchor_trials": 1, "climb_trials": 0, "cost_samples": 1}
SCHEDULE = otcache.Schedule(STEPS, (0, 3, 6))
GRID = torch.linspace(1, 0, N + 1)


def calibrated(loop: otcache.Loop, prompts: Any = ("a", "b"), **more: Any) -> otcache.Calibration:
    settings = {"recipe": otcache.Recipe(**FEW), "progress": False, **more}
    return otcache.calibrate(loop, list(prompts), N, **settings)


def silently(work: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error", otcache.OtcacheNotice)
        return work()


def stepped(net: Any) -> Callable[..., torch.Tensor]:
    """Euler steps from noise of each sample's own seed."""

    def sample(prompts: Any, seeds: Any, num_steps: int) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        x = torch.cat([torch.randn(1, 8, generator=g) for g in generators])
        for s, after in pairwise(GRID):
            x = x + (after - s) * net(x, s)
        return x

    return sample


@pytest.mark.remedy("and measured on no other: omit seeds=, or give several")
def test_seeds_are_left_out_or_several() -> None:
    loop = make_loop()
    probe = Registry().create("probes", "torch")

    def request(seeds: Any) -> None:
        request_of(probe, loop, ["a", "b"], seeds, N, {}, 8)

    with pytest.warns(otcache.OtcacheNotice, match="omit seeds=, or give several"):
        request([7])
    for seeds in (None, [7, 8]):
        silently(lambda seeds=seeds: request(seeds))


@pytest.mark.remedy("make denoiser= a callable that returns all that the step uses")
def test_the_denoiser_returns_all_that_the_step_uses() -> None:
    class Remembers(Swirl):
        kept = torch.zeros(1)

        def forward(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
            self.kept = torch.sin(5 * x)
            return super().forward(x, s)

    net = Remembers()
    reads = stepped(lambda x, s: net(x, s) + net.kept)
    loop = otcache.loop(reads, denoiser=net, grid=GRID.tolist())
    with pytest.raises(otcache.OtcacheError, match="returns all that the step uses"):
        calibrated(loop, recipe=otcache.Recipe(**FEW, batch_size=1))
    loop = otcache.loop(
        stepped(lambda x, s: loop.denoiser(x, s)),
        denoiser=lambda x, s: net(x, s) + net.kept,
        grid=GRID.tolist(),
    )
    silently(lambda: calibrated(loop))


@pytest.mark.remedy("replayed, they end elsewhere. Choose another folder, or delete this one")
def test_a_folder_of_another_sampler(tmp_path: Path) -> None:
    net = Swirl()

    def loop(scale: float) -> otcache.Loop:
        return otcache.loop(
            stepped(lambda x, s: scale * net(x, s)), denoiser=net, grid=GRID.tolist()
        )

    calibrated(loop(1.0), directory=tmp_path / "old")
    (tmp_path / "old/evaluations.jsonl").unlink()  # as if it had been stopped before
    with pytest.raises(otcache.OtcacheError, match="or delete this one"):
        calibrated(loop(0.5), directory=tmp_path / "old")
    calibrated(loop(0.5), directory=tmp_path / "new")
    shutil.rmtree(tmp_path / "old")
    calibrated(loop(0.5), directory=tmp_path / "old")


@pytest.mark.remedy(
    "changed their structure during the run: use reuse, or otcache.Recipe(batch_size=1)"
)
def test_outputs_that_the_batch_changes_are_measured_one_sample_a_call() -> None:
    class Stated(Swirl):
        def forward(self, x: torch.Tensor, s: torch.Tensor) -> Any:
            v = super().forward(x, s) * torch.tensor([0.0] + [1.0] * 7)  # the first number stays
            return v, torch.ones(1 + int(x[0, 0] > 1))  # of the first sample of the batch

    net = Stated()
    loop = otcache.loop(stepped(lambda x, s: net(x, s)[0]), denoiser=net, grid=GRID.tolist())
    with pytest.raises(otcache.OtcacheError, match=r"or otcache\.Recipe\(batch_size=1\)"):
        calibrated(loop, ["a"], seeds=range(2))
    calibrated(loop, ["a"], seeds=range(2), recipe=otcache.Recipe(**FEW, batch_size=1))


@pytest.mark.remedy(
    "run the very pipeline, otcache.loop(...) or module that was accelerated, inside the con"
)
@pytest.mark.remedy("a policy needs a budget, got None: give budget=10, or another one")
def test_what_is_run_is_what_was_accelerated() -> None:
    loop, other = make_loop(), make_loop()
    with (
        pytest.warns(otcache.OtcacheNotice, match="run the very pipeline"),
        otcache.accelerate(loop, SCHEDULE),
    ):
        other(["a"], [0], STEPS)

    def run(**budget: int) -> dict[str, int]:
        with otcache.accelerate(loop, policy, **budget) as handle:
            loop(["a"], [0], STEPS)
        return dict(handle.report.skipped)

    ends = otcache.Schedule(STEPS, (0, 6)), otcache.Schedule(STEPS, (0, 2, 4, 6, 8, 9, 10))
    policy = otcache.Policy(*ends, Provenance.from_dict({"num_steps": STEPS, "grid": loop.grid}))
    with pytest.raises(otcache.OtcacheError, match="give budget=10"):
        run()
    assert silently(lambda: run(budget=3)) == {"call": STEPS - 3}


@pytest.mark.remedy(
    "call it in the thread that runs sample_fn, or by asyncio.to_thread(...) or contextvars"
)
def test_calls_in_threads_of_a_sampler_know_their_run() -> None:
    net = make_loop().denoiser
    net.requires_grad_(False)

    def made(call: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> otcache.Loop:
        def sample(num_steps: int) -> torch.Tensor:
            return _euler(call)

        return otcache.loop(sample, denoiser=net, grid=GRID.tolist())

    def threads(x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return _elsewhere(lambda: net(x, s))

    def run(loop: otcache.Loop) -> int:
        with otcache.accelerate(loop, otcache.Schedule(N, (0, 3))) as handle:
            loop(N)
        return sum(handle.report.skipped.values())

    with pytest.warns(otcache.OtcacheNotice, match=r"call it in the thread that runs sample_fn"):
        assert run(made(threads)) == 0
    context = contextvars.copy_context
    for call in (
        net,
        lambda x, s: asyncio.run(asyncio.to_thread(net, x, s)),
        lambda x, s: _elsewhere(partial(context().run, net, x, s)),
    ):
        assert silently(lambda call=call: run(made(call))) == N - 2


def _euler(call: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    x = torch.ones(1, 8)
    for s, after in pairwise(GRID):
        x = x + (after - s) * call(x, s)
    return x


def _elsewhere(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as other:
        return other.submit(work).result()


@pytest.mark.remedy(
    "give each thread a pipeline with a scheduler of its own (pipe.scheduler = type(pipe.sch"
)
@pytest.mark.remedy("or let the threads wait for one another in handle.request(...)")
def test_each_thread_has_a_scheduler_of_its_own_or_waits() -> None:
    pipe = tiny_flux.make_flux()
    twin = tiny_flux.twin_of(pipe)
    policy = tiny_flux.make_policy()

    def inside(work: Callable[[], Any]) -> torch.Tensor:
        """Run the pipeline, and something else in another thread after its first step."""

        def callback(pipe: Any, step: int, timestep: Any, kwargs: Any) -> Any:
            if step == 0:
                done.append(_elsewhere(work))
            return kwargs

        done: list[Any] = []
        return tiny_flux.sample(pipe, callback_on_step_end=callback)

    with otcache.accelerate(pipe, policy, budget=2):
        with pytest.raises(
            otcache.ExecutionError, match="give each thread a pipeline with a sched"
        ):
            inside(lambda: tiny_flux.sample(pipe))
        with otcache.accelerate(twin, policy, budget=4) as run:
            inside(lambda: tiny_flux.sample(twin))
    assert sum(run.report.computed.values()) == 4
    handle = otcache.enable(pipe, policy)

    def served() -> int:
        with handle.request(2) as made:
            tiny_flux.sample(pipe)
        return sum(made.report.computed.values())

    with ThreadPoolExecutor(2) as pool:
        assert [made.result() for made in [pool.submit(served) for _ in range(2)]] == [2, 2]
    handle.remove()
