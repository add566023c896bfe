"""Plugins that keep their contracts, each in twenty lines, and their kits."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from otcache_core import (
    ExecutionError,
    OtcacheError,
    Schedule,
    Trajectory,
)
from otcache_core.contracts import (
    CacheExecutor,
    CacheStorage,
    CostModel,
    Evaluator,
    FeatureProbe,
    QualityMetric,
    RunHandle,
    RunReport,
    SampleRequest,
    SpanCosts,
    VideoWriter,
    check_video,
)
from otcache_core.forecasters import Linear, Reuse
from otcache_core.storage.files import write_bytes
from otcache_core.testing import (
    CostModelConformance,
    ExecutorConformance,
    ExpectedValues,
    MetricConformance,
    ProbeConformance,
    ToySampler,
    VideoWriterConformance,
)

STEPS = 6


class Local(CostModel):
    """w(i -> j) = mean |delta(i -> j)|, read off the full runs."""

    def measure(
        self, trajectories: Sequence[Trajectory], evaluator: Evaluator | None = None
    ) -> SpanCosts:
        if not trajectories:
            raise OtcacheError("no trajectory")
        n = trajectories[0].num_steps
        costs = np.zeros((n, n + 1))
        for t in trajectories:
            for i in range(n):
                for j in range(i + 2, n + 1):
                    reached = t.states[i] + (t.grid[j] - t.grid[i]) * t.outputs[i]
                    costs[i, j] += np.abs(reached - t.states[j]).mean() / len(trajectories)
        return SpanCosts(costs, 0, len(trajectories))


class Outcome(CostModel):
    """w(i -> j) = the true error of caching this span alone."""

    def measure(
        self, trajectories: Sequence[Trajectory], evaluator: Evaluator | None = None
    ) -> SpanCosts:
        if not trajectories or evaluator is None:
            raise OtcacheError("needs trajectories and an evaluator")
        n = trajectories[0].num_steps
        spans = [(i, j) for i in range(n) for j in range(i + 2, n + 1)]
        alone = [Schedule(n, tuple(k for k in range(n) if not i < k < j)) for i, j in spans]
        done = evaluator.evaluate(alone)
        costs = np.zeros((n, n + 1))
        costs[tuple(np.array(spans).T)] = done.errors.mean(-1)
        return SpanCosts(costs, done.nfe, evaluator.num_samples)


class LocalKit(CostModelConformance):
    def make_cost_model(self) -> CostModel:
        return Local()


class OutcomeKit(CostModelConformance):
    def make_cost_model(self) -> CostModel:
        return Outcome()


class Rmse(QualityMetric):
    name, higher_is_better, pointwise = "rmse", False, True

    def __call__(self, images: np.ndarray, reference: np.ndarray) -> np.ndarray:
        for stack in (images, reference):
            if stack.shape != reference.shape or stack.dtype.kind != "f":
                raise OtcacheError("shapes or types differ")
            if stack.min() < 0 or stack.max() > 1:
                raise OtcacheError("out of range")
        difference = images.astype(np.float64) - reference.astype(np.float64)
        return np.sqrt((difference**2).mean((1, 2, 3)))


class RmseKit(MetricConformance):
    channel_blind = True
    symmetric = True

    def make_metric(self) -> QualityMetric:
        return Rmse()

    def expected_values(self) -> ExpectedValues:
        """One channel off by d: d / sqrt(3)."""
        y = np.full((2, 8, 8, 3), 0.2)
        x = y.copy()
        x[0, ..., 0], x[1, ..., 2] = 0.5, 1.0
        return ExpectedValues((x, y), np.array([0.3, 0.8]) / np.sqrt(3))


class Denoiser:
    """What a module is to a pipeline: something with a ``forward`` that can be replaced."""

    def __init__(self, sampler: ToySampler) -> None:
        self.sampler, self.worked = sampler, [0]

    def forward(self, x: np.ndarray, s: float) -> np.ndarray:
        self.worked[0] += 1
        return self.sampler.velocity(x, s)


class Pipeline:
    """Euler over a denoiser, from an initial state a seed."""

    def __init__(self) -> None:
        self.sampler = ToySampler(num_steps=STEPS, num_samples=2)
        self.denoiser = Denoiser(self.sampler)

    def __call__(self, seeds: Sequence[int] = (0, 1)) -> np.ndarray:
        grid = self.sampler.grid
        x = np.stack([np.random.default_rng(n).standard_normal(self.sampler.dim) for n in seeds])
        for s, after in itertools.pairwise(grid):
            x = x + (after - s) * self.denoiser.forward(x, s)
        return x


class Handle(RunHandle):
    def __init__(self, report: RunReport) -> None:
        self._report = report

    @property
    def report(self) -> RunReport:
        return self._report


class Executor(CacheExecutor):
    """Replaces ``forward`` on the instance; the checks in twenty lines."""

    leaves = False

    def supports(self, target: Any) -> str:
        return "" if isinstance(target, Pipeline) else "not a toy pipeline"

    @contextmanager
    def attach(
        self,
        target: Any,
        schedule: Schedule,
        *,
        storage: CacheStorage | None = None,
        **options: Any,
    ) -> Iterator[Handle]:
        if storage is not None and storage.dtype is not None:
            raise ExecutionError("outputs are kept in float64 only: leave out dtype.")
        module = target.denoiser
        if "forward" in vars(module):
            raise ExecutionError("already accelerated")
        report = RunReport(schedule.computed, computed={"main": 0}, skipped={"main": 0})
        report.storage = storage or CacheStorage()
        module.forward = self._forward(module.forward, target.sampler.grid, schedule, report)
        try:
            yield Handle(report)
        finally:
            report.cached_bytes = 0
            if not self.leaves:
                del module.forward

    @staticmethod
    def _forward(
        inner: Callable[..., np.ndarray], grid: np.ndarray, schedule: Schedule, report: RunReport
    ) -> Callable[..., np.ndarray]:
        rule = Linear() if schedule.forecaster == "linear" else Reuse()
        rows = {
            t: (span.start, *span.history, row)
            for span in schedule.spans()
            for t, row in zip(span.skipped, rule.coefficients(span, grid), strict=True)
        }
        held: dict[int, np.ndarray] = {}
        clock = iter(())

        def forward(x: np.ndarray, s: float) -> np.ndarray:
            nonlocal clock
            t = next(clock, None)
            if t is None:
                held.clear()
                clock = iter(range(1, schedule.num_steps))
                t = 0
            if t == schedule.num_steps - 1:
                report.runs += 1
            if t in rows:
                report.skipped["main"] += 1
                *steps, row = rows[t]
                return sum(a * held[k] for a, k in zip(row, steps, strict=False))
            report.computed["main"] += 1
            held[t] = inner(x, s)
            report.peak_cached_bytes = max(report.peak_cached_bytes, held[t].nbytes * len(held))
            return held[t]

        return forward


class ExecutorKit(ExecutorConformance):
    num_steps = STEPS

    def make_executor(self) -> CacheExecutor:
        return Executor()

    def make_target(self) -> Pipeline:
        return Pipeline()

    def run(self, target: Pipeline) -> np.ndarray:
        return target()

    def denoiser(self, target: Pipeline) -> Denoiser:
        return target.denoiser

    def calls(self, target: Pipeline) -> int:
        return target.denoiser.worked[0]


class Probe(FeatureProbe):
    """Records by replacing ``forward`` while it runs."""

    nudge = 0.0

    def supports(self, target: Any) -> str:
        return "" if isinstance(target, Pipeline) else "not a toy pipeline"

    def provenance(self, target: Any, request: SampleRequest | None) -> dict[str, Any]:
        num_steps = request.num_steps if request else None
        return {"model_class": "Denoiser", "num_steps": num_steps, "guidance": None}

    def sample(self, target: Pipeline, request: SampleRequest) -> np.ndarray:
        return target(request.seeds)

    def record(self, target: Pipeline, request: SampleRequest) -> Iterator[Trajectory]:
        module, grid = target.denoiser, target.sampler.grid
        inner, x, v = module.forward, [], []

        def forward(state: np.ndarray, s: float) -> np.ndarray:
            x.append(state)
            v.append(inner(state, s) + self.nudge)
            return v[-1]

        module.forward = forward
        try:
            x.append(target(request.seeds))
        finally:
            del module.forward
        states, outputs = np.stack(x), np.stack(v)
        for n, prompt in enumerate(request.prompts):
            calls = {"main": len(outputs)}
            yield Trajectory(grid, states[:, n], outputs[:, n], calls, f"{prompt} {n}")

    def evaluator(
        self, target: Any, request: SampleRequest, trajectories: Sequence[Trajectory]
    ) -> Evaluator:
        sampler = replace(target.sampler, num_samples=len(trajectories))
        vars(sampler)["start"] = np.stack([t.states[0] for t in trajectories])
        return sampler.evaluator()


class ProbeKit(ProbeConformance):
    def make_probe(self) -> FeatureProbe:
        return Probe()

    def make_target(self) -> Pipeline:
        return Pipeline()

    def request(self) -> SampleRequest:
        return SampleRequest(("a cat", "a dog"), (0, 1), STEPS, batch_size=2)

    def final_latents(self, target: Pipeline, request: SampleRequest) -> np.ndarray:
        return target(request.seeds)

    def traces(self, target: Pipeline) -> list[str]:
        return sorted(vars(target.denoiser))


class Archive(VideoWriter):
    """Frames and rate as an npz file; ``flaw`` spoils what is stored."""

    suffixes = (".npz",)
    flaw = "none"

    def write(self, path: str | Path, video: np.ndarray, frames_per_second: float) -> None:
        check_video(self, path, video, frames_per_second)
        frames, rate = np.asarray(video, dtype=np.float64), frames_per_second
        match self.flaw:
            case "reversed":
                frames = frames[::-1]
            case "one short":
                frames = frames[:-1] if len(frames) > 1 else frames
            case "bgr":
                frames = frames[..., ::-1]
            case "wide":
                frames = frames.transpose(0, 2, 1, 3)
            case "slow":
                rate /= 2
            case "changes":
                video[:] = 0
        buffer = io.BytesIO()
        np.savez(buffer, frames=frames, rate=rate)
        write_bytes(path, buffer.getvalue())


class ArchiveKit(VideoWriterConformance):
    tolerance = 1e-6

    def make_writer(self) -> VideoWriter:
        return Archive()

    def decode(self, path: Path) -> tuple[Any, Any]:
        data = np.load(path)
        frames = data["frames"]
        return frames, np.full(len(frames), 1 / data["rate"])
