"""What ``otcache plugins new`` writes works as it is, and ``otcache plugins check`` says so."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from otcache import cli
from otcache.plugin_tools.checking import check
from otcache.plugin_tools.kinds import in_words, read_kind, spelled
from otcache.plugin_tools.new_package import EXAMPLES, NewPlugin, write_package
from otcache_core import Schedule
from otcache_core.contracts import Forecaster, QualityMetric
from otcache_core.errors import OtcacheError, PluginError
from otcache_core.plugins import API_VERSION, KINDS, Info, Registry, hookimpl
from otcache_core.problem import Result, ScheduleProblem, Solution
from otcache_core.solvers import Uniform
from otcache_core.testing import Conformance, toy_loop

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line; gives (status, standard output, standard error)."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["otcache", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path, str], ModuleType]]:
    """Import a file of a generated package, whose own modules are found beside it."""
    before = set(sys.modules)

    def imported(folder: Path, path: str) -> ModuleType:
        monkeypatch.syspath_prepend(str(folder / "src"))
        importlib.invalidate_caches()
        spec = importlib.util.spec_from_file_location(f"made_{Path(path).stem}", folder / path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield imported
    for name in set(sys.modules) - before:
        if name.startswith("otcache_mine"):
            del sys.modules[name]


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_new_package_passes_its_kit(
    kind: str, tmp_path: Path, load: Callable[[Path, str], ModuleType]
) -> None:
    plugin, folder = NewPlugin("mine", kind), tmp_path / "made"
    written = write_package(plugin, folder)
    assert {path.relative_to(folder).as_posix() for path in written} == set(plugin.files())
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["otcache"] == {"mine": "otcache_mine.plugin"}
    tests = load(folder, "tests/test_conformance.py")
    (kit,) = (value for name, value in vars(tests).items() if name.startswith("Test"))
    assert issubclass(kit, Conformance)
    report = kit.check_laws()
    assert report.passed, str(report)
    registry = Registry(entry_points=False)
    registry.register(load(folder, "src/otcache_mine/plugin.py"), "otcache-mine")
    (offer,) = (o for o in registry.infos(kind) if o.distribution == "otcache-mine")
    assert (offer.info.name, offer.info.api) == ("mine", API_VERSION)
    checked = check(registry, "otcache-mine/mine")
    assert (checked.kind, checked.failed, checked.unchecked) == (kind, False, "")
    assert len(checked.results) == len(report.results)


def test_a_new_executor_leaves_what_was_on_the_denoiser(
    tmp_path: Path, load: Callable[[Path, str], ModuleType]
) -> None:
    """Its own way of computing, which somebody placed on the instance."""
    write_package(NewPlugin("mine", "executors"), tmp_path / "made")
    executor = load(tmp_path / "made", "src/otcache_mine/executor.py").MineExecutor()
    target = toy_loop()
    before = target.denoiser.forward
    target.denoiser.forward = placed = lambda *args, **kwargs: before(*args, **kwargs)
    for _ in range(2):
        with executor.attach(target, Schedule(8, (0, 4))):
            assert target.denoiser.forward is not placed
        assert target.denoiser.forward is placed


@pytest.mark.remedy("pip install -e {}", value=True)
def test_the_command_writes_a_package_and_says_what_comes_next(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nox's session ``new_plugins`` does it."""
    monkeypatch.chdir(tmp_path)
    status, out, err = run("plugins", "new", "two-words", "--kind", "cost_models")
    assert (status, err) == (0, "")
    _, *commands = [line.strip() for line in out.splitlines()]
    assert commands == NewPlugin("two-words", "cost_models").commands(Path("otcache-two-words"))
    assert commands[:2] == [
        "pip install -e './otcache-two-words[test]'",
        "pytest ./otcache-two-words",
    ]
    assert (tmp_path / "otcache-two-words/src/otcache_two_words/cost_model.py").is_file()
    status, out, _ = run("plugins", "new", "a", "--kind", "solver", "--out", "b", "--json")
    made = json.loads(out)
    assert (status, made["written"], len(made["files"])) == (0, "b", 7)
    assert made["next"][0] == "pip install -e './b[test]'"


@pytest.mark.parametrize("kind", EXAMPLES)
def test_the_commands_that_are_named_parse(kind: str) -> None:
    for line in NewPlugin("mine", kind).commands(Path("/tmp/a folder"))[2:]:
        program, *words = shlex.split(line)
        command: Any = get_command(cli.app)
        context = command.make_context(program, words)
        while isinstance(command, TyperGroup):
            left = [*context._protected_args, *context.args]
            name, command, words = command.resolve_command(context, left)
            context = command.make_context(name, words, parent=context)


@pytest.mark.remedy("the folder {} exists already: name another by --out")
def test_a_folder_that_exists_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    words = ("plugins", "new", "mine", "--kind", "solver", "--out")
    status, out, err = run(*words, tmp_path / "made")
    assert (status, out) == (2, "")
    assert "name another by --out" in err
    assert list((tmp_path / "made").iterdir()) == []
    assert run(*words, tmp_path / "other")[0] == 0


@pytest.mark.remedy("{} is a name of otcache itself: choose another name")
@pytest.mark.parametrize(("name", "kind"), [("uniform", "solvers"), ("core", "metrics")])
def test_names_of_otcache_are_refused(name: str, kind: str) -> None:
    with pytest.raises(OtcacheError, match="choose another name"):
        NewPlugin(name, kind)
    assert NewPlugin(f"my-{name}", kind).files()


