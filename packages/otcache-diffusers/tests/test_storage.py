"""Outputs kept in fewer bits or on the host: what is kept, what forecasts become, what is counted."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from otcache_core import Schedule
from otcache_core.contracts import CacheExecutor, CacheStorage, RunReport
from otcache_core.loop import Loop
from otcache_core.playback.player import Kept
from otcache_diffusers.execution.block_executor import BlockExecutor
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.execution.output_cache import OutputCache, TorchArithmetic
from otcache_diffusers.hooks.trees import flatten

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
N, WIDTH = 8, 64
COMPUTED = (0, 1, 2, 5)
SKIPPED = tuple(t for t in range(N) if t not in COMPUTED)
REUSE, LINEAR = Schedule(N, COMPUTED), Schedule(N, COMPUTED, "linear")
#: Digits of the significand, and the spacing under the normal range.
PRECISION = {"fp32": (24, 2.0**-149), "bf16": (8, 2.0**-133), "fp16": (11, 2.0**-24)}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
STORAGES = [CacheStorage(*both) for both in itertools.product((None, *PRECISION), (None, "cpu"))]
#: Executors, and the pipelines each of them skips steps of.
PAIRS = [
    *((TorchExecutor, name) for name in sorted(tiny.CASES)),
    *((BlockExecutor, name) for name in ("flux", "flux-cfg", "qwen")),
]
over_pairs = pytest.mark.parametrize(("executor", "model"), PAIRS)


@pytest.fixture(params=sorted(tiny.CASES))
def case(request: pytest.FixtureRequest) -> tiny.Case:
    return tiny.CASES[request.param]()


def _kept(storage: CacheStorage, *outputs: Any) -> OutputCache:
    cache = OutputCache(storage, lambda on_device, on_host: None)
    for step, output in enumerate(outputs):
        cache.put("call", step, Kept(output, None, (None, None)))
    return cache


def _forecast(cache: OutputCache, *coefficients: float) -> Any:
    held = cache.get("call", range(len(coefficients)))
    assert held is not None
    return TorchArithmetic().combine([kept.value for kept in held], coefficients)


finite = st.floats(-3e4, 3e4, allow_nan=False, width=32)


@given(
    st.lists(st.tuples(finite, finite), min_size=1, max_size=12),
    st.tuples(st.floats(-2, 2, width=32), st.floats(-2, 2, width=32)),
    st.sampled_from(sorted(PRECISION)),
    st.sampled_from([torch.float64, torch.float32]),
)
def test_a_forecast_is_within_the_rounding_bound(
    pairs: list[tuple[float, float]], a: tuple[float, float], name: str, dtype: torch.dtype
) -> None:
    v = torch.tensor(pairs, dtype=dtype).T.contiguous()
    found = _forecast(_kept(CacheStorage(name), *v), *a)
    digits, tiny_spacing = PRECISION[name]
    exact = sum(c * one.double() for c, one in zip(a, v, strict=True))
    size = sum(abs(c) * one.double().abs() for c, one in zip(a, v, strict=True))
    bound = size * 2.0**-digits + 2 * tiny_spacing + size * 4 * torch.finfo(dtype).eps
    assert found.dtype == dtype
    assert bool(((found.double() - exact).abs() <= bound).all())


@given(st.lists(finite, min_size=1, max_size=12), st.sampled_from(sorted(PRECISION)))
def test_a_value_the_type_holds_comes_back_as_it_was(values: list[float], name: str) -> None:
    v = torch.tensor(values).to(DTYPES[name]).double()
    assert torch.equal(_forecast(_kept(CacheStorage(name), v), 1.0), v)


@pytest.mark.parametrize("storage", STORAGES, ids=str)
def test_whatever_is_no_wider_number_is_left_alone(storage: CacheStorage) -> None:
    given_ = {
        "half": torch.randn(3).to(torch.float16),
        "int": torch.arange(3),
        "bool": torch.tensor([True, False]),
        "complex": torch.randn(3, dtype=torch.complex64),
        "other": ("text", None, 2.5),
    }
    if storage.dtype == "fp32":
        given_["single"] = torch.randn(3)
    cache = _kept(storage, given_)
    found = _forecast(cache, 1.0)
    assert list(found) == list(given_)
    assert all(found[name] is leaf for name, leaf in given_.items() if name != "other")
    assert found["other"] == given_["other"]


@pytest.mark.parametrize("name", sorted(PRECISION))
def test_structures_keep_their_form(name: str) -> None:
    from diffusers.models.modeling_outputs import Transformer2DModelOutput

    x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3).T
    output = ({"a": [x, torch.arange(2)], "b": None}, Transformer2DModelOutput(sample=2 * x))
    found = _forecast(_kept(CacheStorage(name), output, output), 2.0, -1.0)
    assert flatten(found)[1] == flatten(output)[1]
    assert isinstance(found[1], Transformer2DModelOutput)
    torch.testing.assert_close(found[0]["a"][0], x, atol=2**-6, rtol=0)
    torch.testing.assert_close(found[1].sample, 2 * x, atol=2**-5, rtol=0)
    assert found[0]["a"][0].stride() == x.stride()
    assert torch.equal(found[0]["a"][1], torch.arange(2))


@pytest.mark.parametrize("inference", [False, True])
def test_what_is_packed_cannot_be_written_into(inference: bool) -> None:
    with torch.inference_mode(inference):
        v = torch.ones(4)
        cache = _kept(CacheStorage("bf16"), v)
        v.zero_()
        assert cache.get("call", [0]) is not None
        first = _forecast(cache, 1.0)
        assert torch.equal(first, torch.ones(4))
        first.zero_()
        assert torch.equal(_forecast(cache, 1.0), torch.ones(4))


def test_writes_into_what_is_left_as_it_is_are_noticed() -> None:
    """One wide tensor is packed; the narrow one beside it is the denoiser's own."""
    wide, narrow = torch.ones(4), torch.ones(4, dtype=torch.bfloat16)
    cache = _kept(CacheStorage("bf16"), (wide, narrow))
    wide.zero_()
    assert cache.get("call", [0]) is not None
    assert _forecast(cache, 1.0)[1] is not narrow
    narrow.zero_()
    assert cache.get("call", [0]) is None


