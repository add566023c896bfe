"""Loops and bare modules need torch alone; nothing else stops them, missing or broken."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
#: What ``otcache-diffusers[pipelines]`` installs, or comes with it, by the name it is imported by.
LIBRARIES = {"diffusers", "transformers", "PIL", "skimage", "accelerate", "peft"}
#: How importing goes wrong: not installed, or raising something of its own beside this torch.
BROKEN = {
    "diffusers": "RuntimeError",
    "transformers": "AttributeError",
    "PIL": "ImportError",
    "skimage": "ModuleNotFoundError",
    "accelerate": "OSError",
}


def test_a_loop_and_a_module_run_and_what_needs_more_says_so() -> None:
    broken = [f"{library}={error}" for library, error in BROKEN.items()]
    worker = [sys.executable, str(HERE / "lean_loop.py"), *broken]
    ran = subprocess.run(worker, capture_output=True, text=True, check=True)
    said = json.loads(ran.stdout)
    assert said["computed"] == [{"call": 4}] * 3
    assert (said["loaded"], said["versions"]) == ([], ["torch"])
    refused = said["refused"]
    assert refused["ssim"] == (
        "ssim needs scikit-image: pip install 'otcache-diffusers[pipelines]'"
    )
    for name, (library, error) in {
        "demo": ("diffusers", "RuntimeError"),
        "folder": ("diffusers", "RuntimeError"),
        "images": ("Pillow", "ImportError"),
    }.items():
        assert f"needs {library}, and {library}" in refused[name]
        assert f"({error}: " in refused[name]
        assert "and more" not in refused[name]
        assert refused[name].endswith(
            f"pip install --upgrade 'otcache-diffusers[pipelines]' {library}"
        )


def _imported(source: Path) -> set[str]:
    """Return the packages that a module imports when it is imported itself."""
    found = set()
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize(
    "package", ["otcache", "otcache-core", "otcache-diffusers", "otcache-video"]
)
def test_only_the_kit_of_the_families_imports_them_at_the_top(package: str) -> None:
    sources = (HERE.parent / "packages" / package / "src").rglob("*.py")
    found = {path.parent.name for path in sources if _imported(path) & LIBRARIES}
    assert found <= ({"testing"} if package == "otcache-diffusers" else set())
