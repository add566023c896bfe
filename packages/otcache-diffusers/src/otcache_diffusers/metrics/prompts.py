"""What every metric of pictures and prompts asks of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from otcache_core.errors import OtcacheError, expected
from otcache_diffusers.metrics.pairs import check_pictures


def check_prompted(
    images: NDArray[np.floating], prompts: Sequence[str]
) -> tuple[NDArray[np.float64], list[str]]:
    """Return pictures as float64 and their prompts as a list.

    Args:
        images: shape (n, height, width, 3), range [0, 1].
        prompts: n texts.

    Raises:
        OtcacheError: if there is another number of prompts, one text in place of several, or values
            are not floating point in [0, 1].
    """
    x = check_pictures(images)
    if isinstance(prompts, str) or len(prompts) != len(x):
        got = "one text" if isinstance(prompts, str) else len(prompts)
        raise OtcacheError(expected("prompts", got, f"{len(x)} texts, one for each picture"))
    return x, list(prompts)
