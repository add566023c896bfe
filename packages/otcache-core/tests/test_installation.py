"""A package's own tests see what its kit cannot: a misspelt hook, a target that is not there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from otcache_core.plugins import API_VERSION
from otcache_core.testing import check_installed

Install = Callable[..., None]
SOURCE = f"""
from otcache_core.plugins import Info, hookimpl

@hookimpl
def otcache_provide_solvers():
    return [Info("mine", "otcache_core.solvers:Uniform", api={API_VERSION})]
"""
BAD = {
    "hook": (("provide_solvers", "provide_solver"), "unknown hook 'otcache_provide_solver'"),
    "mark": (("@hookimpl", ""), "otcache_provide_solvers has no @hookimpl"),
    "target": ((":Uniform", ":Unifrom"), "no attribute 'Unifrom'"),
    "class": (("solvers:Uniform", "schedule:Schedule"), "subclass of .*ScheduleSolver"),
    "library": (("api=", "requires=('no-such-library',), api="), "needs no-such-library, which is"),
    "words": (("@hookimpl", "print('hello')\n@hookimpl"), "it prints when it is imported: hello"),
    "empty": ((SOURCE, ""), "offers nothing: mark its hooks with @hookimpl"),
}


def test_a_sound_package_is_found(install: Install, read_here: None) -> None:
    install("otcache-mine", SOURCE)
    check_installed("otcache-mine")
    check_installed("OTCACHE_mine")


@pytest.mark.parametrize("way", BAD)
def test_what_is_wrong_is_reported(way: str, install: Install, read_here: None) -> None:
    change, message = BAD[way]
    install("otcache-mine", SOURCE.replace(*change))
    with pytest.raises(
        AssertionError, match=f"of otcache-mine: .*{message}.*otcache plugins doctor"
    ):
        check_installed("otcache-mine")


def test_a_missing_package_is_reported_with_how_to_install_it() -> None:
    with pytest.raises(AssertionError, match=r"not installed with an entry point .*pip install -e"):
        check_installed("otcache-nobody")
