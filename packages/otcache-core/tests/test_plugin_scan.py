"""Foreign plugins are listed without being imported, and imported when they are asked for."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from otcache_core import Info, PluginError, PluginWarning, Registry, hookimpl
from otcache_core.plugins import plugin_scan
from otcache_core.plugins.discovery import HookEntryPoint, PluginSettings, found_entry_points
from otcache_core.plugins.plugin_scan import ScanResult, scan_entry_points
from otcache_core.plugins.scan_worker import scan_module

Install = Callable[..., None]
GOOD = """
from otcache_core import Info, hookimpl

@hookimpl
def otcache_provide_{kind}():
    return [Info("{name}", "{target}", "one", api=2, options={options})]
"""
TAYLOR = "otcache_core.forecasters.extrapolation:Taylor"
UNIFORM = "otcache_core.solvers:Uniform"
#: One module for each way in which an import can go wrong for who imports it.
HOSTILE = {
    "leaves": "import os\nos._exit(0)",
    "starts": "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'while True: pass'])\n1 / 0",
    "shouts": "import os\nos.write(1, b'\\xff loud' * 1000)\n",
    "asks": "from otcache_core.plugins import installed\ninstalled().infos('solvers')\n",
}
#: The same for what :func:`read` catches in any process.
CAUGHT = {
    "typo": "def otcache_provide_solver(): return []",
    "panics": "class Panic(BaseException): pass\nraise Panic('of a base of its own')",
}


#: Answers that no contract allows, from classes that are of their contract.
RUDE = """
from otcache_core import Info, hookimpl
from otcache_core.contracts import Forecaster, QualityMetric, ScheduleSolver

class Metric(QualityMetric):
    name, higher_is_better = "rude", False
    def __call__(self, images, reference):
        raise ValueError("no")

class Ahead(Forecaster):
    def coefficients(self, span, grid):
        return [[float("nan")]]

class Solver(ScheduleSolver):
    def solve(self, problem):
        raise SystemExit(3)

@hookimpl
def otcache_provide_metrics():
    return [Info("rude", "rude_plugin:Metric", api=2)]

@hookimpl
def otcache_provide_forecasters():
    return [Info("rude", "rude_plugin:Ahead", api=2)]

@hookimpl
def otcache_provide_solvers():
    return [Info("rude", "rude_plugin:Solver", api=2)]
