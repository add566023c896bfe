"""Progress by a clock of the test's own: plain lines, bars, and how much is left."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otcache.console import console_on
from otcache.progress import EVERY, Pace, Stages, _Bars, _progress, duration


class Clock:
    """Goes on when it is advanced."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


class Terminal(io.StringIO):
    """Somebody watches."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _lines(clock: Clock, use: Callable[[Stages], None], *, show: bool = True) -> list[str]:
    out = io.StringIO()
    use(Stages(show, stream=out, clock=clock))
    return out.getvalue().splitlines()


def test_a_line_every_half_minute_and_one_at_the_end(clock: Clock) -> None:
    def use(stages: Stages) -> None:
        with stages.stage("recording", 8) as advance:
            for done in range(1, 9):
                clock.wait(EVERY / 2)
                advance(done, 8)

    assert _lines(clock, use) == [
        "recording: 2 of 8, 0:30 elapsed, about 1:30 left",
        "recording: 4 of 8, 1:00 elapsed, about 1:00 left",
        "recording: 6 of 8, 1:30 elapsed, about 0:30 left",
        "recording: 8 of 8, 2:00 elapsed",
        "recording: 8 of 8 in 2:00",
    ]


def test_short_work_leaves_no_line(clock: Clock) -> None:
    def use(stages: Stages) -> None:
        with stages.stage("recording", 8) as advance:
            clock.wait(0.5)
            advance(8, 8)

    assert _lines(clock, use) == []


def test_work_that_reports_nothing_is_asked(clock: Clock) -> None:
    def use(stages: Stages) -> None:
        with stages.stage("running steps", 40, ask=lambda: 10):
            clock.wait(EVERY)
            stages._lines.tick()  # as the thread beside the work does

    assert _lines(clock, use) == [
        "running steps: 10 of 40, 0:30 elapsed, about 1:30 left",
        "running steps: 10 of 40 in 0:30",
    ]


def test_nothing_is_printed_if_nobody_asked(clock: Clock) -> None:
    def use(stages: Stages) -> None:
        with stages.stage("recording", 2) as advance:
            clock.wait(EVERY)
            advance(1, 2)
        with stages.rows("methods", 1) as report:
            report("uniform", "B = 2", 1, 1)
        stages.say("no")
        stages.table("no")

    assert _lines(clock, use, show=False) == []


def test_methods_beside_each_other(clock: Clock) -> None:
    """What was finished before counts for neither the pace nor the rest."""

    def use(stages: Stages) -> None:
        with stages.rows("running methods", 4) as report:
            report("kept", "", 5, 5)
            clock.wait(EVERY)
            report("uniform", "B = 2", 1, 2)
            report("uniform", "B = 4", 1, 2)
            clock.wait(EVERY)
            report("uniform", "B = 4", 2, 2)
            report("lemica", "B = 4", 1, 2)
            clock.wait(2)
            report("lemica", "1 could not be run", 2, 2)
            clock.wait(EVERY)
            report("pab", "B = 2", 1, 2)

    assert _lines(clock, use) == [
        "running methods: 1 of 4, 0:30 elapsed, about 2:30 left",
        "uniform: 1 of 2, B = 2, 0:00 elapsed",
        "running methods: 2 of 4, 1:00 elapsed, about 2:00 left",
        "uniform: 2 of 2, B = 4, 0:30 elapsed",
        "uniform: 2 of 2 in 0:30",
        "lemica: 2 of 2 in 0:02, 1 could not be run",
        "running methods: 3 of 4, 1:32 elapsed, about 0:11 left",
        "pab: 1 of 2, B = 2, 0:00 elapsed",
        "running methods: 3 of 4 in 1:32",
    ]


def test_what_is_left_of_work_at_even_pace(clock: Clock) -> None:
    @given(st.integers(2, 40), st.floats(0.01, 1000), st.data())
    def check(total: int, each: float, data: st.DataObject) -> None:
        pace = Pace(clock, total)
        assert pace.left is None
        done = data.draw(st.integers(1, total - 1))
        for reached in range(1, done + 1):
            clock.wait(each)
            pace.reach(reached, total)
        assert pace.left == pytest.approx(each * (total - done), rel=1e-3)
        clock.wait(100 * each)
        assert pace.left == pytest.approx(each * (total - done - 1), rel=1e-3, abs=1e-6)

    check()


def test_what_was_there_at_once_is_soon_forgotten(clock: Clock) -> None:
    pace = Pace(clock, 100)
    pace.reach(5, 100)
    for done in range(6, 13):
        clock.wait(10)
        pace.reach(done, 100)
    assert pace.left == pytest.approx(880)


def test_long_work_is_remembered_within_bounds(clock: Clock) -> None:
    pace = Pace(clock, 10_000)
    for done in range(1, 9_001):
        clock.wait(1)
        pace.reach(done, 10_000)
    assert len(pace._marks) < 1000
    assert pace.left == pytest.approx(1000, rel=0.01)


@pytest.mark.parametrize("width", [20, 80, 120])
def test_a_terminal_has_bars_and_keeps_a_line(
    clock: Clock, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    out, pace = Terminal(), Pace(clock, 2)
    with _progress(console_on(out)) as progress:
        bars = _Bars(progress)
        bars.add("recording", pace)
        clock.wait(60)
        pace.reach(1, 2)
        bars.changed("recording")
        progress.refresh()
        bars.remove("recording", pace.end("recording"))
    assert "━" in out.getvalue()
    assert "1:00 left" in " ".join(out.getvalue().split())
    assert "recording: 1 of 2 in" in " ".join(out.getvalue().split())


def test_who_watches_gets_bars(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)  # with it what is left of a bar is blank
    out = Terminal()
    with Stages(stream=out, clock=clock).stage("recording", 2):
        clock.wait(60)
    assert "━" in out.getvalue()
    assert "recording: 0 of 2 in 1:00\n" in out.getvalue()


def test_a_terminal_that_is_gone_stops_no_work(clock: Clock) -> None:
    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    for stream in (Gone(), None):
        with Stages(stream=stream, clock=clock).stage("recording", 2) as advance:
            clock.wait(EVERY)
            advance(1, 2)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (245, "4:05"), (3845, "1:04:05")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
