"""The state of a run between the hooks and a step hook."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from otcache_core.errors import ExecutionError
from otcache_core.notices import notify, once
from otcache_diffusers.hooks.arguments import ArgumentPlace, Arguments
from otcache_diffusers.hooks.auxiliary import AuxiliaryCalls
from otcache_diffusers.hooks.prediction import Place
from otcache_diffusers.hooks.sigmas import latest_time
from otcache_diffusers.hooks.step_hook import NoOp, RunInfo, StepHook
from otcache_diffusers.hooks.trees import apart

#: Makes the RunInfo of an announced run from the first call's arguments; None where the run was lost.
Announcement = Callable[[Arguments], RunInfo | None]

STILL = (
    "the pipeline's scheduler never made a step, as with one of its own for each frame (SkyReels V2's "
    "diffusion forcing): positions cannot be counted, and the run was computed in full."
)


class RunState:
    """One tracker for all denoisers of a target.

    A tracker announces runs and advances steps; denoisers ask for their output. A call that comes
    outside an announced run is computed, with one warning.

    Denoisers that take turns, as the two experts of Wan 2.2 do, share their branches: one schedule and
    one budget are over both. A skipped step of the second is forecast from outputs of the first until
    the second has computed some of its own; where nothing of its steps is computed it is never called.

    Args:
        policy: what is asked at each call.

    Attributes:
        scaled: what the scheduler made of the latent for this step's denoiser calls, where it was asked.
    """

    def __init__(self, policy: StepHook) -> None:
        self._policy: StepHook = policy
        self._announced: Announcement | None = None
        self._run: RunInfo | None = None
        self._branches = Branches()
        self._states: dict[tuple[str, str], ArgumentPlace | None] = {}
        self._auxiliary = AuxiliaryCalls()
        self._calling = threading.Lock()
        self._warned: set[str] = set()
        self._aloud: set[str] = set()
        self._given_up = False
        self._lost = ""
        self.times = TimeCheck()
        self.scaled: Tensor | None = None
        self.step = 0

    @property
    def running(self) -> bool:
        """Whether a run is under way."""
        return self._run is not None

    @property
    def expectant(self) -> bool:
        """Whether a run was announced and has not begun."""
        return self._announced is not None

    @property
    def watches(self) -> bool:
        """Whether the policy looks at the sampler's states."""
        return self._policy.watches

    @property
    def inside(self) -> bool:
        """Whether the policy works inside of denoiser calls."""
        return self._policy.apart

    @property
    def busy(self) -> bool:
        """Whether a denoiser call is being answered."""
        return self._calling.locked()

    def announce(self, announcement: Announcement) -> None:
        """The next denoiser call begins a run; a run still under way has broken off.

        Raises:
            ExecutionError: if a denoiser call is being answered: that run has not broken off.
        """
        if self.busy:
            raise ExecutionError(
                "one module must serve one run at a time, got another run during a call: load the "
                "pipeline twice."
            )
        self.finish(False)
        self._announced, self._lost = announcement, ""

    def call(
        self, denoiser: str, context: str, arguments: Arguments, compute: Callable[[], Any]
    ) -> Any:
        """The output of one denoiser call.

        Raises:
            ExecutionError: if a run makes two calls at once, or branches cannot be told apart.
        """
        if not (self.running or self.expectant):
            self.outside()
            return compute()
        if not self._calling.acquire(blocking=False):
            raise ExecutionError(
                "the denoiser calls of one run must come one after the other, got a concurrent call: "
                "make them in turn."
            )
        try:
            stream = denoiser if self._policy.apart else ""
            return self._answer((stream, context), arguments, compute)
        except BaseException:
            self.finish(False)
            raise
        finally:
            self._calling.release()

    def feed(self, network: str, arguments: Arguments, compute: Callable[[], Any]) -> Any:
        """The output of a network that feeds the denoiser, or a stand-in if that will not be called.

        A call outside a run is computed.
        """
        if not (self.running or self.expectant):
            return compute()
        return self._auxiliary.call(network, arguments, compute, self._idle)

    def _idle(self) -> bool:
        """Whether every branch of the step before will be forecast in this one."""
        counts = self._run and self._branches.trusted and not self._given_up
        branches = self._branches.latest if counts else ()
        return bool(branches) and all(self._policy.skips(self.step, b) for b in branches)

    def advance(self, seen: tuple[Tensor, Tensor, Tensor] | None = None) -> None:
        """The sampler made a step, from x_t with v_t to x_{t+1} where these were seen."""
        run = self._run
        if run is None:
            if self._announced is not None:
                self.warn("the sampler made a step without calling the denoiser.")
            return
        for name, use in self._auxiliary.close():
            self._policy.fed(name, use)
        self.scaled = None
        if self._given_up:
            return
        self._branches.close(self.step)
        if seen is not None and self.watches:
            sample, output, following = seen
            guided = run.space.guided(self.step, sample, output)
            self._policy.stepped(self.step, sample, guided, following)
        self.step += 1
        if self.step >= run.num_steps:
            self.finish(True)

    def give_up(self, reason: str) -> None:
        """The steps of the run under way cannot be told any more: compute the rest of it."""
        self._given_up = self.running
        self.warn(reason)

    def lose(self, reason: str) -> None:
        """Compute the run at hand, whose steps cannot be counted; no other reason is given.

        Raises:
            ExecutionError: if the policy needs to know them.
        """
        self.finish(False)
        self._lost = reason
        self._policy.lost(reason)

    def outside(self) -> None:
        """Take notice of a call that was computed and is none of a run's."""
        if self._lost:
            return
        self.warn(
            "the denoiser was called outside a run of this target's own sampler (another pipeline or "
            "thread shares it, or it makes more calls than steps): such calls are computed in full."
        )

    def finish(self, completed: bool) -> None:
        """End the run under way, if any, and forget one that was announced.

        Args:
            completed: it came to its last step, or its pipeline's call was to end before.
        """
        run, self._run, self._announced, self.scaled = self._run, None, None, None
        self._given_up = False
        self._auxiliary = AuxiliaryCalls()
        if run is None:
            return
        if completed and not self.step:
            self.warn(STILL)
        self._policy.end(completed)

    def retire(self) -> None:
        """Let the policy go: clocks and patches refer to one another, and would keep what it holds."""
        self._policy = NoOp()

    def _answer(
        self, source: tuple[str, str], arguments: Arguments, compute: Callable[[], Any]
    ) -> Any:
        run = None if self._announced is None else self._announced(arguments)
        if run is not None:
            self._begin(run)
        if self._run is None:
            self.outside()
            return compute()
        if self._given_up:
            return self._supplied(arguments, compute)
        self.times.see(self.step, arguments.timestep)
        group = Group(*source, self._shape(source, arguments))
        branch = self._branches.name(group, self.step)
        place = Place(self.step, branch, self.scaled, arguments.state)
        if lost := self._run.space.lost(place):
            lost = f"{lost} The rest of the run is computed."
            self.warn_aloud(lost)
            self.give_up(lost)
            return self._supplied(arguments, compute)
        supplied = partial(self._supplied, arguments, compute)
        output = self._decide(self._run, place, supplied)
        if source not in self._states:
            self._find_state(source, group, arguments, output)
        if self._run.space.reason:
            self.note(self._run.space.reason)
        return output

    def _shape(self, source: tuple[str, str], arguments: Arguments) -> tuple[int, ...]:
        """The state's shape, at the place where the first call had a tensor like its output."""
        place = self._states.get(source)
        shape = None if place is None else arguments.shape_at(place)
        return arguments.shape if shape is None else shape

    def _find_state(
        self, source: tuple[str, str], group: Group, arguments: Arguments, output: Any
    ) -> None:
        self._states[source] = arguments.state_like(output)
        self._branches.regroup(group, Group(*source, self._shape(source, arguments)))

    def _supplied(self, arguments: Arguments, compute: Callable[[], Any]) -> Any:
        self._auxiliary.supply(arguments, self.step)
        return compute()

    def _begin(self, run: RunInfo) -> None:
        self._announced, self._run, self.step = None, run, 0
        self._branches, self._states = Branches(), {}
        self._policy.begin(run)

    def _decide(self, run: RunInfo, place: Place, compute: Callable[[], Any]) -> Any:
        if self._branches.trusted:
            output = self._without_work(run, place, compute)
            if output is not None:
                self._branches.forecast()
                return output
        else:
            self.warn(
                "the number of denoiser calls per step changed and the pipeline does not name its "
                "branches: the rest of the run is computed."
            )
        output = self._policy.observe(self.step, place.branch, compute)
        seen = apart(output, place.state)
        self._policy.after(self.step, place.branch, run.space.enter(place, seen))
        return output

    def _without_work(self, run: RunInfo, place: Place, compute: Callable[[], Any]) -> Any | None:
        held = self._policy.before(self.step, place.branch)
        if held is not None:
            return run.space.leave(place, held, spare=not self._policy.keeps)
        return self._policy.shorten(self.step, place.branch, compute)

    def note(self, message: str) -> None:
        """Tell the policy what is done otherwise than is best, each message once."""
        if message not in self._warned:
            self._warned.add(message)
            self._policy.note(message)

    def warn_aloud(self, message: str, fact: str = "") -> None:
        """Tell the policy, and whoever runs the program, each message once.

        Args:
            message: what happened.
            fact: what it is about, if its numbers may differ from one time to the next.
        """
        with once(self._aloud):
            notify(message, fact=fact)
            self.warn(message, fact)

    def warn(self, message: str, fact: str = "") -> None:
        """Tell the policy, each message once, and of those about one fact the first."""
        if not self._warned & {message, fact or message}:
            self._warned |= {message, fact or message}
            self._policy.warn(message)


