"""One broken plugin never stops the others."""

from __future__ import annotations

import copy
import importlib
import json
import pickle
import subprocess
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, get_overloads, get_type_hints

import pytest

from otcache_core import (
    Demo,
    Info,
    PluginError,
    PluginWarning,
    Registry,
    ScheduleProblem,
    hookimpl,
)
from otcache_core.contracts import Baseline, BaselineSetting, CacheExecutor
from otcache_core.forecasters import Reuse
from otcache_core.plugins import KINDS, RegistryDescription, forget_installed, installed
from otcache_core.plugins.info import API_VERSION
from otcache_core.plugins.lookups import CONTRACTS, VALUES
from otcache_core.plugins.registry import hook_name

GOOD = """
from otcache_core import Info, hookimpl

@hookimpl
def otcache_provide_solvers():
    return [Info("{name}", "otcache_core.solvers:Uniform", "one")]
"""
BROKEN = {
    "import": ("raise RuntimeError('no GPU here')", "RuntimeError: no GPU here"),
    "exit": ("raise SystemExit(3)", "SystemExit: 3"),
    "syntax": ("def (", "SyntaxError"),
    "unknown-hook": (
        "from otcache_core import hookimpl\n@hookimpl\ndef otcache_provide_solver(): return []",
        "unknown hook 'otcache_provide_solver'",
    ),
    "signature": (
        "from otcache_core import hookimpl\n@hookimpl\ndef otcache_provide_solvers(x): return []",
        "hook 'otcache_provide_solvers'",
    ),
    "raises": (
        "from otcache_core import hookimpl\n@hookimpl\ndef otcache_provide_solvers(): return 1 / 0",
        "otcache_provide_solvers: ZeroDivisionError",
    ),
    "no-info": (
        "from otcache_core import hookimpl\n"
        "@hookimpl\ndef otcache_provide_solvers(): return ['mine']",
        "what a hook returns must be an iterable of Info, got 'mine'",
    ),
    "bad-info": (
        "from otcache_core import hookimpl, Info\n"
        "@hookimpl\ndef otcache_provide_solvers(): return [Info('My Solver', 'a:B')]",
        "Info.name must be lower-case words joined by hyphens, got 'My Solver'",
    ),
}

Install = Callable[..., None]


@pytest.fixture(autouse=True)
def _only_the_fakes(monkeypatch: pytest.MonkeyPatch, plugins_anew: None, read_here: None) -> None:
    """Whatever of ours is installed beside core is not what is tested here."""
    ours = "otcache-solvers,otcache-diffusers,otcache-video"
    monkeypatch.setenv("OTCACHE_DISABLE_PLUGINS", ours)
    monkeypatch.delenv("OTCACHE_LOAD_PLUGINS", raising=False)
    monkeypatch.delenv("OTCACHE_STRICT_PLUGINS", raising=False)


def names(registry: Registry, kind: str = "solvers") -> list[str]:
    return [offer.info.name for offer in registry.infos(kind)]


def test_core_comes_with_its_own() -> None:
    registry = Registry(entry_points=False)
    assert names(registry) == ["brute-force", "prior", "uniform"]
    assert names(registry, "forecasters") == [
        "fitted",
        "hermite",
        "linear",
        "mean-velocity",
        "mean-velocity-paper",
        "reuse",
        "spectrum",
        "spectrum-chebyshev",
        "taylor",
        "taylor-1",
        "taylor-3",
        "variable-order",
        "variable-order-flow",
    ]
    assert {o.distribution for o in registry.infos("solvers")} == {"otcache-core"}
    assert all(o.info.summary for kind in KINDS for o in registry.infos(kind))
    assert isinstance(registry.create("forecasters", "reuse"), Reuse)
    assert registry.problems == ()


def test_an_installed_plugin_is_found_and_listed_without_its_target(install: Install) -> None:
    install("my-plugin", GOOD.format(name="mine").replace("solvers:Uniform", "not_there:Nothing"))
    registry = Registry()
    assert ("my-plugin", "mine") in [
        (o.distribution, o.info.name) for o in registry.infos("solvers")
    ]
    with pytest.raises(PluginError, match=r"cannot load .*not_there:Nothing"):
        registry.get("solvers", "mine")


