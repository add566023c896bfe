"""List installed plugins, find what is wrong with them, check one by its conformance kit, write a new one."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path
from typing import Annotated

import typer

from otcache.cli.options import Json
from otcache.cli.output import say, show_facts, show_json, show_line, show_table

plugins = typer.Typer(no_args_is_help=True, help="Installed plugins, and new ones.")
Kind = Annotated[
    str | None,
    typer.Option(help="Kind of plugins, such as solver or cost-model; all by default."),
]


@plugins.command("list")
def plugins_list(kind: Kind = None, as_json: Json = False) -> None:
    """Name every plugin, by kind; imports none of them in this process."""
    from otcache.plugin_tools.listing import plugin_rows, plugin_table, read_kind, slow_modules
    from otcache_core.errors import PluginWarning
    from otcache_core.plugins import KINDS, Registry

    kinds = KINDS if kind is None else (read_kind(kind),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)  # counted below
        registry = Registry()
        rows = plugin_rows(registry, kinds)
        slow, problems = slow_modules(registry), registry.problems
    if as_json:
        show_json(rows)
    else:
        show_table(plugin_table(rows))
    if slow:
        say(f"slow to import: {', '.join(slow)}.", "yellow")
    if problems:
        say(f"{len(problems)} omitted: otcache plugins doctor says why.", "yellow")


@plugins.command("doctor")
def plugins_doctor(as_json: Json = False) -> None:
    """Find what is wrong with installed plugins, and say what to do; exit status 1 if anything is."""
    from otcache.plugin_tools.doctor import examine
    from otcache.plugin_tools.environment import finding_lines

    findings = examine()
    if as_json:
        show_json([finding._asdict() for finding in findings])
    else:
        for line in finding_lines(findings):
            show_line(line)
        show_line(f"problems: {len(findings)}" if findings else "no problems.")
    if findings:
        raise typer.Exit(1)


@plugins.command("check")
def plugins_check(
    name: Annotated[str, typer.Argument(help="A plugin's name, or distribution/name.")],
    kind: Annotated[
        str | None, typer.Option(help="Its kind, where plugins of several kinds have the name.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the conformance kit of an installed plugin; exit status 1 if it fails a check.

    Its package may have a kit that knows more; then its own tests decide.
    """
    from otcache.plugin_tools.checking import check
    from otcache.plugin_tools.listing import read_kind
    from otcache_core.plugins import Registry

    checked = check(Registry(), name, None if kind is None else read_kind(kind))
    if as_json:
        show_json(checked.to_dict())
    else:
        show_table(checked.table(), highlight=False)
        for line in checked.closing():
            show_line(line)
    if checked.failed:
        raise typer.Exit(1)


@plugins.command("new")
def plugins_new(
    name: Annotated[str, typer.Argument(help="Of the plugin: lower-case words joined by hyphens.")],
    kind: Annotated[
        str,
        typer.Option(help="solver, cost-model, forecaster, metric, baseline, probe or executor."),
    ],
    directory: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the package; otcache-NAME by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a package with one plugin that works and passes its conformance kit, to be changed."""
    from otcache.plugin_tools.listing import read_kind
    from otcache.plugin_tools.new_package import EXAMPLES, NewPlugin, write_package

    plugin = NewPlugin(name, read_kind(kind, EXAMPLES))
    folder = directory or Path(plugin.distribution)
    files = write_package(plugin, folder)
    commands, taken = plugin.commands(folder), plugin.taken()
    if as_json:
        facts = {"written": str(folder), "files": [*map(str, files)], "next": commands}
        show_facts({**facts, "taken": taken}, True)
        return
    if taken:
        say(taken, "yellow")
    show_line(f"written: {shlex.quote(str(folder))}, {len(files)} files. Next:")
    for command in commands:
        show_line(f"  {command}")