class Group(NamedTuple):
    """PipelineCalls that only their order within the step tells apart.

    Attributes:
        denoiser: its name in the pipeline where its calls are told apart from the main one's, else "".
        context: name the pipeline gave the call through ``cache_context``; "" for none.
        shape: shape of the state among the arguments, so that a batch that shrinks when guidance ends
            is never mixed with the one before.
    """

    denoiser: str
    context: str
    shape: tuple[int, ...]


class Branches:
    """Names the calls of one run and notices when their order cannot be trusted.

    A group that makes n calls in the first step it appears in must make n in every later step, or
    none. Where it does not, the n-th call may be another branch than before. If a forecast was
    handed out in that step an ExecutionError says so, since it may have been the wrong branch's;
    otherwise ``trusted`` is False from then on and the reason is returned once.
    """

    def __init__(self) -> None:
        self.trusted = True
        self._expected: dict[Group, int] = {}
        self._names: dict[Group, str] = {}
        self._counts: Counter[Group] = Counter()
        self._forecast = False
        #: Branches of the step before; empty in the first one.
        self.latest: tuple[str, ...] = ()

    def name(self, group: Group, step: int) -> str:
        """The branch of the next call; may flip ``trusted``."""
        n = self._counts[group]
        self._counts[group] += 1
        if n >= self._expected.get(group, n + 1):
            self._distrust(group, step)
        self._names.setdefault(group, self._base(group))
        return self._numbered(group, n)

    def regroup(self, group: Group, other: Group) -> None:
        """Count the first call of a run, whose output has shown which argument is the state."""
        if group != other and group in self._names:
            self._counts[other] += self._counts.pop(group)
            self._names.setdefault(other, self._names.pop(group))

    def forecast(self) -> None:
        """A forecast was handed out in this step."""
        self._forecast = True

    def close(self, step: int) -> None:
        """The step is over; may flip ``trusted``."""
        for group, n in self._counts.items():
            if n != self._expected.setdefault(group, n):
                self._distrust(group, step)
        counts = self._counts.items()
        self.latest = tuple(self._numbered(group, k) for group, n in counts for k in range(n))
        self._counts.clear()
        self._forecast = False

    def _numbered(self, group: Group, n: int) -> str:
        """The branch of a group's call number n, from 0 on."""
        return self._names[group] if n == 0 else f"{self._names[group]}#{n + 1}"

    def _base(self, group: Group) -> str:
        base = " ".join(part for part in (group.denoiser, group.context or "call") if part)
        if base not in self._names.values():
            return base
        return f"{base} {'x'.join(map(str, group.shape))}"

    def _distrust(self, group: Group, step: int) -> None:
        if self.trusted and self._forecast:
            raise ExecutionError(
                f"step {step}: the denoiser must be called {self._expected[group]} times, as "
                f"in the first step, got {self._counts[group]}: the pipeline does not name "
                "its branches, so a forecast may have gone to the wrong one. "
                "Keep guidance on for the whole run."
            )
        self.trusted = False


