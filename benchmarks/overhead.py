"""What the executor itself costs: ``python benchmarks/overhead.py OUT``.

A FluxPipeline around a transformer of about 100 M random weights, on the CPU. Plain runs and runs under
the executor take turns, in an order that rotates; contexts are entered and left inside the measured time.
Two clocks around the denoiser, one inside the executor's hook and one outside it, and two around
``scheduler.step``, give the hook's own time call by call. OUT/overhead.md is the table of docs/overhead.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import torch
from demo_runs import head, parser, row, write
from random_flux import fitted_schedule, random_call, random_flux

from otcache_core import Schedule
from otcache_core.contracts import RunHandle
from otcache_diffusers.execution.executor import TorchExecutor

SHARES = (0.2, 0.5)
LIMIT_RUN, LIMIT_FULL, LIMIT_SKIP = 1.02, 1.01, 0.005
TEXT, JOINT = 32, 256


class Stopwatch:
    """Times a function, call by call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.seconds: list[float] = []
        self.__wrapped__ = function  # the executor reads signatures

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return self._function(*args, **kwargs)
        finally:
            self.seconds.append(time.perf_counter() - began)


@dataclass
class Run:
    """One run of the pipeline, in seconds.

    Attributes:
        seconds: all of it, entering and leaving the context included.
        outer: of each step, what the pipeline waited for the denoiser and the scheduler.
        inner: of each step, what these two took themselves; of a skipped one the scheduler alone.
        work: of each step, the denoiser itself; 0 if it was skipped.
    """

    seconds: float = 0.0
    outer: list[float] = field(default_factory=list)
    inner: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)

    @property
    def own(self) -> list[float]:
        """The hooks' own time at each step."""
        return [o - i for o, i in zip(self.outer, self.inner, strict=True)]

    @property
    def skipped(self) -> list[float]:
        """The hooks' own time at the skipped steps."""
        return [own for own, work in zip(self.own, self.work, strict=True) if not work]


class Bench:
    """Runs of N steps with clocks."""

    def __init__(self, num_steps: int, size: int) -> None:
        self.num_steps = num_steps
        self._pipe, self._executor = random_flux(2, 6, 12, JOINT), TorchExecutor()
        self._handle: RunHandle | None = None
        self._call = random_call(num_steps, size, TEXT, JOINT)

    def run(self, schedule: Schedule | None) -> Run:
        """One run under a schedule, or without an executor.

        Raises:
            RuntimeError: if the executor warned of anything.
        """
        module, scheduler = self._pipe.transformer, self._pipe.scheduler
        context: AbstractContextManager[Any] = nullcontext()
        with self._timed(module, "forward") as work, self._timed(scheduler, "step") as step:
            if schedule is not None:
                context = self._executor.attach(self._pipe, schedule)
            began, outer = time.perf_counter(), self._run_in(context)
            seconds = time.perf_counter() - began
        if self._handle and self._handle.report.warnings:
            raise RuntimeError(f"not run as planned: {self._handle.report.warnings}")
        computed = set(schedule.computed if schedule else range(self.num_steps))
        times = iter(work.seconds)
        works = [next(times) if t in computed else 0.0 for t in range(self.num_steps)]
        inner = [a + b for a, b in zip(works, step.seconds, strict=True)]
        return Run(seconds, outer, inner, works)

    def _run_in(self, context: AbstractContextManager[Any]) -> list[float]:
        """Run the pipeline; gives what it waited for denoiser and scheduler at each step."""
        calls: list[float] = []
        module, scheduler = self._pipe.transformer, self._pipe.scheduler
        hooks = [
            module.register_forward_pre_hook(lambda *_: calls.append(-time.perf_counter())),
            module.register_forward_hook(lambda *_: _stop(calls)),
        ]
        with context as self._handle, torch.no_grad():
            step = vars(scheduler)["step"]
            outer = vars(scheduler)["step"] = Stopwatch(step)
            self._pipe(**self._call, generator=torch.Generator().manual_seed(0))
            vars(scheduler)["step"] = step
        for hook in hooks:
            hook.remove()
        return [a + b for a, b in zip(calls, outer.seconds, strict=True)]

    @contextmanager
    def _timed(self, owner: Any, name: str) -> Iterator[Stopwatch]:
        watch = vars(owner)[name] = Stopwatch(getattr(owner, name))
        try:
            yield watch
        finally:
            del vars(owner)[name]


