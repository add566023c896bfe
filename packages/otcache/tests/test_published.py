"""Published tables, literally; and whom they are for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from otcache import OtcacheError
from otcache.comparison.baselines import FluxTable, LeMiCaTable
from otcache.comparison.scheduled import Tuning
from otcache.schedules import made_for, names, published
from otcache_core.contracts import SampleRequest
from otcache_core.plugins import Registry


def test_every_table_is_whole() -> None:
    assert len(names()) == 7
    for name in names():
        table = published(name)
        assert table.name == name
        assert "arXiv" in table.source
        for budget in table.budgets:
            computed = table.schedule(budget).computed
            assert (len(computed), computed[-1]) == (budget, table.num_steps - 1)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("lemica-flux-1-dev", [0, 1, 3, 7, 14, 21, 28, 35, 42, 49]),
        ("lemica-flux-1-dev", [*range(6), 7, 10, 15, 20, 27, 34, 41, 47, 49]),
        ("lemica-flux-1-dev", [*range(8), 9, 12, 15, 19, 24, 31, 38, 43, 46, 47, 48, 49]),
        ("lemica-wan-2-1-t2v-1-3b", [*range(9), 10, 13, 18, 25, 32, 39, 46, 49]),
        ("lemica-wan-2-1-t2v-14b", [*range(6), 7, 10, 17, 24, 31, 38, 45, 49]),
        ("lemica-wan-2-1-i2v-14b", [*range(5), 6, 8, 11, 15, 22, 29, 34, 37, 39]),
        ("lemica-hunyuan-video-1-5", [0, 1, 3, 5, 9, 17, 25, 33, 41, 49]),
        ("meancache-qwen-image", [*range(9), 10, 17, 24, 31, 38, 45, 48, 49]),
        ("meancache-qwen-image", [*range(17), 24, 32, 40, 43, 45, 47, 48, 49]),
        ("meancache-z-image", [0, 1, 2, 3, 5, 9, 15, 22, 29, 36, 43, 47, 49]),
    ],
)
def test_rows_as_published(name: str, row: list[int]) -> None:
    assert published(name).schedule(len(row)).computed == tuple(row)


def test_an_unknown_table() -> None:
    with pytest.raises(OtcacheError, match="table must be one of lemica-flux-1-dev, "):
        published("nosuch")


def pipeline(name: str, parameters: int = 0) -> Any:
    """Return a pipeline of that class, with a denoiser of that size."""
    weights = [SimpleNamespace(numel=lambda: parameters)]
    return type(name, (), {"transformer": SimpleNamespace(parameters=lambda: weights)})()


@pytest.mark.parametrize(
    ("name", "parameters", "table"),
    [
        ("WanPipeline", 2_000_000, "lemica-wan-2-1-t2v-1-3b"),
        ("WanPipeline", 14_000_000_000, "lemica-wan-2-1-t2v-14b"),
        ("WanImageToVideoPipeline", 0, "lemica-wan-2-1-i2v-14b"),
        ("HunyuanVideo15Pipeline", 0, "lemica-hunyuan-video-1-5"),
    ],
)
def test_whom_a_table_is_for(name: str, parameters: int, table: str) -> None:
    found = made_for(pipeline(name, parameters), "lemica-")
    assert found is not None
    assert found.name == table


def test_the_baseline_takes_the_table_itself_at_its_step_count() -> None:
    request = SampleRequest(("x",), (0,), 50)
    tuning = Tuning(pipeline("WanPipeline", 10**9), request, Registry(entry_points=False))
    found, nfe = LeMiCaTable().schedules(tuning, [17, 20])
    table = published("lemica-wan-2-1-t2v-1-3b")
    assert found == {17: table.schedule(17), 20: table.schedule(20)}
    assert nfe == 0


def test_the_baseline_says_for_whom_there_is_no_table() -> None:
    baseline = LeMiCaTable()
    assert baseline.unfit(pipeline("WanPipeline", 10**9)) == ""
    assert "got 'LTXPipeline'" in baseline.unfit(pipeline("LTXPipeline"))
    assert "WanPipeline" in baseline.unfit(pipeline("LTXPipeline"))
    assert "flux-table" in baseline.unfit(pipeline("FluxPipeline"))
    assert FluxTable().unfit(pipeline("LTXPipeline")) == ""
