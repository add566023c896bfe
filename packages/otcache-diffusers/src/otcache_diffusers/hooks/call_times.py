"""Compare the times of a run's calls: on the host at once, on a device without waiting for it."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, final

import numpy as np
import torch

#: What is true: known on the host, or only on the device, as a tensor of one boolean.
Truth = bool | torch.Tensor

#: What to do if the number of calls follows from the outputs.
ADAPTIVE = (
    "A solver that chooses its own steps (dopri5, dpm_adaptive, step doubling) cannot follow a "
    "schedule: use a fixed-step method of the same library (euler, heun, midpoint, rk4)."
)
#: What another start means if it is not known where runs begin.
UNSEEN = (
    "runs are counted wrongly, unless they differ in truth (another strength, another grid). Check "
    f"num_steps and calls_per_step. {ADAPTIVE} otcache.loop(...) around the sampler says where runs begin."
)


@final
class HostTimes:
    """Watch the times that need no device: at which runs begin, and whether one goes back."""

    def __init__(self) -> None:
        self._first: float | None = None
        self._latest: float | None = None
        self._forward = 0.0

    def begin(self, time: Any, meaning: str = UNSEEN) -> str:
        """Take the time of a run's first call, and say if the last run began at another one.

        Args:
            time: of the call.
            meaning: what that means, and what to do.
        """
        before, self._first = self._first, _known(time)
        self._latest, self._forward = self._first, 0.0
        if before is None or self._first is None or math.isclose(before, self._first, rel_tol=1e-6):
            return ""
        return (
            f"a run begins at time {self._first:g}, and the last one began at {before:g}: {meaning}"
        )

    def advance(self, time: Any) -> str:
        """Take the time of the next step's first call, and say if it goes back."""
        before, self._latest = self._latest, _known(time)
        if before is None or self._latest is None:
            return ""
        move = self._latest - before
        self._forward = self._forward or move
        if move * self._forward >= 0:
            return ""
        return (
            f"the time goes back within a run, from {before:g} to {self._latest:g}, as in a solver that "
            f"rejects a step. {ADAPTIVE} A sampler that goes back by design (churn, restarts) makes the "
            "same calls in each run, and may go on."
        )


@final
class CallTimes:
    r"""Compare the time of each call of a run with those before.

    With t_{i,j} the time of call j of step i: ``again`` is t_{i,0} = t_{i-1,0}, ``back`` is
    t_{i,j} = t_{0,0} \ne t_{i,0} (the time of the latest step), and ``apart`` is t_{i,j} \ne t_{i,0}
    though t_{0,j} = t_{0,0} for all j.

    Numbers and tensors on the CPU are compared at once. Tensors elsewhere are compared there, and the
    answer stays there. If times cannot be compared every answer is False.

    Attributes:
        step: i, position in the run.
    """

    def __init__(self) -> None:
        self.step = 0
        self._first: Any = None
        self._latest: Any = None
        self._one: Truth = False

    def begin(self, time: Any) -> None:
        """Take the time of a run's first call."""
        self.step, self._one = 0, True
        self._first = self._latest = _kept(time)

    def advance(self, time: Any) -> None:
        """Take the time of the first call of the next step."""
        self.step, self._latest = self.step + 1, _kept(time)

    def fresh(self, time: Any) -> Truth:
        """Return whether this is the time of the run's first call."""
        same = _same(time, self._first)
        return False if same is None else same

    def again(self, time: Any) -> Truth:
        """Return whether a step that is about to begin has the time of the one before."""
        same = _same(time, self._latest)
        return False if same is None else same

    def back(self, time: Any) -> Truth:
        """Return whether a call has the time of the run's first one, unlike the latest step."""
        latest, first = _same(time, self._latest), _same(time, self._first)
        return False if latest is None or first is None else first & (latest ^ True)

    def apart(self, time: Any) -> Truth:
        """Return whether a call has left its step's time, although the first step's calls had one."""
        same = _same(time, self._latest)
        if self.step == 0:
            self._one = self._one & (False if same is None else same)
        return False if same is None or self.step == 0 else self._one & (same ^ True)


def _known(time: Any) -> float | None:
    """Return a time that is one number on the host; None for any other."""
    if isinstance(time, Real):
        return float(time)
    on_host = isinstance(time, np.ndarray) or (
        type(time) is torch.Tensor and time.device.type == "cpu"
    )
    if not on_host or 0 in time.shape:
        return None
    # Read by tolist alone: no operation that may wait.
    first, *others = set(time.reshape(-1).tolist())
    return float(first) if not others and isinstance(first, Real) else None


def _kept(time: Any) -> Any:
    """Return a copy, since a loop may write into the tensor it has."""
    return time.detach().clone() if isinstance(time, torch.Tensor) else time


def _same(a: Any, b: Any) -> Truth | None:
    """Return whether two times are equal, None if they cannot be compared."""
    if isinstance(a, Real) and isinstance(b, Real):
        return bool(a == b)
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return None
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device) or a.device.type == "meta":
        return None
    if a.device.type == "cpu" and type(a) is torch.Tensor:
        return torch.equal(a, b)
    return (a == b).all()


@final
class DeferredChecks:
    r"""Collect failed checks on the device until it may be waited for; the host's are known at once.

    .. math:: d \leftarrow d \lor b

    with b the truth of one call and d one flag a message, so that a run of any length costs one
    synchronization, at its end.
    """

    def __init__(self) -> None:
        self._open: dict[str, torch.Tensor] = {}

    def check(self, truth: Truth, message: str) -> bool:
        """Return whether the message is known to be true now; if only on the device, it is kept."""
        if not isinstance(truth, torch.Tensor):
            return truth
        before = self._open.get(message)
        self._open[message] = truth if before is None else truth | before.to(truth.device)
        return False

    def settle(self) -> list[str]:
        """Return the kept messages that are true, and forget all; synchronizes if any was kept."""
        kept, self._open = self._open, {}
        if not kept or not bool(torch.stack(list(kept.values())).any()):
            return []
        return [message for message, flag in kept.items() if bool(flag)]
