"""When a run is over: whatever is called then is computed, and nothing is kept."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import tiny
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxImg2ImgPipeline, FluxPipeline
from families.stable_diffusion import xl, xl_img2img
from repeating import repeated

from otcache_core import Schedule
from otcache_core.contracts import SampleRequest
from otcache_diffusers.execution.executor import TorchExecutor
from otcache_diffusers.hooks.pipeline_call import NO_COLLECTION, under_way
from otcache_diffusers.hooks.scheduler_steps import ProgressBar
from otcache_diffusers.hooks.step_arguments import RepeatedSteps
from otcache_diffusers.recording.probe import TorchProbe

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
N = 6
SCHEDULE = Schedule(N, (0, 1, 4))
BROKEN = "a run broke off before its last step."
OUTSIDE = (
    "the denoiser was called outside a run of this target's own sampler (another pipeline or thread shares "
    "it, or it makes more calls than steps): such calls are computed in full."
)


def _interrupts(pipe: Any, step: int, timestep: Any, kwargs: Any) -> Any:
    pipe._interrupt = step == 1
    return kwargs


def _raises(pipe: Any, step: int, timestep: Any, kwargs: Any) -> Any:
    if step == 1:
        raise KeyError("broken")
    return kwargs


CUTS = {"interrupt": _interrupts, "exception": _raises}


@pytest.fixture(params=sorted(tiny.CASES))
def case(request: pytest.FixtureRequest) -> tiny.Case:
    return tiny.CASES[request.param]()


def _input(case: tiny.Case) -> Callable[[], torch.Tensor]:
    """Return a call of the denoiser with another state, in the context of the first branch."""
    seen: list[dict[str, Any]] = []

    def see(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(dict(zip(("sample", "timestep"), args, strict=False)) | kwargs)

    handle = case.denoiser.register_forward_pre_hook(see, with_kwargs=True)
    case(2)
    handle.remove()
    first = next(iter({"sample", "hidden_states"} & seen[0].keys()))
    given = seen[0] | {first: 3 * seen[0][first]}

    def call() -> torch.Tensor:
        with torch.no_grad():
            if not hasattr(case.denoiser, "cache_context"):
                return case.denoiser(**given)[0]
            with case.denoiser.cache_context(case.branches[0]):
                return case.denoiser(**given)[0]

    return call


def _cut(case: tiny.Case, cut: str) -> None:
    with suppress(KeyError):
        case(N, callback_on_step_end=CUTS[cut])


@pytest.mark.parametrize("cut", CUTS)
def test_what_is_called_after_a_run_that_broke_off_is_computed(case: tiny.Case, cut: str) -> None:
    call = _input(case)
    wanted = call()
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        _cut(case, cut)
        assert run.report.cached_bytes == 0
        assert torch.equal(call(), wanted)
        assert torch.equal(call(), wanted)
    assert run.report.computed == dict.fromkeys(case.branches, 2)
    assert (run.report.runs, run.report.warnings) == (0, [BROKEN, OUTSIDE])


@pytest.mark.parametrize("cut", [*CUTS, "none"])
def test_outputs_die_with_the_call(case: tiny.Case, cut: str) -> None:
    outputs: list[weakref.ref[torch.Tensor]] = []
    case.denoiser.register_forward_hook(
        lambda module, args, output: outputs.append(weakref.ref(output[0]))
    )
    with TorchExecutor().attach(case.pipe, Schedule(N, (0, 1, 4), "linear")):
        if cut == "none":
            case(N)
        else:
            _cut(case, cut)
        gc.collect()
        assert outputs
        assert not [seen for seen in outputs if seen() is not None]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("steps", [1, 2, N])
def test_a_twin_after_a_run_that_broke_off_is_computed(cut: str, steps: int) -> None:
    case = tiny.flux()
    parts = case.pipe.components | {"scheduler": FlowMatchEulerDiscreteScheduler()}
    twin = tiny.Case(FluxPipeline(**parts), case.call, case.branches)
    plain = twin(steps, seed=5)
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        _cut(case, cut)
        assert torch.equal(twin(steps, seed=5), plain)
    assert run.report.skipped == {}


def test_a_sibling_s_run_is_over_with_its_call_too() -> None:
    """Its progress bar is not watched; its call is looked for on the stack."""
    case = tiny.flux()
    pipe = FluxImg2ImgPipeline.from_pipe(case.pipe)
    more = {"image": torch.full((1, 3, 16, 16), 0.5), "strength": 1.0}
    sibling = tiny.Case(pipe, case.call | more, case.branches)
    call = _input(case)
    wanted = call()
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        whole = sibling(N)
        _cut(sibling, "exception")
        assert torch.equal(call(), wanted)
        assert run.report.cached_bytes == 0
        assert torch.equal(sibling(N), whole)
    assert run.report.runs == 2


def test_a_call_that_fails_before_its_first_step_leaves_no_run_behind() -> None:
    case = tiny.flux()
    call = _input(case)
    wanted = call()
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        whole = case(N)
        case.pipe._progress_bar_config = 3
        with pytest.raises(ValueError, match="_progress_bar_config"):
            case(N)
        case.pipe.set_progress_bar_config(disable=True)
        assert torch.equal(call(), wanted)
        assert run.report.computed == {"cond": 3}
        assert torch.equal(case(N), whole)
    assert run.report.runs == 2


def test_a_loop_of_one_s_own_is_no_pipeline_s_call() -> None:
    """Each step is made in a function of its own, as cells of a notebook are."""
    case = tiny.flux()
    call, scheduler = _input(case), case.pipe.scheduler
    wanted = call()
    scheduler_x = torch.ones(1, 2)

    def step(i: int) -> torch.Tensor:
        output = call()
        scheduler.step(scheduler_x, scheduler.timesteps[i], scheduler_x)
        return output

    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        scheduler.set_timesteps(N, mu=0.0)
        assert all(torch.equal(step(i), wanted) for i in range(N))
    assert (run.report.computed, run.report.skipped) == ({"cond": 3}, {"cond": 3})
    assert run.report.runs == 1


@pytest.mark.parametrize("where", ["here", "another thread"])
def test_a_handle_knows_whether_a_run_is_under_way(where: str) -> None:
    case = tiny.flux()
    seen: list[bool] = []

    def look() -> None:
        seen.append(run.running)

    def callback(pipe: Any, step: int, timestep: Any, kwargs: Any) -> Any:
        if where == "here":
            look()
        else:
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
        return kwargs

    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        assert not run.running
        case(N, callback_on_step_end=callback)
        assert not run.running
        _cut(case, "exception")
        assert not run.running
    assert seen == [True] * (N - 1) + [False]


# -- runs that are to end early -------------------------------------------------------------------


def test_denoising_end_completes_a_run_and_denoising_start_begins_one() -> None:
    base = tiny.Case(xl().pipe, xl().call, ("call",))
    base.pipe.set_progress_bar_config(disable=True)
    schedule = Schedule(8, (0, 1, 4))  # it makes 8 of 10 steps
    wanted = repeated(base, schedule, denoising_end=0.8, num_inference_steps=10)
    with TorchExecutor().attach(base.pipe, schedule) as run:
        assert torch.equal(base(10, denoising_end=0.8), wanted)
    assert (run.report.computed, run.report.skipped) == ({"call": 3}, {"call": 5})
    assert (run.report.runs, run.report.warnings) == (1, [])
    family = xl_img2img()
    call = {k: v for k, v in family.call.items() if k != "strength"} | {"denoising_start": 0.4}
    refiner = tiny.Case(family.pipe, call, ("call",))
    refiner.pipe.set_progress_bar_config(disable=True)
    with TorchExecutor().attach(refiner.pipe, SCHEDULE) as run:
        refiner(10)
    assert (run.report.runs, run.report.skipped) == (1, {"call": 3})


def test_an_interrupt_before_denoising_end_breaks_the_run_off() -> None:
    base = tiny.Case(xl().pipe, xl().call, ("call",))
    base.pipe.set_progress_bar_config(disable=True)
    with TorchExecutor().attach(base.pipe, Schedule(8, (0, 1, 4))) as run:
        base(10, denoising_end=0.8, callback_on_step_end=_interrupts)
    assert (run.report.runs, run.report.warnings) == (0, [BROKEN])


def test_a_part_of_a_run_is_recorded_as_a_run() -> None:
    case = tiny.sdxl()
    text = tiny.noise(1, 12, 64), -tiny.noise(1, 12, 64), tiny.noise(1, 32), -tiny.noise(1, 32)
    case.pipe.encode_prompt = lambda *args, **given: text
    call = {"height": 16, "width": 16, "denoising_end": 0.5}
    (run,) = TorchProbe().record(case.pipe, SampleRequest(("a",), (0,), 4, call))
    assert run.num_steps == 2


# -- what others put over ours ----------------------------------------------------------------------


@pytest.mark.parametrize(("owner", "name"), [("scheduler", "step"), ("pipe", "progress_bar")])
def test_a_wrapper_put_over_a_method_stays_and_ours_lets_through(owner: str, name: str) -> None:
    case = tiny.flux()
    plain = case(N)
    thing = case.pipe if owner == "pipe" else case.pipe.scheduler
    calls: list[int] = []
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        ours = getattr(thing, name)

        def theirs(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            return ours(*args, **kwargs)

        vars(thing)[name] = theirs
        case(N)
    assert vars(thing)[name] is theirs
    assert torch.equal(case(N), plain)
    assert len(calls) == 2 * (N if name == "step" else 1)
    assert (run.report.runs, run.report.skipped) == (1, {"cond": 3})
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        case(N)
    assert vars(thing)[name] is theirs
    assert run.report.skipped == {"cond": 3}


# -- the progress bar -------------------------------------------------------------------------------


class _Real:
    """A bar that writes down what it is asked."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def __enter__(self) -> _Real:
        return self

    def __exit__(self, *error: Any) -> None:
        self.done.append(error[0])

    def __iter__(self) -> Any:
        return iter([1, 2, 3])

    def __len__(self) -> int:
        return 3

    def update(self) -> None:
        self.done.append("update")


