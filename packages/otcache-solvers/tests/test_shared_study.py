"""Several processes search one study; another day goes on with it."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest

from otcache_core import OtcacheError, ScheduleProblem
from otcache_core.testing import ToySampler
from otcache_solvers.search import tpe_search
from otcache_solvers.search.anchor import AnchorSearch
from otcache_solvers.search.tpe_search import SharedStudy, storage_at

SAMPLER = ToySampler(num_steps=14, num_samples=3, power=2.0)


class Watched:
    """The toy's evaluator; keeps what ran, and calls ``after`` each time."""

    def __init__(self, after=lambda count: None):
        self.inner, self.after, self.ran = SAMPLER.evaluator(), after, []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def evaluate(self, schedules, **settings):
        self.ran += [s.computed for s in schedules]
        result = self.inner.evaluate(schedules, **settings)
        self.after(len(self.ran))
        return result


@pytest.fixture(params=["sqlite", "journal"])
def url(tmp_path, request):
    return f"{request.param}:///{tmp_path / 'search'}".replace("journal:////", "journal:///")


def solve(storage, *, trials=10, evaluator=None, budget=4, seed=0, **settings):
    solver = AnchorSearch(trials, 0, storage=storage, **settings)
    evaluator = evaluator or Watched()
    return solver.solve(ScheduleProblem(14, budget, evaluator=evaluator, seed=seed))


def test_a_study_goes_on_where_it_was(url):
    first, second = Watched(), Watched()
    short = solve(url, trials=3, evaluator=first)
    longer = solve(url, trials=5, evaluator=second)
    assert longer.stats["trials"] == 5
    assert set(first.ran) & set(second.ran) == {(0, 3, 7, 10)}, "only the uniform start is rerun"
    assert longer.objective <= short.objective
    assert len(second.ran) == 5 - 3 + 1


def test_a_finished_study_is_read_and_not_run(url):
    first = solve(url, trials=5)
    evaluator = Watched()
    again = solve(url, trials=5, evaluator=evaluator)
    assert evaluator.ran == [(0, 3, 7, 10)]
    assert (again.schedule, again.objective) == (first.schedule, first.objective)
    assert again.stats["trials"] == first.stats["trials"]


def test_a_study_in_a_database_is_deterministic(tmp_path):
    runs = []
    for name in ("a", "b"):
        evaluator = Watched()
        solve(f"sqlite:///{tmp_path / name}.db", trials=4, evaluator=evaluator)
        runs.append(evaluator.ran)
    assert runs[0] == runs[1]


