"""Plugins of the other kinds that cheat, each caught by the check of its kit that is named beside it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from kit_fakes import (
    Archive,
    ArchiveKit,
    Executor,
    ExecutorKit,
    Handle,
    Local,
    LocalKit,
    Outcome,
    OutcomeKit,
    Probe,
    ProbeKit,
    Rmse,
    RmseKit,
)
from metric_fakes import MeanColour, MeanColourKit, Prompted, PromptedKit, Steps, StepsKit
from numpy.typing import NDArray

from otcache_core import Schedule, Trajectory
from otcache_core.contracts import (
    Evaluation,
    Evaluator,
    Forecaster,
    RunReport,
    SampleRequest,
    SpanCosts,
)
from otcache_core.forecasters import Linear
from otcache_core.schedule import Span
from otcache_core.testing import (
    Conformance,
    EvaluatorConformance,
    ForecasterConformance,
    ToyEvaluator,
    ToySampler,
)

Floats = NDArray[np.float64]
Runs = Sequence[Trajectory]

# -- cost models ------------------------------------------------------------------------------------


class FirstOnly(Local):
    """Looks at the first sample, and says that it looked at all."""

    def measure(self, trajectories: Runs, evaluator: Evaluator | None = None) -> SpanCosts:
        found = super().measure(trajectories[:1])
        return replace(found, samples=max(1, len(trajectories)))


class Easy(Local):
    """Looks at the first sample, and says so."""

    def measure(self, trajectories: Runs, evaluator: Evaluator | None = None) -> SpanCosts:
        return super().measure(trajectories[:1])


class Impatient(Local):
    """Trusts later samples less."""

    def measure(self, trajectories: Runs, evaluator: Evaluator | None = None) -> SpanCosts:
        found = super().measure(trajectories)
        parts = [
            super(Impatient, self).measure([t]).costs / 2**n for n, t in enumerate(trajectories)
        ]
        return replace(found, costs=np.sum(parts, axis=0))


class Normalising(Local):
    """Scales the outputs where they are."""

    def measure(self, trajectories: Runs, evaluator: Evaluator | None = None) -> SpanCosts:
        for t in trajectories:
            np.divide(t.outputs, np.abs(t.outputs).max(), out=t.outputs)
        return super().measure(trajectories)


class Settled(Local):
    """Answers for whatever it is asked what it found the first time."""

    found: SpanCosts | None = None

    def measure(self, trajectories: Runs, evaluator: Evaluator | None = None) -> SpanCosts:
        measured = super().measure(trajectories)
        self.found = self.found or measured
        return self.found


class Sampling(Local):
    """Takes a random half of the samples, by the global random state."""

    def measure(self, trajectories: Runs, evaluator: Evaluator | None = None) -> SpanCosts:
        super().measure(trajectories)
        some = np.random.permutation(len(trajectories))[: len(trajectories) // 2 + 1]  # noqa: NPY002
        return super().measure([trajectories[n] for n in some])


class Free(Outcome):
    """Runs the pipeline, and hides the NFE."""

    def measure(self, *args: Any) -> SpanCosts:
        return replace(super().measure(*args), nfe=0)


# -- forecasters ------------------------------------------------------------------------------------


class Foreseeing(Linear):
    """Weighs by where the grid goes after the span."""

    def coefficients(self, span: Span, grid: Floats) -> Floats:
        return super().coefficients(span, grid) * (1 + grid[min(span.stop + 1, len(grid) - 1)])


class Wrapping(Linear):
    """Divides by the step before the first one, which is the last one of the grid."""

    def coefficients(self, span: Span, grid: Floats) -> Floats:
        return super().coefficients(span, grid) * (1 + grid[span.start - 1])


class Unlimited(Forecaster):
    """Divides by a distance that may be 0."""

    def coefficients(self, span: Span, grid: Floats) -> Floats:
        h = grid[list(span.skipped)] - grid[span.start]
        with np.errstate(all="ignore"):
            return (1 / h)[:, None]


class Reaching(Forecaster):
    """Uses an output that it was not given."""

    def coefficients(self, span: Span, grid: Floats) -> Floats:
        return np.ones((len(span.skipped), 2 + len(span.history)))


class Remembering(Linear):
    """Mixes in what it made of another span."""

    last: float = 0.0

    def coefficients(self, span: Span, grid: Floats) -> Floats:
        table = super().coefficients(span, grid)
        if table.size and type(self).last != table.shape[0]:
            Remembering.last, before = table.shape[0], Remembering.last
            return table + before
        return table


class Shifting(Linear):
    """Counts the grid from its start, where it is."""

    def coefficients(self, span: Span, grid: Floats) -> Floats:
        grid -= grid[0]
        return super().coefficients(span, grid)


class LinearKit(ForecasterConformance):
    def make_forecaster(self) -> Forecaster:
        return Linear()


# -- metrics ----------------------------------------------------------------------------------------


class Nameless(Rmse):
    name = ""


class OneSided(Rmse):
    """Counts what is brighter in full and what is darker by half."""

    def __call__(self, images: Floats, reference: Floats) -> Floats:
        super().__call__(images, reference)
        off = images - reference
        return np.sqrt((np.where(off > 0, off, off / 2) ** 2).mean((1, 2, 3)))


class Raised(Rmse):
    """Is not 0 of equal images."""

    def __call__(self, images: Floats, reference: Floats) -> Floats:
        return np.sqrt(super().__call__(images, reference) ** 2 + 1e-4)


class Subtracting(Rmse):
    """Subtracts the reference where the images are."""

    def __call__(self, images: Floats, reference: Floats) -> Floats:
        value = super().__call__(images, reference)
        images -= reference
        return value


class Relative(Rmse):
    """Divides by the largest of the batch."""

    def __call__(self, images: Floats, reference: Floats) -> Floats:
        value = super().__call__(images, reference)
        return value / max(value.max(), 1e-12)


class Running(Rmse):
    """Subtracts the mean of all values so far, of whatever instance."""

    seen: ClassVar[list[float]] = []

    def __call__(self, images: Floats, reference: Floats) -> Floats:
        value = super().__call__(images, reference)
        self.seen.append(float(value.mean()))
        return value - np.mean(self.seen)


class Cropping(Rmse):
    """Compares a part that it draws from the global random state."""

    def __call__(self, images: Floats, reference: Floats) -> Floats:
        super().__call__(images, reference)
        row = np.random.randint(images.shape[1] // 2)  # noqa: NPY002
        return super().__call__(images[:, row:], reference[:, row:])


class Beginning(Steps):
    """Looks at the first two frames."""

    def __call__(self, videos: Floats, reference: Floats) -> Floats:
        super().__call__(videos, reference)
        return super().__call__(videos[:, :2], reference[:, :2])


class Illiterate(Prompted):
    """Does not read the prompts."""

    def __call__(self, images: Floats, prompts: Sequence[str]) -> Floats:
        super().__call__(images, prompts)
        return images[..., 0].mean((1, 2))


class Ordering(MeanColour):
    """Trusts the first images more."""

    def __call__(self, images: Floats) -> float:
        super().__call__(images)
        weights = 2.0 ** -np.arange(len(images))
        return super().__call__(
            np.clip(images * (weights / weights.sum())[:, None, None, None], 0, 1)
        )


class Drifting(MeanColour):
    """Is a little more each time."""

    count = itertools.count()

    def __call__(self, images: Floats) -> float:
        return super().__call__(images) + 1e-9 * next(self.count)


# -- executors --------------------------------------------------------------------------------------


class Leaving(Executor):
    leaves = True


class Patching(Executor):
    """Replaces the method of the class, for all instances and for good."""

    @contextmanager
    def attach(self, target: Any, *args: Any, **options: Any) -> Iterator[Handle]:
        kind = type(target.denoiser)
        plain = kind.forward

        def forward(self: Any, x: Floats, s: float) -> Floats:
            return plain(self, x, s)

        kind.forward = forward
        with super().attach(target, *args, **options) as run:
            yield run


class Bragging(Executor):
    """Reports a skipped call more than there was."""

    @contextmanager
    def attach(self, *args: Any, **options: Any) -> Iterator[Handle]:
        with super().attach(*args, **options) as run:
            yield run
        run.report.skipped["main"] += 1


class Summing(Executor):
    """Reports what happened in all its contexts."""

    def __init__(self) -> None:
        self.total: RunReport | None = None

    @contextmanager
    def attach(self, *args: Any, **options: Any) -> Iterator[Handle]:
        with super().attach(*args, **options) as run:
            yield run
        if self.total is not None:
            run.report.runs += self.total.runs
        self.total = run.report


class Simple(Executor):
    """Reuses outputs whatever the schedule's forecaster."""

    @contextmanager
    def attach(self, target: Any, schedule: Schedule, **options: Any) -> Iterator[Handle]:
        with super().attach(target, schedule.without_weights(), **options) as run:
            yield run


