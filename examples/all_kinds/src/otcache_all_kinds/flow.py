"""A sampler of one's own, without torch: what the probe and the executor of this package are for."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import final

import numpy as np
from numpy.typing import NDArray

from otcache_core import Demo, ExecutionError

Array = NDArray[np.float64]
#: (step, grid s_0 .. s_N, state, what computes the output) -> output
Hook = Callable[[int, Array, Array, Callable[[], Array]], Array]
#: Operations of one call on a pixel, about.
FLOPS = 30
COLOURS = {"red": (1.0, 0.2, 0.2), "green": (0.2, 1.0, 0.2), "blue": (0.3, 0.3, 1.0)}


@final
class Denoiser:
    r"""The exact velocity of pixels that are black or of one colour c, with equal chances.

    .. math:: v(x, s) = \frac{x - E[x_0 | x]}{s}, \quad E[x_0 | x] = c \, \sigma\!\left(
        \frac{(1 - s) \langle c, x \rangle - (1 - s)^2 |c|^2 / 2}{s^2} \right)

    Attributes:
        calls: so far.
    """

    def __init__(self) -> None:
        self.calls = 0

    def forward(self, x: Array, s: float, colour: Array) -> Array:
        """Return v of shape (n, ..., height, width, 3); one colour an image or video, shape (n, 3)."""
        self.calls += 1
        c = colour.reshape(len(x), *(1,) * (x.ndim - 2), 3)
        a = (1 - s) * (x * c).sum(-1) - (1 - s) ** 2 * (c * c).sum(-1) / 2
        clean = c * (0.5 + 0.5 * np.tanh(a / (2 * s**2)))[..., None]
        return np.asarray((x - clean) / s)


@final
class Flow:
    """Euler steps from noise to coloured pixels; the prompt names the colour.

    Args:
        size: height and width of the images.
        frames: of the videos it makes; 0 makes images.
    """

    def __init__(self, size: int = 8, frames: int = 0) -> None:
        self.shape = (*((frames,) if frames else ()), size, size, 3)
        self.denoiser = Denoiser()
        self._hook: Hook | None = None

    def grid(self, num_steps: int) -> Array:
        """s_0 .. s_N."""
        return np.linspace(1.0, 0.0, num_steps + 1)

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int], num_steps: int) -> Array:
        """x_N of shape (n, ..., size, size, 3); each sample's noise comes from its own seed."""
        s, noise = self.grid(num_steps), [np.random.default_rng(seed) for seed in seeds]
        x = np.stack([one.standard_normal(self.shape) for one in noise])
        colour = np.array([_colour(prompt) for prompt in prompts])
        for i in range(num_steps):

            def compute(x: Array = x, i: int = i) -> Array:
                return self.denoiser.forward(x, float(s[i]), colour)

            v = compute() if self._hook is None else self._hook(i, s, x, compute)
            x = x + (s[i + 1] - s[i]) * v
        return x

    @contextmanager
    def hooked(self, hook: Hook) -> Iterator[None]:
        """Put every step to a hook first.

        Raises:
            ExecutionError: if there is one already.
        """
        if self._hook is not None:
            raise ExecutionError(
                "this Flow is recorded or accelerated already: leave that context."
            )
        self._hook = hook
        try:
            yield
        finally:
            self._hook = None


def _colour(prompt: str) -> tuple[float, float, float]:
    return next((colour for name, colour in COLOURS.items() if name in prompt), (1.0, 1.0, 1.0))


def _named(*prompts: str) -> tuple[tuple[str, str], ...]:
    return tuple((prompt, "colour") for prompt in prompts)


_PROMPTS = {"calibration": _named("red", "green"), "heldout": _named("blue", "white")}
IMAGES = Demo("flow", "coloured pixels, in numpy", Flow, prompts=_PROMPTS)
VIDEOS = Demo(
    "flow-video",
    "the same, four frames",
    partial(Flow, frames=4),
    prompts=_PROMPTS,
    frames_per_second=8.0,
)
