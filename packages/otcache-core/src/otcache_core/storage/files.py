"""Read and write files: regular files only, of bounded size, written whole or not at all.

A path may be a folder, a pipe that nobody writes to, or an endless device. So its kind is checked before and
after it is opened, opening never blocks, and reading has a limit.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from otcache_core.errors import FileError, expected, shortened

#: Most bytes of a text file: a policy of 1,000 steps with every budget has some 10 MB.
MAX_BYTES = 2**26
#: Bytes read of a file that reports no size.
_LEAST = 2**16
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_ADVICE = {
    errno.ENOSPC: "free some space, or name another folder",
    errno.EDQUOT: "free some space, or name another folder",
    errno.ENOENT: "make the folder first, or name one that exists",
    errno.ENOTDIR: "name a folder that exists",
    errno.EACCES: "allow writing there, or name another file",
    errno.EPERM: "allow writing there, or name another file",
    errno.EROFS: "name a folder that may be written",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.ELOOP: "remove the symbolic link, or name another file",
}


def bad_file(path: str | Path, text: str) -> FileError:
    """Make the error that names a file and says what is wrong with it."""
    name = str(path)
    return FileError(f"{shortened(name if name.isprintable() else ascii(name))}: {text}")


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file to read; never blocks.

    Raises:
        FileError: if it cannot be read, or is a folder, a pipe, a socket or a device.
    """
    try:
        name = Path(path)
        _check_regular(name, name.stat())  # opening a device or a pipe may have effects
        file = open(name, "rb", opener=_without_blocking)  # noqa: SIM115  # the caller closes it
    except FileError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise unreadable(path, error) from error
    try:
        _check_regular(name, os.fstat(file.fileno()))
    except FileError:
        file.close()
        raise
    return file


def read_bytes(path: str | Path, limit: int = MAX_BYTES) -> bytes:
    """Read a whole file of at most ``limit`` bytes.

    Raises:
        FileError: as :func:`open_file`, or if it is larger.
    """
    with open_file(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            most = min(max(size, _LEAST), limit)
            # None: no byte is there yet, as in some files of /proc; it is not waited for
            data = (file.read(most + 1) or b"") if size <= limit else b""
        except (OSError, MemoryError) as error:
            raise unreadable(path, error) from error
    if max(size, len(data)) > most:
        raise bad_file(path, expected("its size", max(size, len(data)), f"at most {most} bytes"))
    return data


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file atomically.

    Raises:
        FileError: as :func:`whole_file`.
    """
    with whole_file(path) as file:
        file.write(data)


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file to write atomically: a temporary one beside it, flushed to the disk, then renamed.

    On any error the old file stays as it was and the temporary one is removed. The target of a symbolic link
    is replaced, not the link. The new file has the mode of the old one and, if that is allowed, its owner.

    Raises:
        FileError: if the disk is full, the folder is missing, it may not be written, or the path is no
            regular file.
    """
    target, before = _target(path)
    temporary = target.with_name(f".otcache-{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("xb") as file:
            if before is not None:  # before it has content, which others may not read
                _copy_owner(temporary, before)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def make_folder(path: str | Path) -> Path:
    """Make a folder, and those above it, if it is missing.

    Raises:
        FileError: if it cannot be made.
    """
    try:
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError, TypeError) as error:
        text = f"cannot be made: {_reason(error)}: name another folder."
        raise bad_file(path, text) from error
    return folder


def unreadable(path: str | Path, error: Exception) -> FileError:
    """Make the error to raise if reading fails."""
    return bad_file(path, f"cannot be read: {_reason(error)}.")


def unwritable(path: str | Path, error: Exception) -> FileError:
    """Make the error to raise if writing fails."""
    number = error.errno if isinstance(error, OSError) else None
    advice = _ADVICE.get(number or 0, "give the file another name")
    return bad_file(path, f"cannot be written: {_reason(error)}; nothing was changed: {advice}.")


def _target(path: str | Path) -> tuple[Path, os.stat_result | None]:
    """Resolve a path to a file, and stat it; None for a new one."""
    try:
        name = Path(path)
        try:
            before = name.stat()
        except FileNotFoundError:
            before = None
        target = Path(os.path.realpath(name))
        if before is not None:
            _check_regular(name, before)
            if not os.access(target, os.W_OK):  # a rename does not check
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except FileError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise unwritable(path, error) from error
    return target, before


def _copy_owner(temporary: Path, before: os.stat_result) -> None:
    """Give a new file the owner, if that is allowed, and the mode of an old one."""
    if hasattr(os, "chown"):
        with contextlib.suppress(OSError):
            os.chown(temporary, before.st_uid, before.st_gid)
    temporary.chmod(stat.S_IMODE(before.st_mode))


def _check_regular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise bad_file(path, f"must be a file, got {kind}: name a file.")


def _without_blocking(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    return f"the name must be that of a file, got {shortened(str(error), 200)}"
