"""Paired comparisons with known answers."""

from __future__ import annotations

from rich.console import Console

from otcache.report.duels import duel_table, duels, duels_markdown
from otcache.report.grid import spread
from otcache.results import Cell, Results


def _results(ours: list[float], theirs: list[float]) -> Results:
    cells = [
        Cell(name, 5, 5, 6.0, 5.9, None, {"rmse": tuple(values)})
        for name, values in (("uniform", theirs), ("otcache", ours))
    ]
    labels = tuple((f"prompt {i // 2}", i % 2, "shape") for i in range(len(ours)))
    return Results("toy", 30, labels, tuple(cells))


def test_a_constant_gain_has_an_interval_of_no_length() -> None:
    theirs = [0.1, 0.5, 0.2, 0.9]
    (duel,) = duels(_results([t - 0.05 for t in theirs], theirs))
    assert duel.verdict == "below"
    assert duel.wins == 1
    assert abs(duel.difference.mean + 0.05) < 1e-12
    assert duel.difference.half < 1e-12


def test_a_difference_that_changes_sign_is_none() -> None:
    (duel,) = duels(_results([0.1, 0.1, 0.3, 0.3], [0.2, 0.2, 0.2, 0.2]))
    assert duel.verdict == "no difference"
    assert duel.wins == 0.5


def test_a_loss_is_called_one() -> None:
    (duel,) = duels(_results([0.3, 0.4, 0.3, 0.4], [0.2, 0.2, 0.2, 0.2]))
    assert duel.verdict == "above"


def test_tables_name_the_rival_and_the_verdict() -> None:
    results = _results([0.1, 0.1], [0.2, 0.2])
    assert "| uniform |" in duels_markdown(results)
    console = Console(width=100)
    with console.capture() as captured:
        console.print(duel_table(results))
    assert "below" in captured.get()


def test_the_picture_grid_goes_from_the_worst_sample_to_the_best() -> None:
    # Prompts 0, 1, 2 have errors (.3, .1), (.2, .25), (.05, .28): their worst are .3, .25, .28.
    results = _results([0.3, 0.1, 0.2, 0.25, 0.05, 0.28], [0.5] * 6)
    assert spread(results, 5, 3) == [0, 5, 3]