def test_only_what_a_view_shows_is_kept() -> None:
    whole = torch.ones(100, 4)
    assert _kept(CacheStorage(), whole[:2]).held == (1600, 0)
    assert _kept(CacheStorage("bf16"), whole[:2]).held == (16, 0)


@pytest.mark.parametrize(("dtype", "size"), [(None, 4), ("bf16", 2)])
def test_on_the_host_nothing_is_left_on_the_device(dtype: str | None, size: int) -> None:
    """Tensors that say they are on a CUDA device and have no memory."""
    with FakeTensorMode():
        v = torch.empty(WIDTH, device="cuda")
        cache = _kept(
            CacheStorage(dtype, "cpu"), (v, torch.empty(2, dtype=torch.int64, device="cuda"))
        )
        assert cache.held == (0, WIDTH * size + 16)
        gone = weakref.ref(v)
        del v
        assert gone() is None
        found, count = _forecast(cache, 1.0)
        assert (found.device.type, found.dtype) == ("cuda", torch.float32)
        assert (count.device.type, count.dtype) == ("cuda", torch.int64)


def _fake_loop(branches: int) -> Loop:
    """Return runs of no arithmetic."""
    net = torch.nn.Tanh()

    def sample(num_steps: int) -> torch.Tensor:
        x = torch.empty(WIDTH, device="cuda")
        for _ in range(num_steps):
            for _ in range(branches):
                x = x + net(x)
        return x

    return Loop(sample, net, tiny.euler_grid(N), calls_per_step=branches)


@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("schedule", [REUSE, LINEAR], ids=["reuse", "linear"])
def test_the_report_distinguishes_device_and_host(schedule: Schedule, branches: int) -> None:
    loop, storage = _fake_loop(branches), CacheStorage("bf16", "cpu")
    with FakeTensorMode(), TorchExecutor().attach(loop, schedule, storage=storage) as run:
        assert loop(N).device.type == "cuda"
    memory = 1 if schedule is REUSE else 2
    assert run.report.skipped == dict.fromkeys(run.report.computed, len(SKIPPED))
    assert run.report.storage == storage
    assert run.report.peak_cached_bytes == run.report.cached_bytes == 0
    assert run.report.peak_cached_host_bytes == branches * memory * WIDTH * 2
    assert run.report.cached_host_bytes == 0
    assert run.report.to_dict()["storage"] == {"dtype": "bf16", "device": "cpu"}


@over_pairs
def test_everything_computed_is_bit_identical(
    executor: Callable[[], CacheExecutor], model: str
) -> None:
    case = tiny.CASES[model]()
    plain = case(N)
    for storage in STORAGES:
        with executor().attach(case.pipe, Schedule.full(N), storage=storage) as run:
            assert torch.equal(case(N), plain)
        assert run.report.peak_cached_bytes == 0
        assert run.report.warnings == []


@over_pairs
def test_computed_steps_return_what_the_denoiser_made(
    executor: Callable[[], CacheExecutor], model: str
) -> None:
    """The steps before the first skipped one, which nothing but rounding an output could change."""
    case = tiny.CASES[model]()
    seen: list[torch.Tensor] = []
    case.denoiser.register_forward_hook(lambda m, args, output: seen.append(output[0]))
    case(N)
    plain = seen[: 3 * len(case.branches)]
    seen.clear()
    with executor().attach(case.pipe, LINEAR, storage=CacheStorage("bf16", "cpu")):
        case(N)
    for one, other in zip(plain, seen, strict=False):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["bf16", "fp16"])
