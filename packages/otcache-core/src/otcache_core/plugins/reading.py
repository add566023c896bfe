"""Run in a child process: import one hook module, and write down what it offers."""

from __future__ import annotations

import difflib
import os
import time
from pathlib import Path
from typing import Any

import msgspec

from otcache_core.errors import OtcacheError, PluginError
from otcache_core.plugins.census import SLOW, Finding, Offered, Reading
from otcache_core.plugins.discovery import Point
from otcache_core.plugins.hookspecs import PROJECT
from otcache_core.plugins.info import API_VERSION, KINDS, reason_of
from otcache_core.plugins.lookups import Offer
from otcache_core.plugins.registry import Registry, hook_name
from otcache_core.plugins.trial import ask


def write_reading(job: dict[str, Any]) -> None:
    """Read the module that a job names, and write what was found to its file.

    The process ends at once afterwards, so that nothing which the module left behind delays it.
    """
    name, module, distribution = job["point"]
    reading = read(name, module, distribution, targets=job["targets"])
    made = Path(job["result"] + ".tmp")
    made.write_bytes(msgspec.json.encode(reading))
    made.replace(job["result"])
    os._exit(0)


def read(name: str, module: str, distribution: str, *, targets: bool) -> Reading:
    """Import a module of hooks and collect what it offers; raises nothing."""
    began, findings, offers = time.monotonic(), list[Finding](), list[Offered]()
    registry = Registry(entry_points=False)
    try:
        plugin = Point(name, distribution, module).load()
    except BaseException as error:
        findings.append(Finding("", reason_of(error), "import"))
    seconds = time.monotonic() - began
    if seconds > SLOW:
        findings.append(Finding("", f"its import takes {seconds:.1f} s", "slow"))
    if not any(found.kind == "import" for found in findings):
        findings += _strangers(plugin)
        if not any(found.kind == "hook" for found in findings):
            try:
                problems = registry.add(plugin, name, distribution)
            except BaseException as error:
                findings.append(Finding("", reason_of(error), "hook"))
            else:
                findings += [Finding("", problem.reason, "offer") for problem in problems]
        for kind, offer in _offered(registry, distribution):
            offers.append(_plain(kind, offer))
            findings += _wrong(registry, kind, offer, targets)
    return Reading(distribution, name, module, "", tuple(offers), tuple(findings), seconds)


def _strangers(plugin: object) -> list[Finding]:
    """What is marked as a hook and is none, or is not marked and has the name of one, nearly."""
    known = {hook_name(kind) for kind in KINDS}
    found = []
    for name in dir(plugin):
        try:
            value = getattr(plugin, name)
            options = getattr(value, f"{PROJECT}_impl", None)
            own = callable(value) and value.__module__ == getattr(plugin, "__name__", "")
        except BaseException:
            continue
        if isinstance(options, dict):
            if (options.get("specname") or name) not in known:
                found.append(Finding(name, f"unknown hook {name!r}", "hook"))
        elif own and difflib.get_close_matches(name, known, n=1, cutoff=0.8):
            what = f"unknown hook {name!r}" if name not in known else f"{name} has no @hookimpl"
            found.append(Finding(name, what, "name"))
    return found


def _offered(registry: Registry, distribution: str) -> list[tuple[str, Offer]]:
    pairs = [(kind, offer) for kind in KINDS for offer in registry.known(kind)]
    return [(kind, offer) for kind, offer in pairs if offer.distribution == distribution]


def _plain(kind: str, offer: Offer) -> Offered:
    info = offer.info
    return Offered(kind, info.name, info.target, info.summary, info.api, tuple(info.requires))


def _wrong(registry: Registry, kind: str, offer: Offer, targets: bool) -> list[Finding]:
    """What is wrong with one offer: its api, else its target where that is asked for."""
    where, info = f"{kind} {offer.info.name}", offer.info
    if info.api != API_VERSION:
        what = f"it is written for api {info.api}, and this otcache has {API_VERSION}"
        return [Finding(where, what, "api")]
    if not targets or info.missing():
        return []
    try:
        registry.get(kind, offer.qualified_name)
    except PluginError as error:
        return [Finding(where, str(error), "target")]
    except BaseException as error:
        return [Finding(where, reason_of(error), "target")]
    try:
        plugin = registry.create(kind, offer.qualified_name)
    except OtcacheError:
        return []  # as of what needs weights or data, and says so
    except BaseException as error:
        return [Finding(where, f"it cannot be made: {reason_of(error)}", "trial")]
    try:
        ask(plugin)
    except BaseException as error:
        return [Finding(where, f"asked something small it fails: {reason_of(error)}", "trial")]
    return []
