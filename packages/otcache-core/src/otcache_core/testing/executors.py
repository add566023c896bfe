"""Conformance tests of a cache executor, which skips steps of a target and leaves nothing on it."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.execution import CacheExecutor, CacheStorage, RunReport
from otcache_core.errors import ExecutionError
from otcache_core.schedule import Schedule
from otcache_core.testing.assertions import (
    LEFT,
    OTHER,
    RANDOM,
    assert_equal,
    check_reasons,
    random_state_of,
)
from otcache_core.testing.kit import Conformance, refused


class ExecutorConformance(Conformance, kit=True):
    """Conformance tests of :class:`~otcache_core.contracts.CacheExecutor`.

    The author says how to make a target, run it, and count the calls of its denoiser's own work
    (a counter inside the denoiser: a skipped call must not reach it).
    """

    num_steps: int = 6

    @abstractmethod
    def make_executor(self) -> CacheExecutor:
        """Return a fresh executor."""

    @abstractmethod
    def make_target(self) -> Any:
        """Return a fresh target; two of them share no module and give the same images."""

    @abstractmethod
    def run(self, target: Any) -> NDArray[Any]:
        """Sample once with ``num_steps`` steps and a fixed seed, and return the result."""

    @abstractmethod
    def denoiser(self, target: Any) -> Any:
        """Return the module that is called at each step."""

    @abstractmethod
    def calls(self, target: Any) -> int:
        """Return how often the denoiser has really worked since ``make_target``."""

    def _traces(self, target: Any) -> tuple[Any, ...]:
        module = self.denoiser(target)
        modules = getattr(module, "modules", None)
        marks = [_marks(each) for each in (modules() if callable(modules) else [module])]
        return marks, str(inspect.signature(module.forward)), sorted(vars(target))

    @property
    def _schedule(self) -> Schedule:
        return Schedule(self.num_steps, (0, 2))

    def _attached(self, target: Any, schedule: Schedule) -> tuple[NDArray[Any], RunReport]:
        """Return the result of one run by a schedule, and the report."""
        with self.make_executor().attach(target, schedule) as run:
            result = self.run(target)
        return result, run.report

    def _schedules(self) -> Sequence[Schedule]:
        n = self.num_steps
        some = tuple(sorted({0, 1, n // 2}))
        return (
            Schedule(n, (0,)),
            Schedule(n, some),
            Schedule(n, some, forecaster="linear"),
            Schedule(n, some, forecaster="variable-order"),
            Schedule.full(n),
        )

    def test_it_supports_its_target_and_says_why_not_another(self) -> None:
        """And changes nothing."""
        executor, target = self.make_executor(), self.make_target()
        before = self._traces(target)
        check_reasons(executor.supports(target), executor.supports(object()))
        assert self._traces(target) == before, LEFT

    def test_computing_every_step_is_bit_identical(self) -> None:
        target = self.make_target()
        plain = self.run(target)
        attached, _ = self._attached(target, Schedule.full(self.num_steps))
        what = "a run that computes every step is not the plain one: pass outputs on as they are"
        assert_equal(attached, plain, what)

    def test_skipped_steps_make_no_call(self) -> None:
        target = self.make_target()
        self.run(target)
        per_step = self.calls(target) // self.num_steps
        for schedule in self._schedules():
            before = self.calls(target)
            result, report = self._attached(target, schedule)
            assert np.isfinite(result).all(), f"the result of {schedule.computed} is not finite"
            made = self.calls(target) - before
            computed = per_step * schedule.budget
            skipped = per_step * (self.num_steps - schedule.budget)
            assert made == computed, (
                f"{made} calls were made, steps {schedule.computed} are {computed}: call the denoiser at "
                "these steps alone"
            )
            reported = report.computed, report.skipped
            found = tuple(sum(calls.values()) for calls in reported)
            assert found == (computed, skipped), (
                f"{computed} calls were computed and {skipped} skipped, the report has {found}: count each"
            )

    def test_steps_and_forecaster_are_the_schedules(self) -> None:
        target, n = self.make_target(), self.num_steps
        some = tuple(sorted({0, 1, n // 2}))
        later = (*some[:-1], some[-1] + 1)
        reuse, _ = self._attached(target, Schedule(n, some))
        other, _ = self._attached(target, Schedule(n, later))
        linear, _ = self._attached(target, Schedule(n, some, forecaster="linear"))
        same = np.array_equal(reuse, other)
        assert not same, f"steps {some} and {later} give the same: compute those of the schedule"
        same = np.array_equal(reuse, linear)
        assert not same, "the schedule's forecaster makes no difference: fill skipped steps by it"

    def test_a_report_is_of_its_own_context(self) -> None:
        target, executor, reports = self.make_target(), self.make_executor(), []
        for _ in range(2):
            with executor.attach(target, self._schedule) as run:
                self.run(target)
            reports.append((run.report.runs, run.report.computed, run.report.skipped))
        assert reports[0] == reports[1], (
            f"the first context reports {reports[0]}, the second {reports[1]}: begin a report with each "
            "context"
        )

    def test_the_random_state_of_the_process_is_left_alone(self) -> None:
        """Or as a plain run leaves it."""
        target = self.make_target()
        self.run(target)
        plain = random_state_of(lambda: self.run(target))
        assert random_state_of(lambda: self._attached(target, self._schedule)) == plain, RANDOM

    def test_the_report_has_the_schedule_and_the_bytes(self) -> None:
        """Of two runs; the second one is the first again, since each begins with an empty cache."""
        target = self.make_target()
        with self.make_executor().attach(target, self._schedule) as run:
            first, second = self.run(target), self.run(target)
        assert_equal(
            second, first, "the second run differs from the first: begin each with an empty cache"
        )
        report, most, left = run.report, run.report.peak_cached_bytes, run.report.cached_bytes
        assert report.planned == (0, 2), f"planned is {report.planned}: give the schedule's steps"
        assert report.runs == 2, f"runs is {report.runs} after two runs: count each"
        assert most > 0, f"peak_cached_bytes is {most}: count the bytes of outputs that are kept"
        assert left == 0, f"cached_bytes is {left} after the context: release them"

    def test_outputs_are_kept_as_given_or_not_at_all(self) -> None:
        target, full = self.make_target(), Schedule.full(self.num_steps)
        plain = self.run(target)
        storages = CacheStorage("bf16"), CacheStorage(device="cpu")
        for storage, schedule in product(storages, (full, self._schedule)):
            with ExitStack() as stack:
                try:
                    attached = self.make_executor().attach(target, schedule, storage=storage)
                    run = stack.enter_context(attached)
                except ExecutionError:
                    continue
                result = self.run(target)
            kept = run.report.storage
            assert kept == storage, (
                f"{storage} was given, the report has {kept}: keep outputs so, or raise ExecutionError"
            )
            left = run.report.cached_bytes + run.report.cached_host_bytes
            assert left == 0, f"{left} bytes are kept after the context: let go of them"
            assert np.isfinite(result).all(), f"the result with {storage} is not finite"
            if schedule is full:
                assert_equal(
                    result, plain, f"a full run with {storage} is not the plain one: reuse nothing"
                )

    def test_nothing_remains_after_exit(self) -> None:
        target = self.make_target()
        plain, before = self.run(target), self._traces(target)
        self._attached(target, self._schedule)
        assert self._traces(target) == before, LEFT
        assert_equal(self.run(target), plain, OTHER)

    def test_nothing_remains_after_an_exception(self) -> None:
        target = self.make_target()
        before = self._traces(target)
        attached = self.make_executor().attach(target, self._schedule)
        with refused("a run that breaks off", error=KeyError), attached:
            raise KeyError
        assert self._traces(target) == before, LEFT

    def test_other_instances_are_not_touched(self) -> None:
        target, other = self.make_target(), self.make_target()
        plain, before = self.run(other), self._traces(other)
        with self.make_executor().attach(target, Schedule(self.num_steps, (0,))):
            assert self._traces(other) == before, LEFT
            assert_equal(
                self.run(other), plain, "another instance is accelerated too: change this one alone"
            )

    def test_attaching_twice_is_refused(self) -> None:
        target, executor = self.make_target(), self.make_executor()
        with (
            executor.attach(target, self._schedule),
            refused("attaching twice", error=ExecutionError),
            self.make_executor().attach(target, Schedule(self.num_steps, (0,))),
        ):
            pass


def _marks(module: Any) -> tuple[Any, ...]:
    """Return what an executor could leave on a module or its class."""
    hooks = [list(v) for k, v in sorted(vars(module).items()) if k.endswith("_hooks")]
    own, inherited = (
        vars(module).get("forward"),
        inspect.getattr_static(type(module), "forward", None),
    )
    return sorted(vars(module)), hooks, id(own), id(inherited)
