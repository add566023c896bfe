"""What is copied or pickled inside the context is plain, and belongs to no run."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.hooks import HookRegistry, ModelHook

from otcache_core import Schedule
from otcache_diffusers.execution.executor import TorchExecutor

N = 6
SCHEDULE = Schedule(N, (0, 1, 4))
DEEP: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
}
WAYS = DEEP | {"copy": copy.copy}


def _parts(case: tiny.Case) -> dict[str, Any]:
    return {"pipe": case.pipe, "denoiser": case.denoiser, "scheduler": case.pipe.scheduler}


def _case(name: str) -> tiny.Case:
    """With all that a plain run leaves on the objects."""
    case = tiny.CASES[name]()
    case(N)
    return case


def _input(case: tiny.Case) -> dict[str, Any]:
    """Return the arguments of one call of the denoiser."""
    seen: list[dict[str, Any]] = []

    def see(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        names = ("sample", "timestep")
        seen.append(dict(zip(names, args, strict=False)) | kwargs)

    handle = case.denoiser.register_forward_pre_hook(see, with_kwargs=True)
    case(2)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("when", ["inside", "after"])
@pytest.mark.parametrize("part", ["pipe", "denoiser", "scheduler"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["flux-cfg", "sdxl"])
def test_a_copy_has_what_a_copy_of_the_plain_object_has(
    name: str, way: str, part: str, when: str
) -> None:
    case = _case(name)
    wanted = vars(WAYS[way](_parts(case)[part])).keys()
    with TorchExecutor().attach(case.pipe, SCHEDULE):
        case(N)
        inside = WAYS[way](_parts(case)[part])
    made = inside if when == "inside" else WAYS[way](_parts(case)[part])
    assert vars(made).keys() - {"_diffusers_hook"} == wanted - {"_diffusers_hook"}
    assert not getattr(vars(made).get("_diffusers_hook"), "hooks", {})


@pytest.mark.parametrize("way", DEEP)
@pytest.mark.parametrize("name", ["flux-cfg", "sdxl"])
def test_a_copied_denoiser_computes_with_its_own_weights(name: str, way: str) -> None:
    case = _case(name)
    given = _input(case)
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run, torch.no_grad():
        case(N)
        report = copy.deepcopy(run.report)
        made = DEEP[way](case.denoiser)
        for parameter in made.parameters():
            parameter.zero_()
        inside = made(**given)[0]
        assert run.report == report
    assert not inside.any()
    assert not made(**given)[0].any()
    assert case.denoiser(**given)[0].any()


def test_a_shallow_copy_of_a_denoiser_computes_too() -> None:
    case = _case("flux")
    given = _input(case)
    with torch.no_grad():
        wanted = case.denoiser(**given)[0]
        with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
            made = copy.copy(case.denoiser)
            assert torch.equal(made(**given)[0], wanted)
            assert run.report.warnings == []
    assert made.x_embedder.weight is case.denoiser.x_embedder.weight


@pytest.mark.parametrize("way", DEEP)
@pytest.mark.parametrize("when", ["inside", "after"])
def test_a_copied_pipeline_runs_plainly_and_can_be_accelerated(way: str, when: str) -> None:
    case = _case("flux")
    plain = case(N)
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        accelerated = case(N)
        other = tiny.Case(DEEP[way](case.pipe), case.call, case.branches)
        other.pipe.set_progress_bar_config(disable=True)
        if when == "inside":
            assert torch.equal(other(N), plain)
            assert (run.report.runs, run.report.warnings) == (1, [])
    assert torch.equal(other(N), plain)
    with TorchExecutor().attach(other.pipe, SCHEDULE):
        assert torch.equal(other(N), accelerated)
    assert not torch.equal(accelerated, plain)


@pytest.mark.parametrize("way", WAYS)
def test_a_copied_scheduler_counts_its_own_steps(way: str) -> None:
    case = _case("flux")
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        made = WAYS[way](case.pipe.scheduler)
        made.set_timesteps(5, mu=0.0)
        assert (len(made.timesteps), len(case.pipe.scheduler.timesteps)) == (5, N)
        case(N)
        x = torch.ones(1, 2)
        made.step(x, made.timesteps[0], x)
        assert made.step_index == 1
    assert (run.report.runs, run.report.warnings) == (1, [])
    made.set_timesteps(3, mu=0.0)
    assert (len(made.timesteps), len(case.pipe.scheduler.timesteps)) == (3, N)


class Slots(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Its state is a ``__dict__`` and its slots."""

    __slots__ = ("extra",)

    def __init__(self, extra: int = 1) -> None:
        super().__init__()
        self.extra = extra


