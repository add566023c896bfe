"""A kit counts its checks, none can be dropped, and what a plugin cannot pass has a reason."""

from __future__ import annotations

import subprocess
import sys
import unittest
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from kit_fakes import ArchiveKit
from metric_fakes import Steps, StepsKit

from otcache_core import OtcacheError, ScheduleProblem, Solution
from otcache_core.contracts import Abilities, ScheduleSolver
from otcache_core.solvers import Uniform
from otcache_core.testing import (
    Conformance,
    ExpectedValues,
    NotApplicable,
    Outcome,
    SolverConformance,
)

REPEATS = "test_the_same_problem_gives_the_same_solution"
NEEDED = "test_the_frontier_is_what_each_budget_gives_alone"


class Kit(SolverConformance):
    def make_solver(self) -> ScheduleSolver:
        return Uniform()


def kit(**attributes: Any) -> type[Conformance]:
    return type("Mine", (Kit,), attributes)


class Wavering(ScheduleSolver):
    """Reports another objective each time."""

    abilities = Abilities()
    asked = 0

    def solve(self, problem: ScheduleProblem) -> Solution:
        type(self).asked += 1
        found = Uniform().solve(problem)
        return replace(found, objective=found.objective + self.asked, lower_bound=None)


def test_checks_are_counted_by_name_and_by_how_they_ended() -> None:
    report = Kit.run_checks()
    assert tuple(result.check for result in report.results) == Kit.checks()
    assert set(Kit.checks()) == {name for name in dir(Kit) if name.startswith("test_")}
    assert report.passed
    assert report.failed == ()
    ended = {outcome: len(report.of(outcome)) for outcome in Outcome}
    assert sum(ended.values()) == len(Kit.checks()) >= 20
    assert report.count == (
        f"{len(Kit.checks())} checks: {ended[Outcome.PASSED]} passed, 0 failed, 0 fails as expected, "
        f"{ended[Outcome.NOT_APPLICABLE]} not applicable"
    )
    assert all(result.reason for result in report.of(Outcome.NOT_APPLICABLE))
    assert str(report).splitlines()[-1] == report.count
    assert "passed             the problem is not changed" in str(report)


def test_a_test_of_ones_own_is_no_check() -> None:
    mine = kit(test_mine=lambda self: None)
    assert mine.checks() == Kit.checks()


def test_hooks_may_be_overridden() -> None:
    assert kit(num_steps=5, seeds=(3,)).run_checks(REPEATS).passed


REDEFINED: dict[str, Callable[[], object]] = {
    "method": lambda: kit(**{REPEATS: lambda self: None}),
    "None": lambda: kit(**{REPEATS: None}),
    "helper": lambda: kit(_solve=lambda self, problem: Uniform().solve(problem)),
    "count": lambda: kit(checks=classmethod(lambda cls: ())),
    "runner": lambda: kit(run_checks=classmethod(lambda cls: None)),
    "mixin": lambda: type("Mine", (type("Mixin", (), {REPEATS: None}), Kit), {}),
    "kit": lambda: Conformance.__class__("Mine", (Kit,), {REPEATS: None}, kit=True),
}


@pytest.mark.parametrize("way", REDEFINED)
def test_a_check_that_is_redefined_is_an_error_of_the_class(way: str) -> None:
    with pytest.raises(OtcacheError, match=r"Mine redefines .* of its kit, which drops a check"):
        REDEFINED[way]()
    kit(test_of_my_own=lambda self: None, _my_helper=None)  # under another name
    reported = {"solver": Wavering(), "expected_failures": {REPEATS: "it wavers"}}
    kit(
        make_solver=lambda self: reported["solver"], expected_failures=reported["expected_failures"]
    )


def test_a_check_that_is_removed_later_is_found() -> None:
    mine = kit()
    setattr(mine, REPEATS, lambda self: None)
    assert mine.run_checks().failed == ("test_no_check_was_removed",)
    assert REPEATS in mine.checks()
    with pytest.raises(AssertionError, match=f"{REPEATS} was replaced"):
        mine().test_no_check_was_removed()


def test_an_expected_failure_has_a_reason_and_is_counted() -> None:
    wavering = {"make_solver": lambda self: Wavering()}
    assert REPEATS in kit(**wavering).run_checks().failed
    mine = kit(**wavering, expected_failures={REPEATS: "it wavers"})
    (result,) = mine.run_checks(REPEATS).results
    assert (result.outcome, result.reason) == (Outcome.EXPECTED, "it wavers")
    with pytest.raises(pytest.xfail.Exception, match="it wavers"):
        getattr(mine(), REPEATS)()
    assert not mine.run_checks(REPEATS).passed  # nothing at all passed


@pytest.mark.parametrize(("check", "ended"), [(REPEATS, "passed"), (NEEDED, "not applicable")])
def test_a_check_that_does_not_fail_is_no_expected_failure(check: str, ended: str) -> None:
    mine = kit(expected_failures={check: "it wavers"})
    (result,) = mine.run_checks(check).results
    assert result.outcome is Outcome.FAILED
    assert result.reason == (
        f"{check}: {ended}, not failed as expected: take it out of expected_failures, whose reason is "
        "'it wavers'."
    )
    with pytest.raises(
        AssertionError, match=f"{check}: {ended}, not failed as expected: take it out"
    ):
        getattr(mine(), check)()


