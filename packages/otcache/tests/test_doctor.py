"""Whatever is wrong with installed plugins is found, and the remedy that is named removes it."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import msgspec
import pytest

from otcache import cli
from otcache.plugin_tools import environment
from otcache.plugin_tools.doctor import (
    TARGET_LIMIT,
    examine,
    joined,
    own_findings,
    same_names,
    scan_findings,
)
from otcache.plugin_tools.environment import Finding
from otcache_core.errors import PluginError
from otcache_core.plugins import API_VERSION, Registry
from otcache_core.plugins.discovery import HookEntryPoint
from otcache_core.plugins.plugin_scan import Finding as Wrong
from otcache_core.plugins.plugin_scan import ScannedPlugin, ScanResult
from otcache_core.plugins.scan_worker import scan_module

HEAD = "from otcache_core.plugins import Info, hookimpl\n"
HOOK = HEAD + "@hookimpl\ndef otcache_provide_solvers():\n    return [{}]\n"
TARGET = "otcache_core.solvers:Uniform"
GOOD = HOOK.format(f"Info('mine', '{TARGET}', api={API_VERSION})")
Requires = Callable[..., None]


@pytest.fixture
def requires(monkeypatch: pytest.MonkeyPatch) -> Requires:
    """Let a distribution that is called ``mine`` require something."""
    real = metadata.requires

    def require(*texts: str) -> None:
        monkeypatch.setattr(
            environment.metadata, "requires", lambda n: texts if n == "mine" else real(n)
        )

    return require


def findings(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """Return what is found about a module of hooks, which is read here rather than in a child process."""
    (folder / "read_hooks.py").write_text(source, encoding="utf-8")
    sys.modules.pop("read_hooks", None)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.invalidate_caches()
    try:
        return list(scan_findings(scan_module("hooks", "read_hooks", "mine", targets=True)))
    finally:
        sys.modules.pop("read_hooks", None)


NAMED = {
    "future": (
        HOOK.format(f"Info('mine', '{TARGET}', api=99)"),
        ("solvers mine", "api 99", "update otcache: pip install -U otcache otcache-core"),
    ),
    "past": (
        HOOK.format(f"Info('mine', '{TARGET}', api=1)"),
        ("solvers mine", "api 1", "update the plugin: pip install -U mine"),
    ),
    "typo": (
        GOOD.replace("provide_solvers", "provide_solver"),
        ("otcache_provide_solver", "", "rename the function otcache_provide_solvers"),
    ),
    "no-hook": (
        GOOD.replace("otcache_provide_solvers", "what_i_have"),
        ("what_i_have", "", "rename the function, without otcache_ and @hookimpl: hooks are"),
    ),
    "arguments": (
        GOOD.replace("solvers()", "solvers(registry)"),
        ("hooks", "'registry'", "define otcache_provide_solvers without arguments"),
    ),
    "unmarked": (
        GOOD.replace("@hookimpl\n", ""),
        ("otcache_provide_solvers", "no @hookimpl", "mark otcache_provide_solvers with @hookimpl"),
    ),
    "empty": (
        HEAD,
        ("hooks", "offers nothing", "mark its hooks with @hookimpl"),
    ),
    "no-target": (
        GOOD.replace(":Uniform", ":Nothing"),
        ("solvers mine", "no attribute 'Nothing'", "name a subclass of ScheduleSolver in Info("),
    ),
    "other-class": (
        GOOD.replace(TARGET, "otcache_core.forecasters.extrapolation:Reuse"),
        ("solvers mine", "Reuse", "name a subclass of ScheduleSolver in Info(target=...), or"),
    ),
    "twice": (
        HOOK.format(f"*[Info('mine', '{TARGET}', api={API_VERSION})] * 2"),
        ("hooks", "twice", "return a list of Info from each hook, every name once"),
    ),
    "bad-name": (
        GOOD.replace("'mine'", "'My Solver'"),
        ("hooks", "'My Solver'", "return a list of Info from each hook, every name once"),
    ),
    "raises": (
        f"raise RuntimeError('no GPU here')\n{GOOD}",
        ("hooks", "no GPU here", "leave it out by OTCACHE_DISABLE_PLUGINS=mine"),
    ),
    "lacks": (
        GOOD.replace("api=", "requires=('nothing-there',), api="),
        ("solvers mine", "nothing-there", "install what it needs: pip install nothing-there"),
    ),
}


@pytest.mark.remedy("update otcache: pip install -U otcache otcache-core", value=True)
@pytest.mark.remedy("update the plugin: pip install -U {}", value=True)
@pytest.mark.remedy("rename the function {}", value=True)
@pytest.mark.remedy("rename the function, without otcache_ and @hookimpl: hooks are {}", value=True)
@pytest.mark.remedy("define {} without arguments", value=True)
@pytest.mark.remedy("mark its hooks with @hookimpl", value=True)
@pytest.mark.remedy("mark {} with @hookimpl", value=True)
@pytest.mark.remedy("name {} in Info(target=...), or update {}", value=True)
@pytest.mark.remedy("return a list of Info from each hook, every name once", value=True)
@pytest.mark.remedy("install what it needs: pip install {}", value=True)
@pytest.mark.parametrize("name", NAMED)
def test_what_is_wrong_is_named_and_the_remedy_helps(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What every remedy comes to is the good module."""
    source, (plugin, what, remedy) = NAMED[name]
    (found,) = findings(source, tmp_path, monkeypatch)
    assert (found.package, found.plugin) == ("mine", plugin)
    assert what in found.what
    assert remedy in found.remedy
    assert "\n" not in found.what
    assert findings(GOOD, tmp_path, monkeypatch) == []


