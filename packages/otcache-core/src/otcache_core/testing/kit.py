"""What all kits have in common: their checks, how each ended, and expected failures with a reason."""

from __future__ import annotations

import enum
import functools
import inspect
import numbers
import operator
import re
import sys
import traceback
import unittest
from abc import ABC
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from otcache_core.errors import OtcacheError, expected, shortened, shown

Check = Callable[[Any], None]
#: Is about the kit alone, not about the plugin.
OF_THE_KIT = "test_no_check_was_removed"
#: Least and greatest value of a kit's numbers: beyond these a check would say nothing.
LIMITS: Mapping[str, tuple[float, float]] = {
    "rtol": (0.0, 0.01),
    "deviation": (0.0, 0.01),
    "tolerance": (0.0, 0.1),
    "num_steps": (5, 1000),
    "frames": (3, 1000),
    "count": (2, 1000),
}
NO_CHECK = "with this one the kit would check nothing: omit it or give another."
#: Attributes of a kit that hold whole numbers, one at least.
SEVERAL = ("seeds", "budgets", "shape")
#: Packages whose own code may raise NotApplicable, beside the modules of the kit's class.
OURS = ("otcache_core.testing", "otcache.plugin_tools")
#: Names of exceptions that make a test runner call a test skipped, or end without a failure.
EVASIONS = frozenset({"SkipTest", "Skipped", "XFailed", "Exit"})


class NotApplicable(unittest.SkipTest):
    """A check says nothing about this plugin, for the given reason; pytest skips the test.

    A hook of a kit's class may raise it too. Raised by the plugin it fails the check, as anything else that
    a plugin raises.
    """


