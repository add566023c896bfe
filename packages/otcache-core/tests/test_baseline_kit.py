"""The kit of baselines passes one that keeps the contract, and each check fails what breaks it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest

from otcache_core.contracts import Baseline, BaselineSetting, SampleRequest
from otcache_core.testing import BaselineConformance, ToySampler

STEPS = 8
REQUEST = SampleRequest(("a", "b"), (0, 1), STEPS, batch_size=1)
CHECKS = {name[5:] for name in BaselineConformance.checks()} - {"no_check_was_removed"}
Velocity = Callable[[np.ndarray, float], np.ndarray]


class Denoiser:
    """What a module is to a pipeline: something with a ``forward`` that can be replaced."""

    def __init__(self, velocity: Velocity) -> None:
        self.velocity, self.worked = velocity, [0]

    def forward(self, x: np.ndarray, s: float) -> np.ndarray:
        self.worked[0] += 1
        return self.velocity(x, s)


class Toy:
    """Euler over a denoiser, one sample per call, which is notified of the beginning of each run."""

    def __init__(self) -> None:
        self.sampler = ToySampler(num_steps=STEPS, num_samples=2)
        self.denoiser = Denoiser(self.sampler.velocity)
        self.begin: Callable[[], None] = lambda: None

    def __call__(self, sample: int, num_steps: int, stop: int | None = None) -> np.ndarray:
        grid = np.linspace(1.0, 0.0, num_steps + 1)
        x = self.sampler.start[sample : sample + 1]
        self.begin()
        for step, (s, after) in enumerate(itertools.pairwise(grid)):
            if step == stop:
                raise InterruptedError
            x = x + (after - s) * self.denoiser.forward(x, s)
        return x


class Interval(Baseline):
    """Computes every k-th step and uses its output for the others."""

    source = "otcache-core 1, every k-th step"
    by_budget = True

    def supports(self, target: Any, request: SampleRequest) -> str:
        return "" if isinstance(target, Toy) else "not a toy"

    def calibrate(
        self, target: Any, request: SampleRequest, budgets: Sequence[int]
    ) -> Mapping[str, Any]:
        made = [target(n, request.num_steps) for n in range(len(request.prompts))]
        return {"scale": float(np.abs(made).mean()), "nfe": request.num_steps * len(made)}

    def settings(
        self, num_steps: int, budgets: Sequence[int], measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        return [self.setting(num_steps, -(-num_steps // budget)) for budget in budgets]

    def setting(self, n: int, k: int) -> BaselineSetting:
        return BaselineSetting(f"interval {k}", {"interval": k}, n, tuple(range(0, n, k)))

    def apply(
        self, target: Any, setting: BaselineSetting, measured: Mapping[str, Any]
    ) -> AbstractContextManager[None]:
        return self.attached(target, setting.values["interval"])

    @contextmanager
    def attached(self, target: Toy, interval: int) -> Iterator[None]:
        begin = target.begin
        target.begin, target.denoiser.forward = self.cached(target.denoiser.forward, interval)
        try:
            yield
        finally:
            target.begin = begin
            del target.denoiser.forward

    def cached(self, inner: Velocity, interval: int) -> tuple[Callable[[], None], Velocity]:
        calls, held = 0, np.empty(0)

        def begin() -> None:
            nonlocal calls
            calls = 0

        def forward(x: np.ndarray, s: float) -> np.ndarray:
            nonlocal calls, held
            if calls % interval == 0:
                held = inner(x, s)
            calls += 1
            return held

        return begin, forward


class TestInterval(BaselineConformance):
    baseline: type[Baseline] = Interval

    def make_baseline(self) -> Baseline:
        return self.baseline()

    def make_target(self) -> Toy:
        return Toy()

    def request(self) -> SampleRequest:
        return REQUEST

    def run(self, target: Toy, sample: int, num_steps: int) -> np.ndarray:
        return target(sample, num_steps)

    def traces(self, target: Toy) -> Any:
        return sorted(vars(target.denoiser)), target.begin

    def break_off(self, target: Toy, num_steps: int) -> None:
        with pytest.raises(InterruptedError):
            target(0, num_steps, stop=num_steps // 2 + 1)

    def calls(self, target: Toy) -> int:
        return target.denoiser.worked[0]


def failed_checks(kit: type[BaselineConformance]) -> set[str]:
    """Return the checks that the kit's baseline breaks."""
    return {check[5:] for check in kit.run_checks().failed}


