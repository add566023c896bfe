"""Weights that do not ship: a path that the user gives, checked before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from otcache_core.errors import OtcacheError, shortened
from otcache_core.storage.files import bad_file


def local_path(path: str | Path | None, what: str, advice: str, inside: Sequence[str] = ()) -> Path:
    """The path, once it is known to be there.

    Args:
        path: what the user gave; None for nothing.
        what: the metric and what it needs, as the message calls it.
        advice: where to get it.
        inside: files that must lie in it, where it is a folder; any one of ``a|b`` will do.

    Raises:
        OtcacheError: if there is no path, nothing lies there, or a file is missing in it.
    """
    if path is None:
        raise OtcacheError(f"{what} must be given as a local path, got none: {advice}")
    found = Path(path).expanduser()
    if not os.path.lexists(found) or (inside and not os.path.isdir(found)):
        kind = "a folder" if inside else "a file"
        raise OtcacheError(f"{what} must be {kind}, got {str(found)!r}: {advice}")
    for names in inside:
        if not any(os.path.exists(found / name) for name in names.split("|")):
            wanted = " or ".join(names.split("|"))
            raise OtcacheError(f"{what}: {found} must hold {wanted}, got none: {advice}")
    return found


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Name the folder where a library cannot load what lies in it.

    Raises:
        FileError: whatever a damaged file makes the library raise.
    """
    try:
        yield
    except OtcacheError:
        raise
    except Exception as error:
        reason = shortened(f"{type(error).__name__}: {error}")
        raise bad_file(folder, f"cannot be loaded: {reason}") from error