def test_a_bar_entered_reports_how_it_was_left() -> None:
    reported: list[bool] = []
    real = _Real()
    with ProgressBar(real, reported.append) as inner:
        inner.update()
    with suppress(KeyError), ProgressBar(real, reported.append):
        raise KeyError
    assert (reported, real.done) == ([True, False], ["update", None, KeyError])


def test_a_bar_iterated_over_reports_how_it_was_left() -> None:
    reported: list[bool] = []
    assert list(ProgressBar(_Real(), reported.append)) == [1, 2, 3]
    for n in ProgressBar(_Real(), reported.append):
        if n == 2:
            break
    with suppress(KeyError):
        for n in ProgressBar(_Real(), reported.append):
            raise KeyError(n)
    assert reported == [True, False, False]


def test_a_bar_let_go_of_reports_nothing() -> None:
    reported: list[bool] = []
    bar = ProgressBar(_Real(), reported.append)
    bar.update()
    assert len(bar) == 3
    del bar
    gc.collect()
    assert reported == []


def test_a_bar_left_late_does_not_end_another_thread_s_run() -> None:
    """The first run is over with its last step; its bar is left while the second is under way."""
    case = tiny.flux()
    last, begun, left = threading.Event(), threading.Event(), threading.Event()

    def first(pipe: Any, step: int, timestep: Any, kwargs: Any) -> Any:
        if step == N - 1:
            last.set()
            assert begun.wait(60)
        return kwargs

    def second(pipe: Any, step: int, timestep: Any, kwargs: Any) -> Any:
        if step == 0:
            begun.set()
            assert left.wait(60)
        return kwargs

    def serve() -> None:
        case(N, callback_on_step_end=first)
        left.set()

    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        thread = threading.Thread(target=serve)
        thread.start()
        assert last.wait(60)
        case(N, callback_on_step_end=second)
        thread.join()
    assert (run.report.runs, run.report.skipped, run.report.warnings) == (2, {"cond": 6}, [])


