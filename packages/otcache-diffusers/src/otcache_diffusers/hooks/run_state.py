"""The state of a run between what observes a target and the step hook that decides.

A step tracker announces runs to the :class:`RunState` and advances its steps; denoiser calls get their
output from it. :class:`Branches` names the calls of a step, :class:`TimeCheck` compares their times.
"""

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
from otcache_diffusers.hooks.sigmas import CONVENTIONS, latest_time
from otcache_diffusers.hooks.step_hook import DenoiserCall, NoOp, RunInfo, Severity, StepHook

#: Makes the RunInfo of an announced run from the first call's arguments; None if its steps are unknown.
Announcement = Callable[[Arguments], RunInfo | None]

NO_STEPS = (
    "the pipeline's scheduler never made a step, as with one of its own for each frame (SkyReels V2's "
    "diffusion forcing): positions cannot be counted, and the run was computed in full."
)


class RunState:
    """Count the steps of one run for all denoisers of a target, and let a step hook decide at each call.

    A call outside an announced run is computed, with one warning.

    Denoisers that take turns, as the two experts of Wan 2.2 do, share their branches: one schedule and
    one budget are over both. A skipped step of the second is forecast from outputs of the first until
    the second has computed some of its own; if none of its steps are computed it is never called.

    Args:
        hook: decides at each call.
        auxiliary_calls: takes the calls (made, skipped) of each auxiliary network.

    Attributes:
        watches: whether the hook looks at the sampler's states.
        inside: whether the hook works inside of denoiser calls.
        scaled: what the scheduler made of the latent for this step's denoiser calls, if it was called.
        step: position in the run under way.
        times: compares the calls' times with the scheduler's.
    """

    def __init__(
        self, hook: StepHook, auxiliary_calls: dict[str, tuple[int, int]] | None = None
    ) -> None:
        self._hook: StepHook = hook
        self.watches, self.inside = hook.watches, hook.inside
        self._auxiliary_calls = {} if auxiliary_calls is None else auxiliary_calls
        self._announced: Announcement | None = None
        self._run: RunInfo | None = None
        self._branches = Branches()
        self._states: dict[tuple[str, str], ArgumentPlace | None] = {}
        self._auxiliary, self._fed = AuxiliaryCalls(self._auxiliary_calls), False
        self._calling = threading.Lock()
        self._warned: set[str] = set()
        self._aloud: set[str] = set()
        self._given_up = False
        self._uncounted = ""
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
    def busy(self) -> bool:
        """Whether a denoiser call is under way."""
        return self._calling.locked()

    def announce(self, announcement: Announcement) -> None:
        """Let the next denoiser call begin a run; a run still under way has broken off.

        Raises:
            ExecutionError: if a denoiser call is under way: that run has not broken off.
        """
        if self.busy:
            raise ExecutionError(
                "one module must serve one run at a time, got another run during a call: load the "
                "pipeline twice."
            )
        self.finish(False)
        self._announced, self._uncounted = announcement, ""

    def call(
        self, denoiser: str, context: str, arguments: Arguments, compute: Callable[[], Any]
    ) -> Any:
        """Return the output of one denoiser call.

        Raises:
            ExecutionError: if a run makes two calls at once, or branches cannot be distinguished.
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
            stream = denoiser if self._hook.inside else ""
            return self._answer((stream, context), arguments, compute)
        except BaseException:
            self.finish(False)
            raise
        finally:
            self._calling.release()

    def feed(self, network: str, arguments: Arguments, compute: Callable[[], Any]) -> Any:
        """Return the output of an auxiliary network, or a placeholder if no denoiser will be called.

        A call outside a run is computed.
        """
        if not (self.running or self.expectant):
            return compute()
        self._fed = True
        return self._auxiliary.call(network, arguments, compute, self._idle)

    def _idle(self) -> bool:
        """Return whether every branch of the step before will be forecast in this one."""
        counts = self._run and self._branches.trusted and not self._given_up
        branches = self._branches.latest if counts else ()
        return bool(branches) and all(self._hook.skips(self.step, b) for b in branches)

    def advance(self, seen: tuple[Tensor, Tensor, Tensor] | None = None) -> None:
        """Note that the sampler made a step, from x_t with v_t to x_{t+1} if these were seen."""
        run = self._run
        if run is None:
            if self._announced is not None:
                self.warn("the sampler made a step without calling the denoiser.")
            return
        if self._fed:
            self._end_auxiliary()
        self.scaled = None
        if self._given_up:
            return
        self._branches.close(self.step)
        if seen is not None and self.watches:
            sample, output, following = seen
            guided = run.space.guided(self.step, sample, output)
            self._hook.stepped(self.step, sample, guided, following)
        self.step += 1
        if self.step >= run.num_steps:
            self.finish(True)

    def _end_auxiliary(self) -> None:
        shortened = self.inside and self._branches.forecast
        for name in self._auxiliary.close(self.step, shortened):
            self.note(f"{name} ran on skipped steps, so the speedup is below N/B.")

    def give_up(self, reason: str) -> None:
        """Compute the rest of the run under way, whose steps can no longer be counted."""
        self._given_up = self.running
        self.warn(reason)

    def uncounted(self, reason: str) -> None:
        """Compute the run at hand, whose steps cannot be counted; no other reason is given.

        Raises:
            ExecutionError: if the hook needs to know them.
        """
        self.finish(False)
        self._uncounted = reason
        self._hook.report(reason, Severity.UNCOUNTED)

    def outside(self) -> None:
        """Note a call that was computed and belongs to no run."""
        if not self._uncounted:
            self.warn(
                "the denoiser was called outside a run of this target's own sampler (another pipeline "
                "or thread shares it, or it makes more calls than steps): such calls are computed in "
                "full."
            )

    def finish(self, completed: bool) -> None:
        """End the run under way, if any, and forget one that was announced.

        Args:
            completed: it came to its last step, or its pipeline's call was to end before.
        """
        run, self._run, self._announced, self.scaled = self._run, None, None, None
        self._given_up = False
        self._auxiliary, self._fed = AuxiliaryCalls(self._auxiliary_calls), False
        if run is None:
            return
        if completed and not self.step:
            self.warn(NO_STEPS)
        self._hook.end(completed)

    def retire(self) -> None:
        """Release the hook: trackers and patches refer to one another, and would keep what it holds."""
        self._hook = NoOp()
        self.watches = self.inside = False

    def _answer(
        self, source: tuple[str, str], arguments: Arguments, compute: Callable[[], Any]
    ) -> Any:
        run = None if self._announced is None else self._announced(arguments)
        if run is not None:
            self._announced, self._run, self.step = None, run, 0
            self._branches, self._states = Branches(), {}
            self._hook.begin(run)
        if self._run is None:
            self.outside()
            return compute()
        if self._given_up:
            return self._supplied(arguments, compute)
        if self.times.known:
            self.times.see(self.step, arguments.timestep)
        group = Group(*source, self._shape(source, arguments))
        call = DenoiserCall(
            self.step,
            self._branches.name(group, self.step),
            partial(self._supplied, arguments, compute),
            arguments,
            self.scaled,
            self._run.space,
        )
        if self._run.space.converts and (problem := call.problem):
            problem = f"{problem} The rest of the run is computed."
            self.warn_aloud(problem)
            self.give_up(problem)
            return call.compute()
        output = self._decide(call)
        if source not in self._states:
            self._states[source] = arguments.state_like(output)
            self._branches.regroup(group, Group(*source, self._shape(source, arguments)))
        if self._run.space.reason:
            self.note(self._run.space.reason)
        return output

    def _shape(self, source: tuple[str, str], arguments: Arguments) -> tuple[int, ...]:
        """Return the shape of the state: of the argument that was like the first call's output."""
        place = self._states.get(source)
        shape = None if place is None else arguments.shape_at(place)
        return arguments.shape if shape is None else shape

    def _supplied(self, arguments: Arguments, compute: Callable[[], Any]) -> Any:
        self._auxiliary.supply(arguments, self.step)
        return compute()

    def _decide(self, call: DenoiserCall) -> Any:
        if self._branches.trusted:
            output = self._hook.forecast(call)
            if output is not None:
                self._branches.forecast = True
                return output
        else:
            self.warn(
                "the number of denoiser calls per step changed and the pipeline does not name its "
                "branches: the rest of the run is computed."
            )
        return self._hook.compute(call)

    def note(self, message: str) -> None:
        """Pass on what is done in another way than is best, each message once."""
        if message not in self._warned:
            self._warned.add(message)
            self._hook.report(message, Severity.NOTE)

    def warn_aloud(self, message: str, key: str = "") -> None:
        """Warn the hook and the user, each message once.

        Args:
            message: what happened.
            key: what it is about, if its numbers may differ from one time to the next.
        """
        with once(self._aloud):
            notify(message, key=key)
            self.warn(message, key)

    def warn(self, message: str, key: str = "") -> None:
        """Warn the hook, once per message, and of those about one key with the first."""
        if not self._warned & {message, key or message}:
            self._warned |= {message, key or message}
            self._hook.report(message, Severity.WARNING)


