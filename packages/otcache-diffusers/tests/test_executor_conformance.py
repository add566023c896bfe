"""The executor's conformance tests on real pipelines with one, two and fused branches."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import tiny
import torch
from diffusers import EulerDiscreteScheduler, FluxImg2ImgPipeline, HeunDiscreteScheduler
from torch.utils._python_dispatch import TorchDispatchMode

from otcache_core import ExecutionError, Schedule
from otcache_diffusers.execution.executor import TorchExecutor

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
N = 6
SCHEDULE = Schedule(N, (0, 1, 4))
LINEAR = Schedule(N, (0, 1, 4), "linear")
VARIABLE = Schedule(N, (0, 1, 4), "variable-order")
FLOW = Schedule(N, (0, 1, 4), "variable-order-flow")


@pytest.fixture(params=sorted(tiny.CASES))
def case(request: pytest.FixtureRequest) -> tiny.Case:
    return tiny.CASES[request.param]()


def _state(case: tiny.Case) -> tuple[Any, ...]:
    module, scheduler = case.denoiser, case.pipe.scheduler
    own = {k: id(v) for k, v in vars(module).items()}
    return own, str(inspect.signature(module.forward)), sorted(vars(scheduler))


class _Outputs:
    """What a module's callers get, call by call, computed or not."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.seen: list[Any] = []
        module.register_forward_hook(lambda m, args, output: self.seen.append(output[0]))


def test_everything_computed_is_bit_identical(case: tiny.Case) -> None:
    plain = case(N)
    with TorchExecutor().attach(case.pipe, Schedule.full(N)) as run:
        assert torch.equal(case(N), plain)
    assert run.report.computed == dict.fromkeys(case.branches, N)
    assert run.report.skipped == {}
    assert run.report.warnings == []


@pytest.mark.parametrize("schedule", [SCHEDULE, LINEAR], ids=["reuse", "linear"])
def test_calls_are_exactly_the_planned_ones(case: tiny.Case, schedule: Schedule) -> None:
    tiny.counted(case.denoiser)
    with TorchExecutor().attach(case.pipe, schedule) as run:
        assert torch.isfinite(case(N)).all()
    assert tiny.calls_of(case.denoiser) == 3 * len(case.branches)
    assert run.report.computed == dict.fromkeys(case.branches, 3)
    assert run.report.skipped == dict.fromkeys(case.branches, 3)
    assert run.report.warnings == []
    assert run.report.runs == 1
    assert run.report.seconds > 0


def test_nothing_remains_after_a_run(case: tiny.Case) -> None:
    plain = case(N)
    before = _state(case)
    with TorchExecutor().attach(case.pipe, SCHEDULE):
        assert str(inspect.signature(case.denoiser.forward)) == before[1]
        case(N)
    assert _state(case) == before
    assert torch.equal(case(N), plain)


def test_nothing_remains_where_there_was_nothing(case: tiny.Case) -> None:
    before = _state(case)
    with TorchExecutor().attach(case.pipe, SCHEDULE):
        case(N)
    module = case.denoiser
    assert {k: id(v) for k, v in vars(module).items()} == before[0]


@pytest.mark.parametrize("where", ["callback", "denoiser"])
def test_nothing_remains_after_an_exception_mid_run(case: tiny.Case, where: str) -> None:
    plain = case(N)
    before = _state(case)

    def breaks(*args: Any, **kwargs: Any) -> Any:
        raise KeyError("broken")

    call: dict[str, Any] = {"callback_on_step_end": breaks} if where == "callback" else {}
    if where == "denoiser":
        leaf = next(m for m in case.denoiser.modules() if isinstance(m, torch.nn.Linear))
        handle = leaf.register_forward_pre_hook(breaks)
    with pytest.raises(KeyError), TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        case(N, **call)
    if where == "denoiser":
        handle.remove()
    assert run.report.cached_bytes == 0
    assert _state(case) == before
    assert torch.equal(case(N), plain)


def test_a_broken_run_does_not_leak_into_the_next(case: tiny.Case) -> None:
    def breaks(pipe: Any, step: int, timestep: Any, kwargs: Any) -> Any:
        if step == 2:
            raise KeyError
        return kwargs

    with TorchExecutor().attach(case.pipe, SCHEDULE):
        wanted = case(N)
        with pytest.raises(KeyError):
            case(N, seed=1, callback_on_step_end=breaks)
        assert torch.equal(case(N), wanted)


def test_an_interrupted_run_does_not_leak_into_the_next(case: tiny.Case) -> None:
    def stops(pipe: Any, step: int, timestep: Any, kwargs: Any) -> Any:
        pipe._interrupt = step == 2
        return kwargs

    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        wanted = case(N)
        case(N, seed=1, callback_on_step_end=stops)
        assert torch.equal(case(N), wanted)
    assert run.report.runs == 2
    assert "a run broke off before its last step." in run.report.warnings