# -- calls of other shapes --------------------------------------------------------------------------


def _steps(pipe: Any, bar: Any, given: dict[str, Any]) -> Iterator[torch.Tensor]:
    """Return the latents of a small pipeline's own loop, after each step."""
    x = torch.randn(1, 64, 4, generator=torch.Generator().manual_seed(0))
    for t in bar:
        with torch.no_grad():
            v = _velocity(pipe, x, t, given)
        x = pipe.scheduler.step(v, t, x, return_dict=False)[0]
        yield x


def _velocity(pipe: Any, x: torch.Tensor, t: torch.Tensor, given: dict[str, Any]) -> torch.Tensor:
    """One call of the transformer."""
    return pipe.transformer(
        hidden_states=x,
        timestep=t.expand(1) / 1000,
        pooled_projections=given["pooled_prompt_embeds"],
        encoder_hidden_states=given["prompt_embeds"],
        txt_ids=torch.zeros(12, 3),
        img_ids=torch.zeros(64, 3),
        return_dict=False,
    )[0]


class Inner(FluxPipeline):  # type: ignore[misc]
    """Denoises over the timesteps that other code set."""

    def __call__(self, **given: Any) -> Any:
        return list(_steps(self, self.progress_bar(self.scheduler.timesteps), given))[-1:]


class Outer(Inner):
    """Sets them, and leaves the rest to its base."""

    def __call__(self, num_inference_steps: int = N, **given: Any) -> Any:
        self.scheduler.set_timesteps(num_inference_steps, mu=0.0)
        return super().__call__(**given)