@pytest.mark.remedy("run {}, and report what fails to its author", value=True)
def test_a_plugin_that_fails_at_once_is_to_be_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "from otcache_core.contracts import ScheduleSolver\n"
        "class Solver(ScheduleSolver):\n"
        "    def solve(self, problem):\n"
        "        return 1 / 0\n"
    )
    source += GOOD.replace(TARGET, "read_hooks:Solver")
    (found,) = findings(source, tmp_path, monkeypatch)
    assert "ZeroDivisionError" in found.what
    assert "run otcache plugins check mine/mine --kind solver, and report" in found.remedy


OFFER = ScannedPlugin("solvers", "mine", TARGET)
SCANNED = ScanResult("mine", "hooks", "mine.plugin", "1.0", (OFFER,))


@pytest.mark.remedy("import what is heavy in the module of the class, not in {}", value=True)
@pytest.mark.remedy("print nothing there: use a logger", value=True)
@pytest.mark.remedy("update {}, or leave it out by OTCACHE_DISABLE_PLUGINS={}", value=True)
def test_what_a_module_does_at_import_is_named() -> None:
    """Of results as child processes make them: none of what is heavy, printed or ended remains."""
    slow = Wrong("", "its import takes 20.0 s", "slow")
    ended = Wrong("", "it took longer than 10 s to import", "ended")
    whole = msgspec.structs.replace(SCANNED, printed="hello\nworld", findings=(slow, ended))
    texts = {found.what: found.remedy for found in scan_findings(whole)}
    assert texts == {
        "its import takes 20.0 s": "import what is heavy in the module of the class, not in mine.plugin",
        "it took longer than 10 s to import": (
            "update mine, or leave it out by OTCACHE_DISABLE_PLUGINS=mine"
        ),
        "it prints when it is imported: 'hello'": "print nothing there: use a logger",
    }
    assert list(scan_findings(SCANNED)) == []