class Touching(Interval):
    def supports(self, target: Any, request: SampleRequest) -> str:
        if isinstance(target, Toy):
            target.denoiser.seen = True
        return super().supports(target, request)


class Nameless(Interval):
    source = ""


class Eager(Interval):
    def supports(self, target: Any, request: SampleRequest) -> str:
        return ""


class Unreadable(Interval):
    def calibrate(self, *args: Any) -> Mapping[str, Any]:
        return {"scale": (1.0, 2.0)}


class Diverging(Interval):
    def calibrate(self, *args: Any) -> Mapping[str, Any]:
        return {"scale": float("inf")}


class Fickle(Interval):
    """Measures the number of times it was asked."""

    count = itertools.count()

    def calibrate(self, *args: Any) -> Mapping[str, Any]:
        return {"scale": next(self.count)}


class Clinging(Interval):
    """Forgets what it put there to measure."""

    def calibrate(self, target: Any, *args: Any) -> Mapping[str, Any]:
        target.denoiser.forward = target.denoiser.forward
        return {}


class Few(Interval):
    def settings(self, *args: Any) -> Sequence[BaselineSetting]:
        return super().settings(*args)[:1]


class Rungless(Interval):
    by_budget = False

    def settings(self, *args: Any) -> Sequence[BaselineSetting]:
        return []


class Homonymous(Interval):
    def setting(self, n: int, k: int) -> BaselineSetting:
        return BaselineSetting("interval", {"interval": k}, n)


class Repeating(Interval):
    """A ladder has no use for a rung twice."""

    by_budget = False

    def settings(self, num_steps: int, *args: Any) -> Sequence[BaselineSetting]:
        return [self.setting(num_steps, 2), self.setting(num_steps, 2)]


class Binary(Interval):
    def setting(self, n: int, k: int) -> BaselineSetting:
        return BaselineSetting(f"interval {k}", {"interval": k, "range": (0, n)}, n)


class Overrunning(Interval):
    def setting(self, n: int, k: int) -> BaselineSetting:
        return BaselineSetting(f"interval {k}", {"interval": k}, n, (0, n))


class Drifting(Interval):
    count = itertools.count()

    def setting(self, n: int, k: int) -> BaselineSetting:
        return BaselineSetting(f"interval {k}", {"interval": k, "at": next(self.count)}, n)


class Leaving(Interval):
    @contextmanager
    def attached(self, target: Toy, interval: int) -> Iterator[None]:
        target.begin, target.denoiser.forward = self.cached(target.denoiser.forward, interval)
        yield


class Trusting(Interval):
    """Tidies up if all goes well."""

    @contextmanager
    def attached(self, target: Toy, interval: int) -> Iterator[None]:
        begin = target.begin
        target.begin, target.denoiser.forward = self.cached(target.denoiser.forward, interval)
        yield
        target.begin = begin
        del target.denoiser.forward


class Remembering(Interval):
    """Counts on from run to run, so that the next one begins where this one ended."""

    def cached(self, inner: Velocity, interval: int) -> tuple[Callable[[], None], Velocity]:
        _, forward = super().cached(inner, interval + 1)
        return lambda: None, forward


class Finishing(Interval):
    """Begins anew after N calls, whatever became of the run."""

    def cached(self, inner: Velocity, interval: int) -> tuple[Callable[[], None], Velocity]:
        reset, forward = super().cached(inner, interval)
        calls = 0

        def counted(x: np.ndarray, s: float) -> np.ndarray:
            nonlocal calls
            made = forward(x, s)
            calls += 1
            if calls % STEPS == 0:
                reset()
            return made

        return lambda: None, counted


class Boasting(Interval):
    """Says of one step less than it computes that it is computed."""

    def setting(self, n: int, k: int) -> BaselineSetting:
        return BaselineSetting(f"interval {k}", {"interval": k}, n, tuple(range(0, n, k))[:-1])