def test_another_instance_is_not_touched(case: tiny.Case) -> None:
    other = copy.deepcopy(case.pipe)
    plain = case(N)
    second = tiny.Case(other, case.call, case.branches)
    before = _state(second)
    with TorchExecutor().attach(case.pipe, SCHEDULE):
        case(N)
        assert _state(second)[1:] == before[1:]
        assert "forward" not in vars(second.denoiser)
        assert torch.equal(second(N), plain)


def test_a_reused_branch_gets_its_own_very_output(case: tiny.Case) -> None:
    outputs = _Outputs(case.denoiser)
    with TorchExecutor().attach(case.pipe, SCHEDULE):
        case(N)
    width = len(case.branches)
    steps = [outputs.seen[t * width : (t + 1) * width] for t in range(N)]
    for t, k in {2: 1, 3: 1, 5: 4}.items():
        for branch in range(width):
            assert steps[t][branch] is steps[k][branch]
    if width == 2:
        assert not torch.equal(*steps[1])


def test_linear_forecasts_combine_the_branch_s_own_outputs(case: tiny.Case) -> None:
    outputs = _Outputs(case.denoiser)
    with TorchExecutor().attach(case.pipe, LINEAR):
        case(N)
    grid = case.pipe.scheduler.sigmas.double()
    width = len(case.branches)
    v = [outputs.seen[t * width : (t + 1) * width] for t in range(N)]
    for branch in range(width):
        slope = (v[1][branch] - v[0][branch]).double() / (grid[1] - grid[0])
        wanted = v[1][branch] + slope * (grid[3] - grid[1])
        torch.testing.assert_close(v[3][branch].double(), wanted, atol=1e-4, rtol=1e-4)


class _NoSync(TorchDispatchMode):
    """Lists what a denoiser call does, and fails if it synchronizes."""

    SYNCS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero")
    WORK = ("mm", "convolution", "attention", "layer_norm", "group_norm")

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.calls: list[list[str]] = []
        self.inside = False
        module.register_forward_pre_hook(self._enter)
        module.register_forward_hook(self._leave)

    def _enter(self, module: Any, args: Any) -> None:
        self.calls.append([])
        self.inside = True

    def _leave(self, module: Any, args: Any, output: Any) -> None:
        self.inside = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.inside:
            name = func.overloadpacket.__name__
            device = (kwargs or {}).get("device")
            self.calls[-1].append("sync" if name in self.SYNCS or device is not None else name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("schedule", "limit"),
    [(SCHEDULE, 30), (LINEAR, 30), (VARIABLE, 35), (FLOW, 35)],
    ids=["reuse", "linear", "variable-order", "variable-order-flow"],
)
def test_a_skipped_step_neither_works_nor_asks_the_device(
    case: tiny.Case, schedule: Schedule, limit: int
) -> None:
    watch = _NoSync(case.denoiser)
    with TorchExecutor().attach(case.pipe, schedule), watch:
        case(N)
    width = len(case.branches)
    assert any(work in op for op in watch.calls[0] for work in _NoSync.WORK)
    for t in (2, 3, 5):
        for ops in watch.calls[t * width : (t + 1) * width]:
            assert "sync" not in ops
            assert not [op for op in ops if any(work in op for work in _NoSync.WORK)]
            assert len(ops) < limit


def test_a_velocity_is_regained_without_asking_the_device() -> None:
    case = tiny.sdxl(EulerDiscreteScheduler(prediction_type="v_prediction"))
    watch = _NoSync(case.denoiser)
    with TorchExecutor().attach(case.pipe, LINEAR), watch:
        case(N)
    for t in (2, 3, 5):
        assert "sync" not in watch.calls[t]
        assert not [op for op in watch.calls[t] if any(work in op for work in _NoSync.WORK)]
        assert len(watch.calls[t]) < 30


def test_runs_of_other_step_counts_and_batch_sizes(case: tiny.Case) -> None:
    plain = case(4)
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        first = case(N)
        assert torch.equal(case(4), plain)
        two = case(N, num_images_per_prompt=2)
        assert torch.equal(case(N), first)
    assert two.shape[0] == 2
    assert run.report.runs == 4
    assert run.report.skipped == dict.fromkeys(case.branches, 9)
    assert run.report.warnings == [
        "a run of 4 steps cannot follow a schedule of 6: it is computed in full."
    ]


def test_another_step_count_is_refused_under_strict(case: tiny.Case) -> None:
    with (
        pytest.raises(ExecutionError, match="a run of 4 steps cannot follow a schedule of 6"),
        TorchExecutor().attach(case.pipe, SCHEDULE, strict=True),
    ):
        case(4)


