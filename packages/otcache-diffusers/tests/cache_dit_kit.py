"""The kit of baselines for those of cache-dit; test_baselines_cache_dit.py runs this in another process.

The three differ in their configuration alone, so each is checked on one pipeline.
"""

from __future__ import annotations

import os
from pathlib import Path

import cache_dit_worker
import torch
from flux_kit import FluxLaws
from wan_kit import LAYERS, WanLaws, ladder, pipeline, run, tails


class TestDBCacheTaylorSeer(FluxLaws):
    name = "dbcache-taylorseer"


class TestDBCacheMask(FluxLaws):
    name = "dbcache-mask"


class TestDBCacheOnWan(WanLaws):
    name = "dbcache"


def test_dbcache_runs_the_first_block_and_adds_what_the_others_added_in_each_branch() -> None:
    rungs = len(ladder("dbcache", pipeline())[1])
    branches, _, plain = run("dbcache", rungs - 1)
    for calls in branches:
        known = tails(calls, plain)
        for k, call in enumerate(calls):
            if call.worked == [0]:
                torch.testing.assert_close(known[k], known[k - 1], atol=1e-5, rtol=1e-5)
            else:
                assert call.worked == list(range(LAYERS))
        assert [0] in [call.worked for call in calls]


def test_what_the_worker_sees_is_written_down() -> None:
    Path(os.environ["OTCACHE_FACTS"]).write_text(cache_dit_worker.facts(), encoding="utf-8")
