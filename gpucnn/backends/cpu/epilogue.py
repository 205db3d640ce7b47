"""What follows a convolution, done to each part of its output while that is still in cache."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from gpucnn.backends.cpu import elementwise
from gpucnn.backends.cpu.blocks import Array, rows_together
from gpucnn.backends.cpu.max_pool import Comparison, max_pool2d
from gpucnn.backends.cpu.workspace import views, workspace
from gpucnn.ops.geometry import Pool2dGeometry

Part = tuple[slice, ...]
WHOLE: Part = (slice(None),) * 4

NCHW = (0, 3, 1, 2)
"""The axes of an image as users see them, of those that are channels last."""

BEFORE_POOL = 8
"""The slot of scratch memory for what is pooled; convolution has those before it, pooling the one
behind it."""


class _Pooled:
    """What compares the images of a part, in this thread's workspace."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        places: np.dtype[Any],
        geometry: Pool2dGeometry,
    ) -> None:
        self.images = workspace(BEFORE_POOL, shape, dtype)
        self.find = Comparison(self.images, places, geometry, BEFORE_POOL + 1)


class Pooling(NamedTuple):
    """The maxima y (N, P, Q, K) of windows over a convolution's images, and where they are."""

    y: Array
    argmax: Array | None
    geometry: Pool2dGeometry

    def target(self, part: Part) -> Array:
        """Memory of this thread for images to be pooled, all rows and columns of them."""
        count, _, _, filters = self.y[_images(part)].shape
        shape = (count, self.geometry.h, self.geometry.w, filters)
        return workspace(BEFORE_POOL, shape, self.y.dtype)

    def __call__(self, part: Part, images: Array) -> Array:
        """Pool a part that `target` gave; its maxima."""
        y, g = self.y[_images(part)], self.geometry
        if self.argmax is None:
            max_pool2d(images.transpose(NCHW), y.transpose(NCHW), geometry=g)
            return y
        places = self.argmax.dtype
        pooled = views(_Pooled, images.shape, y.dtype, places, g)
        # Memory that the workspace had no room for is not that of the call before.
        find = pooled.find if pooled.images is images else Comparison(images, places, g)
        find(y, self.argmax[_images(part)])
        return y


def _images(part: Part) -> Part:
    """The same images and filters, with all rows and columns."""
    return part[0], slice(None), slice(None), part[3]


@dataclasses.dataclass(eq=False, slots=True)
class Epilogue:
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
    _repeated: dict[tuple[int, int, int], Array] = dataclasses.field(
        init=False, default_factory=dict
    )

    def target(self, part: Part) -> Array:
        """Where a part of the convolution is to be written."""
        return self.y[part] if self.pool is None else self.pool.target(part)

    def __call__(self, part: Part, out: Array) -> None:
        """What follows a part that was written to its target, `out`."""
        if self.bias is not None:
            self._add_bias(out, self.bias, part[self.axis])
        if self.pool is not None:
            out = self.pool(part, out)
        if self.addend is not None:
            elementwise.binary(out, self.addend[part], out, op="add")
        if self.relu:
            elementwise.unary(out, out, op="relu")
        if self.mask is not None:
            elementwise.binary(out, self.mask[part], out, op="relu_backward")

    def _add_bias(self, out: Array, bias: Array, filters: slice) -> None:
        if self.axis != 3 or not out.flags.c_contiguous:
            some = bias[filters]
            np.add(out, some.reshape((-1,) + (1,) * (3 - self.axis)), out=out)
            return
        # Many pixels at a time: NumPy's loop over few channels is too short.
        channels = out.shape[3]
        together = rows_together(out.size // channels, channels)
        key = filters.start or 0, channels, together
        repeated = self._repeated.get(key)
        if repeated is None:
            some = bias[filters].reshape(1, -1)
            self._repeated[key] = repeated = some.repeat(together, axis=0).reshape(-1)
        rows = out.reshape(-1, together * channels)
        np.add(rows, repeated, out=rows)

    def for_channels(self, channels: slice) -> Epilogue:
        """The same for some channels alone, as channels from 0 on."""
        part: Part = (slice(None),) * self.axis + (channels,)

        def cut(array: Array | None) -> Array | None:
            return None if array is None else array[part]

        bias = None if self.bias is None else self.bias[channels]
        return dataclasses.replace(
            self, y=self.y[part], bias=bias, addend=cut(self.addend), mask=cut(self.mask)
        )
