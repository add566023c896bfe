"""The laws of a baseline as tests."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.baseline import Baseline, BaselineSetting
from otcache_core.contracts.probe import SampleRequest
from otcache_core.testing.kit import LEFT, Conformance, NotApplicable, refused
from otcache_core.testing.purity import RANDOM, random_state_of


class BaselineConformance(Conformance, kit=True):
    """Laws of :class:`~otcache_core.contracts.Baseline`.

    The author says how to make a target, run one sample of it, and see what may be left on it.
    """

    budgets: tuple[int, ...] = (2, 4)
    _once: ClassVar[Mapping[str, Any]]

    @abstractmethod
    def make_baseline(self) -> Baseline:
        """A fresh baseline."""

    @abstractmethod
    def make_target(self) -> Any:
        """A fresh target; two of them give the same samples."""

    @abstractmethod
    def request(self) -> SampleRequest:
        """At least two samples to calibrate on; its ``num_steps`` is N."""

    @abstractmethod
    def run(self, target: Any, sample: int, num_steps: int) -> NDArray[Any]:
        """Sample number ``sample`` of the request in one call of ``num_steps`` steps."""

    @abstractmethod
    def traces(self, target: Any) -> Any:
        """Whatever a baseline could leave behind (``sorted(vars(module))``, hooks), for comparison."""

    def break_off(self, target: Any, num_steps: int) -> None:
        """Begin a run of sample 0 and stop it in the middle, as an exception would.

        A law is left out where this is not given.
        """
        raise NotApplicable("no run is broken off")

    def calls(self, target: Any) -> int | None:
        """How often the denoiser has really worked since ``make_target``; None where nobody counts."""
        return None

    def _plain(self, target: Any, sample: int = 0) -> NDArray[Any]:
        return self.run(target, sample, self.request().num_steps)

    def _measured(self, baseline: Baseline, target: Any) -> Mapping[str, Any]:
        return baseline.calibrate(target, self.request(), self.budgets)

    def _facts(self) -> dict[str, Any]:
        """Return what was measured the first time, as read from a file: it is the same each time."""
        kit = type(self)
        if vars(self) or "_once" not in vars(kit):  # what differs from kit to kit may be on it
            kit._once = self._measured(self.make_baseline(), self.make_target())
        return _read_again(kit._once)

    def _settings(
        self, baseline: Baseline, measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        return baseline.settings(self.request().num_steps, self.budgets, measured)

    def _some(self, baseline: Baseline, measured: Mapping[str, Any]) -> list[BaselineSetting]:
        """The mildest, a middle and the most aggressive setting."""
        found = self._settings(baseline, measured)
        return [found[n] for n in sorted({0, len(found) // 2, len(found) - 1})]

    # -- what is said beforehand ----------------------------------------------------------------------

    def test_it_supports_its_target_and_says_why_not_another(self) -> None:
        baseline, request = self.make_baseline(), self.request()
        assert baseline.supports(self.make_target(), request) == ""
        assert baseline.supports(object(), request)

    def test_asking_for_support_changes_nothing(self) -> None:
        target = self.make_target()
        plain, before = self._plain(target), self.traces(target)
        self.make_baseline().supports(target, self.request())
        assert self.traces(target) == before, LEFT
        np.testing.assert_array_equal(self._plain(target), plain)

    def test_it_names_its_source(self) -> None:
        assert self.make_baseline().source

    def test_what_it_measures_is_plain_data(self) -> None:
        measured = self._measured(self.make_baseline(), self.make_target())
        assert _read_again(measured) == measured, "a file gives it back otherwise"
        price = measured.get("nfe", 0)
        assert price is None or (isinstance(price, int) and price >= 0), f"nfe is {price!r}"

    def test_measuring_twice_gives_the_same(self) -> None:
        first, second = (self._measured(self.make_baseline(), self.make_target()) for _ in range(2))
        assert first == second

    def test_measuring_leaves_nothing(self) -> None:
        target = self.make_target()
        plain, before = self._plain(target), self.traces(target)
        self._measured(self.make_baseline(), target)
        assert self.traces(target) == before, LEFT
        np.testing.assert_array_equal(self._plain(target), plain)

    # -- settings -------------------------------------------------------------------------------------

    def test_there_is_a_setting_for_each_budget_or_a_ladder(self) -> None:
        baseline = self.make_baseline()
        found = self._settings(baseline, self._facts())
        assert len(found) == len(self.budgets) if baseline.by_budget else found

    def test_a_label_names_one_setting(self) -> None:
        baseline = self.make_baseline()
        found = self._settings(baseline, self._facts())
        by_label = {setting.label: setting for setting in found}
        assert all(by_label[setting.label] == setting for setting in found)
        assert all(by_label)
        if not baseline.by_budget:
            assert len(by_label) == len(found)

    def test_settings_are_plain_data(self) -> None:
        baseline = self.make_baseline()
        for setting in self._settings(baseline, self._facts()):
            assert _read_again(setting.values) == setting.values, "a file gives it back otherwise"
            assert setting.num_steps >= 1
            steps = setting.computed
            if steps is not None:
                assert steps[:1] == (0,)
                assert list(steps) == sorted(set(steps))
                assert steps[-1] < setting.num_steps

    def test_the_same_is_measured_the_same_is_set(self) -> None:
        baseline = self.make_baseline()
        measured = self._facts()
        found = list(self._settings(baseline, measured))
        assert list(self._settings(baseline, measured)) == found
        assert list(self._settings(self.make_baseline(), _read_again(measured))) == found

    # -- runs -----------------------------------------------------------------------------------------

    def test_bits_are_restored_after_the_context(self) -> None:
        baseline, target = self.make_baseline(), self.make_target()
        plain, before = self._plain(target), self.traces(target)
        measured = self._facts()
        for setting in self._some(baseline, measured):
            with baseline.apply(target, setting, measured):
                assert np.isfinite(self.run(target, 0, setting.num_steps)).all()
            assert self.traces(target) == before, LEFT
            np.testing.assert_array_equal(self._plain(target), plain)

    def test_bits_are_restored_after_an_exception(self) -> None:
        baseline, target = self.make_baseline(), self.make_target()
        plain, before = self._plain(target), self.traces(target)
        measured = self._facts()
        context = baseline.apply(target, self._some(baseline, measured)[-1], measured)
        with refused("a run that breaks off", error=KeyError), context:
            raise KeyError
        assert self.traces(target) == before, LEFT
        np.testing.assert_array_equal(self._plain(target), plain)

    def test_a_run_does_not_depend_on_earlier_ones(self) -> None:
        baseline, target = self.make_baseline(), self.make_target()
        measured = self._facts()
        for setting in self._some(baseline, measured):
            with baseline.apply(target, setting, measured):
                alone = self.run(target, 1, setting.num_steps)
            with baseline.apply(target, setting, measured):
                self.run(target, 0, setting.num_steps)
                second = self.run(target, 1, setting.num_steps)
                third = self.run(target, 1, setting.num_steps)
            np.testing.assert_array_equal(second, alone)
            np.testing.assert_array_equal(third, alone)

    def test_a_run_does_not_depend_on_one_that_was_broken_off(self) -> None:
        baseline, target = self.make_baseline(), self.make_target()
        measured = self._facts()
        for setting in self._some(baseline, measured):
            with baseline.apply(target, setting, measured):
                alone = self.run(target, 1, setting.num_steps)
                self.break_off(target, setting.num_steps)
                after = self.run(target, 1, setting.num_steps)
            np.testing.assert_array_equal(after, alone)

    def test_computed_steps_are_those_that_are_computed(self) -> None:
        baseline, target = self.make_baseline(), self.make_target()
        if self.calls(target) is None:
            raise NotApplicable("nobody counts calls")
        measured = self._facts()
        for setting in self._some(baseline, measured):
            before = self.calls(target) or 0
            if setting.computed is None:
                raise NotApplicable("computed steps are not known beforehand")
            self.run(target, 0, setting.num_steps)
            between = self.calls(target) or 0
            with baseline.apply(target, setting, measured):
                self.run(target, 0, setting.num_steps)
            made = (self.calls(target) or 0) - between
            wanted = (between - before) * len(setting.computed) // setting.num_steps
            assert made == wanted, f"{setting.label} makes {made} calls, its steps are {wanted}"

    def test_the_random_state_of_the_process_is_left_alone(self) -> None:
        """Or as plain runs leave it, which begin at the same state."""
        baseline, target = self.make_baseline(), self.make_target()
        measured = self._facts()
        setting = self._some(baseline, measured)[-1]

        def applied() -> NDArray[Any]:
            with baseline.apply(target, setting, measured):
                return self.run(target, 0, setting.num_steps)

        plain = random_state_of(lambda: self.run(target, 0, setting.num_steps))
        assert random_state_of(applied) == plain, RANDOM

    def test_what_was_written_down_serves_as_well(self) -> None:
        baseline, target = self.make_baseline(), self.make_target()
        measured = self._facts()
        setting = self._some(baseline, measured)[-1]
        with baseline.apply(target, setting, measured):
            made = self.run(target, 0, setting.num_steps)
        values = _read_again(setting.values)
        read = BaselineSetting(setting.label, values, setting.num_steps, setting.computed)
        fresh = self.make_target()
        with self.make_baseline().apply(fresh, read, _read_again(measured)):
            np.testing.assert_array_equal(self.run(fresh, 0, read.num_steps), made)


def _read_again(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts after a journey through a file."""
    found: dict[str, Any] = json.loads(json.dumps(dict(facts), allow_nan=False))
    return found
