"""Metrics of motion: flicker, warping error and motion magnitude.

The optical flow that the latter two use is below them.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate

from otcache_video.metrics.pairs import Memory, PairedVideos, Video

LUMA = (0.299, 0.587, 0.114)
#: Side of the window, iterations a level, least side of the coarsest level.
WINDOW, ITERATIONS, COARSEST = 7, 3, 12
#: Least height and width of a frame.
SMALLEST = WINDOW
#: lambda: the squared gradient, in 1 / pixel^2, below which a window says nothing about motion.
PRIOR = 1e-5
#: Pixels of one batch: bounds the memory of a long video.
PIXELS = 1 << 22
#: epsilon, in pixels a frame: motion that flow can hardly separate from noise.
STILL = 0.05


class Flicker(PairedVideos):
    r"""Root mean square error of temporal differences.

    .. math:: \mathrm{flicker}(x, y) = \sqrt{\tfrac{1}{3(F-1)HW} \sum_{t < F} \sum_{h,w,c}
              \bigl((x_{t+1} - x_t) - (y_{t+1} - y_t)\bigr)_{hwc}^2},

    over F frames, in float64. In video matting it is called dtSSD, there a mean over t of each step's
    root. It is not VBench's temporal flickering, the mean absolute difference of one video's successive
    frames, which has no reference and takes motion for flicker. Values are 0 to 2.

    Properties: with e = x - y it is the root mean square of e_{t+1} - e_t, so an error that stays the same
    in every frame costs nothing; brightness that alternates between +a and -a costs 2a; it is at most
    2 sqrt(F / (F - 1)) times the RMSE of the video.

    References:
        Erofeev, Gitman, Vatolin, Fedorov, Wang: Perceptually motivated benchmark for video matting,
        2015, https://doi.org/10.5244/C.29.99.
        Huang and others: VBench: comprehensive benchmark suite for video generative models, 2023,
        https://arxiv.org/abs/2311.17982.
    """

    name = "flicker"

    def _value(self, x: Video, y: Video) -> float:
        return float(np.sqrt(np.mean(np.diff(x - y, axis=0) ** 2)))


class WarpingError(PairedVideos):
    r"""How much worse than the full run's video a video keeps its colours along the latter's motion.

    .. math:: \mathrm{value}(x, y) = \tfrac{1}{F-1} \sum_{t < F} \bigl| E_t(x) - E_t(y) \bigr|,
              \quad E_t(v) = \sqrt{\operatorname*{mean}_{p \in M_t,\, c}
              \bigl(v_t(p) - v_{t+1}(p + w_t(p))\bigr)_c^2},

    where w_t is the optical flow of the reference y from frame t to t+1
    (:func:`~otcache_video.metrics.motion.optical_flow`) and M_t are the pixels that it finds in both
    frames (:func:`~otcache_video.metrics.motion.visible`); a step that has none counts as 0. E_t is the
    warping error of Lai and others, here with a root, which makes it a colour in [0, 1], and with the
    reference's flow for both videos. The reference's own error, from edges, resampling and what flow
    cannot follow, is taken away, so that identical videos give 0.

    Properties: on a still reference the flow is 0, and brightness that alternates between +a
    and -a costs 2a; a video that is still, or moves at another speed, leaves the reference's
    motion and costs what its colours differ along it.

    References:
        Lai, Huang, Wang, Shechtman, Yumer, Yang: Learning blind video temporal consistency, 2018,
        https://arxiv.org/abs/1808.00449.
    """

    name = "warping-error"
    _smallest = SMALLEST

    def __init__(self, device: str = "cpu") -> None:
        self._device = torch.device(device)
        self._motion = Memory(self._find_motion)

    def _value(self, x: Video, y: Video) -> float:
        flow, seen, errors = self._motion(y)
        return float((_errors(frames(x, self._device), flow, seen) - errors).abs().mean())

    def _find_motion(self, reference: Video) -> tuple[Tensor, Tensor, Tensor]:
        """Return the flow w_t, the pixels M_t, and the reference's own errors."""
        full = frames(reference, self._device)
        forward, backward = optical_flow(full[:-1], full[1:]), optical_flow(full[1:], full[:-1])
        seen = visible(forward, backward)
        return forward, seen, _errors(full, forward, seen)


