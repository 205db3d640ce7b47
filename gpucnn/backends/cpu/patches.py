"""Patch matrices (im2col) of convolution, a block of output rows at a time.

A patch matrix has a row for each output position and a column for each (r, s, c) of the filter,
so that convolution is a matrix product (Chellapilla et al. 2006). It is never built whole: blocks
of about a megabyte stay in cache between their making and their use.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gpucnn.backends.cpu.blocks import Array, strided_view
from gpucnn.backends.cpu.padding import Window, copy_padded, window
from gpucnn.backends.cpu.workspace import Kept, views, workspace
from gpucnn.ops.geometry import Conv2dGeometry

BLOCK = 1 << 18
"""Elements of a patch matrix that are made at a time."""
_SMALL, _BOUND = 1 << 15, 1 << 18
"""Elements of a matrix and its images that a thread keeps for the next call, and all of those."""


class Block(NamedTuple):
    """Images n0..n1 and their output rows p0..p1."""

    n0: int
    n1: int
    p0: int
    p1: int


@lru_cache(maxsize=256)
def blocks(g: Conv2dGeometry, channels: int, whole_images: bool = False) -> tuple[Block, ...]:
    """The blocks that together make all output rows: several images each, or rows of one."""
    row = g.q * g.r * g.s * channels
    images = max(1, BLOCK // max(1, row * g.p))
    rows = g.p
    if images == 1 and not whole_images:
        rows = min(g.p, max(1, BLOCK // max(1, row)))
    return tuple(
        Block(n, min(n + images, g.n), p, min(p + rows, g.p))
        for n in range(0, g.n, images)
        for p in range(0, g.p, rows)
    )


def halves(block: Block) -> tuple[Block, ...]:
    """Two blocks instead of one, of half the images or half the rows; the one if it has one row."""
    n0, n1, p0, p1 = block
    if n1 - n0 > 1:
        middle = (n0 + n1) // 2
        return Block(n0, middle, p0, p1), Block(middle, n1, p0, p1)
    middle = (p0 + p1) // 2
    parts = Block(n0, n1, p0, middle), Block(n0, n1, middle, p1)
    return tuple(part for part in parts if part.p1 > part.p0)


def by_tap(g: Conv2dGeometry, channels: int) -> bool:
    """Whether the matrix is better made a filter tap at a time: few channels, long rows."""
    return g.s * channels < g.q


def is_pointwise(g: Conv2dGeometry) -> bool:
    """Whether the patch matrix is the images themselves."""
    return (g.r, g.s, g.stride_h, g.stride_w) == (1, 1, 1, 1) and (g.p, g.q) == (g.h, g.w)


def patches(x: Array, g: Conv2dGeometry, block: Block) -> Array:
    """The patch matrix of a block, (n p q) x (r s c), from x (N, H, W, C) of any strides.

    It is C-contiguous, in this thread's workspace, or x itself for 1 x 1 filters.
    """
    n0, n1, p0, p1 = block
    channels = x.shape[3]
    if is_pointwise(g) and x.flags.c_contiguous:
        return x[n0:n1, p0:p1].reshape(-1, channels)
    source = _padded(x, g, block)
    n, p, q = n1 - n0, p1 - p0, g.q
    a, h, w, c = source.strides
    matrix = workspace(1, (n * p * q, g.r * g.s * channels), x.dtype)
    view = strided_view(
        source,
        (n, p, q, g.r, g.s, channels),
        (a, g.stride_h * h, g.stride_w * w, g.dilation_h * h, g.dilation_w * w, c),
    )
    np.copyto(matrix.reshape(view.shape), view)
    return matrix


def patches_by_tap(x: Array, g: Conv2dGeometry, block: Block) -> Array:
    """The transposed patch matrix of a block and a row of ones, (r s c + 1) x (n p q).

    The ones make the bias a filter tap: forward adds it, backward_weight sums dy for it.
    """
    images = x[block.n0 : block.n1]
    form = (g, x.shape[3], block.n1 - block.n0, block.p0, block.p1, x.dtype)
    if sum(map(math.prod, _shapes_by_tap(*form[:-1]))) > _SMALL:
        return views(_ByTap, *form).fill(images)
    return _kept.of(form, lambda: _ByTap(*form, own=True)).fill(images)


def _shapes_by_tap(
    g: Conv2dGeometry, channels: int, n: int, p0: int, p1: int
) -> tuple[tuple[int, int, int, int, int], tuple[int, int]]:
    """Of the images that a block reads, (n, c, rows, stride, columns / stride), and of its matrix.

    Columns apart by the stride lie side by side, so that a tap of a row is one run.
    """
    _, height = _rows_read(g, p0, p1)
    width = g.q + (g.s - 1) * g.dilation_w // g.stride_w
    taps = g.r * g.s * channels + 1
    return (n, channels, height, g.stride_w, width), (taps, n * (p1 - p0) * g.q)


class _ByTap:
    """What `patches_by_tap` copies where, for `n` images and output rows p0..p1: in this thread's
    workspace, or in memory of its `own` whose zeros around the images and ones stay."""

    def __init__(
        self,
        g: Conv2dGeometry,
        channels: int,
        n: int,
        p0: int,
        p1: int,
        dtype: np.dtype[Any],
        own: bool = False,
    ) -> None:
        shape, sides = _shapes_by_tap(g, channels, n, p0, p1)
        source = np.zeros(shape, dtype) if own else workspace(0, shape, dtype)
        row, _ = _rows_read(g, p0, p1)
        self.own = own
        self.inputs: list[Window] = []
        for phase in range(g.stride_w):
            plane = source[:, :, :, phase].transpose(0, 2, 3, 1)
            size, step = (g.h, g.w), g.stride_w
            self.inputs.append(window(plane, row, phase - g.pad_left, size, column_step=step))
        self.matrix = np.ones(sides, dtype) if own else workspace(1, sides, dtype)
        self.size = source.size + self.matrix.size
        p, q = p1 - p0, g.q
        planes = self.matrix[:-1].reshape(g.r, g.s, channels, n, p, q)
        image, channel, line, apart, item = source.strides
        down, across = g.dilation_h * line, g.stride_h * line
        # A run of filter columns whose distance is one stride is one copy.
        step = 1 if g.stride_w > 1 else g.s
        self.taps = []
        for s in range(0, g.s, step):
            shift, at = divmod(s * g.dilation_w, g.stride_w)
            view: Array = np.ndarray(
                (g.r, step, channels, n, p, q),
                dtype,
                source,
                at * apart + shift * item,
                (down, g.dilation_w * item, channel, image, across, item),
            )
            self.taps.append((planes[:, s : s + step], view))

    def fill(self, x: Array) -> Array:
        """The matrix for the images x (n, H, W, C)."""
        if not self.own:
            self.matrix[-1].fill(1)
        for part in self.inputs:
            if not self.own:
                part.clear()
            part.fill(x)
        for target, view in self.taps:
            np.copyto(target, view)
        return self.matrix


_kept: Kept[_ByTap] = Kept(_BOUND)


def _rows_read(g: Conv2dGeometry, p0: int, p1: int) -> tuple[int, int]:
    """The first row of the image that output rows p0..p1 read (negative in the padding), and how
    many."""
    high = (p1 - p0 - 1) * g.stride_h + (g.r - 1) * g.dilation_h + 1
    return p0 * g.stride_h - g.pad_top, high


def _padded(x: Array, g: Conv2dGeometry, block: Block) -> Array:
    """The input rows that a block reads, zeros around them, as (n, h, w, c).

    The input itself where it needs neither padding nor another order.
    """
    n0, n1, p0, p1 = block
    row, height = _rows_read(g, p0, p1)
    width = (g.q - 1) * g.stride_w + (g.s - 1) * g.dilation_w + 1
    inside = row >= 0 and row + height <= g.h and g.pad_left == 0 and width <= g.w
    if inside and (x.strides[3] == x.itemsize or g.c == 1):
        return x[n0:n1, row : row + height]
    buffer = workspace(0, (n1 - n0, height, width, x.shape[3]), x.dtype)
    copy_padded(x[n0:n1], row, -g.pad_left, buffer)
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
    return _padded(x, g, Block(n0, n1, 0, g.p))


def turned(g: Conv2dGeometry) -> Conv2dGeometry | None:
    """The convolution of dy with turned filters that gives dx.

    None unless the stride is 1 and the padding within the filter.
    """
    reach_h, reach_w = (g.r - 1) * g.dilation_h, (g.s - 1) * g.dilation_w
    top, left = reach_h - g.pad_top, reach_w - g.pad_left
    bottom, right = reach_h - g.pad_bottom, reach_w - g.pad_right
    if (g.stride_h, g.stride_w) != (1, 1) or min(top, left, bottom, right) < 0:
        return None
    return dataclasses.replace(
        g,
        c=g.k, h=g.p, w=g.q, k=g.c, p=g.h, q=g.w,
        pad_top=top, pad_left=left, pad_bottom=bottom, pad_right=right,
    )  # fmt: skip