class Reseeding(Executor):
    """Seeds the process, to be deterministic."""

    @contextmanager
    def attach(self, *args: Any, **options: Any) -> Iterator[Handle]:
        np.random.seed(0)  # noqa: NPY002
        with super().attach(*args, **options) as run:
            yield run


# -- probes -----------------------------------------------------------------------------------------


class Averaging(Probe):
    """Records outputs less the mean of those beside them."""

    def record(self, target: Any, request: SampleRequest) -> Iterator[Trajectory]:
        batch = list(super().record(target, request))
        mean = np.mean([t.outputs for t in batch], axis=0)
        return (replace(t, outputs=t.outputs - mean * (len(batch) > 1)) for t in batch)


class Seedless(Probe):
    """Samples from the same seeds, whatever is asked for."""

    def sample(self, target: Any, request: SampleRequest) -> Floats:
        return target((0, 1))


class Consuming(Probe):
    """Its evaluator works where the trajectories are."""

    def evaluator(self, target: Any, request: SampleRequest, trajectories: Runs) -> Evaluator:
        for t in trajectories:
            np.multiply(t.states, 0.5, out=t.states)
        return super().evaluator(target, request, trajectories)


class Stirring(Probe):
    """Draws from the global random state while it records."""

    def record(self, target: Any, request: SampleRequest) -> Iterator[Trajectory]:
        np.random.random()  # noqa: NPY002
        return super().record(target, request)


