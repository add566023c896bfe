"""What a scheduler's step is given and returns, and whether it repeats a step."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from numbers import Integral
from types import MethodType
from typing import Any, NamedTuple, final

from torch import Tensor

from otcache_diffusers.hooks.patches import unpatchable

#: The roles of a step's arguments in the order of every diffusers pipeline's call, by their usual names.
ROLES = {
    "model_output": "model_output noise_pred model_pred velocity output pred eps",
    "timestep": "timestep t time timesteps sigma",
    "sample": "sample latents latent x_t x",
}
_ROLE_OF = {name: role for role, names in ROLES.items() for name in names.split()}


class Seen(NamedTuple):
    """A step from x_t with v_t to x_{t+1}."""

    sample: Tensor
    model_output: Tensor
    following: Tensor


class Given(NamedTuple):
    """Copies of what a step was given, and the state itself, into which it may write."""

    sample: Tensor
    model_output: Tensor
    own: Tensor
    version: int


@final
class StepArguments:
    """Read the calls of a scheduler's step.

    By the names of arguments, if they are among the usual ones; else by their positions, which are the
    same for every scheduler that pipelines call: the output, the time and the state. So ``step`` may take
    ``*args`` or other names.

    Args:
        scheduler: the scheduler of the step.
    """

    def __init__(self, scheduler: Any) -> None:
        self._kind = type(scheduler).__name__
        self._names = _parameters(scheduler)

    def time(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return the time that a step is given; None if it cannot be read."""
        return self._roles(args, kwargs).get("timestep")

    def given(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Given | None:
        """Return what a step is given, before it is made; None if it cannot be read."""
        roles = self._roles(args, kwargs)
        sample, output = roles.get("sample"), roles.get("model_output")
        if not isinstance(sample, Tensor) or not isinstance(output, Tensor):
            return None
        return Given(sample.clone(), output.clone(), sample, version(sample))

    def seen(self, given: Given | None, result: Any) -> Seen | None:
        """Return the step that was made; None if what it was given or returned cannot be read."""
        following = None if given is None else _next_sample(result, given)
        return None if given is None or following is None else Seen(*given[:2], following)

    def unreadable(self, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> str:
        """Say why a step could not be seen, and what helps."""
        got = ", ".join([*(type(a).__name__ for a in args), *kwargs])
        return (
            f"{self._kind}.step must be given the denoiser's output, the time and the state, and return "
            f"the next state, got ({got}) and {type(result).__name__}: let it take model_output, timestep "
            "and sample, by these names or in this order, and return (next_sample,). It runs by a "
            "schedule or a policy as it is."
        )

    def _roles(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        places = [*self._names, *("" for _ in args)]  # "" takes whatever comes there
        named = {**{n: v for n, v in zip(places, args, strict=False) if n}, **kwargs}
        found = {_ROLE_OF[name]: v for name, v in named.items() if name in _ROLE_OF}
        for role, place, value in zip(ROLES, places, args, strict=False):
            if role not in found and place not in _ROLE_OF:
                found[role] = value
        return found


def _parameters(scheduler: Any) -> list[str]:
    """Return the positional names of the scheduler's own step, which a wrapper on the instance may hide."""
    own = None if unpatchable(scheduler, "step") else getattr(type(scheduler), "step", None)
    try:
        signature = inspect.signature(MethodType(own, scheduler) if own else scheduler.step)
    except (TypeError, ValueError):  # made elsewhere than in Python
        return []
    placed = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [name for name, p in signature.parameters.items() if p.kind in placed]


def _next_sample(result: Any, given: Given) -> Tensor | None:
    """Return x_{t+1} of what a step returned: by name, as the first of a row, or the only one that fits."""
    if result is None:  # written into the state
        return given.own if version(given.own) != given.version else None
    if isinstance(result, Tensor):
        return result
    named = result if isinstance(result, Mapping) else getattr(result, "__dict__", {})
    found = getattr(result, "prev_sample", named.get("prev_sample"))
    if found is None and isinstance(result, (list, tuple)) and result:
        found = result[0]
    if found is None:
        shape = given.sample.shape
        fits = [v for v in named.values() if isinstance(v, Tensor) and v.shape == shape]
        found = fits[0] if len(fits) == 1 else None
    return found if isinstance(found, Tensor) else None


class RepeatedSteps:
    """Notice that a scheduler is put back between its steps, as panorama pipelines do.

    They denoise one view after the other, and give the scheduler its earlier state for each. Seen
    by the scheduler's own ``step_index``, which only its steps move. If it has none, or its steps do
    not move it, by the very timestep object that came with the last step, if nothing wrote into it since:
    a loop over timesteps makes one for each step, or fills one buffer anew. Nothing here synchronizes.

    Args:
        scheduler: of the pipeline.
    """

    REASON = (
        "the pipeline makes several scheduler steps at one timestep, so positions cannot be counted: "
        "its run is computed in full."
    )

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self.begin()

    def begin(self) -> None:
        """Forget the run before: another was announced."""
        self._index: int | None = None
        self._before: int | None = None
        self._last: tuple[Any, int] = None, 0

    def stepping(self) -> None:
        """Look at the scheduler, which is about to make a step."""
        self._before = self._now

    def stepped(self, timestep: Any) -> bool:
        """Return whether the step that the scheduler made is the last one's again.

        Args:
            timestep: what it was given.
        """
        index = self._now
        index = None if index == self._before else index
        again = self._same(timestep) if index is None else index == self._index
        self._index = index
        self._last = timestep, version(timestep)
        return again

    @property
    def _now(self) -> int | None:
        """The scheduler's own index, if it is a number on the host."""
        try:
            index = getattr(self._scheduler, "step_index", None)
        except Exception:  # a property of an unknown scheduler may raise anything
            return None
        return int(index) if isinstance(index, Integral) else None

    def found(self, timestep: Any) -> bool:
        """Return whether the scheduler is elsewhere than its last step left it, or this is its time."""
        if self._index is not None:
            return self._now != self._index
        return self._same(timestep)

    def _same(self, timestep: Any) -> bool:
        last, writes = self._last
        return isinstance(timestep, Tensor) and timestep is last and version(timestep) == writes


def version(value: Any) -> int:
    """Return how often a tensor was written into, if torch counts that."""
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0