def test_embedding_looks_at_no_entry_points(install: Install) -> None:
    install("my-plugin", GOOD.format(name="mine"))
    assert "mine" not in names(Registry(entry_points=False))


def test_broken_plugins_are_a_warning_each_and_the_others_work(
    install: Install, capfd: pytest.CaptureFixture[str]
) -> None:
    for case, (source, _) in BROKEN.items():
        install(f"bad-{case}", f"print('a line of {case}')\n{source}", point="bad")
    install("good-plugin", GOOD.format(name="good"))
    registry = Registry()
    with pytest.warns(PluginWarning) as caught:
        listed = names(registry)
    assert listed == ["brute-force", "good", "prior", "uniform"]
    texts = sorted(str(one.message) for one in caught)
    for text, case in zip(texts, sorted(BROKEN), strict=True):
        assert text.startswith(f"plugin 'bad' of 'bad-{case}' was omitted: ")
        assert BROKEN[case][1] in text
    assert sorted(map(str, registry.problems)) == texts
    assert capfd.readouterr() == ("", "")
    assert not {"bad_raises_plugin", "good_plugin_plugin"} & set(sys.modules)


def test_a_broken_plugin_that_is_asked_for_is_one_warning_and_an_error_each_time(
    install: Install,
) -> None:
    install("bad-plugin", BROKEN["import"][0], point="bad")
    registry = Registry()
    message = "'bad' of 'bad-plugin' was omitted: RuntimeError"
    with pytest.warns(PluginWarning, match=message), pytest.raises(PluginError, match=message):
        registry.create("solvers", "bad-plugin/mine")
    with pytest.raises(PluginError, match=message):  # and no second warning
        registry.create("solvers", "bad-plugin/mine")


