"""What is wrong with the environment variables about plugins."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping

from otcache.plugin_tools.finding import Finding
from otcache_core.plugins.discovery import CORE, Point, normalise

DISABLE, LOAD, STRICT = "OTCACHE_DISABLE_PLUGINS", "OTCACHE_LOAD_PLUGINS", "OTCACHE_STRICT_PLUGINS"
#: All that otcache reads.
VARIABLES = (DISABLE, LOAD, STRICT, "OTCACHE_CACHE_DIR")
#: What leaves out everything but core.
ALL = ("all", "1")
SWITCHES = ("", "0", "1", "true", "false", "yes", "no", "on", "off")


def settings_findings(points: Iterable[Point]) -> Iterator[Finding]:
    """Yield what is misspelt in the environment.

    Args:
        points: every entry point there is, also those that the environment leaves out.
    """
    known = {CORE} | {normalise(part) for p in points for part in (p.name, p.distribution)}
    yield from _unknown_variables(os.environ)
    for variable, others in ((DISABLE, ALL), (LOAD, ())):
        for name in os.environ.get(variable, "").split(","):
            if name.strip() and normalise(name) not in known | set(others):
                yield _unknown_name(variable, name.strip(), known)
    value = os.environ.get(STRICT, "")
    if value.strip().lower() not in SWITCHES:
        what = f"its value {value!r} is neither on nor off, and counts as off"
        yield Finding("", STRICT, what, "set it to 1, or unset it")


def _unknown_variables(environment: Mapping[str, str]) -> Iterator[Finding]:
    for name in sorted(environment):
        if name.startswith("OTCACHE_") and name not in VARIABLES:
            near = difflib.get_close_matches(name, VARIABLES, n=1, cutoff=0.75)
            remedy = f"rename it {near[0]}" if near else f"unset it: there are {_list(VARIABLES)}"
            yield Finding("", name, "otcache reads no such variable", remedy)


def _unknown_name(variable: str, name: str, known: Iterable[str]) -> Finding:
    near = difflib.get_close_matches(normalise(name), sorted(known), n=1)
    what = f"it names {name!r}, which is no installed distribution or entry point"
    remedy = f"write {near[0]!r}" if near else f"take it out: there are {_list(sorted(known))}"
    return Finding("", variable, what, remedy)


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