# -- video writers -----------------------------------------------------------------------------------


class Blending(Archive):
    """Begins with the last frame it wrote before."""

    last: Floats | None = None

    def write(self, path: str | Path, video: Floats, frames_per_second: float) -> None:
        frames = video
        if self.last is not None and video.ndim == 4 and video.shape[1:] == self.last.shape:
            frames = np.concatenate([self.last[None], video[1:]])
        super().write(path, frames, frames_per_second)
        self.last = video[-1]


class Littering(Archive):
    """Leaves a file beside the video."""

    def write(self, path: str | Path, video: Floats, frames_per_second: float) -> None:
        super().write(path, video, frames_per_second)
        Path(path).with_suffix(".tmp").write_bytes(b"")


# -- evaluators -------------------------------------------------------------------------------------


class Toy(ToyEvaluator):
    def evaluate(self, schedules: Sequence[Schedule], **options: Any) -> Evaluation:
        return super().evaluate(schedules, **options)


class Same(Toy):
    """Gives each sample the error of the first."""

    def evaluate(self, schedules: Sequence[Schedule], **options: Any) -> Evaluation:
        found = super().evaluate(schedules, **options)
        return replace(found, errors=np.repeat(found.errors[:, :1], found.errors.shape[1], axis=1))


class Ranking(Toy):
    """Divides errors by the largest of the question."""

    def evaluate(self, schedules: Sequence[Schedule], **options: Any) -> Evaluation:
        found = super().evaluate(schedules, **options)
        return replace(found, errors=found.errors / max(found.errors.max(), 1e-12))


class Tiring(Toy):
    """Is a little more wrong each time."""

    asked = 0

    def evaluate(self, schedules: Sequence[Schedule], **options: Any) -> Evaluation:
        found = super().evaluate(schedules, **options)
        self.asked += 1
        return replace(found, errors=found.errors * (1 + 1e-9 * self.asked))


class Gratis(Toy):
    """Evaluates for nothing."""

    def evaluate(self, schedules: Sequence[Schedule], **options: Any) -> Evaluation:
        return replace(super().evaluate(schedules, **options), nfe=0)


class ToyKit(EvaluatorConformance):
    """For checks that need no accelerated run."""

    make: Callable[[ToySampler], Evaluator] = Toy

    def make_evaluator(self) -> Evaluator:
        return type(self).make(ToySampler(num_steps=10, num_samples=3))

    def accelerated_errors(self, schedule: Schedule) -> Floats:
        raise NotImplementedError


