"""A comparison without a network: jobs, folders, matching, workers that fail, and results."""

from __future__ import annotations

import json
import math
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otcache.comparison import runner
from otcache.comparison.baselines import FluxTable
from otcache.comparison.collect import Assembly, state_rmse
from otcache.comparison.folder import CALIBRATION, Assignment, Folder, slug
from otcache.comparison.job import read_tagged, set_aside, spread
from otcache.comparison.metrics import Measures
from otcache.comparison.runner import Settings, check_methods
from otcache.comparison.scheduled import Tuning
from otcache.comparison.supervisor import Supervisor
from otcache.comparison.timing import ABOVE, ROUNDS, Pair
from otcache.comparison.worker import WITHIN, Bench, Worker, full_runs, match
from otcache.pipelines import FRAMES_PER_SECOND
from otcache.processes import ORPHANED
from otcache.progress import Stages
from otcache.report import write_report
from otcache.report.results import FULL
from otcache.schedules import published
from otcache_core import FileError, OtcacheError
from otcache_core.calibration import FACTS
from otcache_core.contracts import (
    Baseline,
    BaselineSetting,
    Measured,
    PromptMetric,
    QualityMetric,
    SampleRequest,
    SetMetric,
    VideoMetric,
)
from otcache_core.errors import OtcacheNotice
from otcache_core.plugins import Info, Registry, RegistryDescription, hookimpl

sys.path.insert(0, str(Path(__file__).parent))
import comparison_fakes as fakes


class Grey(QualityMetric):
    name, higher_is_better = "rmse", False

    def __call__(self, images: Any, reference: Any) -> Any:
        return state_rmse(images, reference)


class Mean(SetMetric):
    name, higher_is_better = "mean", False

    def __call__(self, images: Any) -> float:
        return float(images.mean())


class Letters(PromptMetric):
    name, higher_is_better = "letters", True

    def __call__(self, images: Any, prompts: Any) -> Any:
        return np.array([float(len(text)) for text in prompts])


MEASURES = Measures({"rmse": Grey(), "mean": Mean(), "letters": Letters()})


class Baselines:
    """Offers names only."""

    @hookimpl
    def otcache_provide_baselines(self) -> list[Info]:
        names = ("otcache", "first-block-cache", "uniform", "uniform-linear")
        return [Info(name, "nowhere:Nobody") for name in names]


# --- jobs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budgets": (0, 2)}, "budget must be an integer between 1 and 8"),
        ({"budgets": (9,)}, "budget must be an integer between 1 and 8"),
        ({"budgets": (4, 2)}, "distinct and increasing"),
        ({"budgets": ()}, "distinct and increasing"),
        ({"samples": ()}, "some of each"),
        ({"calibration": ()}, "some of each"),
        ({"calibration": ("the digit 7",)}, "others than the calibration prompts"),
        ({"call": {"scale": math.nan}}, "call argument scale must be a finite number"),
        ({"frames_per_second": math.nan}, "frames_per_second must be a finite number"),
        ({"frames_per_second": -8.0}, "frames_per_second must be a finite number"),
        ({"reference_steps": -1}, "reference_steps must be at least 0"),
    ],
)
def test_a_bad_job_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OtcacheError, match=message):
        fakes.job(**changes)


def test_a_job_survives_its_folder(tmp_path: Path) -> None:
    asked = fakes.job(call={"height": 64, "names": ["a"]}, options={"otcache": {"policy": "p"}})
    Folder(tmp_path / "new").begin(asked, overwrite=False)
    assert Folder(tmp_path / "new").job == asked


# --- prompts ---------------------------------------------------------------------------------------


def test_prompts_and_tags_are_read(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffa red fox\n\nthe digit 7\tglyph, digit\n", encoding="utf-8")
    assert read_tagged(path) == [("a red fox", ""), ("the digit 7", "glyph,digit")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"fine\nna\xefve\n", "line 2: must be UTF-8, got the byte 0xef"),
        (b"a\tb\tc\n", "line 1: must be a prompt, or prompt, tab, tags"),
        (b"twice\ntwice\tx\n", "line 2: 'twice' is given twice"),
        (b"\n \n", "must hold 1 to 10000 prompts"),
        (b"\n".join(b"prompt %d" % i for i in range(100_000)), "got 100000"),
    ],
)
def test_bad_prompt_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(FileError, match=message):
        read_tagged(path)