class Dicing(Interval):
    """Draws from the global random state, and uses what it drew for nothing."""

    def cached(self, *args: Any) -> tuple[Callable[[], None], Velocity]:
        np.random.random()  # noqa: NPY002  # that is the cheat
        return super().cached(*args)


class Private(Interval):
    """Keeps beside its settings what they do not say."""

    def settings(self, *args: Any) -> Sequence[BaselineSetting]:
        self.asked = True
        return super().settings(*args)

    def apply(
        self, target: Any, setting: BaselineSetting, *args: Any
    ) -> AbstractContextManager[None]:
        step = 0 if hasattr(self, "asked") else 1
        return self.attached(target, setting.values["interval"] + step)


class Calibrated(Interval):
    """Sets what it remembers, and not what it is given."""

    def calibrate(self, *args: Any) -> Mapping[str, Any]:
        self.coarse = 1
        return super().calibrate(*args)

    def setting(self, n: int, k: int) -> BaselineSetting:
        return super().setting(n, k + getattr(self, "coarse", 0))


class Settled(Interval):
    """Leaves its patch once it has calibrated."""

    def calibrate(self, *args: Any) -> Mapping[str, Any]:
        self.settled = True
        return super().calibrate(*args)

    @contextmanager
    def attached(self, target: Toy, interval: int) -> Iterator[None]:
        if not hasattr(self, "settled"):
            with super().attached(target, interval):
                yield
            return
        target.begin, target.denoiser.forward = self.cached(target.denoiser.forward, interval)
        yield


#: A defect, and the checks that it breaks besides those that follow from them.
DEFECTS: dict[type[Baseline], set[str]] = {
    Touching: {"it_supports_its_target_and_says_why_not_another"},
    Eager: {"it_supports_its_target_and_says_why_not_another"},
    Nameless: {"it_names_its_source"},
    Unreadable: {"measuring_gives_plain_data_and_leaves_nothing"},
    Diverging: {"measuring_gives_plain_data_and_leaves_nothing"},
    Fickle: {"measuring_gives_plain_data_and_leaves_nothing"},
    Clinging: {"measuring_gives_plain_data_and_leaves_nothing"},
    Few: {"there_is_a_setting_for_each_budget_or_a_ladder"},
    Rungless: {"there_is_a_setting_for_each_budget_or_a_ladder"},
    Homonymous: {"a_label_names_one_setting"},
    Repeating: {"a_label_names_one_setting"},
    Binary: {"settings_are_plain_data"},
    Overrunning: {"settings_are_plain_data"},
    Drifting: {"settings_follow_from_what_was_measured"},
    Leaving: {"bits_are_restored_after_the_context", "bits_are_restored_after_an_exception"},
    Trusting: {"bits_are_restored_after_an_exception"},
    Remembering: {"a_run_does_not_depend_on_earlier_ones"},
    Finishing: {"a_run_does_not_depend_on_one_that_was_broken_off"},
    Boasting: {"computed_steps_are_those_that_are_computed"},
    Dicing: {"the_random_state_of_the_process_is_left_alone"},
    Calibrated: {"settings_follow_from_what_was_measured"},
    Settled: {"bits_are_restored_after_the_context"},
    Private: {"facts_read_from_a_file_give_the_same_run"},
}


@pytest.mark.parametrize("baseline", DEFECTS, ids=lambda baseline: baseline.__name__)
def test_a_defect_breaks_its_check(baseline: type[Baseline]) -> None:
    assert DEFECTS[baseline] <= failed_checks(type("Kit", (TestInterval,), {"baseline": baseline}))


def test_every_check_is_broken_by_some_defect() -> None:
    assert set().union(*DEFECTS.values()) == CHECKS


def test_a_check_does_not_apply_if_no_run_can_be_broken_off() -> None:
    class Unbroken(TestInterval):
        baseline = Finishing

        def break_off(self, target: Toy, num_steps: int) -> None:
            BaselineConformance.break_off(self, target, num_steps)

    assert failed_checks(Unbroken) == set()