#: How pipelines hand t to the denoiser: t, t/1000 and 1 - t/1000.
_CONVENTIONS = torch.tensor([[1.0, 0.0], [1e-3, 0.0], [-1e-3, 1.0]])
#: bfloat16 keeps 8 bits.
_RTOL, _ATOL = 1e-2, 1e-4


class TimeCheck:
    """Compares the time argument with ``scheduler.timesteps`` on the device, into a flag read once.

    The convention is the one that fits at step 0; where none does, nothing is claimed.
    """

    def __init__(self) -> None:
        self._timesteps: torch.Tensor | None = None
        self._conventions = _CONVENTIONS
        self._first: torch.Tensor | None = None
        self._always: torch.Tensor | None = None
        self._bad: torch.Tensor | None = None

    def begin(self, timesteps: torch.Tensor | None) -> None:
        """Take the timesteps of a run that starts, t_0 first; None where they are not known."""
        self._collect()
        self._timesteps = None if timesteps is None else timesteps.float()

    def see(self, step: int, timestep: Any) -> None:
        """The denoiser is called at ``step`` with this time argument."""
        if self._timesteps is None or step >= len(self._timesteps):
            return
        latest = latest_time(timestep)
        if latest is None:
            return
        passed = latest.float()
        if self._timesteps.device != passed.device:
            self._timesteps = self._timesteps.to(passed.device)
        if self._conventions.device != passed.device:
            self._conventions = self._conventions.to(passed.device)
        scale, shift = self._conventions.unbind(1)
        wanted = scale * self._timesteps[step] + shift
        fits = ((passed - wanted).abs() <= _RTOL * wanted.abs() + _ATOL) | ~wanted.isfinite()
        if self._first is None or self._always is None:
            self._first = self._always = fits
        self._always = self._always & fits

    def failed(self) -> bool:
        """Read the flag: whether some run passed other times than its scheduler's. Syncs."""
        self._collect()
        return self._bad is not None and bool(self._bad)

    def _collect(self) -> None:
        """Fold the run's flag into one for all runs: a handle may see millions of them."""
        if self._first is not None and self._always is not None:
            bad = self._first.any() & ~self._always.any()
            self._bad = bad if self._bad is None else bad | self._bad.to(bad.device)
        self._first = self._always = None