class Outcome(enum.Enum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    EXPECTED = "fails as expected"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class CheckResult:
    """How one check ended.

    Args:
        check: name of the kit's method.
        outcome: how it ended.
        reason: what was found, why it does not apply, or why it is expected to fail; "" if it passed.
    """

    check: str
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True)
class KitReport:
    """How each check of a kit ended, in the order of the kit.

    Args:
        kit: name of the class.
        results: one per check.
    """

    kit: str
    results: tuple[CheckResult, ...]

    def of(self, outcome: Outcome) -> tuple[CheckResult, ...]:
        """Return the checks with this outcome."""
        return tuple(result for result in self.results if result.outcome is outcome)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the failed checks."""
        return tuple(result.check for result in self.of(Outcome.FAILED))

    @property
    def passing(self) -> tuple[str, ...]:
        """Names of the checks that passed, without the one about the kit itself."""
        return tuple(r.check for r in self.of(Outcome.PASSED) if r.check != OF_THE_KIT)

    @property
    def passed(self) -> bool:
        """Whether no check failed, and some passed."""
        return not self.failed and bool(self.passing)

    @property
    def count(self) -> str:
        """Return ``31 checks: 27 passed, 0 failed, 1 fails as expected, 3 not applicable``."""
        parts = ", ".join(f"{len(self.of(outcome))} {outcome.value}" for outcome in Outcome)
        return f"{len(self.results)} checks: {parts}"

    def __str__(self) -> str:
        """Return one line per check, and the count."""
        width = max(len(outcome.value) for outcome in Outcome)
        lines = []
        for result in self.results:
            tail = f": {result.reason}" if result.reason else ""
            words = result.check.removeprefix("test_").replace("_", " ")
            lines.append(f"{result.outcome.value:{width}}  {words}{tail}")
        return "\n".join((*lines, self.count))


def _judged(check: Check) -> Check:
    """Return a check that, if the kit expects it to fail, passes exactly if it fails."""

    @functools.wraps(check)
    def judged(self: Conformance) -> None:
        name = check.__name__
        reason = type(self).expected_failures.get(name)
        if reason is None:
            with _no_evasion(type(self)):
                check(self)
            return
        result = self._result(name)
        if result.outcome is not Outcome.EXPECTED:
            raise AssertionError(result.reason)
        if (pytest := sys.modules.get("pytest")) is not None:
            pytest.xfail(reason)

    return judged


class Conformance(ABC):  # noqa: B024  # the kits have abstract hooks
    """A kit: the checks of one contract, each a method ``test_...`` without arguments.

    A kit is used as it is: subclasses say by the documented hooks (``make_...``) how to make the
    plugin, and may add tests of their own. A check or a helper of the kit that is redefined, or set to
    None, is an error of the class, since it would drop a check in silence; a check that a plugin cannot
    pass is named in ``expected_failures`` with the reason.

    pytest runs each check as a test. :meth:`run_checks` runs them without pytest.

    Attributes:
        expected_failures: reasons by names of checks. It is an error if such a check passes or is not
            applicable, the name is unknown or the reason is empty.

    Examples:
        >>> from otcache_core.solvers import Uniform
        >>> from otcache_core.testing import SolverConformance
        >>> class TestUniform(SolverConformance):
        ...     def make_solver(self):
        ...         return Uniform()
        >>> TestUniform.run_checks().passed
        True

    Raises:
        OtcacheError: at the definition of a subclass that breaks these rules, or has a number so large
            or small, as ``rtol`` or ``seeds``, that checks would say nothing.
    """

    expected_failures: ClassVar[Mapping[str, str]] = {}
    _kit: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, *, kit: bool = False, **options: Any) -> None:
        """Check a subclass, and count its checks.

        Args:
            kit: whether the class is a kit itself, whose checks and helpers bind its subclasses.
            options: for other base classes.
        """
        super().__init_subclass__(**options)
        inherited = [base._kit for base in cls.__bases__ if issubclass(base, Conformance)]
        cls._kit = functools.reduce(operator.or_, inherited)
        _check_overrides(cls)
        if kit:
            own = [name for name, value in vars(cls).items() if _binding(name, value)]
            for name in own:
                if name.startswith("test_"):
                    setattr(cls, name, _judged(vars(cls)[name]))
            cls._kit = cls._kit | {name: vars(cls)[name] for name in own}
        _check_expectations(cls)
        _check_numbers(cls)

    @classmethod
    def checks(cls) -> tuple[str, ...]:
        """Return the names of all checks, in the order of the kit, whatever a subclass did to them."""
        return tuple(name for name in cls._kit if name.startswith("test_"))

    @classmethod
    def run_checks(cls, *only: str) -> KitReport:
        """Run checks, each on an instance of its own, without pytest.

        What a check raises is its result; an interrupt is passed on.

        Args:
            only: names of checks; all if none is given.
        """
        names = only or cls.checks()
        return KitReport(cls.__name__, tuple(cls()._result(name) for name in names))

    @_judged
    def test_no_check_was_removed(self) -> None:
        """As it could be of a class that was changed after its definition."""
        for name in self.checks():
            mine = getattr(type(self), name, None)
            assert mine is self._kit[name], f"{name} was replaced: leave the kit's checks alone"
        _check_numbers(type(self))

    def _result(self, check: str) -> CheckResult:
        outcome, reason = _run(functools.partial(self._kit[check].__wrapped__, self), type(self))
        expected = self.expected_failures.get(check)
        if expected is not None:
            outcome, reason = _expected(check, outcome, expected)
        return CheckResult(check, outcome, reason)


Conformance._kit = {
    name: vars(Conformance)[name] for name in (OF_THE_KIT, "_result", "checks", "run_checks")
}


def _binding(name: str, value: object) -> bool:
    """Whether a kit's attribute binds its subclasses: a check, or a helper that checks use."""
    private = name.startswith("_") and not name.startswith(("__", "_abc")) and name != "_kit"
    helper = private and not getattr(value, "__isabstractmethod__", False)
    return helper or name.startswith("test_")


def _check_overrides(cls: type[Conformance]) -> None:
    """Raise OtcacheError if a class overrides a check or helper of its kit."""
    for name, ours in cls._kit.items():
        if inspect.getattr_static(cls, name) is not ours:
            raise OtcacheError(
                f"{cls.__name__} redefines {name} of its kit, which drops a check: give your own test or "
                "helper another name, and put a check that your plugin cannot pass into expected_failures "
                "with the reason."
            )


