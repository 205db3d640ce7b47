"""Depthwise 3x3 or 5x5 convolution of stride 1 by Winograd's filtering, in channels-last memory.

As `winograd`, but a filter's frequencies scale those of its own channel: there is no sum,
y = A^T [(G w G^T) * (B^T x B)] A. Since the transforms are matrix products, that takes two thirds
of the time of adding up shifted images. (The gradient of the filters gains nothing from it.)

Errors are below 1e-5 of the largest result (1e-6 is usual); NaN and infinity spread over tiles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from gpucnn.backends.cpu.blocks import Array
from gpucnn.backends.cpu.epilogue import Epilogue
from gpucnn.backends.cpu.threads import parallel_for
from gpucnn.backends.cpu.winograd_plan import Plan, backward_plan, forward_plan
from gpucnn.backends.cpu.workspace import planes, views
from gpucnn.ops.geometry import Conv2dGeometry

_BLOCK = 1 << 14
"""Tiles times channels of a block: what is made of them stays in the outer cache."""


def forward(x: Array, w: Array, m: int, g: Conv2dGeometry, finish: Epilogue) -> None:
    """y (N, P, Q, C) from x (N, H, W, C) and w (R, S, C), all of any strides."""
    _convolve(forward_plan(m, g), x, w, finish)


def backward_input(dy: Array, w: Array, m: int, g: Conv2dGeometry, finish: Epilogue) -> None:
    """dx (N, H, W, C) from dy (N, P, Q, C) and w (R, S, C), all of any strides."""
    _convolve(backward_plan(m, g), dy, w, finish)


def _convolve(plan: Plan, x: Array, w: Array, finish: Epilogue) -> None:
    n, channels = plan.t.n, plan.channels
    spectrum = plan.t.filters @ np.ascontiguousarray(w).reshape(-1, channels)
    scale = spectrum.reshape(n, n, 1, 1, 1, channels)
    blocks = plan.grid.blocks(_BLOCK // channels)

    def work(start: int, stop: int) -> None:
        for block in blocks[start:stop]:
            n0, n1, t0, t1 = block
            tiles = views(_Tiles, plan, n1 - n0, t0, t1, x.dtype)
            tiles.read(x[n0:n1])
            np.multiply(tiles.images, scale, out=tiles.images)
            part = plan.part(block, slice(None))
            out = finish.target(part)
            tiles.write(out)
            finish(part, out)

    parallel_for(len(blocks), 1, work)


class _Tiles:
    """Rows t0..t1 of the tiles of some images, in this thread's workspace."""

    def __init__(self, plan: Plan, images: int, t0: int, t1: int, dtype: DTypeLike) -> None:
        n, shape = plan.t.n, (t1 - t0, images, plan.grid.wide, plan.channels)
        self.images = planes(3, (n, n), shape, dtype)
        self.read, self.write = plan.reading(t0, self.images), plan.writing(self.images)