def test_under_strict_a_broken_plugin_is_an_error(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("bad-plugin", BROKEN["import"][0])
    monkeypatch.setenv("OTCACHE_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match="of 'bad-plugin' was omitted: RuntimeError"):
        Registry()


@pytest.mark.parametrize(
    ("variable", "value", "found"),
    [
        ("OTCACHE_DISABLE_PLUGINS", "first-plugin,otcache-solvers", ["second"]),
        ("OTCACHE_DISABLE_PLUGINS", "First_Plugin, plug2", []),
        ("OTCACHE_DISABLE_PLUGINS", "all", []),
        ("OTCACHE_LOAD_PLUGINS", "second.plugin", ["second"]),
        ("OTCACHE_LOAD_PLUGINS", "plug1", ["first"]),
        ("OTCACHE_LOAD_PLUGINS", "", []),
    ],
)
def test_the_environment_chooses_but_core_stays(
    install: Install, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, found: list[str]
) -> None:
    install("first-plugin", GOOD.format(name="first"), point="plug1")
    install("second-plugin", GOOD.format(name="second"), point="plug2")
    monkeypatch.setenv(variable, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        listed = names(Registry())
    assert {"brute-force", "uniform"} <= set(listed)
    assert [name for name in listed if name in ("first", "second")] == found


def test_an_omitted_plugin_is_not_imported(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("bad-plugin", BROKEN["import"][0])
    monkeypatch.setenv("OTCACHE_DISABLE_PLUGINS", "all")
    assert Registry().problems == ()


def plugin(**hooks: list[Info]) -> types.SimpleNamespace:
    space = types.SimpleNamespace(__name__="by-hand")
    for kind, infos in hooks.items():

        @hookimpl
        def provide(infos: list[Info] = infos) -> list[Info]:
            return infos

        provide.__name__ = hook_name(kind)
        setattr(space, provide.__name__, provide)
    return space


class Plugin:
    """Offers a second ``uniform``."""

    @hookimpl
    def otcache_provide_solvers(self) -> list[Info]:
        return [Info("uniform", "otcache_core.solvers:BruteForce")]


@pytest.mark.remedy("{} name {} is offered {} times: ask for {}.")
def test_a_name_offered_twice_is_an_error_on_use_that_lists_both() -> None:
    registry = Registry(entry_points=False)
    registry.register(Plugin(), "other")
    assert names(registry) == ["brute-force", "prior", "uniform", "uniform"]
    with pytest.raises(PluginError) as caught:
        registry.get("solvers", "uniform")
    assert str(caught.value) == (
        "solvers name 'uniform' is offered 2 times: "
        "ask for 'otcache-core/uniform' or 'other/uniform'."
    )
    assert registry.get("solvers", "otcache-core/uniform").__name__ == "Uniform"
    assert registry.get("solvers", "other/uniform").__name__ == "BruteForce"


class Twice:
    @hookimpl
    def otcache_provide_solvers(self) -> list[Info]:
        return [Info("same", "a:B"), Info("same", "a:C")]


def test_one_distribution_may_not_offer_a_name_twice() -> None:
    with pytest.raises(PluginError, match="it offers solvers 'same' twice"):
        Registry(entry_points=False).register(Twice())


def test_registering_by_hand_raises_what_is_wrong() -> None:
    class Wrong:
        @hookimpl
        def otcache_provide_solver(self) -> list[Info]:
            return []

    registry = Registry(entry_points=False)
    with pytest.raises(PluginError, match="plugin 'Wrong' of 'local' was omitted"):
        registry.register(Wrong())
    registry.register(Plugin())
    assert registry.get("solvers", "local/uniform")


def test_an_unknown_name_lists_the_valid_ones_the_nearest_and_the_extra() -> None:
    registry = Registry(entry_points=False)
    with pytest.raises(PluginError) as caught:
        registry.get("solvers", "unifrom")
    assert str(caught.value) == (
        "solvers has no 'unifrom': valid names are brute-force, prior, uniform. "
        "Did you mean 'uniform'? More solvers come with: pip install 'otcache[solvers]'."
    )
    with pytest.raises(PluginError, match=r"none installed.*pip install 'otcache\[diffusers\]'"):
        registry.get("probes", "anything")
    with pytest.raises(PluginError, match=r"pip install 'otcache\[diffusers,video\]'"):
        registry.get("demos", "anything")
    with pytest.raises(PluginError, match="plugin kind must be one of probes, cost_models"):
        registry.infos("solver")


def test_no_extra_is_advised_that_is_there() -> None:
    registry = Registry(entry_points=False)
    registry.register(Plugin(), "otcache-solvers")
    with pytest.raises(PluginError) as caught:
        registry.get("solvers", "nothing-like-it")
    assert "pip install" not in str(caught.value)


class Misfits:
    @hookimpl
    def otcache_provide_solvers(self) -> list[Info]:
        return [
            Info("forecaster", "otcache_core.forecasters.extrapolation:Reuse"),
            Info("function", "otcache_core.transport:interpolate"),
            Info("old", "otcache_core.solvers:Uniform", api=0),
            Info("new", "otcache_core.solvers:Uniform", api=API_VERSION + 1),
            Info("updated", "otcache_core.solvers:Uniform", api=API_VERSION),
            Info("no-attribute", "otcache_core.solvers:Nonuniform"),
        ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("forecaster", "must be a subclass of otcache_core.contracts.ScheduleSolver"),
        ("function", "must be a subclass of otcache_core.contracts.ScheduleSolver"),
        pytest.param(
            "old",
            "plugin 'old' api must be 2, got 0: update the plugin.",
            marks=pytest.mark.remedy("update the plugin."),
        ),
        pytest.param(
            "new",
            "plugin 'new' api must be 2, got 3: update otcache-core.",
            marks=pytest.mark.remedy("update otcache-core."),
        ),
        ("no-attribute", "cannot load 'otcache_core.solvers:Nonuniform'"),
        ("no-attribute", ". Did you mean 'otcache_core.solvers:Uniform'?"),
    ],
)
def test_what_does_not_keep_the_contract_is_refused(name: str, text: str) -> None:
    registry = Registry(entry_points=False)
    registry.register(Misfits())
    with pytest.raises(PluginError) as caught:
        registry.create("solvers", name)
    assert text in str(caught.value)
    assert registry.create("solvers", "updated").solve(ScheduleProblem(4, 2)).schedule is not None


@pytest.mark.parametrize("target", ["module", "module:", ":Class", "module:1st"])
def test_a_malformed_target_is_refused(target: str) -> None:
    with pytest.raises(PluginError, match=r"Info\.target must be 'package\.module:Class'"):
        Info("name", target)


class Demos:
    @hookimpl
    def otcache_provide_demos(self) -> list[Info]:
        return [Info("made", f"{__name__}:DEMO"), Info("called", f"{__name__}:make_demo")]


DEMO = Demo("toy", "a toy", load=dict)


def make_demo() -> Demo:
    return DEMO


def test_a_demo_is_a_value_or_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    here = types.ModuleType(__name__)
    here.DEMO, here.make_demo = DEMO, make_demo
    monkeypatch.setitem(sys.modules, __name__, here)
    registry = Registry(entry_points=False)
    registry.register(Demos())
    assert registry.create("demos", "made") is DEMO
    assert registry.create("demos", "called") is DEMO


def test_what_a_plugin_requires_is_looked_up_without_importing_it() -> None:
    info = Info("mine", "nowhere:Mine", requires=("numpy", "no-such-distribution"))
    assert info.missing() == ("no-such-distribution",)
    assert Info("mine", "nowhere:Mine").missing() == ()


# --- the installed plugins, read once --------------------------------------------------------------


def test_the_installed_plugins_are_read_once_until_they_are_forgotten(install: Install) -> None:
    first = installed()
    install("my-plugin", GOOD.format(name="mine"))
    assert installed() is first
    assert "mine" not in names(installed())
    assert "mine" in names(Registry())
    forget_installed()
    assert "mine" in names(installed())


def test_a_broken_plugin_is_reported_once_in_a_process(install: Install) -> None:
    install("bad-plugin", BROKEN["import"][0])
    with pytest.warns(PluginWarning) as caught:
        found = [len(installed().problems) for _ in range(3)]
    assert len(caught) == 1
    assert found == [1, 1, 1]


def test_threads_share_one_reading() -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len({id(r) for r in pool.map(lambda _: installed(), range(16))}) == 1


# --- what a registry made finds other plugins there --------------------------------------------------


@dataclass(frozen=True)
class Curious(Baseline):
    """A baseline that looks a forecaster up while it is made, and later."""

    name: str = "mine"

    def __post_init__(self) -> None:
        object.__setattr__(self, "early", self.registry.create("forecasters", self.name))

    def supports(self, target: Any, request: Any) -> str:
        return type(self.registry.create("forecasters", self.name)).__name__

    def settings(self, num_steps: int, budgets: Any, measured: Any) -> Sequence[BaselineSetting]:
        return ()

    def apply(self, target: Any, setting: Any, measured: Any) -> AbstractContextManager[None]:
        return nullcontext()


def private(forecaster: str) -> Registry:
    home = f"otcache_core.forecasters.extrapolation:{forecaster}"
    registry = Registry(entry_points=False)
    baselines = [Info("curious", f"{__name__}:Curious")]
    registry.register(plugin(forecasters=[Info("mine", home)], baselines=baselines))
    return registry


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets of this very file can be imported, however pytest came by it."""
    here = types.ModuleType(__name__)
    vars(here).update(Curious=Curious)
    monkeypatch.setitem(sys.modules, __name__, here)


def test_a_plugin_finds_others_in_the_registry_that_made_it(importable: None) -> None:
    for name in ("Reuse", "Linear"):
        registry = private(name)
        made = registry.create("baselines", "curious")
        assert made.registry is registry
        assert made.supports(None, None) == name  # type: ignore[arg-type]  # nothing is sampled
        assert type(vars(made)["early"]).__name__ == name
    assert made == Curious.made_by(private("Reuse"))  # where it comes from is not what it is


def test_a_plugin_made_by_hand_finds_the_installed_ones() -> None:
    assert Curious("reuse").registry is installed()


def test_arguments_of_a_plugin_are_checked_as_its_class_does(importable: None) -> None:
    registry = private("Reuse")
    assert registry.create("baselines", "curious", "linear").supports(None, None) == "Linear"  # type: ignore[arg-type]  # nothing is sampled
    assert registry.create("baselines", "curious", name="linear") == Curious("linear")
    for wrong in ({"nobody": 1}, {"name": "mine", "registry": None}):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            registry.create("baselines", "curious", **wrong)
    with pytest.raises(TypeError, match="abstract"):
        CacheExecutor.made_by(registry)


# --- types -------------------------------------------------------------------------------------------


def test_every_kind_is_typed() -> None:
    assert {**CONTRACTS, **VALUES}.keys() == set(KINDS)
    hints = [get_type_hints(f) for f in get_overloads(Registry.create)]
    typed = {h["kind"].__args__[0]: h["return"] for h in hints if h["kind"] is not str}
    assert typed == {**CONTRACTS, **VALUES}


def test_a_demo_that_is_none_is_refused() -> None:
    registry = Registry(entry_points=False)
    infos = [Info("odd", "builtins:dict")]
    registry.register(plugin(demos=infos, architectures=infos))
    for kind, word in (("demos", "Demo"), ("architectures", "Architecture")):
        with pytest.raises(PluginError, match=f"'local/odd' must be of type {word}, or a function"):
            registry.create(kind, "odd")


# --- the same registry in another process --------------------------------------------------------------

REBUILD = """
import json, sys
from otcache_core.plugins import KINDS, Registry, RegistryDescription
import msgspec
registry = Registry.from_description(msgspec.convert(json.loads(sys.argv[1]), RegistryDescription))
print(json.dumps([o.qualified_name for kind in KINDS for o in registry.infos(kind)]))
"""


@pytest.mark.parametrize("entry_points", [False, True])
def test_another_process_makes_the_same_registry(entry_points: bool, install: Install) -> None:
    install("my-plugin", GOOD.format(name="mine"))  # this process finds it, another one does not
    module = importlib.import_module("my_plugin_plugin")
    registry = Registry(entry_points)
    registry.register(module, "by-hand") if not entry_points else None
    registry.register_builtin()
    described = registry.description()
    again = Registry.from_description(described)
    assert [again.infos(kind) for kind in KINDS] == [registry.infos(kind) for kind in KINDS]
    if entry_points:
        return
    words = [sys.executable, "-c", REBUILD, json.dumps(asdict(described))]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd="/")
    listed = [o.qualified_name for kind in KINDS for o in registry.infos(kind)]
    assert json.loads(done.stdout) == listed
    assert "by-hand/mine" in listed


def test_what_a_registry_made_is_copied_and_pickled(install: Install, importable: None) -> None:
    made = private("Linear").create("baselines", "curious")
    assert copy.deepcopy(made).registry is made.registry
    registry = Registry(entry_points=False)
    install("my-plugin", GOOD.format(name="mine"))
    registry.register(importlib.import_module("my_plugin_plugin"))
    again = pickle.loads(pickle.dumps(registry))
    assert [again.infos(kind) for kind in KINDS] == [registry.infos(kind) for kind in KINDS]


def test_a_registry_of_installed_plugins_is_described_in_a_word() -> None:
    assert Registry().description() == RegistryDescription()
    assert Registry(entry_points=False).description() == RegistryDescription(entry_points=False)


@pytest.mark.remedy("register the module that holds its hooks, as registry.register(")
@pytest.mark.parametrize("kind", ["object", "main", "made up"])
def test_what_another_process_cannot_import_is_refused(kind: str, install: Install) -> None:
    install("my-plugin", GOOD.format(name="mine"))
    wrong = {"object": Plugin(), "main": sys.modules["__main__"], "made up": plugin(solvers=[])}
    registry = Registry(entry_points=False)
    registry.register(wrong[kind])
    with pytest.raises(PluginError, match="other processes use too must be a module that they can"):
        registry.description()
    followed = Registry(entry_points=False)
    followed.register(importlib.import_module("my_plugin_plugin"))
    assert followed.description().modules == (("my_plugin_plugin", "local"),)


def test_a_module_that_is_gone_is_named() -> None:
    described = RegistryDescription(modules=(("nobody.wrote_this", "by-hand"),))
    with pytest.raises(PluginError, match=r"'nobody.wrote_this' of 'by-hand' .*No module named"):
        Registry.from_description(described)
