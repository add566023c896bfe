"""Files of what was made: PNG for a picture, and what the installed writers know for a clip."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from otcache_core import OtcacheError, PluginError
from otcache_core.contracts import VideoWriter
from otcache_core.errors import expected
from otcache_core.plugins import Registry
from otcache_core.plugins.info import reason_of
from otcache_core.storage.files import write_bytes

PNG = ".png"


def check_name(path: Path, registry: Registry) -> None:
    """Refuse a file name before anything is made for it.

    Raises:
        OtcacheError: if neither pictures nor clips can be written to a name with this ending.
    """
    suffix = path.suffix.lower()
    suffixes = [PNG] if suffix == PNG else [PNG, *writers(registry, suffix)]
    if suffix not in suffixes:
        raise OtcacheError(
            expected(
                "--out", str(path), f"a name that ends on {_either(suffixes)}", _more(registry)
            )
        )


def save(
    path: Path | None, made: NDArray[np.floating], frames_per_second: float, registry: Registry
) -> Path:
    """Write a picture or a clip, whole or not at all.

    Args:
        path: its ending says how; None takes ``otcache.png``, or ``otcache`` with the first ending
            that a writer of clips has.
        made: shape (height, width, 3) or (frames, height, width, 3), in [0, 1].
        frames_per_second: of a clip.
        registry: where writers of clips come from.

    Returns:
        The file.

    Raises:
        OtcacheError: if the ending is not one for pictures, or clips, whichever was made; or if it
            is neither.
        FileError: if the file cannot be written.
    """
    if made.ndim not in (3, 4) or made.shape[-1] != 3:
        wanted = "a picture (height, width, 3) or a clip (frames, height, width, 3)"
        raise OtcacheError(expected("what the pipeline makes", f"shape {made.shape}", wanted))
    ending = path.suffix.lower() if path else None
    known = writers(registry, ending) if made.ndim == 4 else {}
    suffixes = list(known) if made.ndim == 4 else [PNG]
    kind = "clip" if made.ndim == 4 else "picture"
    if not suffixes:
        raise OtcacheError(f"no writer of clips is installed.{_more(registry)}")
    path = path or Path(f"otcache{suffixes[0]}")
    if path.suffix.lower() not in suffixes:
        what, wanted = f"the name of a {kind}", f"one that ends on {_either(suffixes)}"
        raise OtcacheError(expected(what, str(path), wanted))
    if made.ndim == 3:
        save_picture(path, made)
    else:
        writer = known[path.suffix.lower()]
        try:
            writer.write(path, np.clip(made, 0, 1), frames_per_second)
        except OtcacheError:
            raise
        except BaseException as error:
            name, reason = type(writer).__name__, reason_of(error)
            raise PluginError(f"{path}: cannot be written by {name}: {reason}") from error
    return path


def save_picture(path: Path, picture: NDArray[np.floating]) -> None:
    """Write a picture of shape (height, width, 3) in [0, 1] as PNG, whole or not at all.

    Raises:
        FileError: if the file cannot be written.
    """
    import matplotlib.image

    png = io.BytesIO()
    matplotlib.image.imsave(png, np.clip(picture, 0, 1), format="png")
    write_bytes(path, png.getvalue())


def writers(registry: Registry, suffix: str | None = None) -> dict[str, VideoWriter]:
    """Writers of clips by ending: otcache's own by name, then what was registered, then foreign ones.

    Args:
        registry: where they come from.
        suffix: an ending that is wanted; foreign ones are asked only where nobody else writes it, or
            nothing at all.
    """
    found = dict[str, VideoWriter]()
    for foreign in (False, True):
        for offer in registry.candidates("writers", foreign=foreign):
            try:
                writer = registry.create("writers", offer.qualified_name)
                endings = [str(ending) for ending in writer.suffixes]
            except BaseException as error:
                registry.failed(offer, error)
            else:
                found |= {ending: writer for ending in endings if ending not in found}
        if found and (suffix is None or suffix in found):
            break
    return found


def _either(suffixes: list[str]) -> str:
    return " or ".join(suffixes)


def _more(registry: Registry) -> str:
    return "" if writers(registry) else " clips need: pip install 'otcache[video]'."
