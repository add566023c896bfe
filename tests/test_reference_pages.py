"""What docs/theory.md, docs/glossary.md and docs/formats.md say is there, is there."""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from otcache.comparison.folder import Run
from otcache.report.results import Cell, Missing, Results
from otcache_core import Calibration, Policy, Provenance, Rung, Schedule, ScheduleTable
from otcache_core.calibration import Candidate
from otcache_core.storage.array_files import load_arrays

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FOLDERS = ("packages", "tests", "docs", "tools", "benchmarks", "examples")
#: Working papers that do not ship, in pieces so that this file does not name them.
ABSENT = [f"{name}.md" for name in ("METH" + "ODS", "DES" + "IGN", "HO" + "USE")]
CITATION = re.compile(r"docs/theory\.md,\s+sections?\s+(\d+(?:\.\d+)?)(?:[^.]*?\band\s+(\d\.\d))?")


def _texts() -> dict[Path, str]:
    """Return sources and documents of the repository."""
    files = [p for f in FOLDERS for kind in ("py", "md") for p in (ROOT / f).rglob(f"*.{kind}")]
    return {path: path.read_text(encoding="utf-8") for path in (*files, *ROOT.glob("*.md"))}


def _page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def test_only_what_ships_is_cited() -> None:
    found = [(path, name) for path, text in _texts().items() for name in ABSENT if name in text]
    assert found == []


def test_cited_sections_of_the_theory_exist() -> None:
    headings = re.findall(r"^##+ (\d+(?:\.\d+)?)\.? ", _page("theory.md"), re.MULTILINE)
    cited = {
        (path, section)
        for path, text in _texts().items()
        for found in CITATION.findall(text)
        for section in filter(None, found)
    }
    assert len(cited) > 25
    assert [item for item in sorted(cited) if item[1] not in headings] == []


def test_code_cites_the_theory_by_section() -> None:
    for path, text in _texts().items():
        if path.suffix == ".py" and path != Path(__file__):
            assert text.count("docs/theory.md") == len(CITATION.findall(text)), path


def _fields(section: str) -> list[set[str]]:
    """Return the first cells of each table in a section of docs/formats.md."""
    text = re.split(r"^##+ ", _page("formats.md").partition(f"# {section}\n")[2], flags=re.M)[0]
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [set(re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE)) for table in tables]


def _version(section: str) -> str:
    """Return the version that the page gives a format."""
    text = _page("formats.md").partition(f"# {section}\n")[2]
    found = re.search(r"^\| `version` \| integer \| 1 \| (\d+) \|$", text, re.MULTILINE)
    assert found is not None
    return found[1]


def _saved(section: str, save: Callable[[Path], None], path: Path) -> dict[str, Any]:
    """Return what a file says, once its fields and version are compared with those on the page."""
    save(path)
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert set(data) == _fields(section)[0]
    assert str(data["version"]) == _version(section)
    return data


def _policy() -> Policy:
    """Return a policy that stores the budgets 2, 3 and 6: its reference lies within the ladder."""
    n, grid = 20, tuple(1 - i / 20 for i in range(21))
    rungs = Schedule(n, (0, 4, 11)), Schedule(n, (0, 2, 5, 9, 14, 18)).with_weights([(0.1,)] * 6)
    ends = Schedule(n, (0, 9)), Schedule(n, (0, 3, 8, 13))
    return Policy(*ends, Provenance(n, "Denoiser", grid=grid), ladder=rungs)


def _reader(name: str) -> Callable[..., Any]:
    """Return the reader of this name on the page, which is short and needs nothing but json."""
    blocks = re.findall(r"^```python\n(.*?)^```", _page("formats.md"), re.M | re.S)
    (reader,) = (block for block in blocks if f"def {name}(" in block)
    assert len(reader.strip().splitlines()) <= 20
    assert re.findall(r"^\s*(?:import|from) .*", reader, re.MULTILINE) == ["import json"]
    names: dict[str, Any] = {}
    exec(reader, names)
    read: Callable[..., Any] = names[name]
    return read


