"""Write docs/coverage.md from result files of the families' tests: one per module and version of diffusers.

    nox -s families          # runs those modules on each version, then this
    python tools/coverage.py build/families/*.xml

Result files are pytest's own (``--junitxml``); nothing is in the table that did not run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

#: The tests, by the second word of their names.
KINDS = ("identity", "calls", "restoration", "isolation")
FACTS = ("pipeline", "denoiser", "scheduler", "branches")
#: Tests of no family: not in the table, but reported if they fail.
OTHERS = "other tests"
OUT = Path(__file__).parent.parent / "docs" / "coverage.md"

INTRODUCTION = """\
# Coverage

Which pipelines of diffusers the executor runs, as tested: tiny random weights, the real pipeline, sampler
and denoiser classes, no network. Made by `nox -s families`, which runs
`packages/otcache-diffusers/tests/test_families.py` and
`packages/otcache-video/tests/test_video_families.py` on each version of diffusers and then
`tools/coverage.py` on the results; edit the tests, not this file. The versions are the oldest that
`otcache-diffusers[pipelines]` allows, one that servers pin, and the newest. On the older ones the same
session runs the executor's other tests too: conformance, samplers, ControlNets and IP-Adapters, block stacks,
and [the ways to run](running.md).

The four tests, each on a run of six steps:

- **identity**: under a schedule that computes every step the result is bit-identical to the plain run's.
- **calls**: with three of the six steps computed, an inner layer of the denoiser runs exactly three times a
  branch, and the report says the same.
- **restoration**: after the context, and after an exception in the middle of a run, the attributes of
  denoiser, scheduler and pipeline and the signatures of `forward` and `step` are as before, and the plain
  result is too.
- **isolation**: what a skipped call returns is the very output that the same branch computed at the planned
  step.

*Branches* are the denoiser's calls within one step: `call`, `call#2` in their order, or the names that the
pipeline itself gives. Where guidance is one batch of two, it is one call.

"""
#: What else there is to say, below the heading of a table.
NOTES = {
    "Video": """\
Every family is also recorded by the probe: the run stays bit-identical, and the states and outputs are those
that the scheduler's steps saw. Two transformers (Wan 2.2) share a clock, their branches and one budget. LTX 2
is recorded by its video; its sound, stepped by a copy of the scheduler, is forecast with it.

Two pipelines are computed in full and say so, which is tested: SkyReels V2's diffusion forcing, which has a
time and a scheduler for every latent frame, and Cosmos Predict 1, which makes two scheduler steps at a time.

"""
}


@dataclass
class Row:
    """One family: facts, and per version what failed or was skipped.

    Attributes:
        facts: pipeline, denoiser, scheduler, branches; as reported by a test that ran.
        outcomes: by version and kind, "" for passed, else the reason.
    """

    facts: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, dict[str, str]] = field(default_factory=dict)

    def passed(self, version: str) -> bool:
        """Whether all four tests passed on this version."""
        found = self.outcomes.get(version, {})
        return all(found.get(kind, "not run") == "" for kind in KINDS)

    def cell(self, version: str) -> str:
        """Return what the table says of one version."""
        found = self.outcomes.get(version, {})
        if self.passed(version):
            return "all four"
        if all(found.get(kind, "").startswith("skipped: ") for kind in KINDS):
            return "not there"
        return ", ".join(f"no {kind}" for kind in KINDS if found.get(kind, "not run"))


#: By title of the table, then by family.
Tables = dict[str, dict[str, Row]]


def read(path: Path, tables: Tables) -> str:
    """Add the results of one file to ``tables``.

    Returns:
        The version of diffusers that ran.

    Raises:
        SystemExit: if the file is not a result of a module with the families' conformance tests.
    """
    root = ElementTree.parse(path).getroot()
    suite = _properties(root.find(".//testsuite"))
    version = suite.get("diffusers")
    if version is None:
        raise SystemExit(f"{path}: expected a result file of test_families, see nox -s families")
    rows = tables.setdefault(suite.get("title", ""), {})
    for case in root.iter("testcase"):
        facts = _properties(case)
        kind = (case.get("name") or "").split("_")[1]
        row = rows.setdefault(facts.pop("family", OTHERS), Row())
        row.facts |= facts
        found = row.outcomes.setdefault(version, {})
        found[kind] = found.get(kind) or _reason(case)
    return version


def _properties(element: ElementTree.Element | None) -> dict[str, str]:
    found = [] if element is None else element.findall("properties/property")
    return {p.get("name", ""): p.get("value", "") for p in found}


def _reason(case: ElementTree.Element) -> str:
    for tag in ("failure", "error", "skipped"):
        child = case.find(tag)
        if child is not None:
            message = child.get("message", "").splitlines()
            return f"{tag}: {message[0] if message else 'no message'}"
    return ""


def document(tables: Tables, versions: Sequence[str]) -> str:
    """Return the whole document."""
    parts = []
    for title, rows in tables.items():
        heading = f"## {title}\n\n" if title else ""
        parts.append(heading + NOTES.get(title, "") + table(rows, versions))
    reasons = _reasons(tables, versions)
    if reasons:
        parts.append("\n".join(["Where something cannot, and why:", "", *reasons]) + "\n")
    return INTRODUCTION + "\n".join(parts)


def table(rows: dict[str, Row], versions: Sequence[str]) -> str:
    """Return the families of one title, counted and listed."""
    families = {name: row for name, row in rows.items() if name != OTHERS}
    good = [row for row in families.values() if all(row.passed(v) for v in versions)]
    classes = {row.facts["denoiser"] for row in good}
    head = [
        "family",
        *(fact if fact != "denoiser" else "denoiser class" for fact in FACTS),
        *versions,
    ]
    lines = [
        f"{len(good)} of {len(families)} families, with {len(classes)} denoiser classes, pass all four "
        f"on diffusers {_listed(versions)}.",
        "",
        _line(head),
        _line(["---"] * len(head)),
    ]
    for name, row in families.items():
        facts = [f"`{row.facts[fact]}`" if fact in row.facts else "" for fact in FACTS]
        lines.append(_line([name, *facts, *(row.cell(v) for v in versions)]))
    return "\n".join(lines) + "\n"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([*filter(None, [", ".join(words[:-1])]), words[-1]])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _reasons(tables: Tables, versions: Sequence[str]) -> list[str]:
    found: dict[str, None] = {}
    for name, row in (pair for rows in tables.values() for pair in rows.items()):
        for version in versions:
            for reason in filter(None, row.outcomes.get(version, {}).values()):
                found[f"- {name}, diffusers {version}: {reason}"] = None
    return list(found)


def main(arguments: Sequence[str]) -> int:
    """Write the document; return 1 if a test failed, else 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(arguments)
    tables: Tables = {}
    versions = sorted({read(path, tables) for path in given.results})
    given.out.write_text(document(tables, versions), encoding="utf-8")
    broken = [line for line in _reasons(tables, versions) if ": skipped: " not in line]
    count = sum(name != OTHERS for rows in tables.values() for name in rows)
    print(f"{given.out}: {count} families on diffusers {', '.join(versions)}")
    print(*broken, sep="\n", end="\n" if broken else "")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
