"""Pictures of real data, read from a folder or an array file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import FileError, OtcacheError, expected
from otcache_diffusers.compat import load
from otcache_diffusers.metrics.pairs import check_pictures

BATCH = 32
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def read_pictures(path: Path) -> Iterator[NDArray[np.float64]]:
    """Yield batches of pictures, shape (n, height, width, 3) in [0, 1], all of one size.

    Args:
        path: a folder of picture files, or one ``.npy`` or ``.npz`` array of shape
            (n, height, width, 3), 8-bit or in [0, 1]; a ``.npz`` holds one array.

    Raises:
        FileError: if it cannot be read, or holds none.
        OtcacheError: if pictures differ in size or leave [0, 1].
    """
    return _from_folder(path) if path.is_dir() else _from_array(path)


def _from_array(path: Path) -> Iterator[NDArray[np.float64]]:
    stack = _array(path)
    for at in range(0, len(stack), BATCH):
        part = np.asarray(stack[at : at + BATCH])
        yield check_pictures(part / 255.0 if part.dtype == np.uint8 else part, f"{path}: pictures")


def _array(path: Path) -> NDArray[np.generic]:
    try:
        if path.suffix != ".npz":
            stack: NDArray[np.generic] = np.load(path, mmap_mode="r")
            return stack
        with np.load(path) as arrays:
            if len(arrays.files) != 1:
                raise FileError(expected(f"{path}: arrays", arrays.files, "one array of pictures"))
            only: NDArray[np.generic] = arrays[arrays.files[0]]
            return only
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, OtcacheError):
            raise
        raise FileError(f"{path}: not a readable .npy or .npz file: {error}.") from error


def _from_folder(folder: Path) -> Iterator[NDArray[np.float64]]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise FileError(expected(f"{folder}: pictures", "none", f"files ({', '.join(SUFFIXES)})"))
    size = None
    for at in range(0, len(files), BATCH):
        batch = []
        for file in files[at : at + BATCH]:
            batch.append(_picture(file))
            size = size or batch[-1].shape
            if batch[-1].shape != size:
                wanted = f"{size[1]} by {size[0]} pixels, as {files[0].name}"
                got = f"{batch[-1].shape[1]} by {batch[-1].shape[0]}"
                raise OtcacheError(expected(str(file), got, wanted, "resize the real pictures."))
        yield np.stack(batch)


def _picture(file: Path) -> NDArray[np.float64]:
    images = load("PIL.Image", "reading files of pictures")

    try:
        with images.open(file) as image:
            return np.asarray(image.convert("RGB"), dtype=np.float64) / 255.0
    except (OSError, ValueError) as error:
        raise FileError(f"{file}: not a readable picture: {error}.") from error
