"""Files of clips to look at: full runs, and rows of the full run beside the methods."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otcache.demo.run import DemoOutcome
from otcache.media import writers
from otcache.report.analysis import headlines
from otcache.report.results import FULL, OURS
from otcache_core import FileError
from otcache_core.plugins import Registry

#: Prompts shown, budgets shown of each from the smallest on, and white pixels between clips in a row.
PROMPTS, BUDGETS, GAP = 4, 2, 2
_OURS = re.compile(r"\d\d-.+-(full|B\d+-full-otcache-.+)")
Floats = NDArray[np.floating]


def write_clips(outcome: DemoOutcome, folder: Path, registry: Registry) -> list[Path]:
    """Write each clip by every installed writer; clips of an earlier demo in the folder go.

    Of a few prompts the full run, ``01-a-red-circle-full.mp4``, and at the smallest budgets rows that
    are named from left to right, ``01-a-red-circle-B5-full-otcache-unipc.mp4``: the full run, otcache,
    and the other method of least RMSE.

    Args:
        outcome: of a demo whose pipeline makes clips.
        folder: made if missing.
        registry: where the writers come from.

    Raises:
        FileError: if the folder or a file cannot be written.
    """
    rate, known = outcome.results.frames_per_second, writers(registry)
    _prepare(folder, tuple(known))
    written = []
    for name, clip in _clips(outcome).items():
        for suffix, writer in known.items():
            path = folder / f"{name}{suffix}"
            writer.write(path, np.clip(clip, 0, 1), rate)
            written.append(path)
    return written


def _clips(outcome: DemoOutcome) -> dict[str, Floats]:
    """Name to clip, in order."""
    results, made = outcome.results, outcome.pictures
    full = made[FULL, results.num_steps]
    first = {text: i for i, (text, _, _) in reversed(list(enumerate(results.labels)))}
    shown = sorted(first.items(), key=lambda entry: entry[1])[:PROMPTS]
    clips: dict[str, Floats] = {}
    for place, (text, i) in enumerate(shown, 1):
        name = f"{place:02d}-{_slug(text)}"
        clips[f"{name}-full"] = full[i]
        for headline in headlines(results)[:BUDGETS]:
            b, rival = headline.budget, headline.rival
            parts = (full[i], made[OURS, b][i], made[rival, b][i])
            clips[f"{name}-B{b}-full-{OURS}-{_slug(rival)}"] = row(parts)
    return clips


def row(clips: tuple[Floats, ...]) -> Floats:
    """Clips of one shape (frames, height, width, 3) beside each other, white between them."""
    gap = np.ones((*clips[0].shape[:2], GAP, 3), clips[0].dtype)
    parts = [part for clip in clips for part in (gap, clip)][1:]
    return np.concatenate(parts, axis=2)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].rstrip("-")


def _prepare(folder: Path, suffixes: tuple[str, ...]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.suffix in suffixes and _OURS.fullmatch(path.stem):
                path.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"{folder}: cannot be made a folder of clips: {reason}.") from error