def _stop(calls: list[float]) -> None:
    calls[-1] += time.perf_counter()


class Table:
    """What was measured, as text."""

    def __init__(self, num_steps: int, rounds: list[dict[int | None, Run]]) -> None:
        self._n, self._rounds = num_steps, rounds

    def lines(self) -> list[str]:
        """Write what a plain run takes, and one line a claim."""
        plain = [r[None] for r in self._rounds]
        call = median(w for run in plain for w in run.work)
        fixed = median(run.seconds - sum(run.work) for run in plain)
        return [
            f"{torch.get_num_threads()} threads, torch {torch.__version__}, N = {self._n}, "
            f"{len(self._rounds)} interleaved rounds.",
            "",
            f"A plain run takes {median(run.seconds for run in plain):.2f} s, a denoiser call "
            f"{1e3 * call:.0f} ms, all else in a run {1e3 * fixed:.1f} ms.",
            "",
            *head(("", "measured", "limit", "kept"), ()),
            *(self._share(b) for b in self._budgets()),
            self._full(),
            self._skip(call),
            self._own(),
        ]

    def _budgets(self) -> list[int]:
        return [b for b in self._rounds[0] if b is not None and b < self._n]

    def _share(self, budget: int) -> str:
        """W(B) over B/N of the plain loop plus what is outside it, round by round."""
        ratios = []
        for r in self._rounds:
            loop = sum(r[None].work)
            ratios.append(r[budget].seconds / (budget / self._n * loop + r[None].seconds - loop))
        return _line(
            f"run at B/N = {budget / self._n:g} / (B/N loop + fixed parts)", ratios, LIMIT_RUN
        )

    def _full(self) -> str:
        ratios = [r[self._n].seconds / r[None].seconds for r in self._rounds]
        return _line("everything computed / without the executor", ratios, LIMIT_FULL)

    def _skip(self, call: float) -> str:
        shares = [own / call for r in self._rounds for b in self._budgets() for own in r[b].skipped]
        return _line("skipped step / computed step", shares, LIMIT_SKIP, percent=True)

    def _own(self) -> str:
        runs = [r[self._n] for r in self._rounds]
        own = [1e3 * value for run in runs for value in run.own]
        low, _, high = quantiles(own, n=4)
        share = median(sum(run.own) / run.seconds for run in runs)
        figures = f"{median(own):.3f} ms [{low:.3f}, {high:.3f}], {share:.3%} of the run"
        return row("hooks' own time at a computed step", figures, "", "")


def _line(what: str, values: list[float], limit: float, percent: bool = False) -> str:
    low, middle, high = quantiles(values, n=4)
    shown = ".3%" if percent else ".4f"
    kept = "yes" if middle <= limit else "no"
    figures = f"{middle:{shown}} [{low:{shown}}, {high:{shown}}]"
    return row(what, figures, f"{limit:{'.1%' if percent else '.2f'}}", kept)


def main() -> None:
    """Take turns, then write the table."""
    command = parser(__doc__)
    command.add_argument("--rounds", type=int, default=41)
    command.add_argument("--steps", type=int, default=10, help="N")
    command.add_argument("--size", type=int, default=256, help="height and width")
    options = command.parse_args()
    bench = Bench(options.steps, options.size)
    budgets: list[int | None] = [None, *(round(s * options.steps) for s in SHARES), options.steps]
    for b in budgets:  # warm
        bench.run(fitted_schedule(options.steps, b) if b else None)
    rounds = []
    for i in range(options.rounds):
        order = budgets[i % len(budgets) :] + budgets[: i % len(budgets)]
        runs = {b: bench.run(fitted_schedule(options.steps, b) if b else None) for b in order}
        rounds.append({b: runs[b] for b in budgets})
    lines = Table(options.steps, rounds).lines()
    write(options.out / "overhead.md", lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
