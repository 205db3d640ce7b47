"""Images to the frequencies of their tiles and back, as matrix products.

The window X of a tile becomes B^T X B: a product over its columns, then one over its rows. Tiles
and channels are the long sides of both, so that the small matrices multiply long rows; done
element by element the transforms would be bound by the cache, and take most of the time.

A convolution of stride 2 is one of stride 1 with half the taps, over images whose even and odd
rows and columns, the four *phases*, have become channels of their own.

Memory and views are made once for one geometry (`workspace.views`): making them in each call would
take a tenth of the time, and threads would wait for each other to do so.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from gpucnn.backends.cpu.blocks import Array, strided_view
from gpucnn.backends.cpu.padding import window
from gpucnn.backends.cpu.workspace import held, planes, workspace


class Reading:
    """The frequencies of images: out (n, n, t, N, u, C) = matrix X matrix^T for the window X of
    each tile, which is as large as `matrix` (n, window) has columns.

    The window of tile (t, u) begins at (row + t * step, column + u * step) of images of `size`,
    outside of which are zeros. With two `phases` each way it takes every second row and column,
    tiles lie 2 * step apart, and out has four times the images' channels.

    What lies between is in this thread's workspace (slots 0 and 1), or in memory of its `own`
    whose zeros around the images stay.
    """

    def __init__(
        self,
        matrix: Array,
        size: tuple[int, int],
        start: tuple[int, int],
        step: int,
        out: Array,
        phases: int = 1,
        own: bool = False,
    ) -> None:
        self.matrix, self.start, self.step, self.out, self.own = matrix, start, step, out, own
        n, length = matrix.shape
        high, images, wide, channels = out.shape[2:]
        height, width = (high - 1) * step + length, (wide - 1) * step + length
        ends = start[0] + height <= size[0] and start[1] + width <= size[1]
        self.inside = phases == 1 and min(start) >= 0 and ends
        self.halfway = planes(None if own else 1, (n,), (height, images, wide, channels), out.dtype)
        shape = (images, height, width, phases, phases, channels // phases**2)
        source = np.zeros(shape, out.dtype) if own else workspace(0, shape, out.dtype)
        self.windows = [
            window(source[:, :, :, i, j], start[0] + i, start[1] + j, size, phases, phases)
            for i, j in product(range(phases), repeat=2)
        ]
        self.products = self._products(source.reshape(images, height, width, channels))
        self.size = source.size + held(self.halfway)

    def _products(self, source: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """What the matrix multiplies from the left to give what: the columns of the windows of
        source (N, H, W, C), then their rows."""
        length = self.matrix.shape[1]
        n, height, images, wide, channels = self.halfway.shape
        high, row = self.out.shape[2], images * wide * channels
        image, line, pixel, item = source.strides
        across = strided_view(
            source,
            (images, height, wide, length, channels),
            (image, line, self.step * pixel, pixel, item),
        )
        line = row * item
        down = strided_view(
            self.halfway,
            (n, high, length, row),
            (self.halfway.strides[0], self.step * line, line, item),
        )
        frequencies = self.out.reshape(n, n, high, row).transpose(1, 2, 0, 3)
        return (across, self.halfway.transpose(2, 1, 3, 0, 4)), (down, frequencies)

    def __call__(self, x: Array) -> None:
        """Of x (N, H, W, C), of any strides."""
        products = self.products
        if self.inside and x.strides[3] == x.itemsize:
            products = self._products(x[:, self.start[0] :, self.start[1] :])
        else:
            for part in self.windows:
                if not self.own:
                    part.clear()
                part.fill(x)
        for left, right in products:
            np.matmul(self.matrix, left, out=right)


class Writing:
    """The outputs of frequencies (n, n, t, N, u, K): y (N, P, Q, K) = matrix X matrix^T of each
    tile X, `matrix` being (m, n).

    What lies beyond y is left out. With two `phases` each way, the frequencies have 4 K filters,
    those of odd and of even rows and columns of y.
    """

    def __init__(
        self, matrix: Array, frequencies: Array, phases: int = 1, own: bool = False
    ) -> None:
        self.matrix, self.phases = matrix, phases
        m, n = matrix.shape
        halfway = planes(None if own else 1, (m, n), frequencies.shape[2:], frequencies.dtype)
        self.columns = frequencies.reshape(n, n, -1).transpose(1, 0, 2)
        self.lines = halfway.reshape(m, n, -1).transpose(1, 0, 2)
        self.rows = halfway.transpose(0, 2, 3, 4, 1, 5)
        self.size = held(halfway)

    def __call__(self, y: Array) -> None:
        """Into y, of any strides."""
        np.matmul(self.matrix, self.columns, out=self.lines)
        m, high, images, wide, _, filters = self.rows.shape
        shape, phases = (images, m * high, m * wide, filters), self.phases
        fits = phases == 1 and y.shape == shape and y.strides[3] == y.itemsize
        whole = y if fits else workspace(2, shape, y.dtype)
        tiles = whole.reshape(images, high, m, wide, m, filters).transpose(2, 1, 0, 3, 4, 5)
        np.matmul(self.matrix, self.rows, out=tiles)
        if fits:
            return
        split = whole.reshape(*shape[:3], phases, phases, -1)
        for i, j in product(range(phases), repeat=2):
            target = y[:, phases - 1 - i :: phases, phases - 1 - j :: phases]
            target[...] = split[:, : target.shape[1], : target.shape[2], i, j]
