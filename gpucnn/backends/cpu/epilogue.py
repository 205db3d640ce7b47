"""What follows a convolution, done to each part of its output while that is still in cache."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpucnn.backends.cpu import elementwise
from gpucnn.backends.cpu.blocks import Array, rows_together
from gpucnn.backends.cpu.max_pool import max_pool2d
from gpucnn.backends.cpu.workspace import workspace
from gpucnn.ops.geometry import Pool2dGeometry

Part = tuple[slice, ...]
WHOLE: Part = (slice(None),) * 4

_NCHW = (0, 3, 1, 2)

BEFORE_POOL = 8
"""The slot of scratch memory for what is pooled; convolution has those before it."""


class Pooling(NamedTuple):
    """The maxima y (N, P, Q, K) of windows over a convolution's images, and where they are."""

    y: Array
    argmax: Array | None
    geometry: Pool2dGeometry

    def target(self, part: Part) -> Array:
        """Memory of this thread for images to be pooled, all rows and columns of them."""
        images, filters = (len(range(*part[axis].indices(self.y.shape[axis]))) for axis in (0, 3))
        shape = (images, self.geometry.h, self.geometry.w, filters)
        return workspace(BEFORE_POOL, shape, self.y.dtype)

    def __call__(self, part: Part, images: Array) -> Array:
        """Pool a part that `target` gave; its maxima."""
        y, argmax = self.y[part], None if self.argmax is None else self.argmax[part]
        positions = None if argmax is None else argmax.transpose(_NCHW)
        max_pool2d(images.transpose(_NCHW), y.transpose(_NCHW), positions, geometry=self.geometry)
        return y


class Epilogue(NamedTuple):
    """y <- y + bias + addend; then its positive part (`relu`), or 0 where mask <= 0.

    All arrays are 4-D views in the axes' order of the algorithm that calls it, channels along
    `axis`; a part is four slices of y. With `pool`, y + bias is pooled before the ReLU, and kept
    nowhere: parts then have all rows and columns.
    """

    y: Array
    axis: int = 3
    bias: Array | None = None
    addend: Array | None = None
    mask: Array | None = None
    relu: bool = False
    pool: Pooling | None = None

    @property
    def of_images(self) -> bool:
        """Whether parts must have all rows and columns of their images."""
        return self.pool is not None

    def target(self, part: Part) -> Array:
        """Where a part of the convolution is to be written."""
        return self.y[part] if self.pool is None else self.pool.target(part)

    def __call__(self, part: Part, out: Array) -> None:
        """What follows a part that was written to its target, `out`."""
        if self.bias is not None:
            self._add_bias(out, self.bias[part[self.axis]])
        if self.pool is not None:
            out = self.pool(part, out)
        if self.addend is not None:
            elementwise.binary(out, self.addend[part], out, op="add")
        if self.relu:
            elementwise.unary(out, out, op="relu")
        if self.mask is not None:
            elementwise.binary(out, self.mask[part], out, op="relu_backward")

    def _add_bias(self, out: Array, bias: Array) -> None:
        if self.axis == 3 and out.flags.c_contiguous:
            # Many pixels at a time: NumPy's loop over few channels is too short.
            channels = len(bias)
            together = rows_together(out.size // channels, channels)
            rows = out.reshape(-1, together * channels)
            np.add(rows, bias.reshape(1, -1).repeat(together, axis=0).reshape(-1), out=rows)
        else:
            np.add(out, bias.reshape((-1,) + (1,) * (3 - self.axis)), out=out)

    def for_channels(self, channels: slice) -> Epilogue:
        """The same for some channels alone, as channels from 0 on."""
        part: Part = (slice(None),) * self.axis + (channels,)

        def cut(array: Array | None) -> Array | None:
            return None if array is None else array[part]

        bias = None if self.bias is None else self.bias[channels]
        return self._replace(
            y=self.y[part], bias=bias, addend=cut(self.addend), mask=cut(self.mask)
        )
