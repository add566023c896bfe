"""docs/architecture.md names the files of three journeys in the order in which a run enters them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import journeys

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
FOLLOWED = {
    "Calibrate, plan, accelerate": journeys.planned,
    "One skipped step": journeys.skipped,
    "A comparison, to its report": journeys.compared,
}


@pytest.mark.parametrize("title", FOLLOWED)
def test_the_page_names_the_files_in_their_order(title: str) -> None:
    section = PAGE.read_text(encoding="utf-8").partition(f"## {title}\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([^`]+)`", section, re.MULTILINE) == FOLLOWED[title]().files
