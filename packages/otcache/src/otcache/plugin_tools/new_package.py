"""Write a package with one plugin, which installs and passes its conformance kit as it is."""

from __future__ import annotations

import os
import shlex
import warnings
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from otcache.plugin_tools.listing import in_words, spelled
from otcache_core.errors import OtcacheError, PluginError, PluginWarning, expected
from otcache_core.plugins import API_VERSION, Info, Registry
from otcache_core.plugins.lookups import CONTRACTS
from otcache_core.plugins.registry import hook_name

#: A comparison of a minute: one budget, two samples, no run of many steps to compare with.
COMPARE = "otcache compare demo --steps 12 --budgets 4 --samples 2 --reference-steps 0"
#: What the example of each kind does, and the command that uses it; {} is the plugin's name.
EXAMPLES = {
    "solvers": (
        "least sum of span costs",
        "otcache plan calibration --solver {} --out policy.json",
    ),
    "cost_models": (
        "how far outputs move while one is repeated",
        "otcache calibrate demo --steps 30 --cost-model {} --out calibration",
    ),
    "forecasters": (
        "half of a linear extrapolation",
        "otcache calibrate demo --steps 30 --forecaster {} --out calibration",
    ),
    "metrics": (
        "mean absolute difference of images",
        f"{COMPARE} --methods uniform --metrics {{}} --out comparison",
    ),
    "baselines": (
        "fewer steps, nothing cached",
        f"{COMPARE} --methods {{}} --out comparison",
    ),
    "probes": (
        "records a loop of one call per step",
        "otcache calibrate my_module:make_loop --steps 30 --probe {} --out calibration",
    ),
    "executors": (
        "runs a loop of one call per step",
        "otcache run my_module:make_loop --policy policy.json --budget 8 --prompt 'a cat' --executor {}",
    ),
}
#: Further modules of a kind's example.
MORE = {"probes": ("evaluator", "replacing")}
#: Names of otcache's own distributions, which a new one may not have.
OURS = {"otcache", *(f"otcache-{part}" for part in ("core", "solvers", "diffusers", "video"))}
#: Names that a template uses: classes of otcache that are imported there.
TAKEN = {contract.__name__ for contract in CONTRACTS.values()} | {"QualityMetric"}
LONGEST = 40


@dataclass(frozen=True)
class NewPlugin:
    """One plugin of a package that does not exist yet.

    Args:
        name: of the plugin; lower-case words joined by hyphens.
        kind: one of :data:`EXAMPLES`.

    Raises:
        OtcacheError: if the name cannot be that of a plugin, or is one of otcache's own.
    """

    name: str
    kind: str

    def __post_init__(self) -> None:
        Info(self.name, "package.module:Class")
        if len(self.name) > LONGEST:
            raise OtcacheError(expected("name", self.name, f"of at most {LONGEST} characters"))
        ours = Registry(entry_points=False)
        ours.register_builtin()
        own = self.name in {offer.info.name for offer in ours.infos(self.kind)}
        if own or self.distribution in OURS:
            raise OtcacheError(f"{self.name!r} is a name of otcache itself: choose another name.")

    @property
    def distribution(self) -> str:
        """The name to install it by."""
        return f"otcache-{self.name.removeprefix('otcache-')}"

    @property
    def module(self) -> str:
        """The name to import it by."""
        return self.distribution.replace("-", "_")

    @property
    def part(self) -> str:
        """The module of its class."""
        return self.kind.removesuffix("s")

    @property
    def class_name(self) -> str:
        """Its class: the words of its name and of its kind."""
        words = [word.capitalize() for word in self.name.split("-")]
        kind = [word.capitalize() for word in self.part.split("_")]
        joined = "".join(words if words[-len(kind) :] == kind else words + kind)
        return f"My{joined}" if joined in TAKEN or joined[0].isdigit() else joined

    @property
    def tests(self) -> str:
        """The path of its tests: of its own name, so that pytest runs several packages at once."""
        return f"tests/test_{self.module.removeprefix('otcache_')}.py"

    def commands(self, folder: Path) -> list[str]:
        """Return commands for the package in a folder: install it, run its tests, check it, use it."""
        place = str(folder) if folder.is_absolute() else os.path.join(".", folder)
        kind, use = spelled(self.kind), EXAMPLES[self.kind][1]
        return [
            f"pip install -e {shlex.quote(place + '[test]')}",
            f"pytest {shlex.quote(place)}",
            f"otcache plugins check {self.name} --kind {kind}",
            use.format(self.name),
        ]

    def taken(self) -> str:
        """Return which installed packages have a plugin of this kind and name, in words; "" if none has."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PluginWarning)  # of others, which doctor reports
            try:
                offers = Registry().infos(self.kind)
            except PluginError:  # which doctor reports as well
                return ""
        others = sorted({o.distribution for o in offers if o.info.name == self.name})
        if not others:
            return ""
        what = f"{', '.join(others)}: installed already, with a {in_words(self.kind)} {self.name!r}"
        if others == [self.distribution]:
            return f"{what}; to install this one replaces it."
        return f"{what}; this one is {f'{self.distribution}/{self.name}'!r}, its name alone means neither."

    def files(self) -> dict[str, str]:
        """Return the text of each file, by its path in the package."""
        source, facts, get = f"src/{self.module}", self._facts(), _environment().get_template
        templates = {
            "pyproject.toml": "pyproject.toml",
            "README.md": "README.md",
            f"{source}/__init__.py": "init.py",
            f"{source}/plugin.py": "plugin.py",
            **{f"{source}/{p}.py": f"{p}.py" for p in (self.part, *MORE.get(self.kind, ()))},
            self.tests: f"test_{self.part}.py",
        }
        texts = {path: get(f"{name}.j2").render(facts) for path, name in templates.items()}
        return {**texts, f"{source}/py.typed": ""}

    def _facts(self) -> dict[str, Any]:
        kind = in_words(self.kind)
        return {
            "name": self.name,
            "distribution": self.distribution,
            "module": self.module,
            "part": self.part,
            "cls": self.class_name,
            "kind": kind,
            "tests": self.tests,
            "article": "an" if kind[0] in "aeiou" else "a",
            "about": EXAMPLES[self.kind][0],
            "hook": hook_name(self.kind),
            "contract": CONTRACTS[self.kind].__name__,
            "api": API_VERSION,
            "core": ".".join(metadata.version("otcache-core").split(".")[:2]),
            "commands": "\n".join(self.commands(Path("."))),
        }


def write_package(plugin: NewPlugin, folder: Path) -> list[Path]:
    """Write the files of a new package, and return them.

    Raises:
        OtcacheError: if the folder exists, or cannot be written.
    """
    if os.path.lexists(folder):
        raise OtcacheError(f"the folder {str(folder)!r} exists already: name another by --out.")
    written = []
    try:
        for path, text in plugin.files().items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            written.append(file)
    except OSError as error:
        raise OtcacheError(f"the package cannot be written: {error}.") from error
    return written


@cache
def _environment() -> Environment:
    loader = PackageLoader("otcache.plugin_tools")
    return Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True)
