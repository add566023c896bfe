"""Write the report of a comparison: results, analysis, tables, plots, gallery and page, in this order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from otcache.console import as_utf8
from otcache.progress import Stages
from otcache.report.images import Album, Images
from otcache.report.results import Results
from otcache_core import FileError
from otcache_core.storage.files import write_bytes

__all__ = ["rebuild", "write_report"]

RESULTS, IMAGES, GRID = "results.json", "images.safetensors", "grid.png"


def write_report(
    results: Results,
    images: Images | None,
    directory: str | Path,
    *,
    stages: Stages | None = None,
) -> list[Path]:
    """Write every file of a report; each one appears whole or not at all.

    Args:
        results: the figures.
        images: (method, budget) to images (n, height, width, 3), or to videos (n, frames, height,
            width, 3), in [0, 1], with ("full run", N); None omits the image grid and the gallery.
        directory: made if missing; files of an earlier report in it are replaced.
        stages: show how many files are written.

    Returns:
        report.html, table.md, table.csv, error.png, schedules.png, with images grid.png and
        images.safetensors, and results.json.

    Raises:
        FileError: if a file cannot be written.
        OtcacheError: if images do not fit the results, or videos come without a frame rate.
    """
    folder = Path(directory)
    album = Album.of(results, images) if images else None
    kept = Results.from_dict(results.to_dict())  # as it will be read again
    _make(folder)
    written = _write(kept, album, folder, stages)
    if album:
        album.save(folder / IMAGES)
        written.append(folder / IMAGES)
    else:
        for path in (folder / IMAGES, folder / GRID):  # of an earlier report
            path.unlink(missing_ok=True)
    kept.save(folder / RESULTS)
    return [*written, folder / RESULTS]


def rebuild(directory: str | Path, *, stages: Stages | None = None) -> list[Path]:
    """Write the files of a report again, from its results.json and images.safetensors.

    If neither otcache nor the two files changed, every file comes out as it was.

    Args:
        directory: what :func:`write_report` wrote to; without images.safetensors, grid.png and the
            gallery are omitted.
        stages: show how many files are written.

    Returns:
        As :func:`write_report`, but for the two files read.

    Raises:
        FileError: if a file cannot be read or written, naming it.
    """
    folder = Path(directory)
    results = Results.load(folder / RESULTS)
    path = folder / IMAGES
    return _write(results, Album.load(path, results) if path.exists() else None, folder, stages)


def _write(
    results: Results, album: Album | None, folder: Path, stages: Stages | None
) -> list[Path]:
    """Make every file, then write all."""
    makers = _makers(results, album)
    with (stages or Stages(show=False)).stage("writing the report", len(makers)) as advance:
        contents = {}
        for done, (name, make) in enumerate(makers.items(), 1):
            contents[folder / name] = make()
            advance(done, len(makers))
        for path, content in contents.items():
            write_bytes(path, content)
    return list(contents)


def _makers(results: Results, album: Album | None) -> dict[str, Callable[[], bytes]]:
    from otcache.report.gallery import grid_png
    from otcache.report.page import render
    from otcache.report.plots import ERROR_SIZE, draw_png, error_plot, strips_plot, strips_size
    from otcache.report.tables import csv_table, document

    makers: dict[str, Callable[[], bytes]] = {
        "report.html": lambda: as_utf8(render(results, album)),
        "table.md": lambda: as_utf8(document(results)),
        "table.csv": lambda: as_utf8(csv_table(results)),
        "error.png": lambda: draw_png(error_plot(results), ERROR_SIZE),
        "schedules.png": lambda: draw_png(strips_plot(results), strips_size(results)),
    }
    if album:
        makers[GRID] = lambda: grid_png(results, album)
    return makers


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"{folder}: cannot be made a folder: {reason}.") from error