class MotionMagnitude(PairedVideos):
    r"""How far the ratio of both videos' motion is from 1, as a logarithm.

    .. math:: \mathrm{value}(x, y) = \left| \ln \frac{m(x) + \varepsilon}{m(y) + \varepsilon} \right|,
              \quad m(v) = \operatorname*{mean}_{t < F,\, p} \| w_t(p) \|,

    where w_t is the optical flow from frame t to t+1 of the video itself
    (:func:`~otcache_video.metrics.motion.optical_flow`) in pixels, and epsilon 0.05 pixels a frame.

    Properties: half or double the motion costs ln 2 = 0.69, but for epsilon; both directions of time cost
    about the same, and so does any other motion of the same amount. Two still videos cost
    0; one that is still while the other moves by m costs ln(1 + m / epsilon), 3.0 for a pixel a
    frame. Differences of motion far below epsilon do not count.

    References:
        Huang and others: VBench: comprehensive benchmark suite for video generative models, 2023,
        https://arxiv.org/abs/2311.17982 (dynamic degree, there without a reference).
    """

    name = "motion-magnitude"
    _smallest = SMALLEST

    def __init__(self, device: str = "cpu") -> None:
        self._device = torch.device(device)
        self._of_reference = Memory(self._magnitude)

    def _value(self, x: Video, y: Video) -> float:
        motion, full = self._magnitude(x) + STILL, self._of_reference(y) + STILL
        return abs(math.log(motion / full))

    def _magnitude(self, video: Video) -> float:
        moving = frames(video, self._device)
        return float(optical_flow(moving[:-1], moving[1:]).norm(dim=1).mean())


def _errors(video: Tensor, flow: Tensor, seen: Tensor) -> Tensor:
    """Return E_t of each step, shape (frames - 1,)."""
    squares = (video[:-1] - warp(video[1:], flow)).square().mean(dim=1) * seen
    return (squares.sum(dim=(1, 2)) / seen.sum(dim=(1, 2)).clamp(min=1)).sqrt()


def frames(video: NDArray[np.float64], device: torch.device) -> Tensor:
    """Return frames (frames, height, width, 3) as the flow takes them, (frames, 3, height, width)."""
    return torch.from_numpy(video).to(device).permute(0, 3, 1, 2)


def optical_flow(first: Tensor, second: Tensor) -> Tensor:
    r"""Compute the flow w from one frame to another, :math:`J(p + w(p)) \approx I(p)`, in pixels.

    Iterated Lucas-Kanade over a pyramid, in the luma of both frames, with a prior for standing still:
    from a flow w, with J warped by it, g the mean gradient of both and r = J - I,

    .. math:: w(p) \leftarrow \arg\min_{v} \operatorname*{mean}_{q \in W(p)}
              \bigl(g(q) \cdot (v - w(q)) + r(q)\bigr)^2 + \lambda \|v\|^2,

    W(p) being the 7 by 7 pixels about p that w takes inside the frame. Where a window shows nothing
    to follow the flow is 0; scikit-image's flows (iLK, TV-L1), which have no such prior, carry a
    moving thing's flow far over the faint noise of a plain background. The cost: where luma has the
    mean square gradient G along the motion, the flow is short by the factor G / (G + lambda). Lambda
    is 1e-5, which is 1 % at a root mean square gradient of 0.03 a pixel and a half at 0.003, less
    than one of 256 levels.

    References:
        Lucas, Kanade: An iterative image registration technique with an application to stereo
        vision, 1981, https://www.ijcai.org/Proceedings/81-2/Papers/017.pdf.
        Bouguet: Pyramidal implementation of the Lucas Kanade feature tracker, 2000.
        Simoncelli, Adelson, Heeger: Probability distributions of optical flow, 1991,
        https://doi.org/10.1109/CVPR.1991.139707 (the prior).

    Args:
        first: frames I, shape (n, 3, height, width), at least 7 by 7, range [0, 1], channels red,
            green, blue.
        second: frames J, same shape and range.

    Returns:
        Shape (n, 2, height, width): to the right, then down.
    """
    size = max(1, PIXELS // (first.shape[-2] * first.shape[-1]))
    parts = zip(*(torch.split(_luma(v), size) for v in (first, second)), strict=True)
    return torch.cat([_flow(a, b) for a, b in parts])


def warp(frames: Tensor, flow: Tensor) -> Tensor:
    """Return frames at p + w(p), bilinear, edges repeated outside; shape (n, channels, height, width)."""
    height, width = frames.shape[-2:]
    x, y = _targets(flow)
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], dim=-1)
    return grid_sample(frames, grid, padding_mode="border", align_corners=True)


