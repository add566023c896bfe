"""Measured speedup of the denoising loop on the demo pipeline: ``python benchmarks/speed.py [POLICY]``.

Full runs and accelerated runs take turns (:mod:`otcache.comparison.timing`); the ratio is the median over the
pairs. Without a policy file the computed steps are evenly spaced and forecast by linear extrapolation, which
costs the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import otcache
from otcache.comparison.timing import Pair, Speed, speed, take_turns
from otcache.running import choose
from otcache_core.contracts import SampleRequest
from otcache_core.plugins import Registry
from otcache_diffusers import demo

N, PAIRS = 30, 9


def loops(size: int) -> Callable[[otcache.Schedule], float]:
    """Return what runs the demo's pipeline on so many samples, and gives the seconds of the loop alone."""
    pipe, registry = demo.load(), Registry()
    probe = choose(registry, "probes", pipe)
    prompts = [text for text, _ in demo.prompts()["heldout"]]

    def seconds(schedule: otcache.Schedule) -> float:
        request = SampleRequest(tuple(prompts[:size]), tuple(range(size)), N, demo.CALL, size)
        with otcache.accelerate(pipe, schedule) as run:
            probe.sample(pipe, request)
        return run.report.seconds

    return seconds


def measured(schedule: otcache.Schedule, size: int) -> Speed:
    """Return the speed of a schedule's loop beside the full run's, both warm."""
    seconds, full, pairs = loops(size), otcache.Schedule.full(N), list[Pair]()
    seconds(full)
    seconds(schedule)
    while len(pairs) < PAIRS:
        found = take_turns(
            lambda _: seconds(full),
            {"": lambda _: seconds(schedule)},
            {"": schedule.ideal_speedup},
        )
        pairs += found[""]
    return speed(pairs, schedule.ideal_speedup)


def main() -> None:
    """Print one line for each batch size and budget."""
    policy = otcache.load_policy(sys.argv[1]) if len(sys.argv) > 1 else None
    for size, budget in ((1, 10), (8, 10), (8, 6)):
        plain = otcache.Schedule(N, tuple(m * N // budget for m in range(budget)), "linear")
        schedule = policy.schedule(budget) if policy else plain
        found, ideal = measured(schedule, size), schedule.ideal_speedup
        told = f"withheld, since {found.withheld}"
        if found.speedup and found.seconds:
            median, half = found.speedup
            told = (
                f"{found.seconds.median:.3f} s, {median:.2f} ±{half:.2f} times as fast as the full run, "
                f"{median / ideal:.2f} of the ideal {ideal:.2f}"
            )
        print(f"batch {size}, B = {budget}: {told}")


if __name__ == "__main__":
    main()
