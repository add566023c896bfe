"""Tables that ``otcache calibrate``, ``otcache plan`` and ``otcache inspect`` print."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from otcache.calibration.recipe import BASELINES
from otcache.console import fact_text
from otcache.planning import proven
from otcache_core import Schedule
from otcache_core.calibration import Calibration, Candidate, Rung
from otcache_core.errors import shortened
from otcache_core.policy import Policy
from otcache_core.targets import LEAST, Measured, at_quantile

COMPUTED, SKIPPED = "█", "·"
#: Marks of a band of errors, and its columns.
BAND, MEDIAN, UPPER, WIDTH = "─", "●", "┤", 48
#: Metrics whose errors are drawn, if they were measured.
DRAWN = ("lpips", "rmse")


def strip(schedule: Schedule) -> Text:
    """Return one character a step."""
    computed = set(schedule.computed)
    marks = (COMPUTED if i in computed else SKIPPED for i in range(schedule.num_steps))
    return Text("".join(marks), style="cyan")


def draw(policy: Policy, schedules: Sequence[Schedule]) -> Group:
    """Return schedules as strips, then where the policy comes from."""
    table = Table(
        "budget",
        "ideal speedup",
        f"computed {COMPUTED} and skipped {SKIPPED} steps",
        "forecaster",
        box=None,
    )
    for schedule in schedules:
        speedup = f"{schedule.ideal_speedup:.1f}x"
        rule = Text(schedule.forecaster)  # a name in brackets is not markup
        table.add_row(str(schedule.budget), speedup, strip(schedule), rule)
    facts = Table(box=None, show_header=False)
    if policy.solver:
        facts.add_row(Text("solver"), Text(f"{policy.solver}, not measured; what measures it:"))
        facts.add_row(
            "",
            Text(f"otcache plan CALIBRATION --solver {policy.solver} --pipe PIPELINE --out POLICY"),
        )
        methods = f"--methods solver:{policy.solver}"
        facts.add_row("", Text(f"otcache compare PIPELINE {methods} --out FOLDER"))
    if weights := _weights(policy, schedules):
        facts.add_row(Text("forecast weights"), Text(weights))
    for name, value in policy.provenance.to_dict().items():
        if name == "grid" and value:
            value = f"{len(value)} values, {value[0]:.4g} .. {value[-1]:.4g}"
        if value:
            facts.add_row(Text(name), Text(shortened(fact_text(value))))
    return Group(table, Text(), error_bands(policy.measured), facts)


def error_bands(measured: Sequence[Measured]) -> Group:
    """Draw the error against the budget, by metric: the band of the samples, their median and quantile.

    Args:
        measured: lowest budget first; nothing is drawn of none.
    """
    names = dict.fromkeys(name for one in measured for name in one.errors)
    shown = [name for name in DRAWN if name in names] or list(names)[:1]
    return Group(*(part for name in shown for part in (_bands(measured, name), Text())))


def _bands(measured: Sequence[Measured], metric: str) -> Table:
    rows = {one.budget: one.values(metric) for one in measured if metric in one.errors}
    counts = sorted({len(values) for values in rows.values()})
    finite = np.concatenate([v[np.isfinite(v)] for v in rows.values()])
    logs = np.log10(np.maximum(finite, LEAST))
    low, high = (float(logs.min()), float(logs.max())) if len(logs) else (0.0, 0.0)
    upper = "3 of 4" if counts[0] > 2 else "worst"
    title = f"{metric} on {'-'.join(map(str, counts))} samples: {MEDIAN} median, {UPPER} {upper}, {BAND} all"
    table = Table(box=None, padding=(0, 1, 0, 0), title=title, title_justify="left")
    table.add_column("B", justify="right", no_wrap=True)
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column(upper, justify="right", no_wrap=True)
    ends = f"{10**low:.2g}".ljust(WIDTH - 6) + f"{10**high:.2g}".rjust(6)
    table.add_column(Text(ends, style="dim"), no_wrap=True)
    for budget, values in rows.items():
        middle, bound = float(np.median(values)), at_quantile(values, None)
        places = [_place(v, low, high) for v in (values.min(), values.max(), middle, bound)]
        line = [BAND if places[0] <= at <= places[1] else " " for at in range(WIDTH)]
        line[places[3]], line[places[2]] = UPPER, MEDIAN
        bar = Text("".join(line), style="cyan")
        table.add_row(str(budget), _figure(middle, False), _figure(bound, False), bar)
    return table


def _place(error: float, low: float, high: float) -> int:
    """Return the column of an error on the logarithmic axis."""
    if not math.isfinite(error):
        return WIDTH - 1
    share = (math.log10(max(error, LEAST)) - low) / (high - low) if high > low else 0.0
    return min(WIDTH - 1, max(0, round(share * (WIDTH - 1))))


def _weights(policy: Policy, schedules: Sequence[Schedule]) -> str:
    """Return whether the branches of guidance have weights of their own; "" if nothing is known of any."""
    fitted = [schedule for schedule in schedules if any(schedule.weights)]
    if not fitted or policy.provenance.guidance.partition(" ")[0] in ("", "none", "embedded"):
        return ""
    own = dict.fromkeys(name for schedule in fitted for name, _ in schedule.branch_weights)
    return f"own ones for {', '.join(own)}" if own else "shared by all branches of guidance"


def candidate_table(calibration: Calibration) -> Group:
    """Return the error of every candidate at every rung, with remarks where it is not obvious."""
    rows = [_columns(rung) for rung in calibration.ladder]
    seen = {name: None for row in rows for name in row}
    names = [*(n for n in seen if n not in BASELINES), *sorted(n for n in BASELINES if n in seen)]
    samples = len(calibration.samples)
    about = f"{samples} calibration samples" if samples > 1 else "one calibration sample"
    title = Text(f"{calibration.fidelity or 'error'} of every candidate on {about}")
    table = Table(box=None, padding=(0, 1, 0, 0), title=title, title_justify="left")
    table.add_column("B", justify="right", vertical="bottom", no_wrap=True)
    for name in names:
        heading = Text(_heading(name))
        table.add_column(heading, justify="right", vertical="bottom", no_wrap=True)
    for rung, row in zip(calibration.ladder, rows, strict=True):
        cells = (_cell(row.get(n), n == _column(rung.winner), samples) for n in names)
        table.add_row(str(rung.schedule.budget), *cells)
    measured = [Measured(r.schedule.budget, r.errors) for r in calibration.ladder if r.errors]
    remarks = map(Text, _remarks(calibration))
    return Group(table, Text(_LEGEND, style="dim"), *remarks, Text(), error_bands(measured))


def nfe_text(nfe: Mapping[str, int]) -> str:
    """Return how many evaluations there were, in all and by what they were spent on."""
    parts = ", ".join(f"{part} {count:,}" for part, count in nfe.items())
    return f"{sum(nfe.values()):,} denoiser evaluations ({parts})"


def kept_table(
    rows: Mapping[int, tuple[Mapping[str, float], str]], what: str, samples: int
) -> Group:
    """Return a line per budget: the error of each schedule by name, and a star at the one that is kept.

    Lines below it say why a schedule with a lower error is not kept.

    Args:
        rows: by budget, errors by name, and the name that is kept.
        what: name of the error.
        samples: how many it is the mean of.
    """
    title = f"{what} on {samples} samples"
    names = list(dict.fromkeys(name for errors, _ in rows.values() for name in errors))
    table = Table(box=None, padding=(0, 1, 0, 0), title=f"{title}, * kept", title_justify="left")
    for heading in ("B", *names):
        table.add_column(Text(f"{heading} "), justify="right", no_wrap=True)
    for budget, (errors, kept) in rows.items():
        cells = (_figure(errors.get(name), name == kept) for name in names)
        table.add_row(f"{budget} ", *cells)
    return Group(table, *map(Text, _passed_over(rows, samples)))


def _passed_over(
    rows: Mapping[int, tuple[Mapping[str, float], str]], samples: int
) -> Iterator[str]:
    """Yield one line for each schedule with a lower error than the one that is kept."""
    for budget, (errors, kept) in rows.items():
        for name, error in errors.items():
            if error < errors[kept]:
                share = f"{error / errors[kept]:.2g} times its error"
                why = f"not clearly below on {samples} samples: give more prompts"
                yield f"B = {budget}: {kept} is kept; {name} has {share}, but {why}."


def _figure(error: float | None, kept: bool) -> Text:
    if error is None:
        return Text("- ", style="dim")
    figure = f"{error:.3g}".replace("0.", ".", 1) if math.isfinite(error) else "broke"
    return Text(f"{figure}{'*' if kept else ' '}", style="bold green" if kept else "")


_LEGEND = "* kept   ~ measured on a part of the samples   - not measured"


def _heading(name: str) -> str:
    """Return a name on two lines, so that nine columns fit on a terminal of 80."""
    if name == "lexicographic":
        return "lexico-\ngraphic "
    return name.replace(", ", "\n").replace("-", "-\n") + " "


def _column(name: str) -> str:
    """Return the column of a candidate: all further roundings share one."""
    return "quantile, rounded" if name.startswith("quantile, rounding") else name


def _columns(rung: Rung) -> dict[str, Candidate]:
    """Return the candidates of a rung by column; of several roundings the winner, else the best."""
    columns: dict[str, Candidate] = {}
    for name, entry in rung.candidates.items():
        column = _column(name)
        before = columns.get(column)
        if before is None or name == rung.winner or _above(before, entry):
            columns[column] = entry
    return columns


def _above(a: Candidate, b: Candidate) -> bool:
    return b.error is not None and (a.error is None or a.error > b.error)


def _cell(entry: Candidate | None, kept: bool, samples: int) -> Text:
    if entry is None:
        return Text("- ", style="dim")
    part = "~" if entry.samples < samples else ""
    figure = _figure(math.inf if entry.error is None else entry.error, kept)
    return Text.assemble((part, figure.style), figure)


def _fitted_errors(rung: Rung) -> Iterator[float]:
    """Yield errors of the fitted candidates, but for roundings: one of many alike is lucky."""
    for name, entry in rung.candidates.items():
        if name not in BASELINES and name == _column(name) and entry.error is not None:
            yield entry.error


def _remarks(calibration: Calibration) -> Iterator[str]:
    """Yield one line for each rung where a baseline won, or that a policy does not get."""
    known = {rung.schedule.budget for rung in proven(calibration)}
    for rung in calibration.ladder:
        budget = rung.schedule.budget
        if rung.winner in BASELINES:
            fitted = list(_fitted_errors(rung)) if rung.error else []
            share = min(fitted) / rung.error if fitted else 0.0
            alike = ", not clearly below" if share < 1 else ""
            times = f"; fitted has {share:.2f} times its error{alike}" if fitted else ""
            yield f"B = {budget}: {rung.winner} is kept{times}."
        elif budget not in known:
            yield f"B = {budget}: omitted, no baseline was measured (raise Recipe.candidate_runs)."
