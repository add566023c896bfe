"""The conformance kits are the test suite of a plugin."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from otcache_all_kinds import plugin
from otcache_all_kinds.architecture import DIT_XL_2
from otcache_all_kinds.cost_model import OutputChange
from otcache_all_kinds.executor import FlowExecutor
from otcache_all_kinds.flow import Array, Flow
from otcache_all_kinds.forecaster import Damped
from otcache_all_kinds.metric import MeanAbsolute
from otcache_all_kinds.probe import FlowProbe
from otcache_all_kinds.solver import Bottleneck
from otcache_all_kinds.writer import Apng
from PIL import Image

from otcache_core import Registry
from otcache_core.contracts import (
    Baseline,
    CacheExecutor,
    CostModel,
    FeatureProbe,
    Forecaster,
    QualityMetric,
    SampleRequest,
    ScheduleSolver,
    VideoWriter,
)
from otcache_core.models import Canvas
from otcache_core.solvers import Minimax, Objective
from otcache_core.testing import (
    BaselineConformance,
    CostModelConformance,
    ExecutorConformance,
    ExpectedValues,
    ForecasterConformance,
    MetricConformance,
    ProbeConformance,
    SolverConformance,
    VideoWriterConformance,
)

REQUEST = SampleRequest(("red", "a blue one", "green"), (0, 1, 2), 6, {}, 2)
#: Core and this package, whatever else is installed.
REGISTRY = Registry(entry_points=False)
REGISTRY.register(plugin, "otcache-all-kinds")


class TestBottleneck(SolverConformance):
    """The solver, beside brute force."""

    def make_solver(self) -> ScheduleSolver:
        """Return the solver under test."""
        return Bottleneck()

    def exact_objective(self) -> Objective:
        """Return the objective."""
        return Minimax()


class TestOutputChange(CostModelConformance):
    """The cost model."""

    def make_cost_model(self) -> CostModel:
        """Return the cost model under test."""
        return OutputChange()


class TestDamped(ForecasterConformance):
    """The forecaster."""

    def make_forecaster(self) -> Forecaster:
        """Return the forecaster under test."""
        return Damped()


class TestMeanAbsolute(MetricConformance):
    """The metric."""

    channel_blind = True
    symmetric = True

    def make_metric(self) -> QualityMetric:
        """Return the metric under test."""
        return MeanAbsolute()

    def expected_values(self) -> ExpectedValues:
        """All of the first image is off by 0.1, and one channel of three of the second by 0.6."""
        full = np.tile([0.2, 0.5, 0.8], (2, 4, 4, 1))
        made = full.copy()
        made[0] += 0.1
        made[1, ..., 0] += 0.6
        return ExpectedValues((made, full), [0.1, 0.6 / 3])


class TestFlowProbe(ProbeConformance):
    """The probe."""

    def make_probe(self) -> FeatureProbe:
        """Return the probe under test."""
        return FlowProbe.made_by(REGISTRY)

    def make_target(self) -> Any:
        """Return a sampler."""
        return Flow()

    def request(self) -> SampleRequest:
        """Three samples."""
        return REQUEST

    def final_latents(self, target: Any, request: SampleRequest) -> Array:
        """x_N, one sample per call."""
        pairs = zip(request.prompts, request.seeds, strict=True)
        return np.concatenate([target([p], [seed], request.num_steps) for p, seed in pairs])

    def traces(self, target: Any) -> Any:
        """Whatever is on the sampler."""
        return sorted(vars(target).items(), key=str)

    def test_it_measures_what_it_recorded(self) -> None:
        """Which calibrations see to, and the kit of probes does not."""
        target, probe = Flow(), self.make_probe()
        evaluator = probe.evaluator(target, REQUEST, list(probe.record(target, REQUEST)))
        assert (evaluator.replay([0, 2, 1]) == 0).all()


class TestFlowExecutor(ExecutorConformance):
    """The executor."""

    def make_executor(self) -> CacheExecutor:
        """Return the executor under test."""
        return FlowExecutor.made_by(REGISTRY)

    def make_target(self) -> Any:
        """Return a sampler."""
        return Flow()

    def run(self, target: Any) -> NDArray[Any]:
        """Two samples."""
        return np.asarray(target(["red", "blue"], [0, 1], self.num_steps))

    def denoiser(self, target: Any) -> Any:
        """Return what computes outputs."""
        return target.denoiser

    def calls(self, target: Any) -> int:
        """Which it counts itself."""
        return int(target.denoiser.calls)


class TestEveryKth(BaselineConformance):
    """The baseline, by the executor of its registry."""

    def make_baseline(self) -> Baseline:
        """Return the baseline under test."""
        return REGISTRY.create("baselines", "every-kth")

    def make_target(self) -> Any:
        """Return a sampler."""
        return Flow()

    def request(self) -> SampleRequest:
        """Three samples."""
        return REQUEST

    def run(self, target: Any, sample: int, num_steps: int) -> NDArray[Any]:
        """One of them."""
        prompt, seed = str(REQUEST.prompts[sample]), REQUEST.seeds[sample]
        return np.asarray(target([prompt], [seed], num_steps))

    def traces(self, target: Any) -> Any:
        """Whatever is on the sampler."""
        return sorted(vars(target).items(), key=str)

    def calls(self, target: Any) -> int:
        """Return the calls that the denoiser counted."""
        return int(target.denoiser.calls)

    def break_off(self, target: Any, num_steps: int) -> None:
        """Let the denoiser fail in the first step."""
        whole, target.denoiser = target.denoiser, None
        with pytest.raises(AttributeError):
            self.run(target, 0, num_steps)
        target.denoiser = whole


class TestApng(VideoWriterConformance):
    """The video writer, read by Pillow."""

    def make_writer(self) -> VideoWriter:
        """Return the writer under test."""
        return Apng()

    def decode(self, path: Path) -> tuple[NDArray[np.floating], NDArray[np.float64]]:
        """Frames and seconds."""
        frames, seconds = [], []
        with Image.open(path) as file:
            for t in range(getattr(file, "n_frames", 1)):
                file.seek(t)
                frames.append(np.asarray(file.convert("RGB"), dtype=np.float64) / 255)
                seconds.append(float(file.info.get("duration", 1000.0)) / 1000)
        return np.stack(frames), np.array(seconds)


def test_the_published_model_is_that_of_its_paper() -> None:
    """Table 4 there: 675 M parameters and 118.6 G multiply-adds at 256 by 256."""
    cost = DIT_XL_2.measure(Canvas(256, 256), {})
    assert cost.parameters == pytest.approx(675e6, rel=0.02)
    assert cost.flops == pytest.approx(2 * 118.6e9, rel=0.01)