def test_an_unknown_check_cannot_be_expected_to_fail() -> None:
    with pytest.raises(OtcacheError, match=r"take a name of Mine\.checks\(\)"):
        kit(expected_failures={"test_everything": "no time"})
    kit(expected_failures={Kit.checks()[-1]: "no time"})


@pytest.mark.parametrize("reason", ["", "  ", None])
def test_an_expected_failure_without_a_reason_is_an_error(reason: Any) -> None:
    with pytest.raises(OtcacheError, match=f"gives no reason for {REPEATS}: write down why"):
        kit(expected_failures={REPEATS: reason})
    kit(expected_failures={REPEATS: "it wavers"})


def test_whatever_a_plugin_raises_breaks_the_check() -> None:
    for error in (SystemExit(3), RuntimeError("no"), AssertionError("off")):

        def make(self: object, error: BaseException = error) -> ScheduleSolver:
            raise error

        (result,) = kit(make_solver=make).run_checks(REPEATS).results
        assert result.outcome is Outcome.FAILED
        assert str(error) in result.reason


class Evading(ScheduleSolver):
    """Says of each check that it does not apply."""

    abilities = Abilities()
    raised: ClassVar[type[BaseException]] = unittest.SkipTest

    def solve(self, problem: ScheduleProblem) -> Solution:
        raise self.raised("nothing to see")


# a plugin of another module than its kit's
exec(
    "class Elsewhere(Evading):\n"
    "    def solve(self, problem):\n"
    "        raise self.raised('nothing to see')",
    elsewhere := {"__name__": "a_plugin", "Evading": Evading},
)
EVASIONS = [
    unittest.SkipTest,
    NotApplicable,
    type("Skipped", (Exception,), {}),
    pytest.skip.Exception,
    pytest.xfail.Exception,
    pytest.exit.Exception,
]


@pytest.mark.parametrize("raised", EVASIONS)
def test_a_plugin_cannot_say_that_a_check_does_not_apply(raised: type[BaseException]) -> None:
    evading = type("Mine", (elsewhere["Elsewhere"],), {"raised": raised})
    mine = kit(make_solver=lambda self: evading())
    (result,) = mine.run_checks(REPEATS).results
    assert result.outcome is Outcome.FAILED
    assert "nothing to see (only the kit says that a check does not apply)" in result.reason
    with pytest.raises(AssertionError, match="nothing to see"):  # under pytest
        getattr(mine(), REPEATS)()
    assert not mine.run_checks().passed


def test_the_check_about_the_kit_says_nothing_of_the_plugin() -> None:
    report = Kit.run_checks("test_no_check_was_removed", NEEDED)
    assert [result.outcome for result in report.results] == [Outcome.PASSED, Outcome.NOT_APPLICABLE]
    assert (report.passing, report.passed) == ((), False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rtol", 1e9),
        ("rtol", float("nan")),
        ("rtol", True),
        ("rtol", property(lambda self: 0.0)),
        ("num_steps", 1),
        ("seeds", ()),
        ("seeds", range(0)),
        ("seeds", None),
    ],
)
def test_a_number_that_switches_checks_off_is_an_error_of_the_class(name: str, value: Any) -> None:
    with pytest.raises(OtcacheError, match=rf"Mine\.{name} must be .* would check nothing"):
        kit(**{name: value})
    kit(frames=lambda self: 1, tolerance="of another kind")  # no numbers of this kit
    mine = kit()
    setattr(mine, name, value)
    assert mine.run_checks("test_no_check_was_removed").failed


def test_a_value_derived_elsewhere_has_a_tolerance_that_says_something() -> None:
    for off in ({"rtol": 1e9}, {"atol": float("inf")}, {"rtol": float("nan")}):
        with pytest.raises(OtcacheError, match=r"of expected values must be between 0 and 0\.1"):
            ExpectedValues((), 1.0, **off)
    with pytest.raises(OtcacheError, match=r"tolerance must be a number from 0 to 0\.1, got inf"):
        type("Mine", (ArchiveKit,), {"tolerance": float("inf")})


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_error_without_words_breaks_the_check_by_its_type() -> None:
    mine = kit(make_solver=lambda self: type("Mine", (Evading,), {"raised": MuteError})())
    (result,) = mine.run_checks(REPEATS).results
    assert (result.outcome, result.reason) == (Outcome.FAILED, "MuteError (given N = 9, B = 3)")


def test_an_interrupt_is_passed_on() -> None:
    def make(self: object) -> ScheduleSolver:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kit(make_solver=make).run_checks(REPEATS)


def test_a_hook_may_say_that_a_check_does_not_apply() -> None:
    class Unanswered(StepsKit):
        def expected_values(self) -> Any:
            raise NotApplicable("nobody derived a value")

    report = Unanswered.run_checks()
    assert isinstance(Unanswered().make_metric(), Steps)
    assert report.passed
    assert {result.reason for result in report.of(Outcome.NOT_APPLICABLE)} == {
        "nobody derived a value"
    }


def test_a_bare_assertion_of_a_hook_is_reported_by_its_line() -> None:
    def make(self: object) -> ScheduleSolver:
        raise AssertionError

    (result,) = kit(make_solver=make).run_checks(REPEATS).results
    assert result.reason == "not so: raise AssertionError"


def test_kits_need_no_pytest() -> None:
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "from otcache_core.solvers import Uniform\n"
        "from otcache_core.testing import SolverConformance\n"
        "class Kit(SolverConformance):\n"
        "    def make_solver(self): return Uniform()\n"
        "print(Kit.run_checks().count)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == Kit.run_checks().count
