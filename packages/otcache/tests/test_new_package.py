"""What ``otcache plugins new`` writes works as it is, and ``otcache plugins check`` says so."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from otcache import cli
from otcache.plugin_tools.checking import Checked, check, own_tests
from otcache.plugin_tools.listing import in_words, read_kind, spelled
from otcache.plugin_tools.new_package import EXAMPLES, NewPlugin, write_package
from otcache_core import Schedule
from otcache_core.contracts import Forecaster, QualityMetric
from otcache_core.errors import OtcacheError, PluginError, PluginWarning
from otcache_core.plugins import API_VERSION, KINDS, Info, Registry, hookimpl
from otcache_core.problem import Result, ScheduleProblem, Solution
from otcache_core.solvers import Uniform
from otcache_core.testing import CheckResult, Conformance, Outcome, toy_loop

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
    tests = load(folder, "tests/test_mine.py")
    assert "otcache-mine" in tests.test_it_is_found_where_it_is_installed.__code__.co_consts
    (kit,) = (value for name, value in vars(tests).items() if name.startswith("Test"))
    assert issubclass(kit, Conformance)
    report = kit.run_checks()
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
    """Leave the rest to nox's session ``new_plugins``."""
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
    """Provide a registry with bad plugins, also that of the command line."""
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
def test_a_check_shows_each_check_and_fails(run: Run) -> None:
    status, out, _ = run("plugins", "check", "liar")
    assert status == 1
    lines = out.splitlines()
    assert lines[-1].startswith("bad/liar (solver): ")
    again = lines[next(n for n, line in enumerate(lines) if line.startswith("failed: ")) :]
    named = [line for line in again if line.startswith("  ")]
    named_checks = sum(line.count("; ") + 1 if "same reason: " in line else 1 for line in named)
    assert named_checks == int(again[0].split()[1]) > 0
    assert again[-2].endswith("its own tests decide: pytest in the folder of its source (bad)")
    status, out, err = run("plugins", "check", "bad/liar", "--json")
    found = json.loads(out)
    assert (status, found["failed"], found["kind"]) == (1, True, "solvers")
    assert (
        found["counts"]["failed"]
        == sum(check["outcome"] == "failed" for check in found["checks"])
        > 0
    )
    assert "a plugin that talks" in err
    assert found["own_tests"] == "pytest in the folder of its source (bad)"
    assert all(check["reason"] for check in found["checks"] if check["outcome"] != "passed")
    assert not any("\n" in check["reason"] for check in found["checks"])


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


@pytest.mark.usefixtures("offered")
def test_a_name_nearly_right(run: Run) -> None:
    status, _, err = run("plugins", "check", "lair")
    assert (status, "Did you mean 'liar'?" in err) == (2, True)


def test_what_was_omitted_is_said_where_a_name_is_not_found(
    run: Run, install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    install("otcache-ill", "raise RuntimeError('no GPU here')", "ill")
    status, _, err = run("plugins", "check", "ill")
    assert (status, "no GPU here" in err) == (2, True)
    assert "Omitted: otcache-ill; otcache plugins doctor says why." in err
    status, _, err = run("plugins", "check", "otcache-ill/ill", "--kind", "solver")
    assert (status, "no GPU here: otcache plugins doctor says what to do." in err) == (2, True)
    with pytest.warns(PluginWarning), pytest.raises(PluginError) as raised:
        Registry().create("solvers", "ill")
    assert "otcache-ill was omitted: otcache plugins doctor says why." in str(raised.value)


def test_the_tests_of_a_package_that_was_installed_from_a_folder_are_named(
    install: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "a folder" / "tests").mkdir(parents=True)
    install("otcache-near", "")
    info = Path(
        str(metadata.distribution("otcache-near").locate_file("otcache_near-1.0.dist-info"))
    )
    url = (tmp_path / "a folder").as_uri()
    (info / "direct_url.json").write_text(json.dumps({"url": url, "dir_info": {"editable": True}}))
    assert own_tests("otcache-near") == f"pytest '{tmp_path}/a folder/tests'"
    (info / "direct_url.json").write_text("[]")
    assert own_tests("otcache-near") == "pytest in the folder of its source (otcache-near)"


def test_a_name_that_an_installed_plugin_has_is_said(
    run: Run, install: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plugin = NewPlugin("edge", "metrics")
    source = plugin.files()["src/otcache_edge/plugin.py"]
    install("otcache-other", source)
    status, _, err = run("plugins", "new", "edge", "--kind", "metric")
    assert status == 0
    assert "otcache-other: installed already, with a metric 'edge'" in " ".join(err.split())
    assert "this one is 'otcache-edge/edge'" in " ".join(err.split())
    assert NewPlugin("edge", "solvers").taken() == ""
    install("otcache-mine", NewPlugin("mine", "probes").files()["src/otcache_mine/plugin.py"])
    assert NewPlugin("mine", "probes").taken().endswith("to install this one replaces it.")


def test_packages_have_test_files_of_their_own_name() -> None:
    """Pytest cannot run two files of one name in folders that are not packages."""
    names = {NewPlugin(name, kind).tests for name in ("a", "b-c") for kind in EXAMPLES}
    assert names == {"tests/test_a.py", "tests/test_b_c.py"}


@pytest.mark.parametrize("kind", ["metrics", "baselines"])
def test_a_comparison_that_is_suggested_is_small(kind: str) -> None:
    *_, use = NewPlugin("mine", kind).commands(Path("x"))
    for words in ("--steps 12", "--budgets 4", "--samples 2", "--reference-steps 0", "--methods "):
        assert words in use
    assert "," not in use


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


def test_a_class_that_is_not_there_is_reported_with_the_nearest_name(
    run: Run, install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    source = NewPlugin("mine", "solvers").files()["src/otcache_mine/plugin.py"]
    target = "otcache_core.solvers:Unifrom"
    install("otcache-mine", source.replace("otcache_mine.solver:MineSolver", target))
    status, _, err = run("plugins", "check", "mine")
    assert (status, "Did you mean 'otcache_core.solvers:Uniform'?" in err) == (2, True)
    assert "otcache plugins doctor says what to do." in err


def test_checks_that_fail_alike_are_reported_once() -> None:
    results = [
        CheckResult(f"test_{n}", Outcome.FAILED, reason)
        for n, reason in [
            ("a", "B = 3, (0, 1): too few"),
            ("b", "other"),
            ("c", "B = 4, (0,): too few"),
        ]
    ]
    lines = [str(line) for line in Checked("mine/mine", "solvers", tuple(results)).closing()]
    assert lines[1:4] == [
        "  a: B = 3, (0, 1): too few",
        "    and for the same reason: c",
        "  b: other",
    ]
