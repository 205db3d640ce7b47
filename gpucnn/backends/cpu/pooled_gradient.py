"""The gradient of images that were pooled, made when it is asked for and used while in cache.

It has the elements of the images, of which all but one in each window are zeros: written to memory
and read back it would take most of the time that the pool takes.
"""

from __future__ import annotations

from gpucnn.backends.cpu.blocks import Array
from gpucnn.backends.cpu.epilogue import BEFORE_POOL, NCHW
from gpucnn.backends.cpu.max_pool import max_pool2d_backward
from gpucnn.backends.cpu.workspace import workspace
from gpucnn.ops.geometry import Pool2dGeometry


class PooledGradient:
    """Of images (N, H, W, C), from that of their maxima: what `max_pool2d_backward` gives."""

    def __init__(self, dy: Array, argmax: Array, y: Array | None, g: Pool2dGeometry) -> None:
        self.dy, self.argmax, self.y, self.g = dy, argmax, y, g

    def __getitem__(self, images: slice) -> Array:
        """Of some images, in this thread's memory until the next ones."""
        dy, argmax = self.dy[images], self.argmax[images]
        y = None if self.y is None else self.y[images].transpose(NCHW)
        n, _, _, c = dy.shape
        out = workspace(BEFORE_POOL, (n, self.g.h, self.g.w, c), dy.dtype)
        small, places = dy.transpose(NCHW), argmax.transpose(NCHW)
        max_pool2d_backward(small, places, y, out.transpose(NCHW), geometry=self.g)
        return out
