"""No word of tools/words.txt is used: in code, messages, help, documents, tests or names of files."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
LIST = ROOT / "tools" / "words.txt"
KINDS = {".py", ".md", ".j2", ".toml", ".txt", ".yaml", ".yml", ".cfg", ".js", ".html", ".css"}
#: Figures with the words of the day they were made, and what names the words to find them.
OTHERS = ("docs/comparison/", "tools/words.txt", "tests/test_words.py")
AROUND = 30


class Word(NamedTuple):
    """A line of the list.

    Args:
        pattern: what is not written.
        instead: what to write.
        allowed: what a match may stand in, within `AROUND` characters on either side.
    """

    pattern: re.Pattern[str]
    instead: str
    allowed: re.Pattern[str] | None

    def uses(self, text: str) -> list[str]:
        """Return what surrounds each match that is not allowed."""
        found = []
        for match in self.pattern.finditer(text):
            around = text[max(0, match.start() - AROUND) : match.end() + AROUND]
            spans = self.allowed.finditer(text, *self._near(match)) if self.allowed else ()
            if not any(s.start() <= match.start() and match.end() <= s.end() for s in spans):
                found.append(" ".join(around.split()))
        return found

    def _near(self, match: re.Match[str]) -> tuple[int, int]:
        return max(0, match.start() - AROUND), match.end() + AROUND


def _words() -> list[Word]:
    lines = [line for line in LIST.read_text(encoding="utf-8").splitlines() if line]
    parts = [line.split(" | ") for line in lines if not line.startswith("# ")]
    compiled = [[re.compile(part) for part in (p[0], *p[2:])] for p in parts]
    return [Word(c[0], p[1], (*c[1:], None)[0]) for p, c in zip(parts, compiled, strict=True)]


def _files() -> dict[str, str]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    names = [n for n in listed if Path(n).suffix in KINDS and not n.startswith(OTHERS)]
    return {n: (ROOT / n).read_text(encoding="utf-8") for n in names if (ROOT / n).is_file()}


def test_no_word_of_the_list_is_used() -> None:
    words = _words()
    found = [
        f"{name}: {use!r}: write {word.instead}"
        for name, text in _files().items()
        for word in words
        for use in word.uses(f"{name}\n{text}")
    ]
    assert found == [], "\n".join(found)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("np.clip(x, 0, 1), the CLIP model, clipping", 0),
        ("a clip of nine frames; ClipMetric; clip_metrics", 3),
        ("it is told once, and tells", 2),
        ("the Pareto front, in front of it", 0),
        ("seconds of wall time; a wall of images", 1),
    ],
)
def test_the_list_finds_what_it_names(text: str, count: int) -> None:
    assert sum(len(word.uses(text)) for word in _words()) == count