def _check_expectations(cls: type[Conformance]) -> None:
    for check, reason in cls.expected_failures.items():
        if check not in cls.checks():
            raise OtcacheError(
                f"{cls.__name__}.expected_failures names {shown(check)}, which is not a check of this kit: "
                f"take a name of {cls.__name__}.checks()."
            )
        if not (isinstance(reason, str) and reason.strip()):
            raise OtcacheError(
                f"{cls.__name__}.expected_failures gives no reason for {check}: write down why your plugin "
                "cannot pass this check."
            )


def _check_numbers(cls: type[Conformance]) -> None:
    """Raise OtcacheError if a number of a kit is such that checks say nothing."""
    ours = [base for base in cls.__mro__ if base.__module__.startswith(OURS[0])]
    for name in {name for base in ours for name in vars(base)} & {*LIMITS, *SEVERAL}:
        value = inspect.getattr_static(cls, name)
        if name in LIMITS:
            least, most = LIMITS[name]
            number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            good = number and least <= value <= most
            wanted = f"a number from {least:g} to {most:g}"
        else:
            good = isinstance(value, tuple) and len(value) > 0
            good = good and all(isinstance(each, int) for each in value)
            wanted = "a tuple of whole numbers, one at least"
        if not good:
            raise OtcacheError(expected(f"{cls.__name__}.{name}", value, wanted, NO_CHECK))


def _expected(check: str, outcome: Outcome, reason: str) -> tuple[Outcome, str]:
    """Return the result of a check that is expected to fail."""
    if outcome is Outcome.FAILED:
        return Outcome.EXPECTED, reason
    advice = f"take it out of expected_failures, whose reason is {reason!r}"
    return Outcome.FAILED, f"{check}: {outcome.value}, not failed as expected: {advice}."


def _run(check: Callable[[], None], kit: type[Conformance]) -> tuple[Outcome, str]:
    try:
        check()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may exit, and pytest's outcomes are no Exceptions
        if _not_applicable(error, kit):
            return Outcome.NOT_APPLICABLE, _text(error)
        return Outcome.FAILED, _failure(error)
    return Outcome.PASSED, ""


def _not_applicable(error: BaseException, kit: type[Conformance]) -> bool:
    """Whether a kit says that a check does not apply, by its own code or that of its class."""
    if not isinstance(error, NotApplicable):
        return False
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    module = str(frames[-1].f_globals.get("__name__"))
    ours = any(module == name or module.startswith(f"{name}.") for name in OURS)
    return ours or module in {base.__module__ for base in kit.__mro__}


@contextmanager
def _no_evasion(kit: type[Conformance]) -> Iterator[None]:
    """Turn what would make a test runner skip a check, unless the kit raised it, into a failure."""
    try:
        yield
    except BaseException as error:
        evades = any(base.__name__ in EVASIONS for base in type(error).__mro__)
        if not evades or _not_applicable(error, kit):
            raise
        raise AssertionError(_failure(error)) from error


def _text(error: BaseException) -> str:
    """Return the message of an exception in one line; "" if its own ``__str__`` fails."""
    try:
        return " ".join(str(error).split())
    except (Exception, SystemExit):
        return ""


def _failure(error: BaseException) -> str:
    """Return what a failure says, with its notes; of a bare assertion, the line that failed."""
    text = _text(error)
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    if isinstance(error, AssertionError):
        frames = traceback.extract_tb(error.__traceback__)
        return shortened(f"{text or f'not so: {frames[-1].line}'}{notes}")
    if any(base.__name__ in EVASIONS for base in type(error).__mro__):
        text = f"{text} (only the kit says that a check does not apply)".lstrip()
    return shortened(
        f"{type(error).__name__}: {text}{notes}" if text else type(error).__name__ + notes
    )


@contextmanager
def refused(what: str, match: str = "", error: type[Exception] = OtcacheError) -> Iterator[None]:
    """Assert that an error is raised.

    Args:
        what: what raises it, for the message.
        match: pattern of the words of the error.
        error: its type.

    Raises:
        AssertionError: if nothing is raised, or in other words.
    """
    try:
        yield
    except error as raised:
        message = _text(raised)
        assert re.search(match, message), (
            f"{what} is refused without the words {match!r}: {message}"
        )
    else:
        raise AssertionError(f"{what} must raise {error.__name__}, nothing was raised")