@pytest.mark.parametrize(
    ("seconds", "what"),
    [
        (TARGET_LIMIT, "a class or its trial took longer than 60 s"),
        (1.0, "a class or its trial ended the process: it ended the process that imported it"),
    ],
)
def test_a_class_that_ends_its_process_costs_nothing_of_the_hooks(
    seconds: float, what: str
) -> None:
    ended = Wrong("", "it ended the process that imported it, with status 3", "ended")
    hooks = msgspec.structs.replace(SCANNED, printed="hello")
    made = joined(hooks, ScanResult("mine", "hooks", "", findings=(ended,), seconds=seconds))
    assert (made.offers, made.printed) == ((OFFER,), "hello")
    found, printed = scan_findings(made)
    assert (found.plugin, printed.plugin) == ("solvers mine", "hooks")
    assert what in found.what
    assert "leave it out by OTCACHE_DISABLE_PLUGINS=mine" in found.remedy
    sound = msgspec.structs.replace(SCANNED, printed="heavy")
    assert joined(hooks, sound) == hooks


@pytest.mark.remedy("use its full name, {}", value=True)
def test_a_name_offered_twice_is_asked_for_by_its_distribution() -> None:
    """Also where it is one of otcache's own; a plugin alone with its name gives no finding."""
    ours = Registry(entry_points=False)
    uniform = msgspec.structs.replace(OFFER, name="uniform")
    shadow = msgspec.structs.replace(SCANNED, offers=(uniform, OFFER))
    other = msgspec.structs.replace(SCANNED, distribution="other")
    assert list(same_names(ours, [SCANNED])) == []
    found = list(same_names(ours, [shadow, other]))
    assert [(f.package, f.plugin, f.what) for f in found] == [
        ("mine", "solvers mine", "other offers the same name"),
        ("other", "solvers mine", "mine offers the same name"),
        ("mine", "solvers uniform", "otcache-core offers the same name"),
    ]
    assert found[2].remedy == "use its full name, 'mine/uniform'"
    assert ours.create("solvers", "otcache-core/uniform").abilities.needs == frozenset()


UNMET = "nothing-there>=2"


@pytest.mark.remedy("update {}, or report this to its author", value=True)
@pytest.mark.remedy("install it: pip install '{}{}'", value=True)
@pytest.mark.remedy("install that version: pip install '{}{}'", value=True)
@pytest.mark.parametrize(
    ("text", "what", "remedy"),
    [
        (UNMET, "not installed", "pip install 'nothing-there>=2'"),
        ("pytest<3", "is installed", "install that version: pip install 'pytest<3'"),
        ("numpy<1.20", "is installed", "install that version: pip install 'numpy<1.20,>=1'"),
        ("rich<2 !!", "cannot be read", "update mine, or report this to its author"),
        ("rich; python_version ~= 'x'", "cannot be read", "update mine, or report this"),
        ("rich; 'x' in extras", "cannot be read", "update mine, or report this"),
    ],
)
def test_unmet_requirements(requires: Requires, text: str, what: str, remedy: str) -> None:
    """None is left of a version whose requirements are met."""
    requires(text, "numpy>=1", f"{UNMET}; extra == 'more'")
    (found,) = environment.requirement_findings("mine")
    assert what in found.what
    assert remedy in found.remedy
    requires("rich>=13", "numpy>=1")
    assert list(environment.requirement_findings("mine")) == []


