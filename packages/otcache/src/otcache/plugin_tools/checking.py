"""Run the conformance kit of an installed plugin, without a test file of its own."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from rich.table import Table
from rich.text import Text

from otcache.plugin_tools.listing import in_words, spelled
from otcache.plugin_tools.toy_kits import kit_of
from otcache_core.errors import PluginError
from otcache_core.plugins import KINDS, Registry
from otcache_core.plugins.discovery import is_own
from otcache_core.plugins.info import ANY, reason_of
from otcache_core.testing import CheckResult, KitReport, Outcome

#: The style in which outcomes are shown.
STYLES = {
    Outcome.PASSED: "green",
    Outcome.FAILED: "bold red",
    Outcome.EXPECTED: "yellow",
    Outcome.NOT_APPLICABLE: "dim",
}
#: What may differ in two reasons that count as the same.
NUMBERS = re.compile(r"[-\d.,()\s]+")
#: Words in the reason of a check that cannot be checked here, but in a test.
ELSEWHERE = ("test of its package", "cannot be known")


@dataclass(frozen=True)
class Checked:
    """How a plugin does in its conformance kit.

    Args:
        plugin: qualified name.
        kind: of the plugin.
        results: one per check; none where nothing could be checked.
        unchecked: why not, in words; "" where it was.
        useless: whether it cannot be made, or fails at its first call.
    """

    plugin: str
    kind: str
    results: tuple[CheckResult, ...] = ()
    unchecked: str = ""
    useless: bool = False

    @property
    def failed(self) -> bool:
        """Whether it fails a check or passes none, or cannot be made."""
        checked = KitReport(self.plugin, self.results)
        return self.useless or bool(self.results and not checked.passed)

    def counts(self) -> dict[str, int]:
        """Return how many checks passed, failed, and so on."""
        ended = [result.outcome for result in self.results]
        return {outcome.value: ended.count(outcome) for outcome in Outcome}

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        checks = [
            {"check": _check(r), "outcome": r.outcome.value, "reason": _line(r.reason)}
            for r in self.results
        ]
        facts = {"plugin": self.plugin, "kind": self.kind, "unchecked": self.unchecked}
        facts["own_tests"] = own_tests(self.plugin.partition("/")[0])
        return {**facts, "failed": self.failed, "counts": self.counts(), "checks": checks}

    def table(self) -> Table:
        """Return one line per check: how it ended, its name, and the reason where there is one."""
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column()
        for result in self.results:
            broken = result.outcome is Outcome.FAILED
            check = Text(_check(result), style=STYLES[result.outcome] if broken else "")
            if result.reason:
                check.append(f": {_line(result.reason)}", style="" if broken else "dim")
            table.add_row(Text(result.outcome.value, STYLES[result.outcome]), check)
        return table

    def closing(self) -> Iterator[Text]:
        """Yield the lines below the table: the failed checks again, whose tests decide, and the counts."""
        broken = [result for result in self.results if result.outcome is Outcome.FAILED]
        if broken:
            yield Text(f"\nfailed: {len(broken)} of {len(self.results)} checks", style="bold red")
        alike: dict[str, list[CheckResult]] = {}
        for result in broken:
            alike.setdefault(NUMBERS.sub(" ", _line(result.reason)), []).append(result)
        for first, *others in alike.values():
            yield Text.assemble("  ", (_check(first), "red"), f": {_line(first.reason)}")
            if others:
                yield Text(f"    and for the same reason: {'; '.join(map(_check, others))}")
        reasons = [self.unchecked, *(r.reason for r in self.results)]
        elsewhere = any(words in reason for reason in reasons for words in ELSEWHERE)
        distribution = self.plugin.partition("/")[0]
        if (broken or elsewhere) and not is_own(distribution):
            yield Text(
                "what a kit of its own says (objective_at, expected_values, expected_failures) is not known "
                f"here, its own tests decide: {own_tests(distribution)}"
            )
        yield Text(self.summary())

    def summary(self) -> str:
        """Return the counts in one line, or why nothing was checked."""
        about = f"{self.plugin} ({in_words(self.kind)})"
        if self.unchecked:
            return f"{about}: not checked, {self.unchecked}"
        parts = [f"{count} {word}" for word, count in self.counts().items()]
        return f"{about}: {len(self.results)} checks, {', '.join(parts)}"


def check(registry: Registry, name: str, kind: str | None = None) -> Checked:
    """Run the kit of one plugin; ``expected_failures`` of its class excuse checks, as those of a kit do.

    Args:
        registry: where it is.
        name: of the plugin, or ``distribution/name``.
        kind: of the plugin; needed where plugins of several kinds have this name.

    Raises:
        PluginError: if there is no such plugin, or its class cannot be imported.
    """
    kind = kind or _kind_of(registry, name)
    plugin = registry.resolve(kind, name)
    target = registry.get(kind, plugin)
    if kind == "metrics" and target.needs:
        why = f"it needs {target.needs} at a local path, and only a test of its package has that"
        return Checked(plugin, kind, unchecked=why)
    make, failed = partial(registry.create, kind, plugin), "it cannot be made"
    try:
        instance = make()
        failed = "it fails at its first call"
        kit = kit_of(kind, make, instance)
        failed = "its expected_failures are none"
        excuses = getattr(target, "expected_failures", None)
        if excuses and not isinstance(kit, str):
            kit = type(kit.__name__, (kit,), {"expected_failures": excuses})
    except ANY as error:
        why = f"{failed}: {_line(reason_of(error))}"
        return Checked(plugin, kind, unchecked=why, useless=True)
    if isinstance(kit, str):
        return Checked(plugin, kind, unchecked=kit)
    return Checked(plugin, kind, kit.run_checks().results)


def own_tests(distribution: str) -> str:
    """Return how to run the tests of a package: where it was installed from a folder, with its path."""
    try:
        text = metadata.distribution(distribution).read_text("direct_url.json")
        url = urlparse(json.loads(text or "{}").get("url", ""))
    except (metadata.PackageNotFoundError, OSError, ValueError, AttributeError):
        url = urlparse("")
    folder = Path(unquote(url.path)) / "tests"
    if url.scheme == "file" and folder.is_dir():
        return f"pytest {shlex.quote(str(folder))}"
    return f"pytest in the folder of its source ({distribution})"


def _kind_of(registry: Registry, name: str) -> str:
    """Return the kind of the plugins that have a name."""
    offers = {kind: registry.infos(kind) for kind in KINDS}
    names = {
        kind: {n for o in offers[kind] for n in (o.info.name, o.qualified_name)} for kind in KINDS
    }
    kinds = [kind for kind in KINDS if name in names[kind]]
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        choices = " or ".join(map(spelled, kinds))
        raise PluginError(f"{name!r} names plugins of several kinds: give --kind {choices}.")
    near = difflib.get_close_matches(name, sorted(set().union(*names.values())), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    omitted = sorted({problem.distribution for problem in registry.problems})
    said = f" Omitted: {', '.join(omitted)}; otcache plugins doctor says why." if omitted else ""
    raise PluginError(f"no plugin is called {name!r}: see otcache plugins list.{hint}{said}")


def _check(result: CheckResult) -> str:
    return result.check.removeprefix("test_").replace("_", " ")


def _line(text: str) -> str:
    return " ".join(text.split())
