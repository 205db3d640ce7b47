"""Winograd's filtering of few tiles, transformed by one thread, as in the inference of one image.

NumPy's calls are then so short that it takes as long to make the views they work on: a thread
makes memory and views once for each geometry, and keeps them. Others help with long products.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from gpucnn.backends.cpu.blocks import Array
from gpucnn.backends.cpu.epilogue import Epilogue
from gpucnn.backends.cpu.padding import Window, window
from gpucnn.backends.cpu.products import multiply
from gpucnn.backends.cpu.threads import parallel_for
from gpucnn.backends.cpu.winograd_plan import Plan
from gpucnn.backends.cpu.winograd_transforms import output_views, to_tiles, window_views
from gpucnn.backends.cpu.workspace import Kept, planes

BOUND = 1 << 21
"""Elements of memory that a thread keeps."""
_SHARED = 1 << 22
"""Multiplications of the products from which threads share them, and lines of frequencies that
one of them takes then."""
_LINES = 2

_WHOLE = (slice(None),) * 4


class Single:
    """One plan for all tiles and filters, with memory of its own.

    `size` are the elements of it, the gaps between planes included.
    """

    def __init__(self, plan: Plan, x: Array, filters: int) -> None:
        t, grid, (read, written) = plan.t, plan.grid, plan.phases
        self.plan = plan
        dtype, channels, outputs = x.dtype, x.shape[3] * read**2, filters * written**2
        height, width = ((tiles - 1) * t.m + t.n for tiles in (grid.high, grid.wide))
        # The zeros around the images stay.
        phases = np.zeros((grid.images, height, width, read, read, x.shape[3]), dtype)
        self.parts: list[Window] = []
        for i in range(read):
            for j in range(read):
                row, column, target = plan.start[0] + i, plan.start[1] + j, phases[:, :, :, i, j]
                part = window(target, row, column, x.shape[1:3], read, read, clear=False)
                self.parts.append(part)
        tiles = (grid.high, grid.images, grid.wide)
        images = planes(None, (t.n, t.n), (*tiles, channels), dtype)
        product = planes(None, (t.n, t.n), (*tiles, outputs), dtype)
        across = planes(None, (t.n,), (height, *tiles[1:], channels), dtype)
        down = planes(None, (t.m, t.n), (*tiles, outputs), dtype)
        source = phases.reshape(grid.images, height, width, channels)
        self.windows = window_views(source, t.n, t.m, across, images)
        self.columns, self.lines, self.rows = output_views(product, down)
        self.images = images.reshape(t.n, t.n, -1, channels)
        self.product = product.reshape(t.n, t.n, -1, outputs)
        memory = (phases, images.base, product.base, across.base, down.base)
        self.size = sum(array.size for array in memory if array is not None)

    def __call__(self, x: Array, spectrum: Array, y: Array, finish: Epilogue) -> None:
        """y (N, P, Q, K) from x (N, H, W, C) and the filters' frequencies (n, n, I, O)."""
        t = self.plan.t
        for part in self.parts:
            part.fill(x)
        for left, right in self.windows:
            np.matmul(t.image, left, out=right)
        self._multiply(spectrum)
        np.matmul(t.output, self.columns, out=self.lines)
        to_tiles(t.output, self.rows, y, self.plan.phases.written)
        finish(_WHOLE)

    def _multiply(self, spectrum: Array) -> None:
        """The products of all frequencies; several lines of them a thread if there are many."""
        images, product = self.images, self.product
        if self.plan.phases != (1, 1) or images.size * product.shape[3] < _SHARED:
            self.plan.multiply(images, spectrum, product)
            return

        def work(start: int, stop: int) -> None:
            multiply(images[start:stop], spectrum[start:stop], product[start:stop])

        parallel_for(self.plan.t.n, _LINES, work, blas=False)


_kept: Kept[Single] = Kept(BOUND)


def single(key: Hashable, plan: Plan, x: Array, filters: int) -> Single:
    """The `Single` of a plan that belongs to `key`, kept if it is small."""
    return _kept.of((key, x.dtype), lambda: Single(plan, x, filters))
