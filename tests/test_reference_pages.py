"""What the theory page, the glossary and the page of file formats say is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("packages", "tests", "docs", "tools", "benchmarks", "examples")
#: Working papers that do not ship, in pieces so that this file does not name them.
ABSENT = [f"{name}.md" for name in ("METH" + "ODS", "DES" + "IGN", "HO" + "USE")]
CITATION = re.compile(r"docs/theory\.md,\s+sections?\s+(\d+(?:\.\d+)?)(?:[^.]*?\band\s+(\d\.\d))?")


def _texts() -> dict[Path, str]:
    """Sources and documents of the repository."""
    files = [p for f in FOLDERS for kind in ("py", "md") for p in (ROOT / f).rglob(f"*.{kind}")]
    return {path: path.read_text(encoding="utf-8") for path in (*files, *ROOT.glob("*.md"))}


def test_only_what_ships_is_cited() -> None:
    found = [(path, name) for path, text in _texts().items() for name in ABSENT if name in text]
    assert found == []


def test_cited_sections_of_the_theory_exist() -> None:
    page = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    sections = set(re.findall(r"^##+ (\d+(?:\.\d+)?)\.? ", page, re.MULTILINE))
    cited = {
        (path, section)
        for path, text in _texts().items()
        for found in CITATION.findall(text)
        for section in filter(None, found)
    }
    assert len(cited) > 25
    assert [item for item in sorted(cited) if item[1] not in sections] == []


def test_code_cites_the_theory_by_section() -> None:
    for path, text in _texts().items():
        if path.suffix == ".py" and path != Path(__file__):
            assert text.count("docs/theory.md") == len(CITATION.findall(text)), path
