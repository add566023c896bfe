"""Two caches on one denoiser are refused, with what to do about it."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from diffusers import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig, TaylorSeerCacheConfig
from diffusers.hooks import HookRegistry, apply_first_block_cache

from otcache_core import ExecutionError, Schedule
from otcache_core.contracts import SampleRequest
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.recording.probe import TorchProbe

N = 6
SCHEDULE = Schedule(N, (0, 1, 4))
CONFIGS: dict[str, Callable[[], Any]] = {
    "FirstBlockCacheConfig": lambda: FirstBlockCacheConfig(threshold=0.1),
    "PyramidAttentionBroadcastConfig": lambda: PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
    ),
    "TaylorSeerCacheConfig": TaylorSeerCacheConfig,
}


@pytest.mark.remedy("Call disable_cache() on the denoiser")
@pytest.mark.parametrize("name", CONFIGS)
def test_a_cache_of_diffusers_is_refused_and_may_be_taken_off(name: str) -> None:
    case = tiny.flux()
    plain = case(N)
    case.denoiser.enable_cache(CONFIGS[name]())
    with (
        pytest.raises(ExecutionError, match=rf"got {name}: .* Call disable_cache\(\)"),
        TorchExecutor().attach(case.pipe, SCHEDULE),
    ):
        pass
    assert "step" not in vars(case.pipe.scheduler)
    case.denoiser.disable_cache()
    with TorchExecutor().attach(case.pipe, Schedule.full(N)):
        assert torch.equal(case(N), plain)


def test_a_cache_enabled_while_accelerated_is_refused_at_the_next_run() -> None:
    case = tiny.flux()
    with TorchExecutor().attach(case.pipe, SCHEDULE):
        wanted = case(N)
        case.denoiser.enable_cache(CONFIGS["FirstBlockCacheConfig"]())
        with pytest.raises(ExecutionError, match=r"Call disable_cache\(\)"):
            case(N)
        case.denoiser.disable_cache()
        assert torch.equal(case(N), wanted)


def test_a_cache_enabled_on_a_bare_module_is_refused_at_its_next_run() -> None:
    case = tiny.flux()
    with TorchExecutor().attach(case.denoiser, SCHEDULE) as run:
        wanted = case(N)
        case.denoiser.enable_cache(CONFIGS["FirstBlockCacheConfig"]())
        with pytest.raises(
            ExecutionError, match=r"got FirstBlockCacheConfig: .* disable_cache\(\)"
        ):
            case(N)
        case.denoiser.disable_cache()
        assert torch.equal(case(N), wanted)
    assert run.report.runs == 2


@pytest.mark.remedy(
    "HookRegistry.check_if_exists_or_initialize(denoiser).remove_hook(name, recurse=True) for each name of"
)
def test_a_cache_put_on_without_enable_cache_is_found_by_its_hooks() -> None:
    case = tiny.flux()
    plain = case(N)
    apply_first_block_cache(case.denoiser, CONFIGS["FirstBlockCacheConfig"]())
    with (
        pytest.raises(ExecutionError, match=r"for each name of 'fbc_") as caught,
        TorchExecutor().attach(case.pipe, SCHEDULE),
    ):
        pass
    registry = HookRegistry.check_if_exists_or_initialize(case.denoiser)
    for name in re.findall(r"'(fbc_\w+)'", str(caught.value).split("for each name of")[1]):
        registry.remove_hook(name, recurse=True)
    with TorchExecutor().attach(case.pipe, Schedule.full(N)):
        assert torch.equal(case(N), plain)


def test_nothing_is_recorded_through_another_cache() -> None:
    case = tiny.with_prompts(tiny.flux())
    case.denoiser.enable_cache(CONFIGS["FirstBlockCacheConfig"]())
    request = SampleRequest(("a",), (0,), N, {"height": 16, "width": 16})
    with pytest.raises(ExecutionError, match=r"Call disable_cache\(\)"):
        list(TorchProbe().record(case.pipe, request))


@pytest.mark.remedy("Call cache_dit.disable_cache(pipe)")
def test_the_mark_of_cache_dit_is_refused() -> None:
    """As cache-dit 1.5 leaves it; the real one patches classes and needs a process of its own."""
    case = tiny.flux()
    case.denoiser._is_cached = True
    with (
        pytest.raises(ExecutionError, match=r"Call cache_dit\.disable_cache\(pipe\)"),
        TorchExecutor().attach(case.pipe, SCHEDULE),
    ):
        pass
    del case.denoiser._is_cached  # as that does
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        case(N)
    assert run.report.skipped == {"cond": 3}


def test_text_keys_that_never_change_may_be_cached() -> None:
    case = tiny.flux()
    config = type("TextKVCacheConfig", (SimpleNamespace,), {})()
    case.denoiser._cache_config = config
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        case(N)
    assert run.report.skipped == {"cond": 3}
