"""Orders that samples choose, on torch's outputs: trees, half precision, the host; numpy's follower."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from otcache_core import ExecutionError, Playback, PlaybackTable, Schedule
from otcache_core.contracts import CacheStorage
from otcache_core.forecasters import Reuse, VariableOrder
from otcache_core.playback import playback_table
from otcache_diffusers.execution.output_cache import OutputCache, TorchArithmetic

N = 8
TABLE = playback_table(Schedule(N, (0, 2, 4), "variable-order"), VariableOrder())


def follow(
    outputs: list[Any], storage: CacheStorage | None = None, table: PlaybackTable = TABLE
) -> dict[int, Any]:
    """Play outputs, one a step, as the executor does; return the forecasts."""
    cache = OutputCache(storage or CacheStorage(), lambda on_device, on_host: None)
    found = played(Playback(table, TorchArithmetic(), cache), outputs)
    assert sorted(found) == [1, 3, 5, 6, 7]
    return found


def played(playback: Playback, outputs: list[Any]) -> dict[int, Any]:
    playback.begin()
    found = {}
    for step, output in enumerate(outputs):
        forecast = playback.forecast("", step)
        if forecast is None:
            playback.keep("", step, output)
        else:
            found[step] = forecast
    return found


def outputs(*shape: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    slope, noise = (
        torch.randn(2, *shape, generator=random),
        torch.randn(N, *shape, generator=random),
    )
    return [(1 + slope * t + 0.2 * v).to(dtype) for t, v in enumerate(noise)]


def by_numpy(made: list[torch.Tensor]) -> dict[int, Any]:
    found = played(Playback(TABLE), [output.double().numpy() for output in made])
    return {step: torch.tensor(forecast) for step, forecast in found.items()}


@pytest.mark.parametrize("shape", [(3, 4), (1, 2, 5, 5), (6,)])
@pytest.mark.parametrize(
    ("dtype", "within"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.1)]
)
def test_torch_forecasts_as_numpy_does(
    shape: tuple[int, ...], dtype: torch.dtype, within: float
) -> None:
    made = outputs(*shape, dtype=dtype)
    for step, wanted in by_numpy(made).items():
        found = follow(made)[step]
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), wanted, rtol=within, atol=within)


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-12), (torch.float16, 0.02)])
def test_tensors_need_no_arithmetic_of_their_own(dtype: torch.dtype, within: float) -> None:
    """As a plugin's loop has them: followed by methods alone, where there is no array API."""
    made = [(100 * output).to(dtype) for output in outputs(3, 400, dtype=torch.float64)]
    for step, forecast in played(Playback(TABLE), made).items():
        assert forecast.dtype == dtype
        wanted = by_numpy(made)[step]
        torch.testing.assert_close(forecast.double(), wanted, rtol=within, atol=100 * within)


def test_the_prediction_in_a_tree_chooses_for_all_of_its_leaves() -> None:
    made, other = outputs(3, 4), outputs(5)
    trees = [
        {"step": t, "sample": v, "more": (w,)}
        for t, (v, w) in enumerate(zip(made, other, strict=True))
    ]
    alone = follow(made)
    for step, tree in follow(trees).items():
        torch.testing.assert_close(tree["sample"], alone[step], rtol=1e-6, atol=1e-6)
        assert torch.isfinite(tree["more"][0]).all()


@pytest.mark.parametrize("storage", [CacheStorage("bf16"), CacheStorage(None, "cpu")])
def test_stored_outputs_choose_the_same_orders(storage: CacheStorage) -> None:
    made = outputs(3, 4)
    plain = follow(made)
    for step, found in follow(made, storage).items():
        torch.testing.assert_close(found, plain[step], rtol=0.05, atol=0.05)


def test_complex_outputs_are_vectors_of_their_parts() -> None:
    made = outputs(3, 4, 2)
    plain = follow(made)
    for step, found in follow([torch.view_as_complex(v) for v in made]).items():
        torch.testing.assert_close(torch.view_as_real(found), plain[step], rtol=1e-5, atol=1e-5)


@pytest.mark.remedy("of floating-point numbers, got {}: use reuse.")
def test_whole_numbers_have_no_order() -> None:
    made = [torch.full((2, 2), t) for t in range(N)]
    with pytest.raises(ExecutionError, match=r"floating-point numbers, got torch\.int64"):
        follow(made)
    reuse = playback_table(Schedule(N, (0, 2, 4)), Reuse())
    assert (follow(made, table=reuse)[3] == 2).all()


def test_numbers_that_are_not_finite_stay_in_their_sample() -> None:
    made = outputs(3, 4)
    plain = follow(made)
    made[2][0] = float("nan")
    for step, found in follow(made).items():
        torch.testing.assert_close(found[1:], plain[step][1:])
        assert step < 3 or np.isnan(found[0]).all()