def test_no_more_than_the_outputs_needed_are_held() -> None:
    case = tiny.flux()
    outputs = _Outputs(case.denoiser)
    with TorchExecutor().attach(case.pipe, Schedule(N, (0, 1, 2, 3), "linear")) as run:
        case(N)
    one = outputs.seen[0].untyped_storage().nbytes()
    assert run.report.peak_cached_bytes == 2 * one
    assert run.report.cached_bytes == 0


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_strength_leaves_fewer_steps(strength: float) -> None:
    case = tiny.flux()
    pipe = FluxImg2ImgPipeline.from_pipe(case.pipe)
    call = {**case.call, "image": torch.rand(1, 3, 16, 16), "strength": strength}
    img2img = tiny.Case(pipe, call, ("cond",))
    pipe.set_progress_bar_config(disable=True)
    plain = img2img(N)
    with TorchExecutor().attach(pipe, SCHEDULE) as run:
        accelerated = img2img(N)
    assert torch.equal(accelerated, plain) == (strength < 1)
    assert bool(run.report.skipped) == (strength == 1)
    with TorchExecutor().attach(pipe, Schedule(3, (0, 1))) as run:
        img2img(N)
    assert run.report.skipped == ({"call": 1} if strength < 1 else {})


def test_duplicate_timesteps_are_positions_of_their_own() -> None:
    heun = HeunDiscreteScheduler(beta_start=0.00085, beta_end=0.012)
    case = tiny.sdxl(heun)
    plain = case(4)
    with TorchExecutor().attach(case.pipe, Schedule.full(7)) as run:
        assert torch.equal(case(4), plain)
    assert run.report.computed == {"call": 7}
    with TorchExecutor().attach(case.pipe, Schedule(7, (0, 1, 2, 3, 4))) as run:
        case(4)
    assert run.report.skipped == {"call": 2}


def test_a_copied_scheduler_is_a_plain_one() -> None:
    case = tiny.flux()
    with TorchExecutor().attach(case.pipe, SCHEDULE):
        copied = copy.deepcopy(case.pipe.scheduler)
        copied.set_timesteps(3)
        x = torch.ones(1, 2)
        copied.step(x, copied.timesteps[0], x)
        assert copied.step_index == 1
        assert case.pipe.scheduler.step_index is None
        assert case(N).isfinite().all()


def test_a_compiled_module_is_asked_outside_its_graph() -> None:
    case = tiny.flux()
    case.denoiser.compile(backend="eager")
    plain = case(N)
    before = _state(case)
    with TorchExecutor().attach(case.pipe, Schedule.full(N)):
        assert torch.equal(case(N), plain)
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        case(N)
    assert run.report.skipped == {"cond": 3}
    assert _state(case) == before


def test_a_module_wrapped_by_torch_compile_is_asked_outside_its_graph() -> None:
    case = tiny.flux()
    inner = case.pipe.transformer
    case.pipe.transformer = torch.compile(inner, backend="eager")
    plain = case(N)
    before = _state(case), sorted(vars(inner))
    with TorchExecutor().attach(case.pipe, Schedule.full(N)):
        assert torch.equal(case(N), plain)
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        case(N)
    assert run.report.skipped == {"cond": 3}
    assert (_state(case), sorted(vars(inner))) == before


def test_forward_taken_away_between_runs_is_taken_back() -> None:
    """Model offloading removes and renews its own wrapper of forward at the end of each call."""
    case = tiny.flux()
    module = case.denoiser
    plain = type(module).forward.__get__(module)
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        first = case(N)
        renewed = lambda *args, **kwargs: plain(*args, **kwargs)  # noqa: E731
        module.forward = renewed
        assert torch.equal(case(N), first)
        module.forward = renewed
    assert run.report.skipped == {"cond": 6}
    assert vars(module)["forward"] is renewed


def test_hooks_of_others_stay() -> None:
    from diffusers.hooks import HookRegistry, ModelHook

    class Counting(ModelHook):
        calls = 0

        def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return args, kwargs

    case = tiny.flux()
    early, late = Counting(), Counting()
    HookRegistry.check_if_exists_or_initialize(case.denoiser).register_hook(early, "early")
    plain = case(N)
    hooks = case.denoiser._diffusers_hook
    with TorchExecutor().attach(case.pipe, SCHEDULE):
        hooks.register_hook(late, "late")
        case(N)
    assert torch.equal(case(N), plain)
    assert (early.calls, late.calls) == (N + 3 + N, 3 + N)  # no hook runs on a skipped step
    for name in ("late", "early"):
        hooks.remove_hook(name)
    assert vars(case.denoiser)["forward"] == type(case.denoiser).forward.__get__(case.denoiser)
