"""What is wrong with the environment of plugins: variables that name them, and versions they require."""

from __future__ import annotations

import difflib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version
from rich.text import Text

from otcache_core.plugins.discovery import CORE, HookEntryPoint, normalise


class Finding(NamedTuple):
    """Something that is wrong with installed plugins.

    Args:
        package: the distribution; "" for the environment.
        plugin: the hook, the entry point or the plugin as ``solvers mine``; a variable's name for the
            environment.
        what: what is wrong, in words.
        remedy: what to do about it.
    """

    package: str
    plugin: str
    what: str
    remedy: str


def finding_lines(findings: Sequence[Finding]) -> Iterator[Text]:
    """Yield the lines of each package: a finding with its hook or plugin, and below it the remedy."""
    package: str | None = None
    for found in sorted(findings, key=lambda f: f.package):
        if found.package != package:
            package = found.package
            yield Text(package or "environment", style="bold")
        where = f"{found.plugin}: " if found.plugin else ""
        yield Text(f"  {where}{found.what}")
        yield Text(f"    {found.remedy}", style="green")


DISABLE, LOAD, STRICT = "OTCACHE_DISABLE_PLUGINS", "OTCACHE_LOAD_PLUGINS", "OTCACHE_STRICT_PLUGINS"
#: All that otcache reads.
VARIABLES = (DISABLE, LOAD, STRICT, "OTCACHE_CACHE_DIR")
#: What omits everything but core.
ALL = ("all", "1")
SWITCHES = ("", "0", "1", "true", "false", "yes", "no", "on", "off")


def settings_findings(points: Iterable[HookEntryPoint]) -> Iterator[Finding]:
    """Yield what is misspelt in the environment.

    Args:
        points: every entry point there is, also those that the environment omits.
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
            remedy = (
                f"rename it {near[0]}" if near else f"unset it: there are {', '.join(VARIABLES)}"
            )
            yield Finding("", name, "otcache reads no such variable", remedy)


def _unknown_name(variable: str, name: str, known: Iterable[str]) -> Finding:
    near = difflib.get_close_matches(normalise(name), sorted(known), n=1)
    what = f"it names {name!r}, which is not an installed distribution or entry point"
    remedy = f"write {near[0]!r}" if near else f"take it out: there are {', '.join(sorted(known))}"
    return Finding("", variable, what, remedy)


def requirement_findings(package: str) -> Iterator[Finding]:
    """Yield which requirements of a distribution are not met, cannot be met, or cannot be read."""
    needed, unread = _requirements(package)
    for text in unread:
        what = f"its metadata require {text!r}, which cannot be read"
        yield Finding(package, "", what, f"update {package}, or report this to its author")
    for name, requirements in sorted(needed.items()):
        yield from _wrong(package, name, requirements)


def _requirements(package: str) -> tuple[dict[str, list[Requirement]], list[str]]:
    """Return what a distribution requires here, by normalised name, and what cannot be read of it."""
    requirements: dict[str, list[Requirement]] = defaultdict(list)
    unread = []
    try:
        texts = metadata.requires(package) or []
    except Exception:  # whatever damaged metadata make the standard library raise
        texts = []
    for text in texts:
        try:
            requirement = Requirement(text)
            meant = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        except (ValueError, KeyError):  # packaging's are all of these: of versions, markers, names
            unread.append(text)
            continue
        if meant:
            requirements[normalise(requirement.name)].append(requirement)
    return requirements, unread


def _wrong(package: str, name: str, requirements: list[Requirement]) -> Iterator[Finding]:
    wanted = ",".join(filter(None, (str(r.specifier) for r in requirements)))
    version = _installed(name)
    if version is None:
        what = f"it requires {name}{wanted}, which is not installed"
        yield Finding(package, "", what, f"install it: pip install '{name}{wanted}'")
    elif not _is_version(version):
        what = f"it requires {name}{wanted}, and the version of {name}, {version!r}, cannot be read"
        remedy = f"install it again: pip install --force-reinstall '{name}{wanted}'"
        yield Finding(package, "", what, remedy)
    elif any(not r.specifier.contains(version, prereleases=True) for r in requirements):
        what = f"it requires {name}{wanted}, and {name} {version} is installed"
        remedy = f"install that version: pip install '{name}{wanted}'"
        yield Finding(package, "", what, remedy)


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def _installed(name: str) -> str | None:
    """Return the version of a distribution: None if there is none, "" if its metadata have none."""
    try:
        return metadata.version(name) or ""
    except metadata.PackageNotFoundError:
        return None
    except Exception:  # whatever damaged metadata make the standard library raise
        return ""