class Group(NamedTuple):
    """Calls that are distinguished only by their order within the step.

    Attributes:
        denoiser: its name in the pipeline if its calls are distinguished from the main one's, else "".
        context: name the pipeline gave the call through ``cache_context``; "" for none.
        shape: shape of the state among the arguments, so that a batch that shrinks when guidance ends
            is never mixed with the one before.
    """

    denoiser: str
    context: str
    shape: tuple[int, ...]


class Branches:
    """Name the calls of one run and notice when their order cannot be trusted.

    A group that makes n calls in the first step it appears in must make n in every later step, or
    none. If it does not, the n-th call may be another branch than before: if a forecast was returned in
    that step it may have been the wrong branch's, an error; else ``trusted`` is False from then on.

    Attributes:
        trusted: whether the order of calls distinguishes branches.
        forecast: whether a forecast was returned in this step.
    """

    def __init__(self) -> None:
        self.trusted, self.forecast = True, False
        self._latest: Counter[Group] = Counter()
        self._expected: dict[Group, int] = {}
        self._names: dict[Group, str] = {}
        self._counts: Counter[Group] = Counter()

    def name(self, group: Group, step: int) -> str:
        """Return the branch of the next call; may set ``trusted`` to False."""
        n = self._counts[group]
        self._counts[group] = n + 1
        if n >= self._expected.get(group, n + 1):
            self._distrust(group, step)
        if group not in self._names:
            self._names[group] = self._base(group)
        return self._names[group] if n == 0 else self._numbered(group, n)

    def regroup(self, group: Group, other: Group) -> None:
        """Count the first call of a run, whose output has shown which argument is the state."""
        if group != other and group in self._names:
            self._counts[other] += self._counts.pop(group)
            self._names.setdefault(other, self._names.pop(group))

    def close(self, step: int) -> None:
        """End a step; may set ``trusted`` to False."""
        for group, n in self._counts.items():
            if n != self._expected.setdefault(group, n):
                self._distrust(group, step)
        self._latest, self._counts = self._counts, Counter()
        self.forecast = False

    @property
    def latest(self) -> tuple[str, ...]:
        """The branches of the step before; none in the first one."""
        counts = self._latest.items()
        return tuple(self._numbered(group, k) for group, n in counts for k in range(n))

    def _numbered(self, group: Group, n: int) -> str:
        """Return the branch of a group's call number n, from 0 on."""
        return self._names[group] if n == 0 else f"{self._names[group]}#{n + 1}"

    def _base(self, group: Group) -> str:
        base = " ".join(part for part in (group.denoiser, group.context or "call") if part)
        if base not in self._names.values():
            return base
        return f"{base} {'x'.join(map(str, group.shape))}"

    def _distrust(self, group: Group, step: int) -> None:
        if self.trusted and self.forecast:
            raise ExecutionError(
                f"step {step}: the denoiser must be called {self._expected[group]} times, as "
                f"in the first step, got {self._counts[group]}: the pipeline does not name "
                "its branches, so a forecast may have gone to the wrong one. "
                "Keep guidance on for the whole run."
            )
        self.trusted = False


