"""What is wrong with the requirements of distributions that offer plugins."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib import metadata
from itertools import chain

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from otcache.plugin_tools.finding import Finding
from otcache_core.plugins.discovery import normalise

#: Distributions of otcache that others have to get along with.
OURS = ("otcache-core", "otcache", "otcache-solvers", "otcache-diffusers", "otcache-video")


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
    found: dict[str, list[Requirement]] = defaultdict(list)
    unread = []
    try:
        texts = metadata.requires(package) or []
    except Exception:  # whatever damaged metadata make the standard library raise
        texts = []
    for text in texts:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            unread.append(text)
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found[normalise(requirement.name)].append(requirement)
    return found, unread


def _wrong(package: str, name: str, requirements: list[Requirement]) -> Iterator[Finding]:
    wanted = ",".join(filter(None, (str(r.specifier) for r in requirements)))
    if not feasible(*(r.specifier for r in requirements)):
        what = f"it requires {name}{wanted}, which no version meets"
        yield Finding(package, "", what, f"report it to the author of {package}, or remove it")
        return
    version = _installed(name)
    if version is None:
        what = f"it requires {name}{wanted}, which is not installed"
        yield Finding(package, "", what, f"install it: pip install '{name}{wanted}'")
    elif any(not r.specifier.contains(version, prereleases=True) for r in requirements):
        what = f"it requires {name}{wanted}, and {name} {version} is installed"
        yield Finding(package, "", *_clash(package, name, wanted, what, requirements))


def _clash(
    package: str, name: str, wanted: str, what: str, requirements: list[Requirement]
) -> tuple[str, str]:
    """Return what to say of another version than is required: whether otcache itself stands against it."""
    for ours in OURS:
        for other in _requirements(ours)[0].get(name, []) if ours != package else []:
            if not feasible(other.specifier, *(r.specifier for r in requirements)):
                both = f"{what}: {ours} requires {name}{other.specifier}"
                advice = f"update {package}, or remove it: it cannot be used beside {ours}"
                return both, advice
    return what, f"install that version: pip install '{name}{wanted}'"


def feasible(*specifiers: SpecifierSet) -> bool:
    """Return whether some version is in all of these sets: a bound of one, or next to one."""
    bounds = {spec.version.removesuffix(".*") for spec in chain.from_iterable(specifiers)}
    near = chain.from_iterable((b, f"{b}.0.0.1", f"{b}.post1", f"{b}.dev0") for b in bounds)
    return any(
        all(s.contains(version, prereleases=True) for s in specifiers)
        for version in _versions(["0", *near])
    )


def _versions(texts: Iterable[str]) -> Iterator[Version]:
    for text in texts:
        try:
            yield Version(text)
        except InvalidVersion:
            continue


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
