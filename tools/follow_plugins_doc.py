"""Run the commands of docs/plugins.md, unchanged, in an empty folder, and print how long they take.

``python tools/follow_plugins_doc.py SECTION ...``: the console blocks of these sections, in order. What they
call ``pip``, ``pytest`` and ``otcache`` are those of the environment that this runs in.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "plugins.md"
#: What a new author has for a section, in minutes.
MINUTES = 15


def commands(page: str, section: str) -> list[str]:
    """Return the lines of a section's console blocks.

    Raises:
        SystemExit: if there is no such section, or nothing in it to do.
    """
    parts = re.split(r"^## (.+)$", page, flags=re.MULTILINE)
    text = dict(zip(parts[1::2], parts[2::2], strict=True)).get(section, "")
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    found = [line for block in blocks for line in block.splitlines() if line]
    if not found:
        raise SystemExit(f"{PAGE}: no section {section!r} with commands")
    return found


def main(sections: list[str]) -> None:
    """Follow the page.

    Raises:
        SystemExit: at the first command that fails, or if a section takes too long.
    """
    page = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "examples").symlink_to(ROOT / "examples")
        for section in sections:
            minutes = sum(_seconds(line, folder) for line in commands(page, section)) / 60
            print(f"{PAGE.name}, {section}: {minutes:.1f} minutes", flush=True)
            if minutes > MINUTES:
                raise SystemExit(f"a section must take {MINUTES} minutes at most")


def _seconds(line: str, folder: str) -> float:
    """Run one command unchanged, and return how long it took."""
    print(f"$ {line}", flush=True)
    began = time.monotonic()
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", line], cwd=folder, check=False)
    if done.returncode:
        raise SystemExit(f"ended with status {done.returncode}: {line}")
    print(f"  {time.monotonic() - began:.0f} s", flush=True)
    return time.monotonic() - began


if __name__ == "__main__":
    main(sys.argv[1:])
