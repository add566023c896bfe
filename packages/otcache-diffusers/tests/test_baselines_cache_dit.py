"""The baselines of cache-dit, run in a process of their own since it patches classes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiny

from otcache_core.contracts import SampleRequest
from otcache_core.plugins import Registry
from otcache_diffusers.baselines import cache_dit

HERE = Path(__file__).parent
N = 10
NAMES = ("dbcache", "dbcache-taylorseer", "dbcache-mask")
ROUNDING = 1e-6


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Provide what a process of its own prints that runs the conformance kits, and the file it writes."""
    if find_spec("cache_dit") is None:
        pytest.skip("cache-dit is not installed")
    file = tmp_path_factory.mktemp("cache-dit") / "facts.json"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-rs",
            "-p",
            "no:cacheprovider",
            "cache_dit_kit.py",
        ],
        capture_output=True,
        text=True,
        cwd=HERE,
        env=environment | {"OTCACHE_FACTS": str(file)},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, file


@pytest.fixture(scope="module")
def facts(checks: tuple[str, Path]) -> dict[str, Any]:
    """Provide what was seen in that process."""
    found: dict[str, Any] = json.loads(checks[1].read_text(encoding="utf-8"))
    return found


def test_the_checks_of_a_baseline_hold(checks: tuple[str, Path]) -> None:
    printed = checks[0]
    assert " passed" in printed
    for line in printed.splitlines():
        assert "SKIPPED" not in line or "the kit does not count calls" in line, line


def test_a_mask_is_followed_in_both_branches(facts: dict[str, Any]) -> None:
    mask = [bool(one) for one in (1, 1, 0, 0, 1, 0, 1, 0, 0, 1)]
    assert facts["mask"] == [mask, mask]
    assert facts["mask reused"] < ROUNDING


def test_each_branch_is_compared_with_itself(facts: dict[str, Any]) -> None:
    """DBCache's decisions are those of its rule, written out on what the first block added."""
    assert facts["dynamic"] == facts["dynamic expected"]
    assert facts["dynamic reused"] < ROUNDING
    for worked in facts["dynamic"]:
        assert True in worked[4:-1]
        assert worked.count(False) >= 2


def test_taylorseer_goes_on_along_the_line_of_each_branch(facts: dict[str, Any]) -> None:
    assert facts["taylor extrapolated"] < ROUNDING < facts["taylor reused"]
    assert all(False in worked for worked in facts["taylor"])


def test_a_threshold_of_nothing_computes_everything(facts: dict[str, Any]) -> None:
    assert facts["all computed"] == [True] * (2 * N)


@pytest.mark.parametrize(("case", "calls"), [("one call", 1), ("two calls", 2)])
def test_calibration_counts_how_guidance_calls_the_denoiser(
    facts: dict[str, Any], case: str, calls: int
) -> None:
    found = facts[case]
    assert (found["calls_per_step"], found["first_blocks"]) == (calls, 1)
    assert found["nfe"] == N + 8
    assert found["same"]  # the pipeline is as before
    assert 0.3 < found["share"] < 0.7  # one of two blocks is computed always


def test_guidance_that_changes_on_the_way_is_refused(facts: dict[str, Any]) -> None:
    assert "once a step, or twice, at every step, got 1, 2 calls" in facts["uneven"]


def test_ladders_run_from_mild_to_aggressive(facts: dict[str, Any]) -> None:
    for name in NAMES:
        labels = [label for label, _, _ in facts["settings"][name]]
        assert len(set(labels)) == len(labels)
        assert {steps for _, steps, _ in facts["settings"][name]} == {30}
    counts = [len(computed) for _, _, computed in facts["settings"]["dbcache-mask"]]
    # (B - 30 r) / (1 - r) at r = 0.1, B = 15, 10, 5 is 13.3, 7.8, 2.2; a published mask has 14.
    assert counts == [14, 8, 2]
    assert facts["settings"]["dbcache-mask"][0][0] == "fast, 14 computed"
    for _, _, computed in facts["settings"]["dbcache-mask"]:
        assert (computed[0], computed[-1]) == (0, 29)


def test_sources_name_project_and_version(facts: dict[str, Any]) -> None:
    assert all(source.startswith("cache-dit 1.5.") for source in facts["sources"])


def test_what_cannot_be_run_has_a_reason(facts: dict[str, Any]) -> None:
    assert facts["reasons"] == {
        "flux": "",
        "one block": "a list of one block leaves nothing to skip",
        "unet": "cache-dit knows no blocks of StableDiffusionXLPipeline",
        "loop": "cache-dit needs a DiffusionPipeline, got Loop",
        "module": "cache-dit needs a DiffusionPipeline, got Velocity",
    }


@pytest.mark.remedy("pip install 'otcache-diffusers[baselines]'", value=True)
@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("", "cache-dit is not installed: pip install 'otcache-diffusers[baselines]'"),
        ("1.6.0", "needs cache-dit 1.5.x, got 1.6.0: pip install 'otcache-diffusers[baselines]'"),
    ],
)
def test_another_version_or_none_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, version: str, reason: str
) -> None:
    monkeypatch.setattr(cache_dit, "version_of", lambda name: version)
    baseline = Registry().create("baselines", "dbcache")
    assert baseline.supports(tiny.flux().pipe, SampleRequest(("a",), (0,), N)) == reason
    declared = requires("otcache-diffusers") or []
    assert [line for line in declared if line.startswith("cache-dit<1.6") and "baselines" in line]
