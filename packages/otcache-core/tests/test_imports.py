"""Core stays light, and its examples run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import otcache_core

HEAVY = ("torch", "diffusers", "scipy", "networkx", "ot", "cvxpy", "optuna", "matplotlib", "pytest")
MODULES = sorted(
    m.name
    for m in pkgutil.walk_packages(otcache_core.__path__, "otcache_core.")
    if ".testing" not in m.name
)


def test_importing_and_listing_loads_nothing_heavy() -> None:
    code = (
        "import sys, otcache_core\n"
        "from otcache_core.plugins import KINDS, Registry\n"
        "registry = Registry(entry_points=False)\n"
        "[registry.infos(kind) for kind in KINDS]\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])\n"
        "print('otcache_core.solvers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "False"]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_run(name: str) -> None:
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


def test_every_public_name_exists() -> None:
    for name in otcache_core.__all__:
        assert hasattr(otcache_core, name)


def test_no_module_is_undocumented() -> None:
    for name in MODULES:
        assert importlib.import_module(name).__doc__


def test_the_readme_is_true() -> None:
    readme = Path(__file__).parents[1] / "README.md"
    assert doctest.testfile(str(readme), module_relative=False).failed == 0
