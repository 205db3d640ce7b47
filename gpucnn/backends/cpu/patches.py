"""Patch matrices (im2col) of convolution, a block of output rows at a time.

A patch matrix has a row for each output position and a column for each (r, s, c) of the filter,
so that convolution is a matrix product (Chellapilla et al. 2006). It is never built whole: blocks
of about a megabyte stay in cache between their making and their use.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gpucnn.backends.cpu.blocks import Array, scratch
from gpucnn.ops.geometry import Conv2dGeometry

_BLOCK = 1 << 19
"""Elements of a patch matrix that are made at a time."""


class Block(NamedTuple):
    """Images n0..n1 and their output rows p0..p1."""

    n0: int
    n1: int
    p0: int
    p1: int


def blocks(g: Conv2dGeometry, channels: int, whole_images: bool = False) -> list[Block]:
    """The blocks that together make all output rows: several images each, or rows of one."""
    row = g.q * g.r * g.s * channels
    images = max(1, _BLOCK // max(1, row * g.p))
    rows = g.p
    if images == 1 and not whole_images:
        rows = min(g.p, max(1, _BLOCK // max(1, row)))
    return [
        Block(n, min(n + images, g.n), p, min(p + rows, g.p))
        for n in range(0, g.n, images)
        for p in range(0, g.p, rows)
    ]


def by_tap(g: Conv2dGeometry, channels: int) -> bool:
    """Whether the matrix is better made a filter tap at a time: few channels, long rows."""
    return g.s * channels < g.q


def patches(x: Array, g: Conv2dGeometry, block: Block) -> Array:
    """The patch matrix of a block, (n p q) x (r s c), from x (N, H, W, C) of any strides.

    The result lies in this thread's scratch memory (or is x itself for 1 x 1 filters) and is
    either C-contiguous or the transpose of such a matrix; products take both.
    """
    n0, n1, p0, p1 = block
    channels = x.shape[3]
    pointwise = (g.r, g.s, g.stride_h, g.stride_w) == (1, 1, 1, 1)
    if pointwise and g.p == g.h and g.q == g.w and x.flags.c_contiguous:
        return x[n0:n1, p0:p1].reshape(-1, channels)
    taps_first = by_tap(g, channels)
    source = _padded(x, g, block, planar=taps_first)
    n, p, q = n1 - n0, p1 - p0, g.q
    a, h, w, c = source.strides
    move_h, move_w = g.stride_h * h, g.stride_w * w
    tap_h, tap_w = g.dilation_h * h, g.dilation_w * w
    if taps_first:
        matrix = scratch(1, (g.r * g.s * channels, n * p * q), x.dtype)
        view = np.lib.stride_tricks.as_strided(
            source, (g.r, g.s, channels, n, p, q), (tap_h, tap_w, c, a, move_h, move_w)
        )
        np.copyto(matrix.reshape(view.shape), view)
        return matrix.T
    matrix = scratch(1, (n * p * q, g.r * g.s * channels), x.dtype)
    view = np.lib.stride_tricks.as_strided(
        source, (n, p, q, g.r, g.s, channels), (a, move_h, move_w, tap_h, tap_w, c)
    )
    np.copyto(matrix.reshape(view.shape), view)
    return matrix


def _padded(x: Array, g: Conv2dGeometry, block: Block, planar: bool) -> Array:
    """The input rows that a block reads, zeros around them, as (n, h, w, c).

    `planar` asks for planes of each channel in memory. The input itself where it needs neither
    padding nor another order.
    """
    n0, n1, p0, p1 = block
    channels = x.shape[3]
    first = p0 * g.stride_h - g.pad_top
    height = (p1 - p0 - 1) * g.stride_h + (g.r - 1) * g.dilation_h + 1
    width = (g.q - 1) * g.stride_w + (g.s - 1) * g.dilation_w + 1
    start = min(max(first, 0), g.h)
    rows = slice(start, min(max(first + height, start), g.h))  # none where all is padding
    ordered = x.strides[2] == x.itemsize if planar else x.strides[3] == x.itemsize
    inside = first >= 0 and first + height <= g.h and g.pad_left == 0 and width <= g.w
    if inside and (ordered or channels == 1):
        return x[n0:n1, rows]
    if planar:
        buffer = scratch(0, (n1 - n0, channels, height, width), x.dtype).transpose(0, 2, 3, 1)
    else:
        buffer = scratch(0, (n1 - n0, height, width, channels), x.dtype)
    top = rows.start - first if rows.stop > rows.start else 0
    bottom = top + rows.stop - rows.start
    columns = min(g.w, width - g.pad_left)
    left, right = g.pad_left, g.pad_left + columns
    buffer[:, :top] = 0
    buffer[:, bottom:] = 0
    buffer[:, top:bottom, :left] = 0
    buffer[:, top:bottom, right:] = 0
    buffer[:, top:bottom, left:right] = x[n0:n1, rows, :columns]
    return buffer


def taps(g: Conv2dGeometry) -> Iterator[tuple[int, int, slice, slice]]:
    """Each filter tap (r, s) with the rows and columns of the padded input that it meets."""
    for r in range(g.r):
        top = r * g.dilation_h
        rows = slice(top, top + (g.p - 1) * g.stride_h + 1, g.stride_h)
        for s in range(g.s):
            left = s * g.dilation_w
            yield r, s, rows, slice(left, left + (g.q - 1) * g.stride_w + 1, g.stride_w)


def whole(x: Array, g: Conv2dGeometry, n0: int, n1: int) -> Array:
    """All rows of images n0..n1 with zeros around them, (n, h, w, c); may be x itself."""
    return _padded(x, g, Block(n0, n1, 0, g.p), planar=False)
