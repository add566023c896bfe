"""The coverage table says what ran, and nothing else."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
KINDS = ("identity", "calls", "restoration", "isolation")


@pytest.fixture(scope="module")
def tool() -> Any:
    spec = importlib.util.spec_from_file_location("coverage_tool", ROOT / "tools" / "coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _result(folder: Path, version: str, broken: dict[tuple[str, str], str]) -> Path:
    """Two families; ``broken`` maps family and kind to an element inside the test case."""
    cases = []
    for family in ("A", "B"):
        facts = {"family": family, "pipeline": f"{family}Pipeline", "denoiser": f"{family}Net"}
        written = "".join(f'<property name="{k}" value="{v}"/>' for k, v in facts.items())
        for kind in KINDS:
            inside = f"<properties>{written}</properties>{broken.get((family, kind), '')}"
            cases.append(f'<testcase name="test_{kind}_of[{family}]">{inside}</testcase>')
    path = folder / f"{version}.xml"
    suite = f'<properties><property name="diffusers" value="{version}"/></properties>'
    path.write_text(f"<testsuites><testsuite>{suite}{''.join(cases)}</testsuite></testsuites>")
    return path


def _row(document: str, family: str) -> list[str]:
    line = next(line for line in document.splitlines() if line.startswith(f"| {family} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_what_passed_everywhere_is_counted(tool: Any, tmp_path: Path) -> None:
    results = [_result(tmp_path, version, {}) for version in ("1.0", "1.1", "1.2")]
    out = tmp_path / "coverage.md"
    assert tool.main([*map(str, results), "--out", str(out)]) == 0
    text = out.read_text()
    assert (
        "2 of 2 families, with 2 denoiser classes, pass all four on diffusers 1.0, 1.1 and 1.2."
        in text
    )
    assert _row(text, "A")[-2:] == ["all four", "all four"]
    assert _row(text, "A")[1:3] == ["`APipeline`", "`ANet`"]
    assert "Where something cannot" not in text


def test_a_failure_is_reported_with_its_reason_and_fails(tool: Any, tmp_path: Path) -> None:
    failure = '<failure message="assert 7 == 6&#10;more">trace</failure>'
    results = [
        _result(tmp_path, "1.0", {}),
        _result(tmp_path, "1.1", {("B", "calls"): failure}),
    ]
    out = tmp_path / "coverage.md"
    assert tool.main([*map(str, results), "--out", str(out)]) == 1
    text = out.read_text()
    assert "1 of 2 families, with 1 denoiser classes" in text
    assert _row(text, "B")[-2:] == ["all four", "no calls"]
    assert "- B, diffusers 1.1: failure: assert 7 == 6\n" in text


def test_a_skip_is_reported_with_its_reason(tool: Any, tmp_path: Path) -> None:
    skipped = '<skipped message="diffusers 1.0 has no BPipeline"/>'
    result = _result(tmp_path, "1.0", {("B", kind): skipped for kind in KINDS})
    out = tmp_path / "coverage.md"
    assert tool.main([str(result), "--out", str(out)]) == 0
    text = out.read_text()
    assert _row(text, "B")[-1] == "not there"
    assert text.count("- B, diffusers 1.0: skipped: diffusers 1.0 has no BPipeline") == 1


def test_other_result_files_are_refused(tool: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.xml"
    path.write_text("<testsuites><testsuite/></testsuites>")
    with pytest.raises(SystemExit, match="expected a result file of test_families"):
        tool.main([str(path)])


def test_tables_stand_below_their_titles(tool: Any, tmp_path: Path) -> None:
    results = []
    for title, family in (("Images", "A"), ("Video", "B")):
        path = _result(tmp_path, "1.0", {})
        written = f'<properties><property name="title" value="{title}"/>'
        text = path.read_text().replace("<testsuite><properties>", f"<testsuite>{written}")
        other = "B" if family == "A" else "A"
        results.append(path.rename(tmp_path / f"{title}.xml"))
        results[-1].write_text(text.replace(f'value="{other}"', f'value="{family}"'))
    out = tmp_path / "coverage.md"
    assert tool.main([*map(str, results), "--out", str(out)]) == 0
    images, video = out.read_text().split("## Video")
    assert "## Images" in images
    assert images.count("1 of 1 families") == video.count("1 of 1 families") == 1
    assert _row(images, "A")
    assert _row(video, "B")


def test_a_failure_of_a_test_of_no_family_fails(tool: Any, tmp_path: Path) -> None:
    path = _result(tmp_path, "1.0", {})
    more = '<testcase name="test_other_things"><failure message="no"/></testcase>'
    path.write_text(path.read_text().replace("</testsuite>", f"{more}</testsuite>"))
    out = tmp_path / "coverage.md"
    assert tool.main([str(path), "--out", str(out)]) == 1
    assert "2 of 2 families" in out.read_text()
    assert "- other tests, diffusers 1.0: failure: no\n" in out.read_text()


@pytest.mark.parametrize(
    "module", ["otcache-diffusers/tests/families", "otcache-video/tests/video_families"]
)
def test_the_document_has_every_family_under_test(module: str) -> None:
    source = (ROOT / "packages" / module / "__init__.py").read_text()
    families = re.findall(r'Family\(\s*"([^"]+)", "([^"]+)"', source)
    text = (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8")
    assert len(families) > 20
    rows = {tuple(_row(text, name)[:2]) for name, _ in families}
    assert rows == {(name, f"`{pipeline}`") for name, pipeline in families}