"""


def source(kind: str, name: str, target: str, **options: object) -> str:
    return GOOD.format(kind=kind, name=name, target=target, options=options)


def points() -> list[HookEntryPoint]:
    found = found_entry_points(PluginSettings.from_environment(), True)
    return [point for point in found if not point.ours]


def imported() -> list[str]:
    return [name for name in sys.modules if name.endswith("_plugin") and "." not in name]


def test_who_asks_for_a_foreign_plugin_imports_that_one_alone(
    install: Install, read_here: None
) -> None:
    install("mine", source("forecasters", "slow-taylor", TAYLOR, order=3))
    install("other", source("forecasters", "other", TAYLOR))
    registry = Registry()
    assert registry.create("solvers", "uniform")
    assert registry.resolve("forecasters", "reuse") == "otcache-core/reuse"
    assert imported() == []
    listed = {offer.qualified_name: offer for offer in registry.infos("forecasters")}
    assert listed["mine/slow-taylor"].info.summary == "one"
    assert imported() == []
    made = registry.create("forecasters", "slow-taylor")
    assert getattr(made, "order", None) == 3  # options come with the import
    assert imported() == ["mine_plugin"]
    assert registry.infos("forecasters").count(listed["other/other"]) == 1
    assert len([o for o in registry.infos("forecasters") if o.distribution == "mine"]) == 1


def test_a_qualified_name_needs_no_list(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("mine", source("solvers", "mine", UNIFORM))
    monkeypatch.setattr(Registry, "scan", lambda self: pytest.fail("a list was read"))
    assert type(Registry().create("solvers", "mine/mine")).__name__ == "Uniform"


class Local:
    """Offers a second ``uniform``, by hand."""

    @hookimpl
    def otcache_provide_solvers(self) -> list[Info]:
        return [Info("uniform", "otcache_core.solvers:BruteForce")]


@pytest.mark.remedy("{} name {} is offered {} times: ask for {}.")
def test_a_name_offered_twice_hurts_only_who_asks_for_it(install: Install, read_here: None) -> None:
    install("shadow", source("solvers", "uniform", "otcache_core.solvers:BruteForce"))
    install("one", source("solvers", "mine", UNIFORM))
    install("two", source("solvers", "mine", UNIFORM))
    registry = Registry()
    assert type(registry.create("solvers", "uniform")).__name__ == "Uniform"
    assert registry.resolve("solvers", "uniform") == "otcache-core/uniform"
    for ask in (registry.get, registry.resolve):
        with pytest.raises(PluginError, match="ask for 'one/mine' or 'two/mine'"):
            ask("solvers", "mine")
    assert type(registry.create("solvers", "shadow/uniform")).__name__ == "BruteForce"
    assert type(registry.create("solvers", "uniform")).__name__ == "Uniform"  # imported or not
    registry.register(Local())
    assert registry.resolve("solvers", "uniform") == "otcache-core/uniform"
    with pytest.raises(PluginError, match="ask for 'local/uniform' or 'otcache-core/uniform'"):
        registry.create("solvers", "uniform")
    assert type(registry.create("solvers", "otcache-core/uniform")).__name__ == "Uniform"


def test_candidates_come_to_foreign_ones_last(install: Install, read_here: None) -> None:
    install("mine", source("solvers", "a-first", UNIFORM))
    registry = Registry()
    known = len(registry.known("solvers"))
    offers = registry.candidates("solvers")
    first = [next(offers) for _ in range(known)]
    assert all(map(registry.is_trusted, first))
    assert imported() == []
    assert [offer.qualified_name for offer in offers] == ["mine/a-first"]
    assert list(registry.candidates("solvers", foreign=False)) == first


def test_nothing_that_an_import_does_reaches_this_process(
    install: Install, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, text in HOSTILE.items():
        install(name, text)
    found = {r.distribution: r for r in scan_entry_points(points(), limit=60, cached=False)}
    assert capfd.readouterr() == ("", "")
    assert {n: [(f.kind, f.what) for f in r.findings] for n, r in found.items()} == {
        "leaves": [("ended", "it ended the process that imported it")],
        "starts": [("import", "ZeroDivisionError: division by zero")],
        "shouts": [],
        "asks": [],
    }
    assert found["shouts"].printed.startswith("\N{REPLACEMENT CHARACTER} loud")
    assert len(found["shouts"].printed) <= plugin_scan.PRINTED


@pytest.mark.parametrize(
    ("name", "kind", "what"),
    [
        ("typo", "name", "unknown hook 'otcache_provide_solver'"),
        ("panics", "import", "Panic: of a base of its own"),
    ],
)
def test_what_a_module_raises_or_misspells_is_a_finding(
    install: Install, name: str, kind: str, what: str
) -> None:
    install(name, CAUGHT[name])
    (found,) = scan_module("plug", f"{name}_plugin", name, targets=False).findings
    assert (found.kind, found.what) == (kind, what)


#: Descriptors that no check of their fields has seen, or that no check should let pass.
ODD = """
from otcache_core import Info, hookimpl

class Unchecked(Info):
    def __post_init__(self): pass

def otcache_version(): return 1  # a helper, and no hook

@hookimpl
def otcache_provide_solvers():
    return [{info}]

@hookimpl(specname="otcache_provide_forecasters")
def ours():
    return [Info("sound", "otcache_core.forecasters.extrapolation:Reuse", "x", api=2)]
