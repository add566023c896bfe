"""What runs do not wait for: looking plugins up, and asking the garbage collector."""

from __future__ import annotations

import gc
import weakref

import pytest
import tiny

from otcache_core import Schedule
from otcache_core.contracts import Forecaster
from otcache_core.forecasters.extrapolation import Linear
from otcache_core.plugins import Registry, installed
from otcache_diffusers.execution.executor import TorchExecutor

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
N = 6
LINEAR = Schedule(N, (0, 1, 4), "linear")


def test_a_forecaster_is_looked_up_once_and_not_at_every_run() -> None:
    asked: list[str] = []

    def resolve(name: str) -> Forecaster:
        asked.append(name)
        return Linear()

    case = tiny.flux()
    with TorchExecutor(resolve).attach(case.pipe, LINEAR) as run:
        for _ in range(3):
            case(N)
    assert run.report.runs == 3
    assert asked == ["linear"]


def test_plugins_are_read_once_and_not_at_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handle attaches anew for each request; reading what is installed takes ten milliseconds."""
    installed()
    monkeypatch.setattr(Registry, "__init__", lambda *given: pytest.fail("they were read anew"))
    case, one = tiny.flux(), TorchExecutor()
    for _ in range(2):
        with one.attach(case.pipe, LINEAR):
            case(N)


def test_a_report_does_not_keep_the_pipeline_alive() -> None:
    case = tiny.flux()
    with TorchExecutor().attach(case.pipe, LINEAR) as run:
        case(N)
    alive = weakref.ref(case.pipe)
    del case
    gc.collect()
    assert alive() is None
    assert run.report.warnings == []
