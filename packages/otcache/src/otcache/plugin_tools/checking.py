"""Run the conformance kit of an installed plugin, without a test file of its own."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from otcache.plugin_tools.kinds import in_words, spelled
from otcache_core.errors import PluginError
from otcache_core.plugins import KINDS, Registry
from otcache_core.plugins.registry import ANY, reason_of

if TYPE_CHECKING:
    from otcache_core.testing.kit import KitReport

STYLES = {"kept": "green", "broken": "bold red", "fails as expected": "yellow"}
#: As users read them: the kit speaks of laws that are kept or broken.
WORDS = {"kept": "passed", "broken": "failed"}


@dataclass(frozen=True)
class Checked:
    """What a kit says of a plugin.

    Args:
        plugin: qualified name.
        kind: of the plugin.
        report: of its kit; None where nothing could be checked.
        unchecked: why not, in words; "" where it was.
        useless: whether it cannot even be made.
    """

    plugin: str
    kind: str
    report: KitReport | None
    unchecked: str = ""
    useless: bool = False

    @property
    def failed(self) -> bool:
        """Whether it breaks a law, or cannot be made."""
        return self.useless or any(r.outcome.value == "broken" for r in self._results)

    @property
    def _results(self) -> tuple[Any, ...]:
        return () if self.report is None else self.report.results

    def counts(self) -> dict[str, int]:
        """Return how many laws passed, failed and so on, those that occur."""
        found: dict[str, int] = {"passed": 0, "failed": 0}
        for result in self._results:
            word = WORDS.get(result.outcome.value, result.outcome.value)
            found[word] = found.get(word, 0) + 1
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        laws = [
            {
                **asdict(r),
                "law": _law(r.law),
                "outcome": WORDS.get(r.outcome.value, r.outcome.value),
            }
            for r in self._results
        ]
        facts = {"plugin": self.plugin, "kind": self.kind, "unchecked": self.unchecked}
        return {**facts, "failed": self.failed, "counts": self.counts(), "laws": laws}

    def table(self) -> Table:
        """Return a line a law: how it ended, its name, and the reason where there is one."""
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column()
        for result in self._results:
            outcome = result.outcome.value
            law = Text(_law(result.law))
            if result.reason:
                law.append(f": {' '.join(result.reason.split())}", style="dim")
            table.add_row(Text(WORDS.get(outcome, outcome), STYLES.get(outcome, "dim")), law)
        return table

    def summary(self) -> str:
        """Return the counts in one line."""
        parts = ", ".join(f"{count} {word}" for word, count in self.counts().items())
        about = f"{self.plugin} ({in_words(self.kind)})"
        return f"{about}: {len(self._results)} laws, {parts}"


def check(registry: Registry, name: str, kind: str | None = None) -> Checked:
    """Run the kit of one plugin.

    Args:
        registry: where it is.
        name: of the plugin, or ``distribution/name``.
        kind: of the plugin; needed where plugins of several kinds have this name.

    Raises:
        PluginError: if there is no such plugin, it cannot be made, or pytest is not installed.
    """
    found = kind or _kind_of(registry, name)
    plugin = registry.resolve(found, name)
    needs = getattr(registry.get(found, plugin), "needs", "")
    if needs:
        why = f"it needs {needs} at a local path, and so only a test of the package can check it"
        return Checked(plugin, found, None, why)
    try:
        from otcache.plugin_tools.toy_kits import kit_of
    except ModuleNotFoundError as error:
        if error.name != "pytest":
            raise
        raise PluginError(
            "conformance kits need pytest, which is not installed: pip install pytest."
        ) from error
    try:
        kit = kit_of(found, lambda: registry.create(found, plugin))
    except ANY as error:  # of its constructor, or of what it is asked first
        return Checked(plugin, found, None, f"it cannot be made: {reason_of(error)}", useless=True)
    if isinstance(kit, str):
        return Checked(plugin, found, None, kit)
    return Checked(plugin, found, kit.check_laws())


def _kind_of(registry: Registry, name: str) -> str:
    """Return the kind of the plugins that have a name."""
    kinds = []
    for kind in KINDS:
        if any(name in (o.info.name, o.qualified_name) for o in registry.infos(kind)):
            kinds.append(kind)
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        choices = " or ".join(map(spelled, kinds))
        raise PluginError(f"{name!r} names plugins of several kinds: give --kind {choices}.")
    raise PluginError(f"no plugin is called {name!r}: see otcache plugins list.")


def _law(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ")