class Staged(FluxPipeline):  # type: ignore[misc]
    """Sets them, and calls another pipeline over the same parts."""

    def __call__(self, num_inference_steps: int = N, **given: Any) -> Any:
        self.scheduler.set_timesteps(num_inference_steps, mu=0.0)
        return Inner(**self.components)(**given)


def _nameless(method: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    return wrapper


class Decorated(FluxPipeline):  # type: ignore[misc]
    """Has one wrapper, which does not show what it wraps, around two methods."""

    @_nameless
    def prepare(self, num_steps: int) -> None:
        self.scheduler.set_timesteps(num_steps, mu=0.0)

    @_nameless
    def __call__(self, num_inference_steps: int = N, **given: Any) -> Any:
        self.prepare(num_inference_steps)
        return list(_steps(self, self.progress_bar(self.scheduler.timesteps), given))[-1:]


class Stream(FluxPipeline):  # type: ignore[misc]
    """Yields after each step."""

    def __call__(self, num_inference_steps: int = N, **given: Any) -> Any:
        self.scheduler.set_timesteps(num_inference_steps, mu=0.0)
        with self.progress_bar(total=num_inference_steps):
            yield from _steps(self, self.scheduler.timesteps, given)


def _made(kind: type[FluxPipeline]) -> tiny.Case:
    case = tiny.flux()
    pipe = kind(**case.pipe.components)
    pipe.set_progress_bar_config(disable=True)
    return tiny.Case(pipe, case.call, ("call",))


@pytest.mark.parametrize("kind", [Outer, Staged, Decorated])
def test_one_call_may_set_the_timesteps_and_another_denoise(kind: type[FluxPipeline]) -> None:
    case = _made(kind)
    wanted = repeated(case, SCHEDULE)
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        assert torch.equal(case(N), wanted)
    assert (run.report.computed, run.report.skipped) == ({"call": 3}, {"call": 3})
    assert (run.report.runs, run.report.warnings) == (1, [])


def test_a_sibling_of_a_class_made_in_a_function_is_known_too() -> None:
    class Local(FluxPipeline):  # type: ignore[misc]
        def __call__(self, num_inference_steps: int = N, **given: Any) -> Any:
            self.scheduler.set_timesteps(num_inference_steps, mu=0.0)
            steps = _steps(self, self.progress_bar(self.scheduler.timesteps), given)
            next(steps), next(steps)
            raise KeyError("broken")

    case = tiny.flux()
    sibling = Local(**case.pipe.components)
    x, t = torch.ones(1, 64, 4), torch.tensor(500.0)
    with torch.no_grad():
        plain = _velocity(case.pipe, x, t, case.call)
        with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
            with suppress(KeyError):
                sibling(N, **case.call)
            assert torch.equal(_velocity(case.pipe, x, t, case.call), plain)
    assert run.report.skipped == {}


def test_a_call_that_yields_is_under_way_between_its_steps() -> None:
    case = _made(Stream)
    x, t = torch.ones(1, 64, 4), torch.tensor(500.0)
    with torch.no_grad():
        plain = _velocity(case.pipe, x, t, case.call)
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        for _ in case.pipe(N, **case.call):
            with torch.no_grad():
                assert torch.equal(_velocity(case.pipe, x, t, case.call), plain)
        assert (run.report.runs, run.report.skipped) == (1, {"call": 3})
        assert run.report.warnings == [OUTSIDE]
        stream = case.pipe(N, **case.call)
        next(stream)
        assert run.running
        stream.close()
        assert not run.running


class Plain(FluxPipeline):  # type: ignore[misc]
    """Yields after each step, and has no bar that shows the end."""

    def __call__(self, num_inference_steps: int = N, **given: Any) -> Any:
        self.scheduler.set_timesteps(num_inference_steps, mu=0.0)
        yield from _steps(self, self.scheduler.timesteps, given)


def test_a_call_that_yields_and_was_let_go_of_is_over_for_other_threads_too() -> None:
    """It was taken to go on for ever: runs of other threads were refused, and changes of a handle."""
    case = _made(Plain)

    def elsewhere() -> BaseException | None:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(lambda: list(case.pipe(N, **case.call))).exception()

    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        stream = case.pipe(N, **case.call)
        next(stream)
        assert run.running
        assert "one scheduler must serve one run" in str(elsewhere())
        del stream
        assert not run.running
        assert elsewhere() is None
    assert (run.report.runs, run.report.warnings) == (1, [BROKEN])


@pytest.mark.parametrize("watched", [True, False])
def test_a_call_that_fails_keeps_nothing_of_its_callers(watched: bool) -> None:
    case = tiny.flux()
    failing = case.pipe if watched else FluxPipeline.from_pipe(case.pipe)
    payloads: list[weakref.ref[torch.Tensor]] = []

    def caller() -> None:
        payload = torch.ones(3)
        payloads.append(weakref.ref(payload))
        with suppress(TypeError):
            failing(num_inference_steps=N, **case.call)

    with TorchExecutor().attach(case.pipe, SCHEDULE):
        failing.progress_bar = None  # fails after the timesteps were set
        caller()
        gc.collect()
        assert payloads[0]() is None


# -- one timestep for several steps -----------------------------------------------------------------


@pytest.mark.parametrize("index", [True, False])
def test_a_timestep_written_in_place_is_another_one(index: bool) -> None:
    class Scheduler:
        pass

    scheduler: Any = Scheduler()
    rewinds, buffer = RepeatedSteps(scheduler), torch.zeros(())
    for n in range(3):
        buffer.copy_(torch.tensor(float(3 - n)))
        assert not rewinds.found(buffer)
        if index:
            scheduler.step_index = n + 1
        assert not rewinds.stepped(buffer)
    if index:
        scheduler.step_index = 2
    assert rewinds.found(buffer)
    scheduler.step_index = 3 if index else None
    assert rewinds.stepped(buffer)


def test_a_loop_over_one_buffer_skips_steps() -> None:
    case = tiny.flux()
    scheduler, buffer, x = case.pipe.scheduler, torch.zeros(()), torch.ones(1, 64, 4)
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run, torch.no_grad():
        scheduler.set_timesteps(N, mu=0.0)
        for t in scheduler.timesteps.clone():
            buffer.copy_(t)
            v = _velocity(case.pipe, x, buffer, case.call)
            x = scheduler.step(v, buffer, x, return_dict=False)[0]
    assert (run.report.skipped, run.report.warnings) == ({"call": 3}, [])


# -- an entry that fails ----------------------------------------------------------------------------


class Barless(FluxPipeline):  # type: ignore[misc]
    """Its progress bar cannot be looked at."""

    @property
    def progress_bar(self) -> Any:
        raise RuntimeError("no bar")


def test_an_entry_that_fails_leaves_nothing_on_the_scheduler() -> None:
    pipe = Barless(**tiny.flux().pipe.components)
    before = dict(vars(pipe.scheduler))
    with pytest.raises(RuntimeError, match="no bar"), TorchExecutor().attach(pipe, SCHEDULE):
        pass
    assert vars(pipe.scheduler) == before


class Secretive(torch.nn.Linear):
    """It cannot be asked how to copy it."""

    @property
    def __reduce_ex__(self) -> Any:
        raise RuntimeError("not to be copied")


def test_an_entry_that_fails_leaves_nothing_on_the_denoiser() -> None:
    module = Secretive(2, 2)
    before = dict(vars(module))
    for _ in range(2):  # nor is it taken for one that is driven already
        with (
            pytest.raises(RuntimeError, match="not to be copied"),
            TorchExecutor().attach(module, SCHEDULE),
        ):
            pass
        assert vars(module) == before


@pytest.mark.parametrize("first_out", [0, 1])
def test_nothing_is_collected_while_any_thread_looks_at_stacks_of_others(first_out: int) -> None:
    """Before Python 3.12 that let the other thread go on, and a frame end that was being looked at."""
    looks = [ExitStack(), ExitStack()]
    for look in looks:
        look.enter_context(NO_COLLECTION)
        assert not gc.isenabled()
    looks[first_out].close()
    assert not gc.isenabled()
    looks[1 - first_out].close()
    assert gc.isenabled()


def test_whose_call_is_under_way_is_known_without_a_look_at_its_locals() -> None:
    """That copies them anew at each look, lets the last copies go, and so may end the very frame."""
    case, twin = tiny.flux(), tiny.flux()
    inside, over = threading.Event(), threading.Event()

    def wait(*_: Any) -> dict[str, Any]:
        inside.set()
        over.wait(60)
        return {}

    def run() -> None:
        case.pipe(**case.call, callback_on_step_end=wait)

    executor, thread = TorchExecutor(), threading.Thread(target=run)
    with executor.attach(case.pipe, SCHEDULE), executor.attach(twin.pipe, SCHEDULE):
        thread.start()
        inside.wait(60)
        assert thread.ident is not None
        held = sys.getrefcount(case.pipe)
        seen = [under_way(pipe, ()) for pipe in (case.pipe, twin.pipe)]
        seen.append(under_way(case.pipe, {thread.ident}))
        held -= sys.getrefcount(case.pipe)
        over.set()
        thread.join()
        seen.append(under_way(case.pipe, ()))
    assert (seen, held) == ([True, False, False, False], 0)