def test_prompts_are_set_aside_and_kinds_taken_in_turn() -> None:
    many = [(f"p{i}", "ab"[i % 2]) for i in range(40)]
    held, tuned = set_aside(many)
    assert (len(held), len(tuned)) == (32, 8)
    assert not {text for text, _ in held} & set(tuned)
    assert [tag for _, tag in spread([("x", "a"), ("y", "a"), ("z", "b")], 2)] == ["a", "b"]
    with pytest.raises(OtcacheError, match="two or more"):
        set_aside(many[:1])


# --- folders ---------------------------------------------------------------------------------------


def test_the_same_job_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    folder = fakes.finished(tmp_path)
    folder.begin(fakes.job(), overwrite=False)
    assert folder.of("good").run("B = 2") is not None
    with pytest.raises(FileError, match="--force"):
        folder.begin(fakes.job(budgets=(3,)), overwrite=False)
    with pytest.raises(FileError, match="--force"):
        folder.begin(fakes.job(versions={"torch": "0.0.1"}), overwrite=False)
    with pytest.raises(FileError, match="--force"):
        folder.begin(fakes.job(inputs={"policy": "0af3"}), overwrite=False)
    folder.begin(fakes.job(), overwrite=True)
    assert folder.of("good").run("B = 2") is None
    assert folder.of(FULL).run(FULL) is None


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot be made"):
        Folder(tmp_path / "file").begin(fakes.job(), overwrite=False)


def test_no_method_shares_the_folder_of_the_full_runs(tmp_path: Path) -> None:
    assert Folder(tmp_path).of("full-run").path != Folder(tmp_path).of(FULL).path


def test_every_method_and_setting_has_files_of_its_own(tmp_path: Path) -> None:
    """Also where upper and lower case are one; none is the calibration's, and none too long."""
    names = ["solver:dp", "solver-dp", "a/b-c", "a-b/c", "a-b-c", "calibration", CALIBRATION]
    names += ["", "all", "..", ".", "A", "a", "\ud83d", "x" * 300, "x" * 301, slug("solver:dp")]
    files = {slug(name) for name in names}
    assert len({name.lower() for name in files}) == len(names)
    assert max(map(len, files)) < 80
    assert files.isdisjoint({"", ".", ".."})
    assert slug("skips-nothing") == "skips-nothing"
    folder = Folder(tmp_path)
    assert folder.calibration not in {folder.of(name).path for name in names}


