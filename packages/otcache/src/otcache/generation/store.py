"""Where generated files go: a folder, or whatever fsspec opens by a URL."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otcache_core import FileError, OtcacheError
from otcache_core.plugins.info import reason_of
from otcache_core.storage.files import make_folder, read_bytes, write_bytes

#: How often a write is tried, and the seconds before the second try; each further one waits twice as long.
TRIES, PAUSE = 6, 0.5


class StoreError(FileError):
    """A store failed again and again, whatever is written."""


@dataclass(frozen=True)
class Store:
    """A folder of files that are there whole or not at all.

    In a folder a file takes its name once all of it is written. An object store does so by itself.
    Credentials are the environment's; nothing of them is kept.

    Args:
        url: a path, or ``file://``, ``memory://``, ``s3://``, ``gs://`` and others, which fsspec opens.
        pause: waits so many seconds.
    """

    url: str
    pause: Callable[[float], None] = time.sleep
    _remote: tuple[Any, str] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_remote", _opened(self.url))

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return self._remote is None

    @property
    def absolute(self) -> str:
        """The URL, or a path that means the same in another folder."""
        return str(self._path.resolve()) if self.is_local else self.url

    def name(self, name: str) -> str:
        """Return the path or URL of a file, for messages."""
        return f"{self.url.rstrip('/')}/{name}"

    def write(self, name: str, data: bytes) -> None:
        """Write a file; tried again where the store fails.

        Raises:
            StoreError: if it fails every time.
        """
        for left in reversed(range(TRIES)):
            try:
                self._write(name, data)
                return
            except Exception as error:
                if not left:
                    raise StoreError(
                        f"{self.name(name)}: cannot be written: {reason_of(error)}"
                    ) from error
                self.pause(PAUSE * 2 ** (TRIES - 1 - left))

    def _write(self, name: str, data: bytes) -> None:
        if self._remote is None:
            path = self._path / name
            make_folder(path.parent)
            write_bytes(path, data)
        else:
            system, root = self._remote
            system.pipe_file(f"{root}/{name}", data)

    def read(self, name: str) -> bytes | None:
        """Return a file, or None if there is none.

        Raises:
            FileError: if it cannot be read.
        """
        try:
            if self._remote is None:
                path = self._path / name
                return read_bytes(path) if path.exists() else None
            system, root = self._remote
            return bytes(system.cat_file(f"{root}/{name}"))
        except FileNotFoundError:
            return None
        except OtcacheError:
            raise
        except Exception as error:
            raise FileError(f"{self.name(name)}: cannot be read: {reason_of(error)}") from error

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder, sorted; none if there is no such folder."""
        if self._remote is None:
            path = self._path / folder
            return sorted(f"{folder}/{one.name}" for one in path.iterdir()) if path.is_dir() else []
        system, root = self._remote
        try:
            found = system.ls(f"{root}/{folder}", detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise FileError(f"{self.name(folder)}: cannot be read: {reason_of(error)}") from error
        return sorted(f"{folder}/{str(one).rstrip('/').rsplit('/', 1)[-1]}" for one in found)

    def remove(self, name: str) -> None:
        """Remove a file."""
        if self._remote is None:
            (self._path / name).unlink(missing_ok=True)
        else:
            system, root = self._remote
            system.rm_file(f"{root}/{name}")

    def remove_folder(self, folder: str) -> None:
        """Remove a folder without files; in an object store there is none."""
        if self._remote is None:
            with suppress(OSError):  # what others put there stays
                (self._path / folder).rmdir()

    @property
    def _path(self) -> Path:
        return Path(self.url.removeprefix("file://"))


def _opened(url: str) -> tuple[Any, str] | None:
    """Return the file system of a URL and its root there; None for a folder of this machine."""
    if "://" not in url or url.startswith("file://"):
        return None
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise OtcacheError(f"{url}: a URL needs fsspec: pip install fsspec.") from error
    try:
        system, root = url_to_fs(url)
    except Exception as error:  # whatever a file system raises that misses its library
        raise OtcacheError(f"{url}: cannot be opened: {reason_of(error)}") from error
    return system, str(root).rstrip("/")