#: A cheat, the kit, its hook, and the check that catches the cheat.
CHEATS: dict[type, tuple[type[Conformance], str, str]] = {
    FirstOnly: (LocalKit, "make_cost_model", "as_many_samples_count_as_are_reported"),
    Easy: (LocalKit, "make_cost_model", "as_many_samples_count_as_are_reported"),
    Impatient: (LocalKit, "make_cost_model", "the_order_of_samples_does_not_matter"),
    Normalising: (LocalKit, "make_cost_model", "trajectories_may_be_read_only_and_are_not_changed"),
    Settled: (LocalKit, "make_cost_model", "a_cost_model_can_be_used_again"),
    Sampling: (LocalKit, "make_cost_model", "the_random_state_of_the_process_is_left_alone"),
    Free: (OutcomeKit, "make_cost_model", "the_nfe_is_what_was_spent"),
    Foreseeing: (LinearKit, "make_forecaster", "nothing_after_the_span_is_looked_at"),
    Wrapping: (LinearKit, "make_forecaster", "nothing_after_the_span_is_looked_at"),
    Unlimited: (
        LinearKit,
        "make_forecaster",
        "the_table_has_a_row_for_each_skipped_step",
    ),
    Reaching: (LinearKit, "make_forecaster", "the_table_has_a_row_for_each_skipped_step"),
    Remembering: (
        LinearKit,
        "make_forecaster",
        "a_table_does_not_depend_on_what_was_asked_before",
    ),
    Shifting: (LinearKit, "make_forecaster", "a_grid_may_be_read_only_and_is_not_changed"),
    Nameless: (RmseKit, "make_metric", "it_says_what_it_is"),
    OneSided: (RmseKit, "make_metric", "a_symmetric_metric_does_not_know_which_is_which"),
    Raised: (RmseKit, "make_metric", "identical_inputs_are_best"),
    Subtracting: (RmseKit, "make_metric", "arguments_are_not_changed"),
    Relative: (RmseKit, "make_metric", "values_do_not_depend_on_the_batch"),
    Running: (RmseKit, "make_metric", "the_same_again"),
    Cropping: (RmseKit, "make_metric", "the_random_state_of_the_process_is_left_alone"),
    Beginning: (StepsKit, "make_metric", "every_frame_counts"),
    Illiterate: (PromptedKit, "make_metric", "the_prompt_matters"),
    Ordering: (MeanColourKit, "make_metric", "order_does_not_matter"),
    Drifting: (MeanColourKit, "make_metric", "the_same_again"),
    Leaving: (ExecutorKit, "make_executor", "nothing_remains_after_exit"),
    Patching: (ExecutorKit, "make_executor", "nothing_remains_after_exit"),
    Bragging: (ExecutorKit, "make_executor", "skipped_steps_make_no_call"),
    Summing: (ExecutorKit, "make_executor", "a_report_is_of_its_own_context"),
    Simple: (ExecutorKit, "make_executor", "steps_and_forecaster_are_the_schedules"),
    Reseeding: (ExecutorKit, "make_executor", "the_random_state_of_the_process_is_left_alone"),
    Averaging: (ProbeKit, "make_probe", "a_sample_does_not_depend_on_its_neighbours"),
    Seedless: (ProbeKit, "make_probe", "seeds_make_the_samples"),
    Consuming: (ProbeKit, "make_probe", "the_evaluator_leaves_trajectories_as_they_are"),
    Stirring: (ProbeKit, "make_probe", "the_random_state_of_the_process_is_left_alone"),
    Blending: (ArchiveKit, "make_writer", "a_file_does_not_depend_on_what_was_written_before"),
    Littering: (ArchiveKit, "make_writer", "a_file_is_replaced_and_nothing_else_is_left"),
    Same: (ToyKit, "make", "samples_are_the_given_ones"),
    Ranking: (ToyKit, "make", "schedules_do_not_influence_each_other"),
    Tiring: (ToyKit, "make", "the_same_schedules_have_the_same_errors_and_nfe"),
    Gratis: (ToyKit, "make", "the_nfe_is_that_of_the_computed_steps_at_most"),
}


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.__name__)
def test_a_cheat_is_caught(cheat: type) -> None:
    kit, hook, name = CHEATS[cheat]
    check = f"test_{name}"
    honest = kit.run_checks(check)
    assert honest.failed == ()
    make = cheat if hook == "make" else lambda self: cheat()
    assert type("Cheating", (kit,), {hook: make}).run_checks(check).failed == (check,)
