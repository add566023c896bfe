"""Packages that break their importer, and what the doctor has to say of each.

``write(folder)`` puts them there as an installer would; tests and tools/beside_hostile.py put the folder on
PYTHONPATH.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

UNIFORM = "otcache_core.solvers:Uniform"
BRUTE = "otcache_core.solvers:BruteForce"
#: Leaves a trace where a module is imported by another process than the one that reads it for a list.
TRACE = """import os as _os, sys as _sys
if "otcache_core.plugins.scan_worker" not in _sys.modules and _os.environ.get("HOSTILE_TRACES"):
    open(_os.path.join(_os.environ["HOSTILE_TRACES"], __name__), "w").close()
"""
HOOK = """
from otcache_core import Info, hookimpl
@hookimpl
def otcache_provide_{kind}():
    return [{infos}]
"""


def hook(kind: str, *offers: tuple[str, str], api: int = 2) -> str:
    """Return a hook that offers names and targets."""
    infos = ", ".join(f"Info({name!r}, {target!r}, 'x', api={api})" for name, target in offers)
    return HOOK.format(kind=kind, infos=infos)


@dataclass(frozen=True)
class Hostile:
    """A package.

    Args:
        name: of the distribution; its module is called alike.
        source: of the module.
        said: part of what the doctor finds.
        remedy: part of its remedy.
        metadata: further lines of METADATA.
        points: entry_points.txt; as usual by default.
    """

    name: str
    source: str
    said: str
    remedy: str
    metadata: str = ""
    points: str = ""


PROBE = """
from otcache_core.contracts import FeatureProbe
class Probe(FeatureProbe):
    def supports(self, target): {answer}
    def open(self, name): {answer}
    def record(self, target, request): raise RuntimeError("never")
    def sample(self, target, request): raise RuntimeError("never")
    def provenance(self, target, request): raise RuntimeError("never")
    def evaluator(self, target, request, trajectories): raise RuntimeError("never")
"""
EXECUTOR = """
import os
from otcache_core.contracts import CacheExecutor
class Executor(CacheExecutor):
    def supports(self, target):
        os.write(1, b"let me see" * 1000)
        return None
    def attach(self, target, schedule, *, strict=False, **options): raise RuntimeError("never")
"""
METRIC = """
from otcache_core.contracts import QualityMetric
class Rude(QualityMetric):
    name, higher_is_better = "rude-metric", False
    def __call__(self, images, reference):
        print("measuring")
        raise IndexError("list index out of range")
"""
BASELINE = """
import sys
from otcache_core.contracts import Baseline
class Leaves(Baseline):
    source = "nobody"
    def supports(self, target, request): sys.exit(3)
    def calibrate(self, target, request, budgets): sys.exit(3)
    def settings(self, num_steps, budgets, measured): sys.exit(3)
    def apply(self, target, setting, measured): sys.exit(3)
"""
FORECASTER = """
from otcache_core.contracts import Forecaster
class Ahead(Forecaster):
    def coefficients(self, span, grid): return [[float("nan")] * 5]
"""


def failing(name: str, source: str, said: str) -> Hostile:
    """Return a package whose plugin fails when the doctor tries it."""
    return Hostile(name, source, said, f"otcache plugins check {name}/")


PACKAGES = (
    Hostile("raises", "raise RuntimeError('no GPU here')", "RuntimeError: no GPU", "update raises"),
    Hostile("exits", "raise SystemExit(3)", "SystemExit: 3", "OTCACHE_DISABLE_PLUGINS=exits"),
    Hostile("leaves", "import os\nos._exit(1)", "ended the process", "DISABLE_PLUGINS=leaves"),
    Hostile(
        "waits",
        "import threading\nthreading.Event().wait()",
        "longer than 10 s",
        "OTCACHE_DISABLE_PLUGINS=waits",
    ),
    Hostile(
        "slow",
        "import time\ntime.sleep(20)\n" + hook("solvers", ("late", UNIFORM)),
        "longer than 10 s",
        "OTCACHE_DISABLE_PLUGINS=slow",
    ),
    Hostile(
        "prints",
        "import os\nprint('{hello')\nos.write(1, b'[1, 2')\n" + hook("solvers", ("loud", UNIFORM)),
        "it prints when it is imported",
        "use a logger",
    ),
    Hostile(
        "typo",
        hook("solver", ("typo", UNIFORM)),
        "unknown hook 'otcache_provide_solver'",
        "rename the function otcache_provide_solvers",
    ),
    Hostile("future", hook("solvers", ("new", UNIFORM), api=99), "api 99", "update otcache"),
    Hostile("past", hook("solvers", ("old", UNIFORM), api=1), "api 1", "update the plugin"),
    Hostile(
        "shadows",
        hook("solvers", ("quantile", BRUTE), ("anchor-search", BRUTE))
        + hook("forecasters", ("fitted", "otcache_core.forecasters.extrapolation:Reuse")).partition(
            "\n"
        )[2],
        "offers the same name",
        "ask for it as 'shadows/",
    ),
    Hostile(
        "shadows-too",
        METRIC + hook("metrics", ("rmse", "shadows_too:Rude"), ("lpips", "shadows_too:Rude")),
        "offers the same name",
        "ask for it as 'shadows-too/",
    ),
    failing(
        "bad-probe",
        PROBE.format(answer="raise KeyError('unet')")
        + hook("probes", ("a-probe", "bad_probe:Probe")),
        "KeyError",
    ),
    failing(
        "bad-executor",
        EXECUTOR + hook("executors", ("an-executor", "bad_executor:Executor")),
        "supports() must be a text",
    ),
    failing(
        "bad-metric", METRIC + hook("metrics", ("rude-metric", "bad_metric:Rude")), "IndexError"
    ),
    failing(
        "bad-baseline",
        BASELINE + hook("baselines", ("leaving", "bad_baseline:Leaves")),
        "SystemExit: 3",
    ),
    failing(
        "bad-forecaster",
        FORECASTER + hook("forecasters", ("ahead", "bad_forecaster:Ahead")),
        "must be finite numbers",
    ),
    Hostile(
        "bad-target",
        hook("solvers", ("gone", "bad_target:Nothing"), ("wrong", "bad_target:Info")),
        "cannot load",
        "ScheduleSolver",
    ),
    Hostile(
        "needy",
        hook("solvers", ("needy", UNIFORM)),
        "it requires otcache-core>=7",
        "update needy",
        metadata="Requires-Dist: otcache-core>=7\nRequires-Dist: not-there-at-all\n",
    ),
)
#: It keeps diffusers from being imported at all, so it is for lists and the doctor alone.
DAMAGED = Hostile(
    "damaged",
    "",
    "entry_points.txt cannot be read",
    "update damaged",
    points="[otcache]\nnothing to see here\n",
)


def write(folder: Path, packages: Sequence[Hostile] = PACKAGES) -> None:
    """Write packages, each a module beside its metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        module = package.name.replace("-", "_")
        (folder / f"{module}.py").write_text(TRACE + package.source, encoding="utf-8")
        facts = folder / f"{module}-1.0.dist-info"
        facts.mkdir(exist_ok=True)
        about = f"Metadata-Version: 2.1\nName: {package.name}\nVersion: 1.0\n{package.metadata}"
        (facts / "METADATA").write_text(about, encoding="utf-8")
        points = package.points or f"[otcache]\n{package.name} = {module}\n"
        (facts / "entry_points.txt").write_text(points, encoding="utf-8")
