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
from gpucnn.backends.cpu.epilogue import Epilogue
from gpucnn.backends.cpu.padding import inside
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
_SHARED = 1 << 24
"""Floating-point operations from which threads share the filters."""
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
        self.copies = []
        self.groups: list[_Rows] = []
        self.parts = _parts(g.c)
        together = max(1, _PRODUCTS // max(1, g.s * self.parts * g.k * g.p * g.n * g.q))
        for first in firsts:
            start, phase = divmod(first * g.dilation_h, g.stride_h)
            rows, from_rows = inside(phase - g.pad_top, height, g.stride_h, g.h)
            for s in range(g.s):
                columns, from_columns = inside(s * g.dilation_w - g.pad_left, g.q, g.stride_w, g.w)
                target = self.memory[first, s, :, rows, :, columns]
                self.copies.append((target.transpose(2, 1, 3, 0), from_rows, from_columns))
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
        for target, rows, columns in self.copies:
            target[...] = x[:, rows, columns]


def _parts(channels: int) -> int:
    """How many equal parts of the channels are products of their own."""
    for parts in range(-(-channels // _TERMS), channels // _FEWEST_TERMS + 1):
        if channels % parts == 0:
            return parts
    return 1


_kept: Kept[_Lines] = Kept(_BOUND)


def _lines(g: Conv2dGeometry, dtype: np.dtype[np.generic]) -> _Lines:
    found = _kept.get((g, dtype))
    if found is None:
        found = _Lines(g, dtype)
        _kept.put((g, dtype), found, found.memory.size)
    return found


def forward(x: Array, w: Array, y: Array, g: Conv2dGeometry, finish: Epilogue) -> None:
    """y (N, P, Q, K) from x (N, H, W, C) and w (R, S, C, K), all of any strides."""
    lines = _lines(g, x.dtype)
    lines.fill(x)
    filters = np.ascontiguousarray(w.transpose(3, 0, 1, 2))
    filters = filters.reshape(g.k, g.r, g.s, lines.parts, -1)
    pixels = g.p * g.n * g.q

    def work(start: int, stop: int) -> None:
        part, count = slice(start, stop), stop - start
        total = workspace(1, (count, pixels), y.dtype)
        for number, (rows, read) in enumerate(lines.groups):
            products = workspace(2, (*read.shape[:3], count, pixels), y.dtype)
            multiply(filters[part, rows].transpose(1, 2, 3, 0, 4), read, products)
            sums = total if number == 0 else workspace(3, total.shape, y.dtype)
            np.add.reduce(products.reshape(-1, count, pixels), axis=0, out=sums)
            if number:
                np.add(total, sums, out=total)
        y[..., part] = total.reshape(count, g.p, g.n, g.q).transpose(2, 1, 3, 0)
        finish((slice(None), slice(None), slice(None), part))

    share = max(_FEWEST, -(-g.k // _SHARES)) if g.flops > _SHARED else g.k
    parallel_for(g.k, share, work)