class Deep(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Copies its ``__dict__`` itself."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made = type(self).__new__(type(self))
        for name, value in vars(self).items():
            vars(made)[name] = copy.deepcopy(value, memo)
        return made


class Nested(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Has its ``__dict__`` inside its state."""

    def __getstate__(self) -> dict[str, Any]:
        return {"inner": dict(vars(self))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state["inner"])


class Reduced(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Says itself what makes it again."""

    def __reduce__(self) -> Any:
        return _again, (dict(vars(self)),)


def _again(state: dict[str, Any]) -> Reduced:
    made = Reduced.__new__(Reduced)
    vars(made).update(state)
    return made


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [Slots, Deep, Nested, Reduced])
def test_a_scheduler_with_its_own_way_of_being_copied_is_copied_plainly(
    kind: Callable[[], Any], way: str
) -> None:
    case = tiny.flux(scheduler=kind())
    scheduler = case.pipe.scheduler
    case(N)
    before = set(vars(scheduler))
    with TorchExecutor().attach(case.pipe, SCHEDULE) as run:
        for made in (WAYS[way](scheduler), WAYS[way](WAYS[way](scheduler))):
            assert vars(made).keys() == before
            made.set_timesteps(9, mu=0.0)
            assert (len(made.timesteps), len(scheduler.timesteps)) == (9, N)
        case(N)
    assert (run.report.runs, run.report.skipped) == (1, {"cond": 3})
    assert vars(scheduler).keys() == before
    assert getattr(made, "extra", 1) == 1


def test_methods_in_a_shared_dict_are_those_of_the_deep_copy() -> None:
    """A state that holds the very ``__dict__`` cannot be stripped."""

    class Aliased(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
        def __getstate__(self) -> dict[str, Any]:
            return {"inner": vars(self)}

        def __setstate__(self, state: dict[str, Any]) -> None:
            vars(self).update(state["inner"])

    case = tiny.flux(scheduler=Aliased())
    case(N)
    with TorchExecutor().attach(case.pipe, SCHEDULE):
        made = copy.deepcopy(case.pipe.scheduler)
        for each in (made, copy.deepcopy(made)):
            each.set_timesteps(9, mu=0.0)
            assert (len(each.timesteps), len(case.pipe.scheduler.timesteps)) == (9, N)


@pytest.mark.parametrize("way", DEEP)
def test_a_copy_of_what_torch_compile_wraps_is_plain(way: str) -> None:
    case = _case("flux")
    inner = case.pipe.transformer
    case.pipe.transformer = torch.compile(inner, backend="eager")
    with TorchExecutor().attach(case.pipe, SCHEDULE):
        made = DEEP[way](inner)
    assert not vars(made).keys() & {"forward", "cache_context", "__reduce_ex__"}


def test_a_copy_with_hooks_of_others_can_be_accelerated_itself() -> None:
    case = _case("flux")
    HookRegistry.check_if_exists_or_initialize(case.denoiser).register_hook(ModelHook(), "theirs")
    with TorchExecutor().attach(case.pipe, SCHEDULE):
        wanted = case(N)
        other = tiny.Case(copy.deepcopy(case.pipe), case.call, case.branches)
    with TorchExecutor().attach(other.pipe, SCHEDULE) as run:
        assert torch.equal(other(N), wanted)
    assert run.report.skipped == {"cond": 3}


def test_a_state_of_the_object_s_own_is_asked_for() -> None:
    case = _case("flux")
    scheduler = case.pipe.scheduler
    scheduler.__getstate__ = lambda: vars(scheduler) | {"theirs": 1}  # type: ignore[method-assign]
    before = dict(vars(scheduler))
    with TorchExecutor().attach(case.pipe, SCHEDULE):
        made = copy.copy(scheduler)
    assert vars(made) == before | {"theirs": 1}
    assert vars(scheduler) == before
