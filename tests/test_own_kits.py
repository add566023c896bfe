"""Our own plugins pass through the same door: each has a kit, the facade's baselines theirs here."""

from __future__ import annotations

import ast
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import otcache
from otcache.comparison.baselines import Ours
from otcache.plugin_tools.toy_kits import tensor_loop
from otcache_core.contracts import Baseline, SampleRequest
from otcache_core.errors import OtcacheNotice
from otcache_core.plugins import KINDS, Registry
from otcache_core.testing import BaselineConformance

ROOT = Path(__file__).parents[1]
STEPS = 6
REQUEST = SampleRequest(("a cat", "a dog"), (0, 1), STEPS, batch_size=2)
#: Kinds that have no kit: an architecture and a demo are functions, with tests of their own.
WITHOUT = {"architectures", "demos"}
#: Why a plugin has none.
REASONS = {"baselines/lemica-table": "it runs as flux-table does, on pipelines that have a table"}


class OnToyLoop(BaselineConformance):
    """The facade's baselines on a loop around a torch module; the subclass names one."""

    name: str
    budgets = (2, 4)

    def make_baseline(self) -> Baseline:
        return Registry().create("baselines", f"otcache/{self.name}")

    def make_target(self) -> Any:
        return tensor_loop(torch)

    def request(self) -> SampleRequest:
        return REQUEST

    def run(self, target: Any, sample: int, num_steps: int) -> Any:
        one = slice(sample, sample + 1)
        return target(REQUEST.prompts[one], REQUEST.seeds[one], num_steps).numpy()

    def break_off(self, target: Any, num_steps: int) -> None:
        with pytest.raises(InterruptedError):
            target(REQUEST.prompts[:1], REQUEST.seeds[:1], num_steps, stop=num_steps // 2 + 1)

    def calls(self, target: Any) -> int:
        return int(target.denoiser.worked)

    def traces(self, target: Any) -> Any:
        module = target.denoiser
        hooks = [len(value) for name, value in vars(module).items() if name.endswith("_hooks")]
        return sorted(vars(target)), sorted(vars(module)), hooks


class TestUncalibrated(OnToyLoop):
    name = "otcache-uncalibrated"


class TestUniform(OnToyLoop):
    name = "uniform"


class TestUniformLinear(OnToyLoop):
    name = "uniform-linear"


class TestUniformTaylor(OnToyLoop):
    name = "uniform-taylor"


class TestSpectrum(OnToyLoop):
    name = "spectrum"


class TestSpectrumTuned(OnToyLoop):
    name = "spectrum-tuned"


class TestHiCache(OnToyLoop):
    name = "hicache"


class TestL2P(OnToyLoop):
    name = "l2p"


class TestFluxTable(OnToyLoop):
    name = "flux-table"


class TestLeMiCa(OnToyLoop):
    name = "lemica"


class TestMeanCache(OnToyLoop):
    name = "meancache"


class TestStateDP(OnToyLoop):
    name = "state-dp"


class TestBudCache(OnToyLoop):
    name = "budcache"


@cache
def policy() -> tuple[str, tempfile.TemporaryDirectory[str]]:
    """Return a file with a policy of the toy loop, made once for all checks, and the folder it goes with."""
    folder = tempfile.TemporaryDirectory()
    recipe = otcache.Recipe(batch_size=2)
    measured = otcache.calibrate(
        tensor_loop(torch), REQUEST.prompts, STEPS, progress=False, recipe=recipe
    )
    path = str(Path(folder.name) / "toy.otcache")
    with pytest.warns(OtcacheNotice, match="not worthwhile"):
        otcache.plan(measured).save(path)
    return path, folder


class TestOtcache(OnToyLoop):
    """With a policy made beforehand; calibrated by each check it would take a second each."""

    name = "otcache"

    def make_baseline(self) -> Baseline:
        return Ours(policy=policy()[0])


# -- every plugin has a kit ---------------------------------------------------------------------------


KITS = {
    "solvers": "SolverConformance",
    "cost_models": "CostModelConformance",
    "forecasters": "ForecasterConformance",
    "metrics": "MetricConformance VideoMetricConformance PromptMetricConformance SetMetricConformance",
    "probes": "ProbeConformance",
    "executors": "ExecutorConformance",
    "baselines": "BaselineConformance",
    "writers": "VideoWriterConformance",
}
OFFERED = [
    (kind, offer)
    for kind in KITS
    for offer in Registry().infos(kind)
    if offer.distribution.partition("-")[0] == "otcache"
]


@cache
def classes() -> tuple[tuple[str, frozenset[str], str], ...]:
    """Name, names of bases and source of each class in our tests."""
    found = []
    for path in [*ROOT.glob("packages/*/tests/*.py"), *ROOT.glob("tests/*.py")]:
        source = path.read_text(encoding="utf-8")
        kinds = "Conformance|Kit|Laws|Checks|OnToyLoop|\\(Test"
        if not re.search(rf"^class \w+\(.*({kinds})", source, re.M):
            continue
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef):
                bases = frozenset(ast.unparse(base).rpartition(".")[2] for base in node.bases)
                found.append((node.name, bases, ast.get_source_segment(source, node) or ""))
    return tuple(found)


@cache
def sources(kit: str) -> tuple[str, ...]:
    """Return the sources of all subclasses of a kit."""
    known = set(kit.split())
    while more := {name for name, bases, _ in classes() if bases & known} - known:
        known |= more
    return tuple(source for name, bases, source in classes() if bases & known)


def test_all_kinds_but_functions_are_counted() -> None:
    assert set(KINDS) == {kind for kind, _ in OFFERED} | WITHOUT


def test_every_plugin_of_ours_has_a_kit_or_a_reason() -> None:
    """A kit makes the plugin by its class, or by its name through the registry."""
    missing = set()
    for kind, offer in OFFERED:
        made = (f'"{offer.info.name}"', offer.info.target.rpartition(":")[2] + "(")
        if not any(words in source for source in sources(KITS[kind]) for words in made):
            missing.add(f"{kind}/{offer.info.name}")
    assert missing == set(REASONS)
