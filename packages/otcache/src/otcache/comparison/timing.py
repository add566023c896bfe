"""Speed, measured in pairs: a full run and another method's run, seconds apart, in turns.

How fast a machine is changes within minutes, by other work on it and by its own heat, so seconds of runs an
hour apart make no ratio: each run is compared with its own pair alone.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

#: Pairs of each method, and as many again if a figure would be withheld.
ROUNDS = 3
#: How often an interval of a median must hold it.
SURE = 0.75
#: Largest ratio of an interval's ends at which the pairs still say something.
APART = 2.0

#: Runs once, on the sample of this number, and returns the seconds that took, devices synchronized.
Timed = Callable[[int], float]
Key = TypeVar("Key", bound=Hashable)

NONE = (None, None)
ABOVE = (
    "the runs of the pairs differ by more than the skipped evaluations can explain, "
    "as on a machine that is busy with other work"
)
DISAGREE = (
    f"the pairs disagree by more than a factor of {APART:g}, "
    "as on a machine that is busy with other work"
)
FEW = f"there are fewer than {ROUNDS} pairs"
STOPPED = "the clock showed no time, or none that is finite"


class Pair(NamedTuple):
    """Seconds of a full run, and of the method's run beside it."""

    full: float
    own: float


class Middle(NamedTuple):
    """A median, and half the length of its interval."""

    median: float
    half: float


@dataclass(frozen=True)
class Speed:
    """What the pairs of one method say.

    Attributes:
        speedup: median over pairs of the full run's seconds over the method's, with its spread; None if
            it is withheld, or no pair was timed.
        seconds: median of the method's own seconds, with its spread; None alike.
        withheld: why there are no figures though pairs were timed.
    """

    speedup: Middle | None = None
    seconds: Middle | None = None
    withheld: str = ""

    def facts(self) -> dict[str, Any]:
        """Return the fields of a :class:`~otcache.report.results.Cell` that say this."""
        (speedup, spread), (seconds, wobble) = self.speedup or NONE, self.seconds or NONE
        return {
            "measured_speedup": speedup,
            "speedup_spread": spread,
            "seconds": seconds,
            "seconds_spread": wobble,
            "withheld": self.withheld,
        }


def take_turns(
    full: Timed, methods: Mapping[Key, Timed], ideals: Mapping[Key, float]
) -> dict[Key, tuple[Pair, ...]]:
    """Time each method in pairs with full runs, in rounds of one full run and one run of each method.

    The full run is first in the first round and last in the second, and so on. So if the machine gets only
    slower, or only faster, meanwhile, every second ratio is too small, the others are too large, and the
    true one lies in their :func:`interval`. Methods whose figure would be withheld after :data:`ROUNDS`
    rounds get as many again, and all count.

    Args:
        full: the plain full run; warm already, as the methods are.
        methods: what is timed beside it.
        ideals: of each method, the speedup that its evaluations allow.

    Returns:
        The pairs of each method, one per round.
    """
    pairs: dict[Key, tuple[Pair, ...]] = dict.fromkeys(methods, ())
    due = dict(methods)
    for number in range(2 * ROUNDS):
        if number == ROUNDS:
            due = {k: run for k, run in due.items() if speed(pairs[k], ideals[k]).withheld}
        if not due:
            break
        for key, pair in _round(number, full, due).items():
            pairs[key] += (pair,)
    return pairs


def speed(pairs: Sequence[Pair], ideal: float) -> Speed:
    r"""Return the figures of some pairs, or why they are withheld.

    With f_i and s_i the seconds of the full and of the method's run in pair i, the speedup is the median
    of the ratios and its spread half the length of their interval,

    .. math:: \mathrm{median}_i \frac{f_i}{s_i} \pm \frac{r_{(n-k+1)} - r_{(k)}}{2},

    (see :func:`interval`). It is withheld if it is above the ideal by more than the spread, or the whole
    interval is, and if the ends of the interval are further apart than a factor of :data:`APART`.

    Args:
        pairs: of one method; none gives no figures and no reason.
        ideal: N over the method's evaluations, above which no run can be faster.
    """
    if not pairs:
        return Speed()
    if not all(math.isfinite(taken) and taken > 0 for pair in pairs for taken in pair):
        return Speed(withheld=STOPPED)
    if len(pairs) < ROUNDS:
        return Speed(withheld=FEW)
    ratios = [pair.full / pair.own for pair in pairs]
    low, high = interval(ratios)
    speedup = middle(ratios)
    if max(low, speedup.median - speedup.half) > ideal * (1 + 1e-9):
        return Speed(withheld=ABOVE)
    if high > APART * low:
        return Speed(withheld=DISAGREE)
    return Speed(speedup, middle([pair.own for pair in pairs]))


def middle(values: Sequence[float]) -> Middle:
    """Return the median and half the length of its interval."""
    low, high = interval(values)
    return Middle(statistics.median(values), (high - low) / 2)


def interval(values: Sequence[float]) -> tuple[float, float]:
    r"""Return the ends of the median's distribution-free interval.

    It runs from the k-th smallest value to the k-th largest, which holds the median of what the
    n values are drawn from with probability

    .. math:: 1 - 2^{1-n} \sum_{i<k} \binom{n}{i},

    k being the largest number for which that is at least :data:`SURE`: of three values smallest and
    largest (3/4), of six the second and the fifth (25/32), so that one outlier does not count.

    References:
        David and Nagaraja, Order Statistics, 3rd edition, 2003, section 7.1.
    """
    ordered, k = sorted(values), 1
    while 2 * k < len(ordered) and _holds(len(ordered), k + 1) >= SURE:
        k += 1
    return ordered[k - 1], ordered[-k]


def _holds(n: int, k: int) -> float:
    below = sum(math.comb(n, i) for i in range(k))
    return 1 - below / float(2 ** (n - 1))


def _round(number: int, full: Timed, methods: dict[Key, Timed]) -> dict[Key, Pair]:
    """One run of all; backwards in every second round."""
    if number % 2 == 0:
        whole = full(number)
        seconds = {key: run(number) for key, run in methods.items()}
    else:
        seconds = {key: run(number) for key, run in reversed(methods.items())}
        whole = full(number)
    return {key: Pair(whole, seconds[key]) for key in methods}
