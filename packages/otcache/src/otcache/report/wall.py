"""The picture wall of the page: each prompt's full picture beside every method, budget by budget."""

from __future__ import annotations

from dataclasses import dataclass

from otcache.report.pictures import Picture, Pictures, data_uri, full_pictures
from otcache.report.scales import OURS, scale_of
from otcache.report.summary import ERROR, worst_first
from otcache.results import Results


@dataclass(frozen=True)
class Tile:
    """One picture of one method."""

    method: str
    source: str
    error: str
    ours: bool
    alt: str


@dataclass(frozen=True)
class Card:
    """One sample: its full picture and the tiles of each budget.

    Attributes:
        ranks: budget to the card's place when sorted by otcache's RMSE there, worst first.
    """

    prompt: str
    seed: int
    tag: str
    full: str
    alt: str
    tiles: dict[int, list[Tile]]
    ranks: dict[int, int]


def wall(results: Results, pictures: Pictures, most: int = 16) -> list[Card]:
    """Cards, worst first at the lowest budget.

    Args:
        results: labels and per-picture RMSE.
        pictures: (method, budget) to (n, height, width, 3) in [0, 1], with ("full", N).
        most: cards shown: the worst ones at the lowest budget.

    Raises:
        OtcacheError: if pictures do not fit the results.
    """
    full = full_pictures(results, pictures)
    chosen = worst_first(results, results.budgets[0])[:most]
    ranks: dict[int, dict[int, int]] = {sample: {} for sample in chosen}
    for budget in results.budgets:
        order = [sample for sample in worst_first(results, budget) if sample in ranks]
        for place, sample in enumerate(order):
            ranks[sample][budget] = place
    return [_card(results, pictures, full, sample, ranks[sample]) for sample in chosen]


def _card(
    results: Results, pictures: Pictures, full: Picture, sample: int, ranks: dict[int, int]
) -> Card:
    prompt, seed, tag = results.labels[sample]
    tiles = {
        budget: [
            _tile(results, method, budget, sample, pictures[method, budget][sample])
            for method in results.methods
            if (method, budget) in pictures
        ]
        for budget in results.budgets
    }
    alt = f"{prompt}: full run of {results.num_steps} steps, seed {seed}"
    return Card(prompt, seed, tag, data_uri(full[sample]), alt, tiles, ranks)


def _tile(results: Results, method: str, budget: int, sample: int, picture: Picture) -> Tile:
    cell = results.cell(method, budget)
    known = cell is not None and ERROR in cell.metrics
    error = scale_of(ERROR).write(cell.metrics[ERROR][sample]) if cell and known else ""
    alt = f"{results.labels[sample][0]}: {method} at budget {budget}"
    alt += f", RMSE {error}" if error else ""
    return Tile(method, data_uri(picture), error, method == OURS, alt)