@over_pairs
def test_half_the_bits_are_half_the_bytes_and_nearly_the_same_run(
    executor: Callable[[], CacheExecutor], model: str, name: str
) -> None:
    case = tiny.CASES[model]()
    made: dict[str | None, torch.Tensor] = {}
    reports: dict[str | None, RunReport] = {}
    for dtype in (None, "fp32", name):
        how = CacheStorage(dtype)
        with executor().attach(case.pipe, LINEAR, storage=how) as run:
            made[dtype] = case(N)
        reports[dtype] = run.report
        assert run.report.skipped == dict.fromkeys(case.branches, len(SKIPPED))
        assert run.report.warnings == []
    assert torch.equal(made["fp32"], made[None])
    assert reports[name].peak_cached_bytes * 2 == reports[None].peak_cached_bytes
    assert reports["fp32"].peak_cached_bytes == reports[None].peak_cached_bytes
    off = (made[name] - made[None]).abs().max() / made[None].abs().max()
    assert 0 < off < 8 * 2.0 ** -PRECISION[name][0]


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_a_skipped_step_combines_the_rounded_outputs_of_its_own_branch(
    case: tiny.Case, name: str
) -> None:
    seen: list[torch.Tensor] = []
    case.denoiser.register_forward_hook(lambda m, args, output: seen.append(output[0]))
    with TorchExecutor().attach(case.pipe, LINEAR, storage=CacheStorage(name)):
        case(N)
    grid, width = case.pipe.scheduler.sigmas.double(), len(case.branches)
    for branch in range(width):
        v = [one.double() for one in seen[branch::width]]
        rounded = [one.to(DTYPES[name]).double() for one in v]
        a = float((grid[4] - grid[2]) / (grid[2] - grid[1]))
        wanted = (1 + a) * rounded[2] - a * rounded[1]
        torch.testing.assert_close(v[4], wanted, atol=1e-5, rtol=1e-5)
        assert not torch.equal(v[4], ((1 + a) * v[2] - a * v[1]))


def test_a_sampler_that_writes_into_outputs_is_accelerated_all_the_same() -> None:
    def loop(in_place: bool) -> Loop:
        net, grid = tiny.Velocity(), tiny.euler_grid(N)

        def sample(num_steps: int) -> torch.Tensor:
            x = tiny.noise(1, 8)
            for i in range(num_steps):
                v, h = net(x, grid[i]).detach(), grid[i + 1] - grid[i]
                x = x + (v.mul_(h) if in_place else v * h)
            return x

        return Loop(sample, net, grid)

    for schedule in (REUSE, LINEAR):
        made = []
        for in_place in (False, True):
            target = loop(in_place)
            with TorchExecutor().attach(target, schedule, storage=CacheStorage("bf16")) as run:
                made.append(target(N))
            assert run.report.skipped == {"call": len(SKIPPED)}
            assert run.report.warnings == []
        assert torch.equal(*made)


def test_inference_mode_gives_what_no_grad_gives(case: tiny.Case) -> None:
    with TorchExecutor().attach(case.pipe, LINEAR, storage=CacheStorage("bf16")):
        wanted = case(N)
        with torch.inference_mode():
            assert torch.equal(case(N), wanted)


def test_noise_regained_as_velocity_may_be_kept_in_half_the_bits() -> None:
    """With no signal in the first step, where epsilon is kept in float64 otherwise."""
    scheduler = DDIMScheduler(
        prediction_type="v_prediction",
        clip_sample=False,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    case = tiny.sdxl(scheduler)
    made, bytes_ = [], []
    schedule = Schedule(N, (0, 2, 4), "linear")
    for dtype in (None, "fp32", "fp16"):
        with TorchExecutor().attach(case.pipe, schedule, storage=CacheStorage(dtype)) as run:
            made.append(case(N))
        bytes_.append(run.report.peak_cached_bytes)
    full, single, half = made
    assert bytes_[0] > bytes_[1] == 2 * bytes_[2]
    assert (single - full).abs().max() < 1e-5 * full.abs().max()
    assert (half - full).abs().max() < 2.0**-5 * full.abs().max()


@pytest.mark.parametrize(("name", "reported"), [("bf16", False), ("fp16", True)])
def test_outputs_beyond_the_range_are_reported(name: str, reported: bool) -> None:
    net = torch.nn.Tanh()

    def sample(num_steps: int) -> torch.Tensor:
        x = torch.full((4,), 1e30)
        for _ in range(num_steps):
            x = x + net(x)
        return x

    net.forward = lambda x: 1e5 * torch.sign(x)  # type: ignore[method-assign]
    loop = Loop(sample, net, tiny.euler_grid(N))
    with TorchExecutor().attach(loop, REUSE, storage=CacheStorage(name)) as run:
        for _ in range(2):
            loop(N)
    assert any("beyond the range of fp16" in text for text in run.report.warnings) == reported
    assert len(run.report.warnings) == reported


def test_runs_that_break_off_let_go_of_what_is_packed() -> None:
    case = tiny.flux(cfg=True)

    def breaks(pipe: Any, step: int, timestep: Any, kwargs: Any) -> Any:
        if step == 3:
            raise KeyError
        return kwargs

    with TorchExecutor().attach(case.pipe, LINEAR, storage=CacheStorage("bf16", "cpu")) as run:
        wanted = case(N)
        with pytest.raises(KeyError):
            case(N, seed=1, callback_on_step_end=breaks)
        assert run.report.cached_bytes == 0
        assert torch.equal(case(N), wanted)
