"""Images of real data, read from a folder or an array file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import FileError, OtcacheError, expected, shortened
from otcache_core.storage.files import bad_file, open_file, unreadable
from otcache_diffusers.compat import load
from otcache_diffusers.metrics.checks import check_images

BATCH = 32
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def read_images(path: Path) -> Iterator[NDArray[np.float64]]:
    """Yield batches of images, shape (n, height, width, 3) in [0, 1], all of one size.

    Args:
        path: a folder of image files, or one ``.npy`` or ``.npz`` array of shape
            (n, height, width, 3), 8-bit or in [0, 1]; a ``.npz`` holds one array.

    Raises:
        FileError: if it cannot be read, or holds none.
        OtcacheError: if images differ in size or leave [0, 1].
    """
    return _from_folder(path) if os.path.isdir(path) else _from_array(path)


def _from_array(path: Path) -> Iterator[NDArray[np.float64]]:
    stack = _array(path)
    for at in range(0, len(stack), BATCH):
        part = np.asarray(stack[at : at + BATCH])
        yield check_images(part / 255.0 if part.dtype == np.uint8 else part, f"{path}: images")


def _array(path: Path) -> NDArray[np.generic]:
    with open_file(path) as file:
        try:
            if path.suffix == ".npz":
                stack = _only(path, file)
            else:
                np.lib.format.read_magic(file)  # np.load would take other kinds, too
                stack = np.load(path, mmap_mode="r")
        except FileError:
            raise
        except Exception as error:  # whatever a damaged file makes NumPy and zipfile raise
            reason = shortened(str(error))
            raise bad_file(path, f"not a readable .npy or .npz file: {reason}.") from error
    if stack.ndim != 4 or stack.dtype.kind not in "uf":
        got = f"{stack.dtype} of shape {stack.shape}"
        raise bad_file(path, expected("the array", got, "images (n, height, width, 3)"))
    return stack


def _only(path: Path, file: BinaryIO) -> NDArray[np.generic]:
    """Return the one array of a .npz file."""
    with np.load(file) as arrays:
        if len(arrays.files) != 1:
            raise bad_file(path, expected("arrays", arrays.files, "one array of images"))
        only: NDArray[np.generic] = arrays[arrays.files[0]]
        return only


def _from_folder(folder: Path) -> Iterator[NDArray[np.float64]]:
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise unreadable(folder, error) from error
    if not files:
        raise FileError(expected(f"{folder}: images", "none", f"files ({', '.join(SUFFIXES)})"))
    size = None
    for at in range(0, len(files), BATCH):
        batch = []
        for file in files[at : at + BATCH]:
            batch.append(_image(file))
            size = size or batch[-1].shape
            if batch[-1].shape != size:
                wanted = f"{size[1]} by {size[0]} pixels, as {files[0].name}"
                got = f"{batch[-1].shape[1]} by {batch[-1].shape[0]}"
                raise OtcacheError(expected(str(file), got, wanted, "resize the real images."))
        yield np.stack(batch)


def _image(file: Path) -> NDArray[np.float64]:
    pillow = load("PIL.Image", "reading image files")
    try:
        with open_file(file) as opened, pillow.open(opened) as image:
            return np.asarray(image.convert("RGB"), dtype=np.float64) / 255.0
    except FileError:
        raise
    except Exception as error:  # whatever a damaged file makes Pillow raise, or one too large
        reason = "it does not fit into memory" if isinstance(error, MemoryError) else error
        raise FileError(f"{file}: not a readable image: {shortened(str(reason))}.") from error
