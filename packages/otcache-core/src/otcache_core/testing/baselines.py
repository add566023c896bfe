"""Conformance tests of a baseline, a cache of others that is compared with otcache."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from otcache_core.contracts.comparison import Baseline, BaselineSetting
from otcache_core.contracts.execution import SampleRequest
from otcache_core.errors import shown
from otcache_core.testing.assertions import (
    LEFT,
    OTHER,
    RANDOM,
    assert_equal,
    check_reasons,
    random_state_of,
)
from otcache_core.testing.kit import Conformance, NotApplicable, refused

PLAIN = "return numbers, strings, lists and dicts"
FROM_FILE = f"is read from a file otherwise than it was written: {PLAIN}"
DISTINCT = "give each setting a label of its own"
BEGIN = "begin each run anew, at its first step"


class BaselineConformance(Conformance, kit=True):
    """Conformance tests of :class:`~otcache_core.contracts.Baseline`.

    The author says how to make a target, run one sample of it, and see what may be left on it.
    """

    budgets: tuple[int, ...] = (2, 4)
    _once: ClassVar[Mapping[str, Any]]

    @abstractmethod
    def make_baseline(self) -> Baseline:
        """Return a fresh baseline."""

    @abstractmethod
    def make_target(self) -> Any:
        """Return a fresh target; two of them give the same samples."""

    @abstractmethod
    def request(self) -> SampleRequest:
        """Return a request for at least two samples to calibrate on; its ``num_steps`` is N."""

    @abstractmethod
    def run(self, target: Any, sample: int, num_steps: int) -> NDArray[Any]:
        """Return sample number ``sample`` of the request, made in one call of ``num_steps`` steps."""

    @abstractmethod
    def traces(self, target: Any) -> Any:
        """Return what a baseline could leave behind (``sorted(vars(module))``, hooks), for comparison."""

    def break_off(self, target: Any, num_steps: int) -> None:
        """Begin a run of sample 0 and stop it in the middle, as an exception would.

        A check does not apply if this is not given.
        """
        raise NotApplicable("no run is broken off")

    def calls(self, target: Any) -> int | None:
        """Return how often the denoiser has really worked since ``make_target``; None if nobody counts."""
        return None

    def _plain(self, target: Any, sample: int = 0) -> NDArray[Any]:
        return self.run(target, sample, self.request().num_steps)

    @contextmanager
    def _restored(self, target: Any) -> Iterator[None]:
        """Assert that a target is afterwards as it was, and gives the same result."""
        plain, before = self._plain(target), self.traces(target)
        yield
        assert self.traces(target) == before, LEFT
        assert_equal(self._plain(target), plain, OTHER)

    def _measured(self, baseline: Baseline, target: Any) -> Mapping[str, Any]:
        return baseline.calibrate(target, self.request(), self.budgets)

    def _facts(self) -> dict[str, Any]:
        """Return what was measured the first time, as read from a file: it is the same each time.

        Checks in which a baseline may remember that it has measured, or leave something then, measure anew.
        """
        kit = type(self)
        if vars(self) or "_once" not in vars(kit):  # what differs from kit to kit may be on it
            kit._once = self._measured(self.make_baseline(), self.make_target())
        return _read_again(kit._once)

    def _settings(
        self, baseline: Baseline, measured: Mapping[str, Any]
    ) -> Sequence[BaselineSetting]:
        return baseline.settings(self.request().num_steps, self.budgets, measured)

    def _some(self, baseline: Baseline, measured: Mapping[str, Any]) -> list[BaselineSetting]:
        """Return the mildest, a middle and the most aggressive setting."""
        found = self._settings(baseline, measured)
        return [found[n] for n in sorted({0, len(found) // 2, len(found) - 1})]

    # -- what is known beforehand ---------------------------------------------------------------------

    def test_it_supports_its_target_and_says_why_not_another(self) -> None:
        """And changes neither."""
        baseline, request, target = self.make_baseline(), self.request(), self.make_target()
        with self._restored(target):
            own = baseline.supports(target, request)
        check_reasons(own, baseline.supports(object(), request))

    def test_it_names_its_source(self) -> None:
        assert self.make_baseline().source, "source is empty: name the paper or code it follows"

    def test_measuring_gives_plain_data_and_leaves_nothing(self) -> None:
        target = self.make_target()
        with self._restored(target):
            measured = self._measured(self.make_baseline(), target)
        assert _read_again(measured) == measured, f"what is measured {FROM_FILE}"
        nfe = measured.get("nfe", 0)
        assert nfe is None or (isinstance(nfe, int) and nfe >= 0), (
            f"nfe is {shown(nfe)}: give the evaluations that were spent, or None"
        )
        once = self._facts()
        assert once == measured, (
            f"measured once {shown(once)}, and again {shown(measured)}: seed random choices, keep no state"
        )

    # -- settings -------------------------------------------------------------------------------------

    def test_there_is_a_setting_for_each_budget_or_a_ladder(self) -> None:
        baseline = self.make_baseline()
        found = self._settings(baseline, self._facts())
        wanted = len(self.budgets) if baseline.by_budget else max(1, len(found))
        assert len(found) == wanted, (
            f"there are {len(found)} settings: return one for each of {len(self.budgets)} budgets, or, if "
            "by_budget is False, a ladder of at least one"
        )

    def test_a_label_names_one_setting(self) -> None:
        baseline = self.make_baseline()
        found = self._settings(baseline, self._facts())
        by_label = {setting.label: setting for setting in found}
        for setting in found:
            other = by_label[setting.label]
            assert other == setting, f"label {setting.label!r} is that of two settings: {DISTINCT}"
        assert all(by_label), f"a label is empty: {DISTINCT}"
        if not baseline.by_budget:
            assert len(by_label) == len(found), f"a setting of the ladder comes twice: {DISTINCT}"

    def test_settings_are_plain_data(self) -> None:
        baseline = self.make_baseline()
        for setting in self._settings(baseline, self._facts()):
            assert _read_again(setting.values) == setting.values, f"setting.values {FROM_FILE}"
            n, steps = setting.num_steps, setting.computed
            assert n >= 1, f"setting {setting.label!r} has num_steps = {n}: give one at least"
            if steps is not None:
                rising = list(steps) == sorted(set(steps)) and steps[:1] == (0,) and steps[-1] < n
                assert rising, (
                    f"setting {setting.label!r} computes steps {shown(steps)} of {n}: "
                    f"give rising steps from 0 to {n - 1} that begin with 0, or None"
                )

    def test_settings_follow_from_what_was_measured(self) -> None:
        baseline = self.make_baseline()
        measured = self._measured(baseline, self.make_target())
        found = list(self._settings(baseline, measured))
        fresh, read = self.make_baseline(), _read_again(measured)
        for other in (self._settings(baseline, measured), self._settings(fresh, read)):
            assert list(other) == found, (
                f"settings {shown(list(other))} and {shown(found)} are of the same measurement: make them of "
                "it alone"
            )

    # -- runs -----------------------------------------------------------------------------------------

    def test_bits_are_restored_after_the_context(self) -> None:
        baseline, target = self.make_baseline(), self.make_target()
        plain, before = self._plain(target), self.traces(target)
        measured = self._measured(baseline, target)
        for setting in self._some(baseline, measured):
            with baseline.apply(target, setting, measured):
                made = self.run(target, 0, setting.num_steps)
            assert np.isfinite(made).all(), f"a run at setting {setting.label!r} is not finite"
            assert self.traces(target) == before, LEFT
            assert_equal(self._plain(target), plain, OTHER)

    def test_bits_are_restored_after_an_exception(self) -> None:
        baseline, target, measured = self.make_baseline(), self.make_target(), self._facts()
        with self._restored(target):
            context = baseline.apply(target, self._some(baseline, measured)[-1], measured)
            with refused("a run that breaks off", error=KeyError), context:
                raise KeyError

    def test_a_run_does_not_depend_on_earlier_ones(self) -> None:
        baseline, target = self.make_baseline(), self.make_target()
        measured = self._measured(baseline, target)
        for setting in self._some(baseline, measured):
            with baseline.apply(target, setting, measured):
                alone = self.run(target, 1, setting.num_steps)
            with baseline.apply(target, setting, measured):
                self.run(target, 0, setting.num_steps)
                second = self.run(target, 1, setting.num_steps)
                third = self.run(target, 1, setting.num_steps)
            for later in (second, third):
                assert_equal(later, alone, f"a run differs after another one: {BEGIN}")

    def test_a_run_does_not_depend_on_one_that_was_broken_off(self) -> None:
        baseline, target = self.make_baseline(), self.make_target()
        measured = self._facts()
        for setting in self._some(baseline, measured):
            with baseline.apply(target, setting, measured):
                alone = self.run(target, 1, setting.num_steps)
                self.break_off(target, setting.num_steps)
                after = self.run(target, 1, setting.num_steps)
            assert_equal(after, alone, f"a run differs after one that was broken off: {BEGIN}")

    def test_computed_steps_are_those_that_are_computed(self) -> None:
        baseline, target = self.make_baseline(), self.make_target()
        if self.calls(target) is None:
            raise NotApplicable("the kit does not count calls")
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
            assert made == wanted, (
                f"setting {setting.label!r} makes {made} calls, its computed steps are {wanted}: report the "
                "steps that are computed, or None"
            )

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

    def test_facts_read_from_a_file_give_the_same_run(self) -> None:
        baseline, target = self.make_baseline(), self.make_target()
        measured = self._facts()
        setting = self._some(baseline, measured)[-1]
        with baseline.apply(target, setting, measured):
            made = self.run(target, 0, setting.num_steps)
        values = _read_again(setting.values)
        read = BaselineSetting(setting.label, values, setting.num_steps, setting.computed)
        fresh = self.make_target()
        with self.make_baseline().apply(fresh, read, _read_again(measured)):
            again = self.run(fresh, 0, read.num_steps)
        assert_equal(
            again, made, "a run by what a file gives back differs: keep it all in plain data"
        )


def _read_again(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts written as JSON and read again."""
    try:
        text = json.dumps(dict(facts), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(
            f"{shown(facts)} cannot be written to a file ({error}): {PLAIN}"
        ) from error
    found: dict[str, Any] = json.loads(text)
    return found
