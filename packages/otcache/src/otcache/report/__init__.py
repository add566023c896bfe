"""Reports: the table, plots, picture grid and page of a comparison."""

from __future__ import annotations

from pathlib import Path

from otcache.report.pictures import Pictures
from otcache.results import Results

__all__ = ["write_report"]


def write_report(results: Results, pictures: Pictures | None, directory: str | Path) -> list[Path]:
    """Write every file of a report; each one appears whole or not at all.

    Args:
        results: the figures.
        pictures: (method, budget) to (n, height, width, 3) in [0, 1], with ("full", N); None
            leaves the picture grid and the picture wall out.
        directory: made if missing; files of an earlier report in it are replaced.

    Returns:
        report.html, results.json, table.md, error.png, schedules.png and, with pictures, grid.png.

    Raises:
        FileError: if a file cannot be written.
        OtcacheError: if pictures do not fit the results.
    """
    from otcache.report.canvas import draw_png
    from otcache.report.duels import duels_markdown
    from otcache.report.grid import grid_png
    from otcache.report.html import render
    from otcache.report.plots import ERROR_SIZE, error_plot, strips_plot, strips_size
    from otcache.report.table import markdown_table
    from otcache_core.files import write_bytes

    contents = {
        "report.html": render(results, pictures).encode(),
        "table.md": "\n".join([markdown_table(results), duels_markdown(results)]).encode(),
        "error.png": draw_png(error_plot(results), ERROR_SIZE),
        "schedules.png": draw_png(strips_plot(results), strips_size(results)),
    }
    if pictures:
        contents["grid.png"] = grid_png(results, pictures)
    folder = Path(directory)
    _make(folder)
    for name, content in contents.items():
        write_bytes(folder / name, content)
    results.save(folder / "results.json")
    return [folder / name for name in [*contents, "results.json"]]


def _make(folder: Path) -> None:
    from otcache_core import FileError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"{folder}: cannot be made a folder: {reason}.") from error
