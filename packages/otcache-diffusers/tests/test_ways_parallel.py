"""Context parallelism: two ranks over gloo decide alike, and nothing more is sent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

WORKER = Path(__file__).with_name("parallel_worker.py")

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo"
)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Provide what either rank printed."""
    meet = tmp_path_factory.mktemp("ranks") / "meet"
    command = [sys.executable, str(WORKER)]
    running = [
        subprocess.Popen(
            [*command, str(rank), str(meet)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    try:
        results = [process.communicate(timeout=300) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, errors) in zip(running, results, strict=True):
        assert process.returncode == 0, errors.decode()[-3000:]
    return [json.loads(output.splitlines()[-1]) for output, _ in results]


def test_ranks_take_identical_decisions(ranks: list[dict[str, Any]]) -> None:
    one, two = ranks
    assert one == two
    assert one["report"] == [{"cond": 3, "uncond": 3}, {"cond": 3, "uncond": 3}, []]


def test_no_collective_is_added_and_skipped_steps_make_none(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        sent = rank["collectives"]
        assert sent["plain"] > 0
        assert sent["full"] == sent["again"] == sent["plain"]
        assert sent["skipping"] * 2 == sent["plain"]


def test_results_are_those_of_one_rank(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["identical"]
        assert rank["as on one rank"] == [True, True]
