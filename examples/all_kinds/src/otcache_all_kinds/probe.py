"""The probe, and its evaluator."""

import time
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from otcache_all_kinds.executor import FlowExecutor
from otcache_all_kinds.flow import FLOPS, Array, Flow
from otcache_core import OtcacheError, Schedule, Trajectory
from otcache_core.contracts import Evaluation, Evaluator, FeatureProbe, Measured, SampleRequest
from otcache_core.errors import expected

#: (step, what computes the output) -> output
Answer = Callable[[int, Callable[[], Array]], Array]


@final
class FlowProbe(FeatureProbe):
    """Records a :class:`~otcache_all_kinds.flow.Flow`, one sample per call."""

    def supports(self, target: Any) -> str:
        """Take a Flow, and nothing else."""
        return "" if isinstance(target, Flow) else f"records a Flow, got {type(target).__name__}"

    def provenance(self, target: Any, request: SampleRequest | None) -> dict[str, Any]:
        """Name the model and its sampler."""
        facts = {"model_class": "Denoiser", "scheduler_class": "Flow", "prediction_type": "flow"}
        steps = {} if request is None else {"num_steps": request.num_steps}
        return {**facts, "guidance": "none", "resolution": prod(target.shape[:-1]), **steps}

    def prepared(self, target: Any, request: SampleRequest) -> SampleRequest:
        """Take texts, and no further arguments."""
        given = next(iter(request.call), "")
        if given or not all(isinstance(prompt, str) for prompt in request.prompts):
            raise OtcacheError(
                expected("a sample", given or "a mapping", "a text, and nothing more")
            )
        return request

    def record(self, target: Any, request: SampleRequest) -> Iterator[Trajectory]:
        """Yield runs, one per sample."""
        for n in range(len(request.prompts)):
            yield _run(target, request, n, lambda _, compute: compute())

    def sample(self, target: Any, request: SampleRequest) -> NDArray[np.floating]:
        """Return images."""
        return self.measure(target, request).images

    def measure(self, target: Any, request: SampleRequest, *, flops: bool = False) -> Measured:
        """Count the denoiser's calls too; comparisons see by that what an accelerated run cost."""
        before, began = target.denoiser.calls, time.perf_counter()
        last = np.concatenate([_last(target, request, n) for n in range(len(request.prompts))])
        seconds, calls = time.perf_counter() - began, target.denoiser.calls - before
        spent = calls * FLOPS * prod(target.shape[:-1]) if flops else None
        return Measured(np.clip(last, 0.0, 1.0), last, seconds, spent)

    def evaluator(
        self, target: Any, request: SampleRequest, trajectories: Sequence[Trajectory]
    ) -> Evaluator:
        """Return one that runs the very samples."""
        executor = FlowExecutor.made_by(self.registry)
        return FlowEvaluator(target, request, trajectories, executor)


@final
class FlowEvaluator(Evaluator):
    """Runs schedules by the executor of this package; fits no weights.

    Args:
        target: the sampler.
        request: the samples.
        runs: recorded of them.
        executor: that runs schedules.
    """

    def __init__(
        self,
        target: Flow,
        request: SampleRequest,
        runs: Sequence[Trajectory],
        executor: FlowExecutor,
    ) -> None:
        self._target, self._request, self._runs = target, request, list(runs)
        self._executor = executor

    @property
    def grid(self) -> Array:
        """s_0 .. s_N."""
        return self._runs[0].grid

    @property
    def num_samples(self) -> int:
        """Of the recorded ones."""
        return len(self._runs)

    @property
    def objectives(self) -> tuple[str, ...]:
        """Root mean square of what x_N is off."""
        return ("latent-rmse",)

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
            OtcacheError: if weights are to be fitted, or the objective is another.
        """
        if fit or objective not in (None, *self.objectives):
            asked = "fit=True" if fit else objective
            raise OtcacheError(expected("evaluate", asked, "latent-rmse, without a fit"))
        chosen = range(self.num_samples) if samples is None else samples
        e = np.stack([[self._error(schedule, n) for n in chosen] for schedule in schedules])
        grams = np.einsum("and,bnd->nab", e, e) / e.shape[-1]
        nfe = len(chosen) * sum(schedule.budget for schedule in schedules)
        return Evaluation(tuple(schedules), np.sqrt((e**2).mean(-1)), nfe, grams)

    def replay(self, samples: Sequence[int]) -> Array:
        """Put recorded outputs through the sampler again."""
        return np.array([self._deviation(n) for n in samples])

    def _error(self, schedule: Schedule, n: int) -> Array:
        with self._executor.attach(self._target, schedule):
            last = _last(self._target, self._request, n)
        return np.asarray(last.ravel() - self._runs[n].states[-1])

    def _deviation(self, n: int) -> float:
        run = self._runs[n]
        shape = (1, *self._target.shape)
        again = _run(self._target, self._request, n, lambda i, _: run.outputs[i].reshape(shape))
        off = np.linalg.norm(again.states - run.states, axis=1)
        return float((off / np.linalg.norm(run.states, axis=1)).max())


def _last(target: Flow, request: SampleRequest, n: int) -> Array:
    return target([str(request.prompts[n])], [request.seeds[n]], request.num_steps)


def _run(target: Flow, request: SampleRequest, n: int, answer: Answer) -> Trajectory:
    """Run one sample with every output given by ``answer``."""
    states, outputs = list[Array](), list[Array]()

    def watch(i: int, s: Array, x: Array, compute: Callable[[], Array]) -> Array:
        states.append(x.ravel())
        outputs.append(answer(i, compute).ravel())
        return outputs[-1].reshape(x.shape)

    with target.hooked(watch):
        states.append(_last(target, request, n).ravel())
    label = f"prompt {n}, seed {request.seeds[n]}"
    grid = target.grid(request.num_steps)
    return Trajectory(grid, np.stack(states), np.stack(outputs), {"call": len(outputs)}, label)
