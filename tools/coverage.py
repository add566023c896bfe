"""Write docs/coverage.md from result files of test_families.py: one per version of diffusers.

    nox -s families          # runs that module on both versions, then this
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
OUT = Path(__file__).parent.parent / "docs" / "coverage.md"

INTRODUCTION = """\
# Coverage

Which pipelines of diffusers the executor runs, as tested: tiny random weights, the real pipeline, sampler
and denoiser classes, no network. Made by `nox -s families`, which runs
`packages/otcache-diffusers/tests/test_families.py` on each version of diffusers and then
`tools/coverage.py` on the results; edit the tests, not this file. On the older version the same session runs
the executor's other tests too: its laws, samplers, ControlNets and IP-Adapters, block stacks, and
[the ways to run](running.md).

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


@dataclass
class Row:
    """One family: facts, and per version what failed or was skipped.

    Attributes:
        facts: pipeline, denoiser, scheduler, branches; as told by a test that ran.
        outcomes: by version and kind, "" for passed, else the reason.
    """

    facts: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, dict[str, str]] = field(default_factory=dict)

    def passed(self, version: str) -> bool:
        """Whether all four tests passed on this version."""
        told = self.outcomes.get(version, {})
        return all(told.get(kind, "not run") == "" for kind in KINDS)

    def cell(self, version: str) -> str:
        """What the table says of one version."""
        told = self.outcomes.get(version, {})
        if self.passed(version):
            return "all four"
        return ", ".join(f"no {kind}" for kind in KINDS if told.get(kind, "not run"))


def read(path: Path, rows: dict[str, Row]) -> str:
    """Add the results of one file to ``rows``, by family.

    Returns:
        The version of diffusers that ran.

    Raises:
        SystemExit: if the file is no result of test_families.py.
    """
    root = ElementTree.parse(path).getroot()
    version = _properties(root.find(".//testsuite")).get("diffusers")
    if version is None:
        raise SystemExit(f"{path}: expected a result file of test_families.py, see nox -s families")
    for case in root.iter("testcase"):
        facts = _properties(case)
        kind = (case.get("name") or "").split("_")[1]
        if "family" not in facts or kind not in KINDS:
            continue
        row = rows.setdefault(facts.pop("family"), Row())
        row.facts |= facts
        told = row.outcomes.setdefault(version, {})
        told[kind] = told.get(kind) or _reason(case)
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


def table(rows: dict[str, Row], versions: Sequence[str]) -> str:
    """The whole document."""
    good = [row for row in rows.values() if all(row.passed(v) for v in versions)]
    classes = {row.facts["denoiser"] for row in good}
    head = [
        "family",
        *(fact if fact != "denoiser" else "denoiser class" for fact in FACTS),
        *versions,
    ]
    lines = [
        f"{len(good)} of {len(rows)} families, with {len(classes)} denoiser classes, pass all four "
        f"on diffusers {' and '.join(versions)}.",
        "",
        _line(head),
        _line(["---"] * len(head)),
    ]
    for name, row in rows.items():
        facts = [f"`{row.facts[fact]}`" if fact in row.facts else "" for fact in FACTS]
        lines.append(_line([name, *facts, *(row.cell(v) for v in versions)]))
    reasons = _reasons(rows, versions)
    if reasons:
        lines += ["", "Where something cannot, and why:", "", *reasons]
    return INTRODUCTION + "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _reasons(rows: dict[str, Row], versions: Sequence[str]) -> list[str]:
    found: dict[str, None] = {}
    for name, row in rows.items():
        for version in versions:
            for reason in filter(None, row.outcomes.get(version, {}).values()):
                found[f"- {name}, diffusers {version}: {reason}"] = None
    return list(found)


def main(arguments: Sequence[str]) -> int:
    """Write the document; 1 where a test failed, 0 else."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(arguments)
    rows: dict[str, Row] = {}
    versions = sorted({read(path, rows) for path in given.results})
    given.out.write_text(table(rows, versions), encoding="utf-8")
    broken = [line for line in _reasons(rows, versions) if ": skipped: " not in line]
    print(f"{given.out}: {len(rows)} families on diffusers {', '.join(versions)}")
    print(*broken, sep="\n", end="\n" if broken else "")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
