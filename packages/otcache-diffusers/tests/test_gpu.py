"""The executor's conformance tests on a CUDA device; the benchmark for it stops politely elsewhere."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from skipped_calls import AtSkippedCalls

from otcache_core import Schedule
from otcache_diffusers.execution.executor import TorchExecutor

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
N, COMPUTED = 8, (0, 1, 2, 5)
SCHEDULES = {
    "reuse": (Schedule(N, COMPUTED), 1),
    "linear": (Schedule(N, COMPUTED, "linear"), 2),
    "variable-order": (Schedule(N, COMPUTED, "variable-order"), 3),
    "fitted": (Schedule(N, COMPUTED, "fitted", ((0.1,), (0.1,) * 2, (0.1,) * 3, (0.1,) * 3)), 3),
}
SKIPPED = [t for t in range(N) if t not in COMPUTED]
#: CUDA memory is handed out in blocks of 512 bytes.
BLOCK = 512


def _on_cuda(name: str) -> tiny.Case:
    case = tiny.CASES[name]()
    case.pipe.to("cuda")
    case.call |= {k: v.to("cuda") for k, v in case.call.items() if isinstance(v, torch.Tensor)}
    return case


@pytest.fixture(params=sorted(tiny.CASES))
def case(request: pytest.FixtureRequest) -> tiny.Case:
    return _on_cuda(request.param)


@cuda
@pytest.mark.gpu
def test_everything_computed_is_bit_identical_on_cuda(case: tiny.Case) -> None:
    plain = case(N)
    with TorchExecutor().attach(case.pipe, Schedule.full(N)) as run:
        assert torch.equal(case(N), plain)
    assert run.report.warnings == []


@cuda
@pytest.mark.gpu
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_skipped_step_does_not_wait_for_the_device(case: tiny.Case, name: str) -> None:
    schedule, _ = SCHEDULES[name]
    watch = AtSkippedCalls(
        case.denoiser,
        SKIPPED,
        len(case.branches),
        lambda: torch.cuda.set_sync_debug_mode("error"),
        lambda: torch.cuda.set_sync_debug_mode("default"),
    )
    try:
        with TorchExecutor().attach(case.pipe, schedule) as run:
            assert torch.isfinite(case(N)).all()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert watch.calls == N * len(case.branches)
    assert run.report.skipped == dict.fromkeys(case.branches, len(SKIPPED))


@cuda
@pytest.mark.gpu
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("model", ["flux", "flux-cfg"])
def test_peak_memory_is_that_of_the_cached_outputs(model: str, name: str) -> None:
    schedule, memory = SCHEDULES[name]
    case = _on_cuda(model)
    case.call |= {"height": 128, "width": 128}
    outputs: list[int] = []
    case.denoiser.register_forward_hook(
        lambda module, args, output: outputs.append(output[0].untyped_storage().nbytes())
    )

    def peak() -> int:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        case(N)
        return torch.cuda.max_memory_allocated() - before

    peak()  # what libraries allocate once
    plain = peak()
    with TorchExecutor().attach(case.pipe, schedule) as run:
        cached = peak()
    held = run.report.peak_cached_bytes
    assert held == memory * len(case.branches) * outputs[0]
    assert cached - plain <= held + 2 * outputs[0] + 32 * BLOCK


@pytest.mark.parametrize("name", ["flux", "flux-cfg"])
def test_the_watch_stands_around_skipped_calls_and_no_others(name: str) -> None:
    case = tiny.CASES[name]()
    events: list[Any] = []
    tiny.counted(case.denoiser)

    def mark(what: str) -> None:
        events.append((what, tiny.calls_of(case.denoiser)))

    watch = AtSkippedCalls(
        case.denoiser,
        SKIPPED,
        len(case.branches),
        lambda: mark("enter"),
        lambda: mark("leave"),
    )
    with TorchExecutor().attach(case.pipe, SCHEDULES["linear"][0]):
        case(N)
    assert watch.calls == N * len(case.branches)
    worked = [3 * len(case.branches)] * 2 + [4 * len(case.branches)] * 2
    wanted = [calls for calls in worked for _ in case.branches]
    assert events == [(what, calls) for calls in wanted for what in ("enter", "leave")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_benchmark_says_in_one_line_that_there_is_no_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = Path(__file__).parents[3] / "benchmarks" / "gpu.py"
    monkeypatch.syspath_prepend(script.parent)
    monkeypatch.setattr("sys.argv", [str(script)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == (
        "gpu: no CUDA device is present, so there is nothing to measure here."
    )
