"""Shares of a comparison, locks between its processes, and runners by their names."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otcache import processes
from otcache.comparison.collect import Assembly
from otcache.comparison.folder import OWN, WORK, Folder, Plan, locked
from otcache.comparison.metrics import Measures
from otcache.comparison.shards import Shard, joined
from otcache.comparison.supervisor import Supervisor
from otcache.processes import WorkerProcess
from otcache_core import FileError, OtcacheError, PluginError

sys.path.insert(0, str(Path(__file__).parent))
import comparison_fakes as fakes

METHODS = ("good", "partly", "never")
HOLDER = """
import sys, pathlib
from otcache.comparison.folder import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@given(st.lists(st.text(min_size=1), unique=True), st.integers(1, 12))
def test_shares_have_every_method_once(methods: list[str], count: int) -> None:
    shares = [Shard.parse(f"{n}/{count}").of(methods) for n in range(1, count + 1)]
    assert sorted(method for share in shares for method in share) == sorted(methods)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["", "2", "0/4", "5/4", "-1/4", "1/0", "a/b", "1/4/2", "1.0/4"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(OtcacheError, match="--shard must be a number and a count"):
        Shard.parse(text)


def _shares(tmp_path: Path) -> tuple[Folder, list[Folder]]:
    """Return a comparison, and its methods in a folder each; one is in two of them, begun and finished."""
    whole = fakes.finished(tmp_path / "whole")
    whole.keep_plan(Plan(METHODS))
    shares = []
    for n, method in enumerate(METHODS):
        folder = Folder(tmp_path / f"share-{n}")
        folder.begin(fakes.job(), overwrite=False)
        folder.keep_plan(Plan(METHODS))
        if n == 1:
            shutil.copytree(whole.path / OWN, folder.path / OWN)
        shutil.copytree(whole.path / WORK / method, folder.path / WORK / method)
        shares.append(folder)
    begun = shares[2].of("good")
    begun.keep_assignment(whole.of("good").assignment())  # type: ignore[arg-type]
    begun.keep_failure("B = 2", "took longer than 5 s")
    return whole, shares


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_joined_shares_are_the_comparison(tmp_path: Path, order: tuple[int, ...]) -> None:
    whole, shares = _shares(tmp_path)
    folder, plan = joined([shares[n] for n in order], Folder(tmp_path / "joined"))
    assert plan.methods == METHODS
    results = [
        Assembly(one, Measures({}, {})).results(METHODS, {}, "")[0].to_dict()
        for one in (whole, folder)
    ]
    assert results[0] == results[1]


@pytest.mark.remedy("has no plan.json: run otcache compare there first.")
def test_other_comparisons_and_other_folders_are_not_joined(tmp_path: Path) -> None:
    _, shares = _shares(tmp_path)
    other = Folder(tmp_path / "other")
    other.begin(fakes.job(title="another"), overwrite=False)
    with pytest.raises(FileError, match="is of another comparison than"):
        joined([shares[0], other], Folder(tmp_path / "joined"))
    (shares[1].path / "plan.json").unlink()
    with pytest.raises(FileError, match=r"has no plan\.json"):
        joined(shares, Folder(tmp_path / "joined"))
    shares[1].keep_plan(Plan(METHODS))
    assert joined(shares, Folder(tmp_path / "joined"))[1].methods == METHODS


def test_what_nobody_began_is_not_run(tmp_path: Path) -> None:
    _, shares = _shares(tmp_path)
    for share in shares:
        share.keep_plan(Plan((*METHODS, "later")))
    folder, plan = joined(shares, Folder(tmp_path / "joined"))
    results, _ = Assembly(folder, Measures({})).results(plan.methods, {}, "")
    assert ("later", "not run") in [(gap.method, gap.reason) for gap in results.missing]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    with pytest.raises(FileError, match="must be a new folder"):
        joined(shares, Folder(tmp_path / "full"))


def test_nothing_is_removed_under_a_process(tmp_path: Path) -> None:
    folder = fakes.finished(tmp_path / "out")
    (tmp_path / "more").mkdir()
    _, shares = _shares(tmp_path / "more")
    shares[0].of("good").keep_measured({"more": 1})
    with locked(folder.of("good").path):
        with pytest.raises(FileError, match="works in it, at good"):
            folder.begin(fakes.job(title="another"), overwrite=True)
        with pytest.raises(FileError, match="another process works in it"):
            joined([shares[0]], folder)
    assert folder.of("good").run("B = 2") is not None
    folder.begin(fakes.job(title="another"), overwrite=True)
    assert folder.of("good").run("B = 2") is None


def test_one_process_at_a_time_is_at_a_method(tmp_path: Path) -> None:
    """And one that is killed holds nothing."""
    folder = Folder(tmp_path / "out")
    folder.begin(fakes.job(), overwrite=False)
    part = folder.of("fine")
    command = [sys.executable, "-c", HOLDER, str(part.path)]
    supervisor = Supervisor(folder, 60.0, 1, lambda *what: None, fakes.worker(tmp_path))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert not supervisor.run("fine", wait=False)
        assert part.assignment() is None
        other.kill()
    assert supervisor.run("fine", wait=False)
    assert part.run("B = 4") is not None


def test_whoever_waits_for_a_lock_can_be_stopped(tmp_path: Path) -> None:
    answers = iter([True, False])
    with locked(tmp_path) as first, locked(tmp_path, lambda: next(answers)) as second:
        assert (first, second) == (True, False)


class _Point:
    """An installed runner."""

    def __init__(self, load: Callable[[], object]) -> None:
        self.name, self.load = "cluster", load


def _fails(workers: int) -> Iterator[None]:
    raise ConnectionError("no cluster here")


@pytest.mark.remedy("needs what is not installed: pip install '{}'.")
def test_runners_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    points = [_Point(lambda: lambda workers: made.append(workers) or nullcontext(WorkerProcess))]
    monkeypatch.setattr(processes, "entry_points", lambda group: points)
    for name in ("local", "cluster"):
        with processes.open_runner(name, 3) as start:
            assert start is WorkerProcess
    assert made == [3]
    with pytest.raises(OtcacheError, match=r"pip install 'otcache\[ray\]'"):
        processes.open_runner("ray", 1).__enter__()
    monkeypatch.setattr(points[0], "name", "ray")
    with processes.open_runner("ray", 2) as start:
        assert start is WorkerProcess
    monkeypatch.setattr(points[0], "name", "cluster")
    with pytest.raises(
        OtcacheError, match=r"no runner is called 'slurm'\. Known: local, cluster, ray"
    ):
        processes.open_runner("slurm", 1).__enter__()
    for fails in (_fails, contextmanager(_fails)):
        points[0] = _Point(lambda fails=fails: fails)  # type: ignore[misc]
        with pytest.raises(PluginError, match="'cluster' cannot be opened: ConnectionError: no c"):
            processes.open_runner("cluster", 1).__enter__()