def test_force_leaves_the_files_of_others(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileError, match="--force"):
        Folder(tmp_path).begin(fakes.job(), overwrite=False)
    Folder(tmp_path).begin(fakes.job(), overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_damaged_cell_is_named(tmp_path: Path) -> None:
    part = fakes.finished(tmp_path).of("good")
    next(part.path.glob("run-B-2_*.safetensors")).write_bytes(b"half")
    with pytest.raises(FileError, match=r"run-B-2_\w+\.safetensors"):
        part.arrays("B = 2")


# --- which setting at which budget -----------------------------------------------------------------


def test_the_nearest_setting_stands_at_each_budget() -> None:
    costs = {"mild": 9.0, "medium": 5.2, "bold": 2.1, "broken": math.nan}
    found, missing = match("m", costs, (2, 3, 5))
    assert found == {2: "bold", 5: "medium"}
    assert [(gap.budget, gap.reason) for gap in missing] == [
        (3, "the nearest setting, bold, takes 2.1 evaluations")
    ]
    assert match("m", {"one": 5.6}, (5, 6))[0] == {5: "one", 6: "one"}


def test_a_method_that_reaches_no_budget_is_seen_all_the_same() -> None:
    found, missing = match("m", {"x": 26.0, "y": 23.6}, (5, 10))
    assert found == {24: "y"}
    assert [gap.budget for gap in missing] == [5, 10]
    assert match("m", {}, (5,))[1][0].budget is None


@given(st.dictionaries(st.text(max_size=3), st.floats(0.5, 60), min_size=1, max_size=12))
def test_every_budget_has_a_near_setting_or_a_reason(costs: dict[str, float]) -> None:
    budgets = (5, 6, 8, 10, 15)
    found, missing = match("m", costs, budgets)
    standing = {b: label for b, label in found.items() if b in budgets}
    reasons = {gap.budget for gap in missing}
    assert (set(standing) | reasons) >= set(budgets)
    for budget, label in standing.items():
        if budget not in reasons:
            assert 1 / WITHIN <= costs[label] / budget <= WITHIN


# --- workers ---------------------------------------------------------------------------------------


def supervise(tmp_path: Path, method: str, limit: float = 60.0) -> Folder:
    folder = Folder(tmp_path / "out")
    folder.begin(fakes.job(), overwrite=False)
    said: list[tuple[str, str, int, int]] = []
    command = fakes.worker(tmp_path)
    Supervisor(folder, limit, 1, lambda *what: said.append(what), command).run(method)
    return folder


def test_a_worker_that_does_its_work(tmp_path: Path) -> None:
    part = supervise(tmp_path, "fine").of("fine")
    assert part.failures() == {}
    assert part.run("B = 2") == part.run("B = 2") != None  # noqa: E711  # read twice, alike
    assert part.run("B = 4") is not None


def test_a_crash_costs_its_cell_only(tmp_path: Path) -> None:
    part = supervise(tmp_path, "crash").of("crash")
    reason = "ended with status 1 while at B = 2: IndexError: out of range"
    assert part.failures() == {"B = 2": reason}
    assert part.run("B = 4") is not None


def test_what_a_worker_says_of_its_failure_is_told(tmp_path: Path) -> None:
    """Whatever was printed after it."""
    part = supervise(tmp_path, "failed").of("failed")
    assert part.failures() == {"B = 2": "failed while at B = 2: IndexError: out of range"}
    assert part.run("B = 4") is not None


def test_a_worker_that_ends_in_peace_before_it_is_done_has_failed(tmp_path: Path) -> None:
    part = supervise(tmp_path, "quits").of("quits")
    assert part.failures() == {"B = 2": "ended with status 0 while at B = 2: it said nothing"}
    assert part.run("B = 4") is not None


def test_what_fails_twice_in_the_same_place_is_given_up(tmp_path: Path) -> None:
    """As a full run does, without which nothing can be compared."""
    part = supervise(tmp_path, "again").of("again")
    assert part.failures() == {"B = 2": "failed while at B = 2: as before"}


@pytest.mark.parametrize("method", ["noise", "fork"])
def test_what_is_no_event_is_not_read_and_a_child_is_not_waited_for(
    tmp_path: Path, method: str
) -> None:
    part = supervise(tmp_path, method).of(method)
    assert part.run("B = 4") is not None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_a_worker_started_ends_with_it(tmp_path: Path) -> None:
    """Though all went well: the child that it leaves would hold the pipe for a minute."""
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        supervise(tmp_path, "leaves")
        assert os.read(pipe, 9) == b"here"
        assert select.select([pipe], [], [], 20.0)[0], "the child lives"
        assert os.read(pipe, 9) == b""
    finally:
        os.close(pipe)


def test_a_signal_is_told(tmp_path: Path) -> None:
    part = supervise(tmp_path, "killed").of("killed")
    assert "signal 9 while at B = 4" in part.failures()["B = 4"]
    assert part.run("B = 2") is not None


def test_what_is_killed_once_is_done_all_the_same(tmp_path: Path) -> None:
    part = supervise(tmp_path, "killed-once").of("killed-once")
    assert part.failures() == {}
    assert part.run("B = 4") is not None


def test_a_hang_is_ended_and_the_rest_goes_on(tmp_path: Path) -> None:
    part = supervise(tmp_path, "hang", limit=3.0).of("hang")
    assert part.failures() == {"B = 2": "took longer than 3 s"}
    assert part.run("B = 4") is not None


def test_reasons_of_methods_that_cannot_run(tmp_path: Path) -> None:
    assert supervise(tmp_path, "absent").of("absent").failures() == {"": "made for U-Nets"}
    early = supervise(tmp_path, "early").of("early").failures()[""]
    assert "status 1 while at its start: no such module" in early


def test_a_stopped_comparison_blames_nobody_and_goes_on_later(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out")
    folder.begin(fakes.job(), overwrite=False)
    command = fakes.worker(tmp_path)
    supervisor = Supervisor(folder, 60.0, 1, lambda *what: None, command)

    def stop(method: str, at: str, done: int, total: int) -> None:
        if at == "B = 2":
            supervisor.stop.set()

    object.__setattr__(supervisor, "show", stop)
    supervisor.run("hang")
    assert folder.of("hang").failures() == {}
    supervisor.run("fine")
    assert folder.of("fine").assignment() is None
    supervise(tmp_path, "fine")
    assert folder.of("fine").run("B = 4") is not None


def test_a_worker_ends_with_its_supervisor(tmp_path: Path) -> None:
    script = (
        "from otcache.processes import Channel; import threading; "
        "Channel().say('begin', what='x'); threading.Event().wait()"
    )
    words = [sys.executable, "-c", script]
    worker = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert worker.stdin is not None
    assert worker.stdout is not None
    assert b"begin" in worker.stdout.readline()
    worker.stdin.close()
    assert worker.wait(timeout=30) == ORPHANED
    worker.stdout.close()


def test_a_worker_ends_in_peace_while_its_supervisor_lives() -> None:
    script = "from otcache.processes import Channel; Channel().say('begin', what='x')"
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.wait(timeout=30) == 0


def test_counted_settings_are_kept(tmp_path: Path) -> None:
    part = fakes.finished(tmp_path).of("good")
    part.keep_evaluations("threshold=1", 7.25)
    part.keep_evaluations("threshold=2", 5.0)
    assert part.evaluations() == {"threshold=1": 7.25, "threshold=2": 5.0}


def test_what_failed_is_not_tried_again_unless_asked(tmp_path: Path) -> None:
    part = supervise(tmp_path, "crash").of("crash")
    size = part.log.stat().st_size
    supervise(tmp_path, "crash")
    assert part.log.stat().st_size == size
    part.forget_failures()
    supervise(tmp_path, "crash")
    assert part.log.stat().st_size > size


class FakeProbe:
    """Makes grey images; a step costs 10 multiply-adds, a run 7 more; ``skips`` steps are omitted.

    A step takes a tenth of a second, the first call after a change 40 more; ``batches`` are sizes of calls.
    """

    def __init__(self) -> None:
        self.skips, self.warm = 0, False
        self.batches: list[int] = []

    def skip(self, steps: int) -> None:
        self.skips, self.warm = steps, False

    def measure(self, target: Any, request: Any, *, flops: bool = False) -> Measured:
        self.batches.append(len(request.prompts))
        computed = request.num_steps - self.skips
        cost = 10 * computed + 7
        shown = np.full((len(request.prompts), 4, 4, 3), 0.5)
        seconds = computed / 10 + 40 * (not self.warm)
        self.warm = True
        return Measured(shown, shown, seconds, cost if flops else None, 9 if flops else None)


class Knob(Baseline):
    """Two budgets share a setting, as Heun's odd numbers of calls make them."""

    source, by_budget = "a knob", True

    def __init__(self, probe: FakeProbe) -> None:
        self._probe = probe

    def supports(self, target: Any, request: Any) -> str:
        return ""

    def settings(self, num_steps: int, budgets: Any, measured: Any) -> list[BaselineSetting]:
        return [BaselineSetting("3 calls", {"skips": num_steps - 3}, num_steps)] * len(budgets)

    @contextmanager
    def apply(self, target: Any, setting: BaselineSetting, measured: Any) -> Iterator[None]:
        self._probe.skip(setting.values["skips"])
        yield
        self._probe.skip(0)


def silent(event: str, **facts: Any) -> None:
    """Say nothing."""


def test_two_budgets_may_share_a_setting_and_evaluations_are_counted(tmp_path: Path) -> None:
    folder, probe = Folder(tmp_path), FakeProbe()
    folder.begin(fakes.job(), overwrite=False)
    bench = Bench(folder.job, None, {}, probe, silent)  # type: ignore[arg-type]  # fakes
    part = folder.of("knob")
    Worker(bench, part, Knob(probe)).work("knob")
    assigned, run = part.assignment(), part.run("3 calls")
    assert assigned is not None
    assert assigned.labels == ((2, "3 calls"), (4, "3 calls"))
    assert run is not None
    assert run.nfe == 3.0
    assert run.pairs == (Pair(0.8, 0.3),) * ROUNDS  # eight steps and three, each warmed up
    assert len(part.arrays("3 calls")["images"]) == len(fakes.SAMPLES)


@pytest.mark.parametrize("table", published(FluxTable.TABLE).rows, ids=len)
def test_a_published_table_is_itself_where_it_was_published(table: tuple[int, ...]) -> None:
    tuning = Tuning(None, SampleRequest(("x",), (0,), 50), Registry(entry_points=False))
    found, nfe = FluxTable().schedules(tuning, [len(table)])
    assert found[len(table)].computed == table
    assert nfe == 0


def test_full_runs_are_made_once_and_a_failed_solution_is_not_tried_forever(
    tmp_path: Path,
) -> None:
    folder, probe = Folder(tmp_path), FakeProbe()
    folder.begin(fakes.job(batch_size=1), overwrite=False)
    bench = Bench(folder.job, None, {}, probe, silent)  # type: ignore[arg-type]  # fakes
    part = folder.of(FULL)
    part.keep_failure("solution", "out of memory")
    full_runs(bench, part)
    assert part.run("solution") is None
    part.forget_failures()
    full_runs(bench, part)
    whole, solution = part.run(FULL), part.run("solution")
    assert whole is not None
    assert solution is not None
    assert (whole.nfe, solution.num_steps) == (float(fakes.N), 500)
    assert set(probe.batches) == {1}
    assert whole.pairs == solution.pairs == ()


def test_no_reference_steps_make_no_solution_and_no_rows_of_it(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    folder = Folder(tmp_path / "runs")
    folder.begin(fakes.job(batch_size=1, reference_steps=0), overwrite=False)
    full_runs(Bench(folder.job, None, {}, FakeProbe(), silent), folder.of(FULL))  # type: ignore[arg-type]  # fakes
    assert folder.of(FULL).run(FULL) is not None
    assert folder.of(FULL).run("solution") is None
    finished = fakes.finished(tmp_path / "finished", fakes.job(reference_steps=0))
    made, _ = Assembly(finished, MEASURES).results(["good"], {}, "")
    assert "ode-rmse" not in {*made.metrics, *made.full}
    assert not recwarn.list


RUBBISH: dict[str, tuple[str, Any, str]] = {
    "supports nothing": ("supports", None, r"supports\(\) gives must be a text.*got None"),
    "calibrates nothing": ("calibrate", None, r"calibrate\(\) gives must be plain data"),
    "calibrates numbers": ("calibrate", {1: 2}, r"calibrate\(\) gives must be plain data"),
    "calibrates objects": ("calibrate", {"net": object()}, "object"),
    "half a cost": ("calibrate", {"nfe": 2.5}, "'nfe' .*must be a number of evaluations"),
    "a debt": ("calibrate", {"nfe": -1}, "'nfe' .*must be a number of evaluations"),
    "no settings": ("settings", None, "a list of BaselineSetting, got None"),
    "schedules": ("settings", [(0, 3), (0, 2)], "a list of BaselineSetting"),
    "one of two": ("settings", [BaselineSetting("a", {}, 8)], "settings must be 2, one per budget"),
    "no label": ("settings", [BaselineSetting("", {}, 8)] * 2, "label .*must be a short text"),
    "one label": (
        "settings",
        [BaselineSetting("a b", {"k": k}, 8) for k in (1, 2)],
        "labels of settings must be distinct",
    ),
    "no steps": ("settings", [BaselineSetting("a", {})] * 2, "num_steps must be"),
    "steps backwards": (
        "settings",
        [BaselineSetting("a", {"skips": 5}, 8, (3, 0))] * 2,
        "computed steps must be increasing",
    ),
    "steps between": (
        "settings",
        [BaselineSetting("a", {"skips": 5}, 8, (0, 0.5))] * 2,  # type: ignore[arg-type]  # rubbish
        "cannot be kept: Expected `int`, got `float`",
    ),
    "no source": ("source", None, "cannot be kept: Expected `str`, got `null`"),
}


@pytest.mark.parametrize("what", RUBBISH)
def test_rubbish_is_refused_before_it_is_kept(what: str, tmp_path: Path) -> None:
    """What the comparison reads of a method, in another process, can be read."""
    name, value, reason = RUBBISH[what]
    folder, probe = Folder(tmp_path), FakeProbe()
    folder.begin(fakes.job(), overwrite=False)
    bench = Bench(folder.job, None, {}, probe, silent)  # type: ignore[arg-type]  # fakes
    part, baseline = folder.of("knob"), Knob(probe)
    setattr(baseline, name, value if name == "source" else lambda *given: value)
    with pytest.raises((OtcacheError, TypeError), match=reason):
        Worker(bench, part, baseline).work("knob")
    part.measured(), part.assignment(), part.run("a")


def test_what_a_baseline_changes_is_its_own(tmp_path: Path) -> None:
    class Vandal(Knob):
        def calibrate(self, target: Any, request: Any, budgets: Any) -> Any:
            request.call["height"] = 1
            return {"nfe": 0, "found": [1]}

        def settings(self, num_steps: int, budgets: Any, measured: Any) -> Any:
            measured["found"].clear()
            return super().settings(num_steps, budgets, measured)

    folder, probe = Folder(tmp_path), FakeProbe()
    folder.begin(fakes.job(), overwrite=False)
    bench = Bench(folder.job, None, {"height": 64}, probe, silent)  # type: ignore[arg-type]  # fakes
    Worker(bench, folder.of("knob"), Vandal(probe)).work("knob")
    assert bench.call == {"height": 64}
    assert folder.of("knob").measured() == {"nfe": 0, "found": [1]}


# --- results ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "rate"), [(8.0, 8.0), (0.0, FRAMES_PER_SECOND)])
def test_results_of_videos_play_at_the_rate_of_the_job(
    tmp_path: Path, asked: float, rate: float
) -> None:
    folder = fakes.filmed(tmp_path, frames_per_second=asked)
    made, videos = Assembly(folder, Measures({"rmse": Grey()})).results(["good"], {}, "x")
    assert made.frames_per_second == rate
    (cell,) = made.cells
    np.testing.assert_allclose(cell.metrics["rmse"], 0.2, rtol=1e-6)
    np.testing.assert_allclose(cell.metrics["ode-rmse"], 0.1, rtol=1e-5)
    assert set(videos) == {("full run", fakes.N), ("good", 2)}
    np.testing.assert_array_equal(videos["good", 2], fakes.videos(0.2))
    assert len(write_report(made, videos, tmp_path / "report")) == 8


def test_images_have_no_rate_whatever_the_job_says(tmp_path: Path) -> None:
    folder = fakes.finished(tmp_path, fakes.job(frames_per_second=8.0))
    made, _ = Assembly(folder, Measures({"rmse": Grey()})).results(["good"], {}, "x")
    assert made.frames_per_second == 0.0


def test_results_are_what_is_in_the_folder(tmp_path: Path) -> None:
    folder = fakes.finished(tmp_path)
    made, images = Assembly(folder, MEASURES).results(
        ["good", "partly", "never"], {"pipeline": "invented"}, "otcache compare"
    )
    low, high = made.cells
    assert (low.method, low.budget, low.nfe, low.schedule) == ("good", 2, 2.0, (0, 3))
    np.testing.assert_allclose(low.metrics["rmse"], 0.2, rtol=1e-6)
    np.testing.assert_allclose(low.metrics["latent-rmse"], 1.0)
    np.testing.assert_allclose(low.metrics["ode-rmse"], 0.1, rtol=1e-5)
    assert high.metrics["rmse"] == (0.0, 0.0)
    assert low.totals == {"mean": pytest.approx(0.7)}
    assert low.metrics["letters"] == (12.0, 11.0)
    assert made.full_metrics["letters"] == (12.0, 11.0)
    np.testing.assert_allclose(made.full_metrics["ode-rmse"], 0.1, rtol=1e-5)
    assert made.full == {
        "mean": pytest.approx(0.5), "letters": 11.5, "ode-rmse": pytest.approx(0.1, rel=1e-5)
    }  # fmt: skip
    assert (low.measured_speedup, low.speedup_spread) == (pytest.approx(3), pytest.approx(1))
    assert (low.seconds, low.seconds_spread) == (0.3, pytest.approx(0.1))
    assert low.ideal_speedup == 4.0
    assert (high.ideal_speedup, high.measured_speedup, high.seconds) == (2.0, None, None)
    assert high.withheld == ABOVE  # the same pairs, of twice the evaluations
    assert set(images) == {("full run", fakes.N), ("good", 2), ("good", 4)}
    assert [(gap.method, gap.budget) for gap in made.missing] == [
        ("partly", 2), ("partly", 4), ("never", None)
    ]  # fmt: skip
    assert made.missing[1].reason == "took longer than 5 s"
    assert made.sources == {"good": "somebody 1.0", "partly": "else 2.0"}
    assert made.calibration_nfe["good"] == 12


def test_a_metric_that_refuses_such_images_is_left_out_with_its_reason(tmp_path: Path) -> None:
    class Picky(Grey):
        def __call__(self, images: Any, reference: Any) -> Any:
            raise OtcacheError("images must be 64x64, got 4x4.")

    measures = Measures({"rmse": Grey(), "picky": Picky()})
    with pytest.warns(OtcacheNotice, match="picky is omitted: images must be 64x64"):
        made, _ = Assembly(fakes.finished(tmp_path), measures).results(["good"], {}, "")
    assert "picky" not in made.metrics


def test_a_metric_of_videos_is_left_out_of_images_and_one_of_prompts_of_videos() -> None:
    class Still(VideoMetric):
        name, higher_is_better = "still", False

        def __call__(self, videos: Any, reference: Any) -> Any:
            return np.abs(videos - reference).mean((1, 2, 3, 4))

    measures = Measures({**MEASURES.metrics, "still": Still()})
    images = np.linspace(0, 1, 2 * 4 * 4 * 3).reshape(2, 4, 4, 3)
    with pytest.warns(OtcacheNotice, match="still is omitted: .* must be videos"):
        kept = measures.usable(images, ("a", "bc"))
    assert [*kept.metrics] == ["rmse", "mean", "letters"]
    videos = np.stack([images, 0.5 * images, images], axis=1)
    with pytest.warns(OtcacheNotice, match="is omitted: it judges images, and these are videos"):
        kept = measures.usable(videos, ("a", "bc"))
    assert [*kept.metrics] == ["rmse", "still"]
    made = np.clip(videos + 0.1, 0, 1)
    values = kept.values(made, videos, ("a", "bc"))
    assert {name: found.shape for name, found in values.items()} == {"rmse": (2,), "still": (2,)}
    assert kept.totals(made) == kept.of_full_runs(made, ("a", "bc")) == {}


def test_usual_metrics_are_those_of_what_is_compared(recwarn: pytest.WarningsRecorder) -> None:
    names = ("rmse", "ms-ssim", "flicker")
    measures = Measures(dict.fromkeys(names, Grey()), usual=True)
    images = np.full((2, 4, 4, 3), 0.5)
    assert [*measures.usable(images, ("a", "b")).metrics] == ["rmse", "ms-ssim"]
    assert [*measures.usable(images[:, None], ("a", "b")).metrics] == ["rmse", "flicker"]
    assert not recwarn.list


def test_without_the_ode_s_solution_the_rest_is_told(tmp_path: Path) -> None:
    folder = fakes.finished(tmp_path)
    next(folder.of(FULL).path.glob("run-solution.json")).unlink()
    folder.of(FULL).keep_failure("solution", "out of memory")
    with pytest.warns(OtcacheNotice, match="ode-rmse is omitted: out of memory"):
        made, _ = Assembly(folder, MEASURES).results(["good"], {}, "")
    assert "ode-rmse" not in made.metrics


def test_what_came_calibrated_has_no_cost(tmp_path: Path) -> None:
    folder = fakes.finished(tmp_path)
    folder.of("good").keep_assignment(Assignment("given", None, ((2, "B = 2"),)))
    made, _ = Assembly(folder, MEASURES).results(["good"], {}, "")
    assert made.calibration_nfe == {}


def test_without_full_runs_there_are_no_results(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.begin(fakes.job(), overwrite=False)
    folder.of(FULL).keep_failure("", "no such module")
    with pytest.raises(OtcacheError, match="full runs could not be made: no such module"):
        Assembly(folder, Measures({})).results(["good"], {}, "")


def test_runs_are_the_same_but_for_times(tmp_path: Path) -> None:
    texts = []
    for name in "ab":
        made, _ = Assembly(fakes.finished(tmp_path / name), MEASURES).results(
            ["good", "never"], {}, ""
        )
        made.save(tmp_path / f"{name}.json")
        texts.append(json.loads((tmp_path / f"{name}.json").read_text()))
    assert texts[0] == texts[1]


# --- names -----------------------------------------------------------------------------------------


def test_a_typo_gets_the_nearest_names() -> None:
    registry = Registry(entry_points=False)
    registry.register(Baselines())
    with pytest.raises(OtcacheError, match="did you mean uniform-linear or uniform"):
        check_methods(["uniform-liner"], registry)
    assert check_methods([], registry)[0] == "otcache"
    assert check_methods(["uniform", "uniform"], registry) == ["uniform"]


def test_a_name_of_ours_means_ours_and_the_other_is_called_by_its_distribution() -> None:
    """As every process of a comparison finds it by that name."""
    registry = Registry(entry_points=False)
    registry.register(Baselines(), "otcache")
    registry.register(Baselines(), "shadow")
    known = check_methods([], registry)
    assert known[0] == "otcache"
    assert len(set(known)) == len(known) == 8
    assert check_methods(["shadow/uniform", "otcache/uniform", "uniform"], registry) == [
        "shadow/uniform",
        "uniform",
    ]
    for name in known:
        distribution = "shadow" if name.startswith("shadow/") else "otcache"
        assert registry.resolve("baselines", name).startswith(f"{distribution}/")
    assert check_methods(["solver:otcache-core/uniform"], registry) == ["solver:uniform"]


class Obedient:
    """In the place of a supervisor: writes down who ran; a calibration fails before there is ``power``."""

    ran: ClassVar[list[str]] = []
    power: ClassVar[bool] = False

    def __init__(self, folder: Folder, *given: Any, **more: Any) -> None:
        self._folder, self.stop = folder, threading.Event()

    def run(self, method: str, *, wait: bool = True) -> bool:
        part = self._folder.of(method)
        if "" in part.failures():
            return True
        self.ran.append(method)
        if method == FULL:
            part.keep_run(fakes.run(FULL, fakes.N), fakes.images(0.0), None)
        elif method == CALIBRATION and self.power:
            (self._folder.calibration / FACTS).parent.mkdir(parents=True)
            (self._folder.calibration / FACTS).touch()
        elif method == CALIBRATION:
            part.keep_failure("", "took longer than 5 s")
        return True


def test_solvers_are_tried_again_once_there_is_the_calibration_that_they_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not what failed for a reason of its own."""
    monkeypatch.setattr(runner, "Supervisor", Obedient)
    folder = Folder(tmp_path)
    folder.begin(fakes.job(), overwrite=False)
    folder.of("uniform").keep_failure("", "it is made for U-Nets")

    def ran(power: bool) -> list[str]:
        monkeypatch.setattr(Obedient, "ran", [])
        monkeypatch.setattr(Obedient, "power", power)
        methods = ("uniform", "solver:uniform")
        runner._run_all(folder, methods, Settings(), Stages(False), RegistryDescription())
        return Obedient.ran

    assert ran(power=False) == [FULL, CALIBRATION]
    reason = "the calibration that it plans from took longer than 5 s"
    assert folder.of("solver:uniform").failures() == {"": reason}
    assert ran(power=True) == [FULL, CALIBRATION, "solver:uniform"]
    folder.of("solver:uniform").keep_failure("", "it finds no schedule")
    assert ran(power=True) == [FULL]
    assert folder.of("uniform").failures() == {"": "it is made for U-Nets"}


def test_metrics_are_chosen_by_name_and_path() -> None:
    class Offers:
        @hookimpl
        def otcache_provide_metrics(self) -> list[Info]:
            names = {"rmse": "Grey", "mean": "Mean", "ssim": "NotInstalled"}
            return [Info(name, f"test_comparing:{target}") for name, target in names.items()]

    registry = Registry(entry_points=False)
    with pytest.raises(OtcacheError, match=r"no image metrics.*pip install"):
        Measures.choose((), "demo", registry)
    registry.register(Offers())
    sys.modules.setdefault("test_comparing", sys.modules[__name__])
    with pytest.warns(OtcacheNotice, match=r"^ssim is omitted: .*NotInstalled"):
        assert list(Measures.choose((), "x", registry).metrics) == ["rmse"]
    with pytest.warns(OtcacheNotice, match=r"^ssim of 'local' is omitted: .*NotInstalled"):
        made = Measures.choose(("ssim",), "x", registry)
    assert [(gap.method, gap.budget) for gap in made.missing()] == [
        ("metric ssim of 'local'", None)
    ]
    assert list(Measures.choose(("mean",), "x", registry).metrics) == ["rmse", "mean"]
    with pytest.raises(OtcacheError, match="maen"):
        Measures.choose(("maen",), "x", registry)


def test_state_rmse_by_hand() -> None:
    x = np.zeros((2, 3, 4))
    np.testing.assert_allclose(state_rmse(x + 0.5, x), 0.5)
    with pytest.raises(OtcacheError, match="shape"):
        state_rmse(x, x[:1])
    with pytest.raises(OtcacheError, match="finite"):
        state_rmse(x * np.nan, x)