def test_the_reader_on_the_page_reads_a_policy(tmp_path: Path) -> None:
    computed_steps, policy = _reader("computed_steps"), _policy()
    policy.save(tmp_path / "policy.json")
    for budget in (2, 3, 6):
        steps = computed_steps(tmp_path / "policy.json", budget)
        assert tuple(steps) == policy.schedule(budget).computed
    with pytest.raises(ValueError, match=r"stores the budgets \[2, 3, 6\], not 4"):
        computed_steps(tmp_path / "policy.json", 4)


def test_the_reader_on_the_page_reads_a_playback_table(tmp_path: Path) -> None:
    forecast_terms, path = _reader("forecast_terms"), tmp_path / "table.json"
    table = _policy().export(3)
    table.save(path)
    for step, terms in enumerate(table.plan("cond").forecasts):
        read = forecast_terms(path, "cond", step)
        assert (None if read is None else tuple(map(tuple, read))) == terms
    _policy().save(path)
    with pytest.raises(ValueError, match="not a playback table of version 2"):
        forecast_terms(path, "cond", 0)


def test_fields_of_plans_are_on_the_page(tmp_path: Path) -> None:
    policy, path = _policy(), tmp_path / "file.json"
    data = _saved("Policy", policy.save, path)
    assert [set(data["provenance"])] == _fields("Provenance")
    schedule = _saved("Schedule", policy.anchor.save, path)
    assert set(data["anchor"]) == set(schedule) - {"format", "version"}
    _saved("Table", ScheduleTable("mine", "by hand", 10, ((0, 5),)).save, path)
    table = _saved("Playback table", policy.export(3).save, path)
    assert _fields("Playback table")[1] == set(table["branches"][""])


def test_fields_of_a_calibration_are_on_the_page(tmp_path: Path) -> None:
    n, schedule = 4, Schedule(4, (0, 2))
    rung = Rung(schedule, 0.1, "reuse", {"reuse": Candidate(0.1, 2)})
    grid, costs = np.linspace(1.0, 0.0, n + 1), np.zeros((n, n + 1))
    ladder, nfe, output_weights = (rung,), {"record": 8}, np.ones(n)
    measured = (schedule, schedule, ladder, nfe)
    made = Calibration(
        {}, n, grid, ("a",), np.eye(n), costs, *measured, output_weights=output_weights
    )
    path = tmp_path / "calibration.json"
    data = _saved("calibration.json", lambda path: made.save(path.parent), path)
    assert set(data["ladder"][0]) == _fields("calibration.json")[1]
    arrays, _ = load_arrays(tmp_path / "calibration.safetensors")
    assert [set(arrays)] == _fields("calibration.safetensors")
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float64)}


def test_fields_of_results_are_on_the_page(tmp_path: Path) -> None:
    cell = Cell("mine", 2, 2.0, 2.0, None, None, {"rmse": (0.1,)})
    missing = (Missing("other", None, "not installed"),)
    made = Results("title", 4, (("a prompt", 0, ""),), (cell,), missing=missing)
    data = _saved("Results", made.save, tmp_path / "results.json")
    assert set(data["cells"][0]) == _fields("Results")[1]
    named = [
        name
        for row in _page("formats.md").split("\n")
        if "`missing`" in row
        for name in row.split("`")
    ]
    assert set(data["missing"][0]) <= set(named)


def test_fields_of_a_finished_setting_are_on_the_page() -> None:
    (row,) = [row for row in _page("formats.md").split("\n") if "run-SETTING.json" in row]
    assert {field.name for field in msgspec.structs.fields(Run)} <= set(row.split("`"))


def _resolves(name: str) -> bool:
    """Whether a dotted name leads to something: a module, what is in it, or a field of a class."""
    owner, _, last = name.rpartition(".")
    try:
        found = pkgutil.resolve_name(owner)
    except (ImportError, AttributeError):
        return False
    fields = getattr(found, "__annotations__", {}) if isinstance(found, type) else {}
    return hasattr(found, last) or last in fields


def test_what_the_glossary_points_to_exists() -> None:
    names = re.findall(r"`(otcache\w*\.[\w.]+)`", _page("glossary.md"))
    assert len(names) > 50
    assert [name for name in names if not _resolves(name)] == []


def test_the_glossary_is_in_order() -> None:
    terms = re.findall(r"^\*\*(.+?)\.\*\* ", _page("glossary.md"), re.MULTILINE)
    assert terms == sorted(set(terms), key=str.casefold)