@pytest.mark.remedy("install it again: pip install --force-reinstall '{}{}'", value=True)
@pytest.mark.parametrize("version", ["not a version", None])
def test_an_installed_version_that_is_none(
    requires: Requires, version: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    requires("rich>=13")
    with monkeypatch.context() as patch:
        patch.setattr(environment.metadata, "version", lambda name: version)
        (found,) = environment.requirement_findings("mine")
    assert f"the version of rich, {version or ''!r}, cannot be read" in found.what
    assert "pip install --force-reinstall 'rich>=13'" in found.remedy
    assert list(environment.requirement_findings("mine")) == []


def test_two_entry_points_of_a_distribution_require_once(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [HookEntryPoint(name, "mine", "mine.plugin") for name in ("one", "two")]
    monkeypatch.setattr("otcache.plugin_tools.doctor.found_entry_points", lambda *given: points)
    monkeypatch.setattr(
        "otcache.plugin_tools.doctor.scan_entry_points",
        lambda points, **how: [SCANNED] * len(points),
    )
    monkeypatch.setattr(
        "otcache.plugin_tools.doctor.requirement_findings",
        lambda name: [Finding(name, "", "unmet", "")] if name == "mine" else [],
    )
    assert [found.what for found in examine()].count("unmet") == 1


@pytest.mark.remedy("install otcache again: pip install -U otcache", value=True)
def test_otcache_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Registry) -> None:
        raise PluginError("plugin 'otcache.plugin' was omitted")

    assert [f for f in own_findings(Registry(entry_points=False)) if not f.plugin] == []
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "register_builtin", broken)
        found = next(own_findings(Registry(entry_points=False)))
    assert found.remedy == "install otcache again: pip install -U otcache"
    assert "omitted" in found.what


@pytest.mark.remedy("set it to 1, or unset it", value=True)
@pytest.mark.remedy("rename it {}", value=True)
@pytest.mark.remedy("unset it: there are {}", value=True)
@pytest.mark.remedy("write {}", value=True)
@pytest.mark.remedy("take it out: there are {}", value=True)
@pytest.mark.parametrize(
    ("variable", "value", "remedy", "right"),
    [
        ("OTCACHE_STRICT_PLUGINS", "please", "set it to 1, or unset it", "1"),
        ("OTCACHE_LODA_PLUGINS", "mine", "rename it OTCACHE_LOAD_PLUGINS", None),
        ("OTCACHE_VERBOSE", "1", "unset it: there are OTCACHE_DISABLE_PLUGINS, ", None),
        ("OTCACHE_DISABLE_PLUGINS", "al,My_Hooks,mime", "write 'mine'", "all,my-hooks,mine"),
        ("OTCACHE_LOAD_PLUGINS", "zzz", "take it out: there are mine, my-hooks, ", "Mine"),
    ],
)
def test_the_environment(
    variable: str, value: str, remedy: str, right: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [HookEntryPoint("my_hooks", "mine", "mine.plugin")]
    for known in environment.VARIABLES:
        monkeypatch.delenv(known, raising=False)
    monkeypatch.setenv(variable, value)
    found = list(environment.settings_findings(points))
    assert {(f.package, f.plugin) for f in found} == {("", variable)}
    assert remedy in found[-1].remedy
    if right is None:
        monkeypatch.delenv(variable)
    else:
        monkeypatch.setenv(variable, right)
    assert list(environment.settings_findings(points)) == []


def test_the_command(
    install: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Readable, as JSON, and with status 1; in child processes, of which one ends itself."""
    shadow = "print('hello')\n" + GOOD.replace("'mine'", "'uniform'")
    install("mine", shadow, metadata=f"Requires-Dist: {UNMET}\n")
    install("ends", "import os; os._exit(3)")
    status, out = _run(capsys, monkeypatch, "plugins", "doctor", "--json")
    assert status == 1
    found = [Finding(**one) for one in json.loads(out)]
    assert [one.package for one in found] == ["ends", "mine", "mine", "mine"]
    assert "mine_plugin" not in sys.modules
    monkeypatch.setattr("otcache.plugin_tools.doctor.examine", lambda: found)
    status, out = _run(capsys, monkeypatch, "plugins", "doctor")
    assert status == 1
    assert out.splitlines()[-1] == "problems: 4"
    assert "ends\n  plug: it ended the process that imported it, with status 3\n    update" in out
    assert "mine\n  plug: it prints when it is imported: 'hello'\n    print" in out


def test_what_is_omitted_is_not_looked_at(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("ends", "import os; os._exit(3)")
    monkeypatch.setenv("OTCACHE_DISABLE_PLUGINS", "Ends")
    assert examine() == []


def _run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str
) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["otcache", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0), capsys.readouterr().out
