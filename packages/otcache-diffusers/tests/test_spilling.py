"""The probe and the evaluator with their runs on the disk: the same bits, and notices that say so."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from otcache_core import OtcacheNotice, Schedule
from otcache_core.contracts import SampleRequest
from otcache_core.errors import ExecutionError, FileError
from otcache_core.loop import Loop
from otcache_core.storage.recordings import RecordingStorage, mapped, sketch
from otcache_diffusers.hooks import drive
from otcache_diffusers.recording.full_runs import DiskStore, loaded
from otcache_diffusers.recording.probe import TorchProbe
from otcache_diffusers.recording.recorder import Recorder
from otcache_diffusers.recording.sampler import Sampler

N = 6
REQUEST = SampleRequest(("a", "b", "c"), (0, 1, 2), N, {}, 2)
SCHEDULES = [Schedule(N, (0, 2, 3)), Schedule(N, (0, 3)), Schedule(N, (0, 2), "linear")]


def _loop(known: bool = True, calls: int = 1) -> Loop:
    net = tiny.Velocity()
    grid = tiny.euler_grid if known else None
    return Loop(tiny.euler_sampler(net), net, grid=grid, calls_per_step=calls)


def _flux() -> Any:
    case = tiny.with_prompts(tiny.flux(cfg=True))
    case(2)
    return case.pipe


TARGETS = {"loop": _loop, "a loop without a grid": lambda: _loop(known=False), "flux": _flux}


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> Any:
    return TARGETS[request.param]()


@pytest.fixture
def on_disk(tmp_path: Path) -> RecordingStorage:
    return RecordingStorage(memory_bytes=0, folder=tmp_path)


def _request(target: Any, keep: RecordingStorage | None = None) -> SampleRequest:
    call = {} if isinstance(target, Loop) else {"height": 16, "width": 16, "negative_prompt": "d"}
    if call:
        call |= {"true_cfg_scale": 3.0}
    return replace(REQUEST, call=call, keep=keep or RecordingStorage())


def test_a_run_on_the_disk_is_the_run_in_memory(
    target: Any, on_disk: RecordingStorage, tmp_path: Path
) -> None:
    plain = list(TorchProbe().record(target, _request(target)))
    with pytest.warns(
        OtcacheNotice, match=rf"keeps [\d.]+ MB of states and .* in {tmp_path}, until"
    ):
        spilled = list(TorchProbe().record(target, _request(target, on_disk)))
    for one, other in zip(plain, spilled, strict=True):
        assert not mapped(one.states)
        assert mapped(other.states)
        for name in ("grid", "states", "outputs"):
            np.testing.assert_array_equal(getattr(other, name), getattr(one, name))
        assert (other.calls, other.label, other.rounding) == (one.calls, one.label, one.rounding)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("memory_bytes", [0, 2**28])
def test_a_sketch_is_the_run_at_its_coordinates(memory_bytes: int, tmp_path: Path) -> None:
    loop, keep = _loop(), RecordingStorage(memory_bytes, tmp_path, coordinates=5, seed=3)
    plain = list(TorchProbe().record(loop, _request(loop)))
    with pytest.warns(OtcacheNotice, match="a sketch, 5 of 8 coordinates .* error of"):
        sketched = list(TorchProbe().record(loop, _request(loop, keep)))
    S = sketch(8, 5, seed=3)
    for one, other in zip(plain, sketched, strict=True):
        assert (one.sketch_of, other.sketch_of) == (0, 8)
        np.testing.assert_array_equal(other.states, one.states[:, S])
        np.testing.assert_array_equal(other.outputs, one.outputs[:, S])


@pytest.mark.parametrize("fit", [False, True])
def test_an_evaluation_from_the_disk_is_the_evaluation_from_memory(
    target: Any, on_disk: RecordingStorage, fit: bool, tmp_path: Path
) -> None:
    runs = list(TorchProbe().record(target, _request(target)))
    plain = TorchProbe().evaluator(target, _request(target), runs)
    away = TorchProbe().evaluator(target, _request(target, on_disk), runs)
    expected = plain.evaluate(SCHEDULES, objective="latent-rmse", fit=fit)
    with pytest.warns(
        OtcacheNotice, match=rf"keeps [\d.]+ MB of full runs .* in {tmp_path}, instead"
    ):
        found = away.evaluate(SCHEDULES, objective="latent-rmse", fit=fit)
    assert found.schedules == expected.schedules
    assert found.nfe == expected.nfe
    np.testing.assert_array_equal(found.errors, expected.errors)
    np.testing.assert_array_equal(found.grams, expected.grams)
    drifts = [one.drift(SCHEDULES).errors for one in (plain, away)]
    np.testing.assert_array_equal(*drifts)
    assert list(tmp_path.iterdir()) == []


def test_what_is_recorded_is_freed_without_the_garbage_collector(target: Any) -> None:
    gc.collect()
    gc.disable()
    try:
        recorder = Recorder()
        with drive(target, recorder, num_steps=N):
            Sampler(target, _request(target))(range(2))
        assert recorder.completed == 1
        gone = weakref.ref(recorder)
        del recorder
        assert gone() is None
    finally:
        gc.enable()


def test_outputs_of_several_calls_a_step_follow_from_the_states(on_disk: RecordingStorage) -> None:
    net = tiny.Velocity()

    def sample(prompts: Any, seeds: list[int], num_steps: int) -> torch.Tensor:
        x = torch.stack([tiny.noise(8, seed=seed) for seed in seeds])
        s = tiny.euler_grid(num_steps)
        for i in range(num_steps):
            v = (net(x, torch.tensor(s[i])) + net(x, torch.tensor(s[i]))) / 2
            x = x + (s[i + 1] - s[i]) * v
        return x

    loop = Loop(sample, net, grid=tiny.euler_grid, calls_per_step=2)
    plain = list(TorchProbe().record(loop, _request(loop)))
    spilled = list(TorchProbe().record(loop, _request(loop, on_disk)))
    for one, other in zip(plain, spilled, strict=True):
        np.testing.assert_array_equal(other.outputs, one.outputs)


@pytest.mark.parametrize("keep", [{"memory_bytes": 0}, {"coordinates": 1}])
def test_a_run_that_breaks_is_reported_at_its_step(keep: dict[str, int], tmp_path: Path) -> None:
    class Breaking(tiny.Velocity):
        def forward(self, x: torch.Tensor, t: Any) -> torch.Tensor:
            v = super().forward(x, t)
            v[:, -1] = torch.inf if t < 0.5 else v[:, -1]
            return v

    net = Breaking()
    loop = Loop(tiny.euler_sampler(net), net, grid=tiny.euler_grid)
    with pytest.raises(
        ExecutionError, match=r"step \d: the sampler's output holds NaN or infinity"
    ):
        list(TorchProbe().record(loop, _request(loop, RecordingStorage(folder=tmp_path, **keep))))


def test_a_disk_without_room_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, on_disk: RecordingStorage
) -> None:
    monkeypatch.setattr("otcache_core.storage.recordings.shutil.disk_usage", lambda _: _Usage())
    loop = _loop()
    with pytest.raises(
        FileError, match=r"recorded runs take 0.0 MB, 0.0 MB are free: name another"
    ):
        list(TorchProbe().record(loop, _request(loop, on_disk)))


class _Usage:
    free = 1


def _trees() -> Iterator[Any]:
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.int64):
        yield (tiny.noise(2, 3).to(dtype), [tiny.noise(1, 4).to(dtype).T])


def test_a_disk_store_returns_what_was_put_in_bit_for_bit(tmp_path: Path) -> None:
    store, trees = DiskStore(tmp_path), list(_trees())
    put = [store.put(tree) for tree in trees]
    for tree, away in reversed(list(zip(trees, put, strict=True))):
        for _ in range(2):
            found = loaded(away)
            torch.testing.assert_close(found, tree, rtol=0, atol=0)
    assert loaded(trees[0])[0] is trees[0][0]
    assert list(tmp_path.iterdir()) == []
