"""docs/baseline-defects.md: every defect has a test, and every test named there exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "docs/baseline-defects.md").read_text(encoding="utf-8").splitlines()
NAMED = re.compile(r"  - `([\w/.-]+)::(\w+)`")


def _tests(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_is_named_exists() -> None:
    named = [match.groups() for line in LINES if (match := NAMED.fullmatch(line))]
    files = {path for path, _ in named}
    assert [path for path in sorted(files) if not (ROOT / path).exists()] == []
    known = {path: _tests(ROOT / path) for path in files}
    assert [f"{path}::{name}" for path, name in named if name not in known[path]] == []


def test_every_defect_has_a_test() -> None:
    below: dict[str, int] = {}
    defect = ""
    for line in LINES:
        if line.startswith("- "):
            defect = line
            below[defect] = 0
        elif line.startswith("  - "):
            assert NAMED.fullmatch(line), line
            below[defect] += 1
    assert len(below) > 50
    assert [defect for defect, tests in below.items() if not tests] == []