def test_threads_that_begin_at_once_share_one_study(url):
    together = threading.Barrier(2, timeout=60)
    evaluators = [Watched(lambda count: together.wait() if count == 1 else None) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        solutions = list(pool.map(lambda e: solve(url, trials=5, evaluator=e), evaluators))
    for solution in solutions:
        assert 5 <= solution.stats["trials"] <= 6, "one may be under way elsewhere"
    study = optuna.load_study(study_name="anchor-search", storage=storage_at(url))
    numbers = [trial.number for trial in study.get_trials()]
    assert numbers == list(range(len(numbers)))
    best = min(trial.value for trial in study.get_trials(states=[optuna.trial.TrialState.COMPLETE]))
    assert min(s.objective for s in solutions) <= best


def test_searches_that_differ_and_begin_at_once_never_mix(url):
    """Neither saw the other's settings when it joined; the first look at the study shows it."""
    mine, other = (SharedStudy(url, "one", {"budget": budget}) for budget in (3, 4))
    study = mine.open()
    attributes = dict(study.user_attrs)
    other_study = SharedStudy(url, "two", other.identity).open()
    for key, value in other_study.user_attrs.items():
        study.set_user_attr(key, value)
    assert len(study.user_attrs) == len(attributes) + 1
    for shared in (mine, other):
        with pytest.raises(OtcacheError, match="budget of study 'one' must be"):
            shared.learn(shared.open(), book=None)


def test_processes_share_one_study(url):
    code = (
        "import sys\n"
        "from otcache_core import ScheduleProblem\n"
        "from otcache_core.testing import ToySampler\n"
        "from otcache_solvers.search.anchor import AnchorSearch\n"
        "solver = AnchorSearch(5, 0, storage=sys.argv[1])\n"
        "sampler = ToySampler(num_steps=14, num_samples=3, power=2.0)\n"
        "problem = ScheduleProblem(14, 4, evaluator=sampler.evaluator())\n"
        "sys.stdin.read(1)\n"
        "print(solver.solve(problem).stats['trials'])\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [
        subprocess.Popen([sys.executable, "-c", code, url], text=True, **pipes) for _ in range(2)
    ]
    for process in processes:
        process.stdin.write("x")
        process.stdin.flush()
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert 5 <= int(out) <= 6
    evaluator = Watched()
    assert solve(url, trials=5, evaluator=evaluator).stats["trials"] >= 5
    assert evaluator.ran == [(0, 3, 7, 10)]


def test_a_study_of_something_else_is_refused(url):
    solve(url, trials=1)
    for settings, message in (
        ({"budget": 3}, "budget of study 'anchor-search' must be 4, got 3: it was begun so"),
        ({"fit": False}, "fit of study 'anchor-search' must be True, got False"),
        ({"objective": "latent-l1"}, "objective of study"),
    ):
        with pytest.raises(OtcacheError, match=message):
            solve(url, trials=1, **settings)
    assert solve(url, trials=1, study="another", budget=3, fit=False).schedule is not None


@pytest.mark.remedy("it was begun so. Choose another study name, or take part as it is")
@pytest.mark.remedy("it holds trials of another program. Choose another name")
def test_a_study_of_another_n_or_of_another_program_is_refused(url):
    solve(url, trials=1)
    shorter = ScheduleProblem(12, 4, evaluator=ToySampler(num_steps=12).evaluator())
    with pytest.raises(OtcacheError, match="num_steps of study 'anchor-search' must be 14, got 12"):
        AnchorSearch(storage=url).solve(shorter)
    assert AnchorSearch(1, 0, storage=url, study="another").solve(shorter).schedule is not None
    assert solve(url, trials=1).schedule is not None  # part in it as it is
    foreign = optuna.create_study(storage=storage_at(url), study_name="foreign")
    foreign.tell(foreign.ask(), 1.0)
    with pytest.raises(
        OtcacheError, match="study must be one of an anchor search, got 'foreign': it holds trials"
    ):
        solve(url, study="foreign")
    assert solve(url, trials=1, study="own").schedule is not None


@pytest.mark.parametrize(
    "storage",
    [
        *(
            "sqlite:////no/such/folder/search.db",
            "postgresql://me:secret@localhost:1/db",
            "nonsense",
        ),
        *("journal:///no/such/folder/log", "grpc://localhost", "grpc://localhost:1"),
    ],
)
def test_a_storage_out_of_reach_is_an_error_with_advice(storage, monkeypatch):
    monkeypatch.setattr(tpe_search, "GRPC_PATIENCE", 0.1)
    with pytest.raises(
        OtcacheError, match="storage must be a database, file or server that can be reached"
    ) as caught:
        solve(storage)
    assert "Check the URL" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.remedy(
    "Check the URL (sqlite:///FILE and journal:///FILE for a file, grpc://HOST:PORT"
)
@pytest.mark.parametrize("kind", ["sqlite:///", "journal://"])
def test_the_advice_of_a_storage_out_of_reach_helps(tmp_path, kind):
    for wrong in (f"{kind}{tmp_path}/a/search", f"{tmp_path}/search"):
        with pytest.raises(OtcacheError, match=r"Check the URL \(sqlite:///FILE"):
            solve(wrong)
    (tmp_path / "a").mkdir()
    for right in (f"{kind}{tmp_path}/a/search", None):
        assert solve(right, trials=1).schedule is not None


def _drop(url):
    """Spoil a storage while it is used."""
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute("DROP TABLE trial_values")
        connection.close()
    else:
        path = Path(url.removeprefix("journal://"))
        path.unlink()
        path.mkdir()


def test_a_storage_that_fails_on_the_way_is_the_same_error(url):
    with pytest.raises(OtcacheError, match="server that can be reached"):
        solve(url, evaluator=Watched(lambda count: _drop(url) if count == 4 else None))


def test_a_server_keeps_a_study_for_many_machines(tmp_path):
    pytest.importorskip("grpc")
    with socket.socket() as one:
        one.bind(("localhost", 0))
        port = one.getsockname()[1]
    kept = storage_at(f"journal://{tmp_path}/search")
    serve = optuna.storages.run_grpc_proxy_server
    threading.Thread(target=serve, args=(kept,), kwargs={"port": port}, daemon=True).start()
    first = solve(f"grpc://localhost:{port}", trials=3)
    evaluator = Watched()
    again = solve(f"journal://{tmp_path}/search", trials=3, evaluator=evaluator)
    assert evaluator.ran == [(0, 3, 7, 10)], "only the uniform start is rerun"
    assert again.schedule == first.schedule
