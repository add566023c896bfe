"""What the README shows runs."""

from __future__ import annotations

import doctest
from pathlib import Path


def test_the_readme_runs():
    readme = Path(__file__).parents[1] / "README.md"
    outcome = doctest.testfile(str(readme), module_relative=False)
    assert outcome.attempted > 5
    assert outcome.failed == 0