@pytest.mark.parametrize(
    "name", ["", "Mine", "my_own", "-a", "a-", "a--b", "../a", "a b", "a" * 41]
)
def test_names_that_no_plugin_may_have(name: str) -> None:
    with pytest.raises(OtcacheError, match="ame must be"):
        NewPlugin(name, "solvers")


@pytest.mark.parametrize(
    ("name", "kind", "wanted"),
    [
        ("my-best", "solvers", "MyBestSolver"),
        ("best-solver", "solvers", "BestSolver"),
        ("gain", "cost_models", "GainCostModel"),
        ("3-steps", "baselines", "My3StepsBaseline"),
        ("schedule", "solvers", "MyScheduleSolver"),
        ("quality", "metrics", "MyQualityMetric"),
        ("none", "probes", "NoneProbe"),
    ],
)
def test_a_class_has_a_name_of_its_own(name: str, kind: str, wanted: str) -> None:
    assert NewPlugin(name, kind).class_name == wanted


def test_kinds_are_read_in_every_spelling() -> None:
    for kind in KINDS:
        for text in (kind, spelled(kind), in_words(kind), spelled(kind).upper(), f" {kind} "):
            assert read_kind(text) == kind
    with pytest.raises(OtcacheError, match="did you mean 'cost-model'"):
        read_kind("costmodel")
    with pytest.raises(OtcacheError, match="one of solver, cost-model, forecaster"):
        read_kind("demo", EXAMPLES)


class Liar(Uniform):
    """Says OPTIMAL, of an objective that it does not have."""

    def solve(self, problem: ScheduleProblem) -> Solution:
        found = super().solve(problem)
        sys.stdout.write("a plugin that talks\n")
        return Solution(found.schedule, -1.0, Result.OPTIMAL, 3.0, "nothing")


class Unmade(Forecaster):
    def __init__(self) -> None:
        raise RuntimeError("no\nGPU here")

    coefficients: Any = None


class Heavy(QualityMetric):
    name, higher_is_better, needs = "heavy", True, "the weights of a network"
    __call__: Any = None


class Offers:
    @hookimpl
    def otcache_provide_solvers(self) -> list[Info]:
        return [Info(name, f"{__name__}:Liar") for name in ("liar", "both")]

    @hookimpl
    def otcache_provide_forecasters(self) -> list[Info]:
        return [Info("unmade", f"{__name__}:Unmade"), Info("both", f"{__name__}:Unmade")]

    @hookimpl
    def otcache_provide_metrics(self) -> list[Info]:
        return [Info("heavy", f"{__name__}:Heavy")]


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry with bad plugins, also that of the command line."""
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or _this())
    registry = Registry(entry_points=False)
    registry.register(Offers(), "bad")
    monkeypatch.setattr("otcache_core.plugins.Registry", lambda: registry)
    return registry


def _this() -> ModuleType:
    module = ModuleType(__name__)
    vars(module).update(globals())
    return module


@pytest.mark.usefixtures("offered")
def test_a_check_shows_each_law_and_fails(run: Run) -> None:
    status, out, _ = run("plugins", "check", "liar")
    assert status == 1
    assert "failed" in out
    assert out.splitlines()[-1].startswith("bad/liar (solver): ")
    status, out, err = run("plugins", "check", "bad/liar", "--json")
    found = json.loads(out)
    assert (status, found["failed"], found["kind"]) == (1, True, "solvers")
    assert found["counts"]["failed"] == sum(law["outcome"] == "failed" for law in found["laws"]) > 0
    assert "a plugin that talks" in err
    assert all(law["reason"] for law in found["laws"] if law["outcome"] != "passed")
    assert not any("\n" in law["reason"] for law in found["laws"])


def test_what_cannot_be_checked_is_said(run: Run, offered: Registry) -> None:
    status, out, _ = run("plugins", "check", "unmade")
    assert (status, out) == (
        1,
        "bad/unmade (forecaster): not checked, it cannot be made: RuntimeError: no GPU here\n",
    )
    heavy = check(offered, "heavy")
    assert not heavy.failed
    assert "it needs the weights of a network at a local path" in heavy.summary()


@pytest.mark.remedy("{} names plugins of several kinds: give --kind {}")
def test_a_name_of_several_kinds(offered: Registry) -> None:
    with pytest.raises(PluginError, match=r"give --kind solver or forecaster\."):
        check(offered, "both")
    assert check(offered, "both", "solvers").kind == "solvers"


@pytest.mark.remedy("no plugin is called {}: see otcache plugins list")
def test_a_name_nobody_has(run: Run) -> None:
    status, _, err = run("plugins", "check", "nobody")
    assert status == 2
    assert "see otcache plugins list" in err
    assert "uniform" in run("plugins", "list")[1]


def test_a_list_of_one_kind(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in ("--kind=forecaster", "--kind=forecasters"):
        _, out, _ = run("plugins", "list", words, "--json")
        assert {row["kind"] for row in json.loads(out)} == {"forecasters"}
    for columns in ("1", "20", "300"):
        monkeypatch.setenv("COLUMNS", columns)
        _, out, _ = run("plugins", "list", "--kind", "forecaster")
        assert "  mean-velocity-paper " in out
        assert "otcache-core" in out
    assert run("plugins", "list", "--kind", "forecast")[0] == 2


def test_slow_modules_are_named(
    run: Run, install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("slow-one", "")
    monkeypatch.setattr("otcache.plugin_tools.listing.LIMIT", 0.0)
    status, _, err = run("plugins", "list", "--kind", "probe")
    assert status == 0
    assert "slow to import: slow-one (slow_one_plugin, " in err
