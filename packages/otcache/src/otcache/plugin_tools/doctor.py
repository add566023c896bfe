"""Find what is wrong with installed plugins: hooks and targets are imported in child processes only."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from otcache.plugin_tools.environment import Finding, requirement_findings, settings_findings
from otcache.plugin_tools.listing import spelled
from otcache_core.errors import PluginError
from otcache_core.plugins import API_VERSION, KINDS, Registry
from otcache_core.plugins.discovery import (
    HookEntryPoint,
    PluginSettings,
    found_entry_points,
    our_modules,
)
from otcache_core.plugins.lookups import CONTRACTS, VALUES, Offer, install_hint
from otcache_core.plugins.plugin_scan import Finding as Wrong
from otcache_core.plugins.plugin_scan import ScanResult, scan_entry_points
from otcache_core.plugins.registry import hook_name

#: Seconds that the classes of one entry point may take: they may import torch.
TARGET_LIMIT = 60.0
HOOKS = tuple(hook_name(kind) for kind in KINDS)


def examine() -> list[Finding]:
    """Return all that is wrong, by package: the environment first, then otcache's own, then the others.

    Every foreign module of hooks and every class that it offers is imported, in child processes; nothing
    is taken from what was read before.
    """
    points = list(found_entry_points(PluginSettings(), True))
    ours = Registry(entry_points=False)
    findings = [*settings_findings(points), *own_findings(ours)]
    allowed = found_entry_points(PluginSettings.from_environment(), True)
    results = _read([point for point in allowed if not point.ours])
    seen = set[str]()
    for result in results:
        findings += scan_findings(result)
        if result.distribution not in seen:
            findings += requirement_findings(result.distribution)
        seen.add(result.distribution)
    return [*findings, *same_names(ours, results)]


def _read(points: Sequence[HookEntryPoint]) -> list[ScanResult]:
    """Read hooks alone, then classes too: these may import heavy libraries, which take time and print."""
    hooks = scan_entry_points(points, cached=False)
    sound = [p for p, r in zip(points, hooks, strict=True) if not _ended(r)]
    deep = scan_entry_points(sound, targets=True, limit=TARGET_LIMIT, cached=False)
    whole = dict(zip(sound, deep, strict=True))
    return [
        joined(result, whole[point]) if point in whole else result
        for point, result in zip(points, hooks, strict=True)
    ]


def joined(hooks: ScanResult, classes: ScanResult) -> ScanResult:
    """Return what is known of an entry point whose hooks were read alone, and with its classes again.

    If a class ended the process, or took too long, the offers are those of the hooks.
    """
    if not _ended(classes):
        return replace(classes, printed=hooks.printed)
    offers = [f"{offer.kind} {offer.name}" for offer in hooks.offers]
    what = f"of what it offers, a class or its trial took longer than {TARGET_LIMIT:g} s"
    if classes.seconds < TARGET_LIMIT:
        how = "; ".join(found.what for found in classes.findings)
        what = f"of what it offers, a class or its trial ended the process: {how}"
    where = offers[0] if len(offers) == 1 else ""
    return replace(hooks, findings=(*hooks.findings, Wrong(where, what, "ended")))


def _ended(result: ScanResult) -> bool:
    return any(found.kind == "ended" for found in result.findings)


def own_findings(registry: Registry) -> Iterator[Finding]:
    """Yield what is wrong with otcache itself, which is registered."""
    try:
        registry.register_builtin()
    except PluginError as error:
        yield Finding("otcache", "", str(error), "install otcache again: pip install -U otcache")
    for package in ("otcache-core", *(distribution for _, distribution in our_modules())):
        yield from requirement_findings(package)


def scan_findings(result: ScanResult) -> Iterator[Finding]:
    """Yield what is wrong with one entry point and what it offers."""
    package = result.distribution
    for found in result.findings:
        kind = found.where.partition(" ")[0]
        what = found.what.removesuffix(install_hint(kind, set()) if kind in KINDS else "")
        remedy = _remedy(result, found)
        yield Finding(package, found.where or result.point, " ".join(what.split()), remedy)
    if not (result.findings or result.offers):
        what = f"{result.module} offers nothing"
        yield Finding(package, result.point, what, "mark its hooks with @hookimpl")
    if result.printed.strip():
        what = f"it prints when it is imported: {_first_line(result.printed)!r}"
        yield Finding(package, result.point, what, "print nothing there: use a logger")
    for offer in result.offers:
        missing = offer.info().missing()
        if missing:
            what = f"it needs {', '.join(missing)}, which is not installed"
            remedy = f"install what it needs: pip install {' '.join(missing)}"
            yield Finding(package, f"{offer.kind} {offer.name}", what, remedy)


def _remedy(result: ScanResult, found: Wrong) -> str:
    package, kind, where = result.distribution, found.kind, found.where
    if kind == "api":
        apis = [o.api for o in result.offers if f"{o.kind} {o.name}" == where]
        if any(api > API_VERSION for api in apis):
            return "update otcache: pip install -U otcache otcache-core"
        return f"update the plugin: pip install -U {package}"
    if kind in ("hook", "name"):
        return _hook_remedy(where, found.what)
    if kind == "slow":
        return f"import what is heavy in the module of the class, not in {result.module}"
    if kind == "target":
        return f"name {_wanted(where)} in Info(target=...), or update {package}"
    if kind == "trial":
        of, _, name = where.partition(" ")
        command = f"otcache plugins check {package}/{name} --kind {spelled(of)}"
        return f"run {command}, and report what fails to its author"
    if kind == "offer":
        return "return a list of Info from each hook, every name once"
    return f"update {package}, or leave it out by OTCACHE_DISABLE_PLUGINS={package}"


def _hook_remedy(name: str, what: str) -> str:
    if not name:  # pluggy refuses the whole module, because of a hook's arguments
        hook = next((hook for hook in HOOKS if hook in what), "each hook")
        return f"define {hook} without arguments"
    if name in HOOKS:
        return f"mark {name} with @hookimpl"
    near = difflib.get_close_matches(name, HOOKS, n=1)
    if near:
        return f"rename the function {near[0]}"
    return f"rename the function, without otcache_ and @hookimpl: hooks are {', '.join(HOOKS)}"


def _wanted(where: str) -> str:
    """Return what the target of a plugin must be, ``solvers mine``, in words."""
    kind = where.partition(" ")[0]
    if kind in VALUES:
        return f"a {VALUES[kind].__name__}, or a function that makes one,"
    contract = CONTRACTS.get(kind)
    return f"a subclass of {contract.__name__}" if contract else "an existing class"


def same_names(ours: Registry, results: Sequence[ScanResult]) -> Iterator[Finding]:
    """Yield each foreign plugin whose name another distribution offers too."""
    offers: dict[tuple[str, str], list[Offer]] = defaultdict(list)
    for kind in KINDS:
        for offer in ours.infos(kind):
            offers[kind, offer.info.name].append(offer)
    for result in results:
        for one in result.offers:
            offers[one.kind, one.name].append(Offer(one.info(), result.distribution))
    foreign = {result.distribution for result in results}
    for (kind, name), found in sorted(offers.items(), key=lambda item: item[0]):
        for offer in found if len(found) > 1 else []:
            if offer.distribution in foreign:
                others = {o.distribution for o in found} - {offer.distribution}
                what = f"{' and '.join(sorted(others))} offers the same name"
                remedy = f"use its full name, {offer.qualified_name!r}"
                yield Finding(offer.distribution, f"{kind} {name}", what, remedy)


def _first_line(text: str) -> str:
    line = text.strip().splitlines()[0].strip()
    return line if len(line) <= 80 else f"{line[:80]} ..."
