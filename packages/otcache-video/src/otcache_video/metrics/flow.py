"""Optical flow between frames: where each pixel goes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate

LUMA = (0.299, 0.587, 0.114)
#: Side of the window, iterations a level, least side of the coarsest level.
WINDOW, ITERATIONS, COARSEST = 7, 3, 12
#: Least height and width of a frame.
SMALLEST = WINDOW
#: lambda: the squared gradient, in 1 / pixel^2, below which a window says nothing about motion.
PRIOR = 1e-5
#: Pixels of one batch: bounds the memory of a long clip.
PIXELS = 1 << 22


def frames(clip: NDArray[np.float64], device: torch.device) -> Tensor:
    """Frames of a clip, (frames, height, width, 3), as flow takes them: (frames, 3, height, width)."""
    return torch.from_numpy(clip).to(device).permute(0, 3, 1, 2)


def optical_flow(first: Tensor, second: Tensor) -> Tensor:
    r"""The flow w from one frame to another, :math:`J(p + w(p)) \approx I(p)`, in pixels.

    Iterated Lucas-Kanade over a pyramid, in the luma of both frames, with a prior for standing still:
    from a flow w, with J warped by it, g the mean gradient of both and r = J - I,

    .. math:: w(p) \leftarrow \arg\min_{v} \operatorname*{mean}_{q \in W(p)}
              \bigl(g(q) \cdot (v - w(q)) + r(q)\bigr)^2 + \lambda \|v\|^2,

    W(p) being the 7 by 7 pixels about p that w takes inside the frame. Where a window shows nothing
    to follow the flow is 0; scikit-image's flows (iLK, TV-L1), which have no such prior, carry a
    moving thing's flow far over the faint noise of a plain background. The price: where luma has the
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
    """Frames seen at p + w(p), bilinear, edges repeated outside; shape (n, channels, height, width)."""
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

    It is if its target lies in the frame and the flow back brings it home,

    .. math:: |w + w'(p + w)|^2 \le 0.01 \left(|w|^2 + |w'(p + w)|^2\right) + 0.5.

    References:
        Sundaram, Brox, Keutzer: Dense point trajectories by GPU-accelerated large displacement
        optical flow, 2010, https://doi.org/10.1007/978-3-642-15549-9_32.

    Args:
        forward: flow w to the next frame, shape (n, 2, height, width).
        backward: flow w' from the next frame back.
    """
    home = warp(backward, forward)
    astray = (forward + home).square().sum(dim=1)
    lengths = forward.square().sum(dim=1) + home.square().sum(dim=1)
    return inside(forward) & (astray <= 0.01 * lengths + 0.5)


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
    """Means over the window about each pixel, as far as it lies in the frame."""
    for kernel in ((WINDOW, 1), (1, WINDOW)):
        margin = tuple(side // 2 for side in kernel)
        terms = avg_pool2d(terms, kernel, stride=1, padding=margin, count_include_pad=False)
    return terms


def _resized(frames: Tensor, size: tuple[int, ...]) -> Tensor:
    if frames.shape[-2:] == size:
        return frames
    return interpolate(frames, size=list(size), mode="bilinear", antialias=True)


def _stretched(flow: Tensor, size: tuple[int, ...]) -> Tensor:
    """The flow on another grid, in that grid's pixels."""
    if flow.shape[-2:] == size:
        return flow
    scale = flow.new_tensor([size[1] / flow.shape[-1], size[0] / flow.shape[-2]])
    return interpolate(flow, size=list(size), mode="bilinear") * scale.view(2, 1, 1)


def _targets(flow: Tensor) -> tuple[Tensor, Tensor]:
    height, width = flow.shape[-2:]
    rows = torch.arange(height, dtype=flow.dtype, device=flow.device).view(-1, 1)
    columns = torch.arange(width, dtype=flow.dtype, device=flow.device)
    return columns + flow[:, 0], rows + flow[:, 1]
