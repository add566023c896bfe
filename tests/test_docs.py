"""What the documents show exists and runs."""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from otcache import cli

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path for pattern in ("*.md", "docs/*.md", "packages/*/README.md") for path in ROOT.glob(pattern)
)
SHOWN = ("README.md", "CONTRIBUTING.md", "docs/video.md", "docs/plugins.md")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)")


def _prose(document: Path) -> str:
    return FENCE.sub("", document.read_text(encoding="utf-8"))


def _links(document: Path) -> list[str]:
    """Relative targets of links and images outside code."""
    return [t for t in LINK.findall(_prose(document)) if not re.match(r"[a-z]+:", t)]


@functools.cache
def _anchors(document: Path) -> set[str]:
    """Names of the headings of a document, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", _prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _exists(document: Path, target: str) -> bool:
    """Whether a link leads to a file, and to a heading of it where it names one."""
    name, _, anchor = target.partition("#")
    file = (document.parent / name).resolve() if name else document
    return file.exists() and (not anchor or anchor in _anchors(file))


def _commands() -> list[str]:
    """Return the lines of console blocks that start otcache, in the documents that show them."""
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in SHOWN]
    blocks = [block for text in texts for block in FENCE.findall(text)]
    lines = [
        line for language, text in blocks if language == "console" for line in text.split("\n")
    ]
    return [line for line in lines if line.startswith("otcache ")]


def _python(*words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if path is not None:
        paths = [str(path), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_is_linked_exists(document: Path) -> None:
    assert [t for t in _links(document) if not _exists(document, t)] == []


def test_the_index_lists_every_page() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    listed = [target for target in _links(ROOT / "docs" / "index.md") if "/" not in target]
    assert sorted(listed) == sorted(pages)


def test_the_documents_show_commands() -> None:
    assert len(_commands()) > 13


@pytest.mark.parametrize("line", _commands())
def test_the_commands_shown_parse(line: str) -> None:
    name, *words = shlex.split(line, comments=True)
    command = get_command(cli.app)
    context = command.make_context(name, words)
    while isinstance(command, TyperGroup):
        name, inner, words = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        assert inner is not None
        command, context = inner, inner.make_context(name, words, parent=context)


def test_contributing_explains_every_marker() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    markers = settings["tool"]["pytest"]["ini_options"]["markers"]
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert all(f"`{re.split(r'[(:]', marker)[0]}" in text for marker in markers)


@pytest.mark.slow
def test_the_loop_example_runs() -> None:
    done = _python("examples/own_loop.py")
    assert done.returncode == 0, done.stdout
    assert "calls 6 of 20" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("package", ["halving_solver", "all_kinds"])
def test_the_plugin_example_passes_its_kit(package: str) -> None:
    example = ROOT / "examples" / package
    done = _python("-m", "pytest", "-q", str(example / "tests"), path=example / "src")
    assert done.returncode == 0, done.stdout