#: Relative and absolute; bfloat16 keeps 8 bits.
_RTOL, _ATOL = 1e-2, 1e-4


class TimeCheck:
    """Compare the time argument with ``scheduler.timesteps`` on the device, into a flag read once.

    The convention is the one that fits at step 0; if none does, nothing is claimed.
    """

    def __init__(self) -> None:
        self._timesteps: Tensor | None = None
        self._conventions = torch.tensor(CONVENTIONS)
        self._first: Tensor | None = None
        self._always: Tensor | None = None
        self._bad: Tensor | None = None

    def begin(self, timesteps: Tensor | None) -> None:
        """Take the timesteps of a run that starts, t_0 first; None if they are not known."""
        self._collect()
        self._timesteps = None if timesteps is None else timesteps.float()

    @property
    def known(self) -> bool:
        """Whether there are times to compare with."""
        return self._timesteps is not None

    def see(self, step: int, timestep: Any) -> None:
        """Compare the time argument of a denoiser call at ``step``."""
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
        """Return whether some run passed other times than its scheduler's; synchronizes."""
        self._collect()
        return self._bad is not None and bool(self._bad)

    def _collect(self) -> None:
        """Fold the run's flag into one for all runs: a handle may see millions of them."""
        if self._first is not None and self._always is not None:
            bad = self._first.any() & ~self._always.any()
            self._bad = bad if self._bad is None else bad | self._bad.to(bad.device)
        self._first = self._always = None