"""


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ("Unchecked('Bad Name', 'a:B')", "Info.name must be lower-case words"),
        ("Unchecked(7, 'a:B')", "Info.name must be lower-case words"),
        ("Unchecked('mine', None)", "Info.target must be 'package.module:Class'"),
        ("Info('mine', 'a:B', None)", "Info.summary must be one line of text"),
        ("Info('mine', 'a:B', 'x', '2')", "Info.api must be a whole number"),
        ("Info('mine', 'a:B', 'x', 2, 'torch')", "Info.requires must be a tuple"),
        ("Info('mine', 'a:B', 'x', 2, ('',))", "Info.requires must be a tuple"),
        ("Info('mine', 'a:B', 'x', 2, (), {3: 4})", "Info.options must be arguments by name"),
    ],
)
def test_an_odd_descriptor_costs_its_own_hook(install: Install, info: str, reason: str) -> None:
    """Read here, as the child does: whatever comes through there is sound."""
    install("odd", ODD.format(info=info))
    result = scan_module("plug", "odd_plugin", "odd", targets=False)
    assert [(o.kind, o.name) for o in result.offers] == [("forecasters", "sound")]
    assert [f.kind for f in result.findings] == ["offer"]
    assert reason in result.findings[0].what


@pytest.mark.remedy("{} More {} come with: pip install 'otcache[{}]'.")
def test_a_default_is_ours_or_says_what_brings_it(install: Install) -> None:
    install("mine", source("solvers", "anchor-search", UNIFORM))
    with pytest.raises(PluginError, match=r"pip install 'otcache\[solvers\]'"):
        Registry(entry_points=False).own("solvers", "anchor-search")
    assert Registry(entry_points=False).own("solvers", "uniform") == "otcache-core/uniform"


def test_a_distribution_is_named_in_any_spelling(install: Install) -> None:
    install("my-plug", source("solvers", "mine", UNIFORM))
    assert type(Registry().create("solvers", "My_Plug/mine")).__name__ == "Uniform"


def test_a_module_has_so_long_and_no_longer(install: Install) -> None:
    install("waits", "import threading\nthreading.Event().wait()")
    (result,) = scan_entry_points(points(), limit=0.5, cached=False)
    assert [f.what for f in result.findings] == ["it took longer than 0.5 s to import"]


def test_targets_are_imported_on_demand(install: Install, read_here: None) -> None:
    install("gone", source("solvers", "gone", "gone_plugin:Nothing"))
    install("wrong", source("solvers", "wrong", TAYLOR))
    install("old", source("solvers", "old", UNIFORM).replace("api=2", "api=1"))
    install("rude", RUDE)
    shallow = {r.distribution: r.findings for r in scan_entry_points(points(), cached=False)}
    assert [bool(shallow[n]) for n in ("gone", "wrong", "old", "rude")] == [False] * 2 + [
        True,
        False,
    ]
    deep = {
        r.distribution: r.findings for r in scan_entry_points(points(), targets=True, cached=False)
    }
    assert [(f.where, f.kind) for n in deep for f in deep[n]] == [
        ("solvers gone", "target"),
        ("solvers old", "api"),
        ("solvers rude", "trial"),
        ("forecasters rude", "trial"),
        ("metrics rude", "trial"),
        ("solvers wrong", "target"),
    ]
    assert "SystemExit: 3" in deep["rude"][0].what
    assert "must be finite numbers, a row for each of 1 skipped steps" in deep["rude"][1].what
    assert "ValueError: no" in deep["rude"][2].what


@pytest.mark.remedy("its entry_points.txt cannot be read: install it again.")
def test_a_damaged_distribution_costs_itself(install: Install, read_here: None) -> None:
    install("mine", source("solvers", "mine", UNIFORM))
    install("damaged", source("solvers", "other", UNIFORM))
    written = Path(sys.path[0]) / "damaged-1.0.dist-info" / "entry_points.txt"
    good = written.read_text()
    written.write_text("[otcache]\nno value here\n")
    registry = Registry()
    with pytest.warns(PluginWarning, match="'damaged' was omitted: .*cannot be read"):
        listed = [offer.distribution for offer in registry.infos("solvers")]
    assert "mine" in listed
    written.write_text(good)  # as installing it again does
    assert "damaged" in [offer.distribution for offer in Registry().infos("solvers")]


def test_what_was_read_is_kept_until_something_is_installed(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTCACHE_CACHE_DIR", str(tmp_path / "kept"))
    install("mine", source("solvers", "mine", UNIFORM))
    read: list[HookEntryPoint] = []

    def fake(point: HookEntryPoint, *given: object) -> ScanResult:
        read.append(point)
        offered = plugin_scan.ScannedPlugin("solvers", point.distribution, UNIFORM, api=2)
        return ScanResult(point.distribution, point.name, point.module, offers=(offered,))

    monkeypatch.setattr(plugin_scan, "_scan_one", fake)
    first = scan_entry_points(points())
    assert scan_entry_points(points()) == first
    assert len(read) == 1
    install("other", source("solvers", "other", UNIFORM))  # beside it
    assert [r.distribution for r in scan_entry_points(points())] == ["mine", "other"]
    assert len(read) == 3
    file = tmp_path / "kept" / "plugins.json"
    assert len(json.loads(file.read_text())) == 2  # what was read before is forgotten
    file.write_text("{")
    assert scan_entry_points(points())[0].offers == first[0].offers
    monkeypatch.setenv("OTCACHE_CACHE_DIR", str(file))  # where nothing can be kept
    assert scan_entry_points(points())[0].offers == first[0].offers


def test_an_editable_installation_is_always_read_anew(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("mine", source("solvers", "mine", UNIFORM))
    facts = Path(sys.path[0]) / "mine-1.0.dist-info" / "direct_url.json"
    facts.write_text('{"url": "file:///x", "dir_info": {"editable": true}}')
    (point,) = points()
    assert point.stamp == ""
    made = iter(["first", "second"])
    monkeypatch.setattr(
        plugin_scan, "_scan_one", lambda *given: ScanResult("mine", "plug", next(made))
    )
    assert [scan_entry_points([point])[0].module for _ in range(2)] == ["first", "second"]


def test_an_interrupt_while_a_plugin_is_imported_names_it(install: Install) -> None:
    install("mine", "raise KeyboardInterrupt")
    install("late", source("solvers", "late", "late_target_plugin:Solver"))
    install("late-target", "raise KeyboardInterrupt")
    registry = Registry()
    message = "while plugin 'plug' of 'mine' was imported"
    with (
        pytest.warns(PluginWarning, match=message),
        pytest.raises(KeyboardInterrupt, match=message),
    ):
        registry.create("solvers", "mine/mine")
    module = Path(sys.path[0]) / "mine_plugin.py"
    module.write_text(
        source("solvers", "mine", UNIFORM) + "\n# and some more, so that it is read anew\n"
    )
    assert registry.create("solvers", "mine/mine")  # it was not taken for read
    message = "while plugin 'late' was imported"
    with (
        pytest.warns(PluginWarning, match=message),
        pytest.raises(KeyboardInterrupt, match=message),
    ):
        registry.create("solvers", "late/late")


def test_a_plugin_that_fails_when_asked_is_reported_once(install: Install) -> None:
    registry = Registry(entry_points=False)
    offer = registry.known("solvers")[0]
    with pytest.warns(PluginWarning) as caught:
        assert registry.failed(offer, ValueError("no")) == "ValueError: no"
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.failed(offer, ValueError("no")) == "ValueError: no"
    assert [p.plugin for p in registry.problems] == ["brute-force"]


def test_only_the_first_distribution_of_a_name_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where that one offers nothing: the module of a later one would not be imported."""
    for place, offers in (("later", "[otcache]\nplug = two_plugin\n"), ("first", "")):
        info = tmp_path / place / "Two_Times-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: two-times\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(offers)
        monkeypatch.syspath_prepend(str(tmp_path / place))
        names = [point.distribution for point in points()]
        assert ("two-times" in names) == (place == "later")