def inside(flow: Tensor) -> Tensor:
    """Whether p + w(p) lies in a pixel of the frame, shape (n, height, width)."""
    height, width = flow.shape[-2:]
    x, y = _targets(flow)
    return (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)


def visible(forward: Tensor, backward: Tensor) -> Tensor:
    r"""Whether the pixel of a frame is there in the next one too, shape (n, height, width).

    It is if its target lies in the frame and the flow back leads to where it began,

    .. math:: |w + w'(p + w)|^2 \le 0.01 \left(|w|^2 + |w'(p + w)|^2\right) + 0.5.

    References:
        Sundaram, Brox, Keutzer: Dense point trajectories by GPU-accelerated large displacement
        optical flow, 2010, https://doi.org/10.1007/978-3-642-15549-9_32.

    Args:
        forward: flow w to the next frame, shape (n, 2, height, width).
        backward: flow w' from the next frame back.
    """
    back = warp(backward, forward)
    apart = (forward + back).square().sum(dim=1)
    lengths = forward.square().sum(dim=1) + back.square().sum(dim=1)
    return inside(forward) & (apart <= 0.01 * lengths + 0.5)


def _luma(frames: Tensor) -> Tensor:
    return (frames * frames.new_tensor(LUMA).view(3, 1, 1)).sum(dim=1, keepdim=True)


def _flow(first: Tensor, second: Tensor) -> Tensor:
    sizes = [tuple(first.shape[-2:])]
    while min(sizes[-1]) >= 2 * COARSEST:
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    flow = first.new_zeros(len(first), 2, *sizes[-1])
    for size in reversed(sizes):
        a, b = (_resized(v, size) for v in (first, second))
        flow = _stretched(flow, size)
        for _ in range(ITERATIONS):
            flow = _refined(a, b, flow)
    return flow


def _refined(a: Tensor, b: Tensor, flow: Tensor) -> Tensor:
    warped = warp(b, flow)
    seen = inside(flow).unsqueeze(1)
    gy, gx = (g * seen for g in torch.gradient((a + warped) / 2, dim=(-2, -1)))
    along = gx * flow[:, :1] + gy * flow[:, 1:] - (warped - a)
    terms = torch.cat([gx * gx, gx * gy, gy * gy, gx * along, gy * along], dim=1)
    xx, xy, yy, bx, by = _window_means(terms).unbind(dim=1)
    xx, yy = xx + PRIOR, yy + PRIOR
    determinant = xx * yy - xy * xy
    return torch.stack([yy * bx - xy * by, xx * by - xy * bx], dim=1) / determinant.unsqueeze(1)


def _window_means(terms: Tensor) -> Tensor:
    """Return means over the window about each pixel, as far as it lies in the frame."""
    for kernel in ((WINDOW, 1), (1, WINDOW)):
        margin = tuple(side // 2 for side in kernel)
        terms = avg_pool2d(terms, kernel, stride=1, padding=margin, count_include_pad=False)
    return terms


def _resized(frames: Tensor, size: tuple[int, ...]) -> Tensor:
    if frames.shape[-2:] == size:
        return frames
    return interpolate(frames, size=list(size), mode="bilinear", antialias=True)


def _stretched(flow: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return the flow on another grid, in that grid's pixels."""
    if flow.shape[-2:] == size:
        return flow
    scale = flow.new_tensor([size[1] / flow.shape[-1], size[0] / flow.shape[-2]])
    return interpolate(flow, size=list(size), mode="bilinear") * scale.view(2, 1, 1)


def _targets(flow: Tensor) -> tuple[Tensor, Tensor]:
    height, width = flow.shape[-2:]
    rows = torch.arange(height, dtype=flow.dtype, device=flow.device).view(-1, 1)
    columns = torch.arange(width, dtype=flow.dtype, device=flow.device)
    return columns + flow[:, 0], rows + flow[:, 1]
