"""2-D convolution with few output pixels, as filters times lines of the images.

The rows of the images are written once for each filter column, shifted by it, channel by channel:
"lines" (C, rows, N, Q). What a filter row reads of them is a matrix (C, P N Q) where it lies, so
that for filter row r and column s

    y  = the sum over r and s of W_rs (K, C) (lines_s of the rows r .. r + P)

With few pixels the filters are the larger operand, which each thread reads once, a part of them;
products of a few hundred channels each need no packing of it (see `products`). The error is that
of a float32 sum, as of `patch_products`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gpucnn.backends.cpu.blocks import Array
from gpucnn.backends.cpu.epilogue import WHOLE, Epilogue
from gpucnn.backends.cpu.padding import Window, window
from gpucnn.backends.cpu.products import multiply
from gpucnn.backends.cpu.threads import parallel_for
from gpucnn.backends.cpu.workspace import Kept, workspace
from gpucnn.ops.geometry import Conv2dGeometry

_BOUND = 1 << 21
"""Elements of lines that a thread keeps the memory of."""
_TERMS, _FEWEST_TERMS = 384, 96
"""Channels of one product: at most, and at least where they are cut."""
_PRODUCTS = 1 << 19
"""Elements of products that are added up at a time, unless one filter row makes more."""
SHARED = 1 << 24
"""Floating-point operations from which threads share what one would do alone."""
_SHARES, _FEWEST = 4, 128
"""Such shares, and the filters of one at least."""


class _Rows(NamedTuple):
    """Filter rows, and for each of them and each column what a part of the channels multiplies."""

    rows: slice
    lines: Array  # (rows, S, parts, C / parts, P N Q)


class _Lines:
    """The lines of one geometry, in memory of their own whose zeros around the images stay."""

    def __init__(self, g: Conv2dGeometry, dtype: np.dtype[np.generic]) -> None:
        # Filter rows whose distance is a multiple of the stride read every `stride`th image row.
        apart = math.gcd(g.stride_h, g.dilation_h)
        every, shift = g.stride_h // apart, g.dilation_h // apart
        firsts = range(min(every, g.r))
        height = g.p + (g.r - 1) * g.dilation_h // g.stride_h
        self.memory = np.zeros((len(firsts), g.s, g.c, height, g.n, g.q), dtype)
        self.size = self.memory.size
        self.windows: list[Window] = []
        self.groups: list[_Rows] = []
        self.parts = _parts(g.c)
        together = max(1, _PRODUCTS // max(1, g.s * self.parts * g.k * g.p * g.n * g.q))
        for first in firsts:
            start, phase = divmod(first * g.dilation_h, g.stride_h)
            for s in range(g.s):
                target = self.memory[first, s].transpose(2, 1, 3, 0)
                row, column = phase - g.pad_top, s * g.dilation_w - g.pad_left
                part = window(target, row, column, (g.h, g.w), g.stride_h, g.stride_w)
                self.windows.append(part)
            all_rows = range(first, g.r, every)
            for at in range(0, len(all_rows), together):
                some = all_rows[at : at + together]
                lines = self._read(first, start + at * shift, shift, len(some), g)
                self.groups.append(_Rows(slice(some.start, some.stop, every), lines))

    def _read(self, phase: int, start: int, shift: int, rows: int, g: Conv2dGeometry) -> Array:
        part, column, channel, line, _, item = self.memory.strides
        channels = g.c // self.parts
        return np.ndarray(
            (rows, g.s, self.parts, channels, g.p * g.n * g.q),
            self.memory.dtype,
            self.memory,
            phase * part + start * line,
            (shift * line, column, channels * channel, channel, item),
        )

    def fill(self, x: Array) -> None:
        """Write the lines of x (N, H, W, C)."""
        for part in self.windows:
            part.fill(x)


def _parts(channels: int) -> int:
    """How many equal parts of the channels are products of their own."""
    for parts in range(-(-channels // _TERMS), channels // _FEWEST_TERMS + 1):
        if channels % parts == 0:
            return parts
    return 1


_kept: Kept[_Lines] = Kept(_BOUND)


def share(g: Conv2dGeometry) -> int:
    """How many filters a thread takes, where the pixels are few."""
    return max(_FEWEST, -(-g.k // _SHARES)) if g.flops > SHARED else g.k


def forward(x: Array, w: Array, g: Conv2dGeometry, finish: Epilogue) -> None:
    """y (N, P, Q, K) from x (N, H, W, C) and w (R, S, C, K), all of any strides."""
    lines = _kept.of((g, x.dtype), lambda: _Lines(g, x.dtype))
    lines.fill(x)
    filters = np.ascontiguousarray(w.transpose(3, 0, 1, 2))
    filters = filters.reshape(g.k, g.r, g.s, lines.parts, -1)
    pixels = g.p * g.n * g.q

    def work(start: int, stop: int) -> None:
        part, count = slice(start, stop), stop - start
        total = workspace(1, (count, pixels), x.dtype)
        for number, (rows, read) in enumerate(lines.groups):
            products = workspace(2, (*read.shape[:3], count, pixels), x.dtype)
            multiply(filters[part, rows].transpose(1, 2, 3, 0, 4), read, products)
            sums = total if number == 0 else workspace(3, total.shape, x.dtype)
            np.add.reduce(products.reshape(-1, count, pixels), axis=0, out=sums)
            if number:
                np.add(total, sums, out=total)
        images = (*WHOLE[:3], part)
        out = finish.target(images)
        out[...] = total.reshape(count, g.p, g.n, g.q).transpose(2, 1, 3, 0)
        finish(images, out)

    parallel_for(g.k, share(g), work)
