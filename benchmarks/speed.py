"""Measured speedup of the denoising loop on the demo pipeline: ``python benchmarks/speed.py [POLICY]``.

Full runs and accelerated runs take turns; the ratio is of medians over the pairs. Without a policy file
the computed steps are evenly spaced and forecast by linear extrapolation, which costs the same.
"""

from __future__ import annotations

import statistics
import sys

import otcache
from otcache.targets import choose
from otcache_core.contracts import SampleRequest
from otcache_core.plugins import Registry
from otcache_diffusers import demo

N, PAIRS = 30, 9


def main() -> None:
    """Print one line for each batch size and budget."""
    policy = otcache.load_policy(sys.argv[1]) if len(sys.argv) > 1 else None
    pipe, registry = demo.load(), Registry()
    probe = choose(registry, "probes", pipe)
    prompts = [text for text, _ in demo.prompts()["heldout"]]

    def seconds(schedule: otcache.Schedule, size: int) -> float:
        request = SampleRequest(tuple(prompts[:size]), tuple(range(size)), N, demo.CALL, size)
        with otcache.accelerate(pipe, schedule) as run:
            probe.sample(pipe, request)
        return run.report.seconds

    full = otcache.Schedule.full(N)
    for size, budget in ((1, 10), (8, 10), (8, 6)):
        plain = otcache.Schedule(N, tuple(m * N // budget for m in range(budget)), "linear")
        schedule = policy.schedule(budget) if policy else plain
        seconds(full, size)
        pairs = [(seconds(full, size), seconds(schedule, size)) for _ in range(PAIRS)]
        slow, fast = (statistics.median(column) for column in zip(*pairs, strict=True))
        ideal = N / budget
        print(
            f"batch {size}, B = {budget}: {slow:.3f} s -> {fast:.3f} s, {slow / fast:.2f}x, "
            f"{slow / fast / ideal:.2f} of the ideal {ideal:.2f}x"
        )


if __name__ == "__main__":
    main()
