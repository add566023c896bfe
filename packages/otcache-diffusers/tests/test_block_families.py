"""Block-stack caching on real pipelines: every family of transformers, and why U-Nets cannot."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FluxControlNetModel, FluxControlNetPipeline
from diffusers.hooks import HookRegistry, ModelHook
from families import FAMILIES, Case, N
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from otcache_core import Schedule
from otcache_core.errors import OtcacheNotice
from otcache_diffusers.execution.block_executor import BlockExecutor
from otcache_diffusers.hooks import tensors
from otcache_diffusers.recording.metering import TensorTracer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
SCHEDULE = Schedule(N, (0, 1, 4))
#: Skipped step and the computed one whose residuals it gets by reuse.
REUSED = {2: 1, 3: 1, 5: 4}
#: Bytes of scalars: times, flags.
SMALL = 512
NAMES = {family.name: family for family in FAMILIES}
#: Where the image goes into a block and comes out: argument, leaf of the output.
HIDDEN = ("hidden_states", 0)
SECOND = ("hidden_states", 1)


@dataclass(frozen=True)
class Deep:
    """A family with several blocks in each list, and its stacks: name of list to stream."""

    family: str
    config: dict[str, Any]
    stacks: dict[str, tuple[Any, int]]

    def build(self) -> Case:
        case = NAMES[self.family].build()
        torch.manual_seed(0)
        config = {**case.module.config, **self.config}  # type: ignore[arg-type]
        setattr(case.pipe, case.denoiser, type(case.module).from_config(config).eval())
        return case


_TWO = {"num_layers": 3, "num_single_layers": 2}
_FLUX = {"transformer_blocks": SECOND, "single_transformer_blocks": SECOND}
_ONE = {"transformer_blocks": (0, 0)}
_REFINED = {"context_refiner": (0, 0), "noise_refiner": (0, 0), "layers": (0, 0)}
DEEP = (
    Deep("Flux", _TWO, _FLUX),
    Deep("Flux, true CFG", _TWO, _FLUX),
    Deep("Flux.2", _TWO, {"transformer_blocks": SECOND, "single_transformer_blocks": HIDDEN}),
    Deep("Qwen-Image", {"num_layers": 3}, {"transformer_blocks": SECOND}),
    Deep("Qwen-Image Edit", {"num_layers": 3}, {"transformer_blocks": SECOND}),
    Deep("Z-Image", {"n_layers": 3}, _REFINED),
    Deep("Stable Diffusion 3", {"num_layers": 3}, {"transformer_blocks": SECOND}),
    Deep("DiT", {"num_layers": 3}, _ONE),
    Deep("PixArt-Sigma", {"num_layers": 3}, _ONE),
    Deep("HunyuanDiT", {}, {"blocks": (0, 0)}),
    Deep("Sana", {"num_layers": 3}, _ONE),
    Deep(
        "Chroma",
        {**_TWO, "approximator_layers": 2},
        {"transformer_blocks": SECOND, "single_transformer_blocks": HIDDEN},
    ),
    Deep("Lumina 2", {"num_layers": 3}, _REFINED),
    Deep("HiDream", {}, {"double_stream_blocks": HIDDEN, "single_stream_blocks": HIDDEN}),
    Deep(
        "AuraFlow",
        {"num_mmdit_layers": 2, "num_single_dit_layers": 2},
        {"joint_transformer_blocks": SECOND, "single_transformer_blocks": HIDDEN},
    ),
    Deep("CogView4", {"num_layers": 3}, _ONE),
)


@pytest.fixture(params=DEEP, ids=lambda deep: deep.family)
def deep(request: pytest.FixtureRequest) -> Deep:
    made: Deep = request.param
    if NAMES[made.family].reason:
        pytest.skip(NAMES[made.family].reason)
    return made


class Worked:
    """How often each block's own forward ran; wraps it as offloading would, on the instance."""

    def __init__(self, blocks: list[nn.Module], breaks_at: int | None = None) -> None:
        self.calls = [0] * len(blocks)
        self._breaks_at = breaks_at
        for n, block in enumerate(blocks):
            block.forward = self._counting(n, block.forward)

    def _counting(self, n: int, forward: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls[n] += 1
            if self.calls[n] == self._breaks_at:
                raise KeyError("broken")
            return forward(*args, **kwargs)

        return counted


class Ends:
    """What goes into the first and comes out of the last block of a list, computed or not."""

    def __init__(self, blocks: nn.ModuleList, stream: tuple[Any, int]) -> None:
        self._slot, self._leaf = stream
        self.went_in: list[torch.Tensor] = []
        self.came_out: list[torch.Tensor] = []
        blocks[0].register_forward_pre_hook(self._into, with_kwargs=True)
        blocks[-1].register_forward_hook(self._out)

    def _into(self, block: nn.Module, args: Any, kwargs: Any) -> None:
        value = args[self._slot] if isinstance(self._slot, int) else kwargs[self._slot]
        self.went_in.append(value.clone())

    def _out(self, block: nn.Module, args: Any, output: Any) -> None:
        value = output[self._leaf] if isinstance(output, tuple) else output
        self.came_out.append(value.clone())

    @property
    def residuals(self) -> list[torch.Tensor]:
        return [out - h for h, out in zip(self.went_in, self.came_out, strict=True)]


def _blocks(case: Case, deep: Deep) -> list[nn.Module]:
    return [block for name in deep.stacks for block in case.module.get_submodule(name).children()]


def _state(case: Case) -> list[dict[str, int]]:
    return [{k: id(v) for k, v in vars(module).items()} for module in case.module.modules()]


def test_identity_and_exact_counts(deep: Deep) -> None:
    case = deep.build()
    worked = Worked(_blocks(case, deep))
    plain, each = case(), N * len(case.branches)
    with BlockExecutor().attach(case.pipe, Schedule.full(N)) as run:
        assert torch.equal(case(), plain)
    assert run.report.computed == dict.fromkeys(case.branches, N)
    assert worked.calls == [2 * each] * len(worked.calls)
    for forecaster in ("reuse", "linear"):
        before = list(worked.calls)
        with BlockExecutor().attach(case.pipe, Schedule(N, (0, 1, 4), forecaster)) as run:
            assert torch.isfinite(case()).all()
        made = [now - then for now, then in zip(worked.calls, before, strict=True)]
        assert made == [each // 2] * len(made)
        assert run.report.computed == dict.fromkeys(case.branches, 3)
        assert run.report.skipped == dict.fromkeys(case.branches, 3)
        assert run.report.warnings == []


def test_restoration_after_a_run_and_after_an_exception(deep: Deep) -> None:
    case = deep.build()
    plain, before = case(), _state(case)
    with BlockExecutor().attach(case.pipe, SCHEDULE):
        assert not torch.equal(case(), plain)
    assert _state(case) == before
    assert torch.equal(case(), plain)
    Worked(_blocks(case, deep)[-1:], breaks_at=len(case.branches) + 1)
    before = _state(case)
    with pytest.raises(KeyError), BlockExecutor().attach(case.pipe, SCHEDULE) as run:
        case()
    assert run.report.cached_bytes == 0
    assert _state(case) == before


def test_a_branch_gets_its_own_residual_on_its_present_input(deep: Deep) -> None:
    case = deep.build()
    ends = [Ends(case.module.get_submodule(name), at) for name, at in deep.stacks.items()]
    with BlockExecutor().attach(case.pipe, SCHEDULE):
        case()
    width = len(case.branches)
    for end, branch in itertools.product(ends, range(width)):
        residuals = end.residuals[branch::width]
        assert len(residuals) == N
        for skipped, computed in REUSED.items():
            torch.testing.assert_close(
                residuals[skipped], residuals[computed], atol=1e-5, rtol=1e-4
            )
    if width == 2:
        assert not torch.allclose(*ends[-1].residuals[:2])


def test_a_linear_forecast_extrapolates_the_residual() -> None:
    deep = DEEP[1]
    case = deep.build()
    end = Ends(case.module.get_submodule("transformer_blocks"), SECOND)
    with BlockExecutor().attach(case.pipe, Schedule(N, (0, 1, 4), "linear")):
        case()
    s = case.pipe.scheduler.sigmas.double()
    for branch in (0, 1):
        r = [x.double() for x in end.residuals[branch::2]]
        wanted = r[1] + (r[1] - r[0]) * (s[3] - s[1]) / (s[1] - s[0])
        torch.testing.assert_close(r[3], wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::otcache_core.errors.OtcacheNotice")
@pytest.mark.parametrize("name", ["Stable Diffusion 1.5", "Stable Diffusion XL", "DeepFloyd IF"])
def test_a_u_net_is_computed_and_the_report_says_why(name: str) -> None:
    case = NAMES[name].build()
    plain = case()
    with BlockExecutor().attach(case.pipe, SCHEDULE) as run:
        assert torch.equal(case(), plain)
    assert run.report.skipped == {}
    assert "(down_blocks: what a block returns is also used by up_blocks" in run.report.warnings[0]


def test_a_u_net_s_computed_run_is_noticed() -> None:
    case = NAMES["Stable Diffusion 1.5"].build()
    with (
        pytest.warns(OtcacheNotice, match="no call was skipped although 3 steps were to be"),
        BlockExecutor().attach(case.pipe, SCHEDULE),
    ):
        case()


class _Operations(TorchDispatchMode):
    """The operations of each denoiser call."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.calls: list[list[str]] = []
        self._inside = False
        module.register_forward_pre_hook(lambda module, args: self._open(True))
        module.register_forward_hook(lambda module, args, output: self._open(False))

    def _open(self, inside: bool) -> None:
        self._inside = inside
        if inside:
            self.calls.append([])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._inside:
            self.calls[-1].append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("forecaster", ["reuse", "linear"])
@pytest.mark.parametrize("deep", [DEEP[1], DEEP[7]], ids=["flux", "dit"])
def test_a_skipped_step_asks_the_device_nothing_more(deep: Deep, forecaster: str) -> None:
    """Passing over adds no operation that waits for the device; attention does not run."""
    case = deep.build()
    width = len(case.branches)
    with _Operations(case.module) as plain:
        case()
    with (
        BlockExecutor().attach(case.pipe, Schedule(N, (0, 1, 4), forecaster)),
        _Operations(case.module) as seen,
    ):
        case()
    syncs = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "allclose")
    asked = [op for op in plain.calls[0] if op in syncs]
    for t in REUSED:
        for ops in seen.calls[t * width : (t + 1) * width]:
            assert [op for op in ops if op in syncs] == asked
            assert not [op for op in ops if "attention" in op]
            assert len(ops) < len(plain.calls[0]) / 2


@pytest.mark.parametrize("forecaster", ["reuse", "linear"])
def test_memory_is_the_counted_residuals_and_two_temporaries(forecaster: str) -> None:
    case = DEEP[1].build()
    case.call |= {"height": 64, "width": 64}
    with TensorTracer() as tracer:
        case()
    plain = tracer.peak
    schedule = Schedule(N, (0, 1, 2, 4), forecaster)
    with BlockExecutor().attach(case.pipe, schedule) as run, TensorTracer() as tracer:
        case()
    streams = (32 * 32 + 12) * 32 * 4  # image and text tokens, width, bytes
    held = 1 if forecaster == "reuse" else 2
    assert run.report.peak_cached_bytes == len(case.branches) * held * 2 * streams
    assert tracer.peak - plain <= run.report.peak_cached_bytes + 2 * streams + SMALL


def test_runs_of_other_sizes_do_not_mix() -> None:
    case = DEEP[0].build()
    with BlockExecutor().attach(case.pipe, SCHEDULE) as run:
        first = case()
        case.call["num_images_per_prompt"] = 2
        assert case().shape[0] == 2
        del case.call["num_images_per_prompt"]
        assert torch.equal(case(), first)
    assert run.report.skipped == {"cond": 9}


def test_half_precision_stays_near_single() -> None:
    case = DEEP[0].build()
    with BlockExecutor().attach(case.pipe, Schedule(N, (0, 1, 4), "linear")):
        wanted = case()
    case.pipe.to(torch.bfloat16)
    case.call |= {k: v.bfloat16() for k, v in case.call.items() if isinstance(v, torch.Tensor)}
    with BlockExecutor().attach(case.pipe, Schedule(N, (0, 1, 4), "linear")) as run:
        made = case()
    assert all(tensor.dtype == torch.bfloat16 for tensor in tensors(made))
    assert run.report.skipped == {"cond": 3}
    torch.testing.assert_close(made.float(), wanted, atol=0.1, rtol=0.05)


def test_blocks_compiled_one_by_one_make_no_more_graphs() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    case, counter = DEEP[0].build(), CompileCounter()
    case.module.compile_repeated_blocks(backend=counter, fullgraph=True)
    plain, graphs = case(), counter.frame_count
    with BlockExecutor().attach(case.pipe, Schedule.full(N)):
        assert torch.equal(case(), plain)
    with BlockExecutor().attach(case.pipe, SCHEDULE) as run:
        case()
    assert run.report.skipped == {"cond": 3}
    assert counter.frame_count == graphs
    assert not torch._dynamo.utils.counters["graph_break"]
    torch._dynamo.reset()


def test_blocks_that_fetch_the_next_one_s_weights_are_refused() -> None:
    """Group offloading with a stream needs a GPU; what it leaves on a block is all we look at."""
    case = DEEP[0].build()
    hook = ModelHook()
    hook.group = SimpleNamespace(stream=object())
    block = case.module.transformer_blocks[1]
    HookRegistry.check_if_exists_or_initialize(block).register_hook(hook, "group_offloading")
    assert "group offloading with use_stream=True" in BlockExecutor().supports(case.pipe)
    hook.group.stream = None
    assert BlockExecutor().supports(case.pipe) == ""


def _with_controlnet(deep: Deep) -> Case:
    case = deep.build()
    torch.manual_seed(1)
    net = FluxControlNetModel.from_transformer(
        case.module, num_layers=3, num_single_layers=2, attention_head_dim=16, num_attention_heads=2
    )
    for parameter in net.parameters():
        parameter.data.normal_(std=0.1)
    parts = {**case.pipe.components, "controlnet": net.eval()}
    parts = {name: part for name, part in parts.items() if "image_encoder" not in name}
    parts.pop("feature_extractor", None)
    call = {**case.call, "control_image": torch.rand(1, 3, 16, 16)}
    return Case(FluxControlNetPipeline(**parts), call, ("call",))


def test_a_controlnet_that_adds_between_the_blocks_is_part_of_the_residual() -> None:
    """It runs at every step: what it adds after the last block is of the present step."""
    case = _with_controlnet(DEEP[0])
    ends = [Ends(case.module.get_submodule(name), at) for name, at in _FLUX.items()]
    worked = Worked([*case.pipe.controlnet.transformer_blocks])
    plain = case()
    with BlockExecutor().attach(case.pipe, Schedule.full(N)):
        assert torch.equal(case(), plain)
    for end in ends:
        end.went_in.clear()
        end.came_out.clear()
    before = worked.calls[0]
    with BlockExecutor().attach(case.pipe, SCHEDULE) as run:
        assert not torch.equal(case(), plain)
    assert worked.calls[0] - before == N
    assert run.report.skipped == {"call": 3}
    assert run.report.auxiliary == {"controlnet": (N, 0)}
    assert run.report.warnings == ["controlnet ran on skipped steps, so the speedup is below N/B."]
    for end, (skipped, computed) in itertools.product(ends, REUSED.items()):
        wanted = end.residuals[computed]
        torch.testing.assert_close(end.residuals[skipped], wanted, atol=1e-5, rtol=1e-4)
