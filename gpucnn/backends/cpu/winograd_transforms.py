"""The transforms of Winograd's minimal filtering, as matrix products.

The window X of a tile becomes B^T X B: a product over its columns, then one over its rows. Tiles
and channels are the long sides of both, so that the small matrices multiply long rows; done
element by element the transforms would be bound by the cache, and take most of the time.

A convolution of stride 2 is one of stride 1 with half the taps, over images whose even and odd
rows and columns, the four *phases*, have become channels of their own.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from gpucnn.backends.cpu.blocks import Array, strided_view
from gpucnn.backends.cpu.padding import copy_padded
from gpucnn.backends.cpu.products import multiply
from gpucnn.backends.cpu.workspace import planes, workspace

_TOGETHER = 16
"""Filters transposed at a time: the lines they are read from lie a power of two apart, and more of
them do not stay in the inner cache together."""


class Tiling(NamedTuple):
    """The matrices of F(m x m, r x r), float32; n = m + r - 1."""

    m: int
    r: int
    n: int
    image: Array  # B^T (n, n)
    output: Array  # A^T (m, n)
    gradient: Array  # A (n, m)
    filters: Array  # G (x) G (n n, r r) of G (n, r): for all taps of a filter at once


_POINTS = {
    4: (0.0, 1.0, -1.0),
    5: (0.5, -0.5, 1.25, -1.25),
    6: (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)),
}
"""Points of evaluation by n. No power of them is large, which leaves a quarter of the rounding
error of the usual 0, +-1, +-2, 1/2. That the matrices then hold no small integers costs nothing,
since they are multiplied as any other."""


@functools.cache
def tiling(m: int, r: int) -> Tiling:
    """Toom and Cook's algorithm, by the values of polynomials at n - 1 points and at infinity;
    Winograd's for m outputs is its transpose."""
    n = m + r - 1

    def values(degree: int) -> Array:
        """Of x^0 .. x^(degree - 1) at each point; at infinity only the highest counts."""
        table = np.zeros((n, degree))
        table[:-1] = np.vander(_POINTS[n], degree, increasing=True)
        table[-1, -1] = 1
        return table

    filters, outputs = values(r), values(m)
    matrices = (np.linalg.inv(values(n)).T, outputs.T, outputs, np.kron(filters, filters))
    return Tiling(m, r, n, *(np.ascontiguousarray(matrix, np.float32) for matrix in matrices))


def turned(t: Tiling) -> Tiling:
    """The same for convolution with the filters turned by 180 degrees, for which the images are
    turned instead: the filters' frequencies are those of forward."""
    image, output = t.image[:, ::-1], t.output[::-1]
    return t._replace(
        image=np.ascontiguousarray(image), output=np.ascontiguousarray(output), gradient=output.T
    )


class Block(NamedTuple):
    """Images n0..n1 and their rows of tiles t0..t1."""

    n0: int
    n1: int
    t0: int
    t1: int


class Grid(NamedTuple):
    """Images of p x q outputs as tiles of m x m: `high` rows of `wide` in each image."""

    images: int
    high: int
    wide: int

    @property
    def tiles(self) -> int:
        return self.images * self.high * self.wide

    def blocks(self, tiles: int) -> list[Block]:
        """Blocks of about `tiles` tiles: several images each, or rows of one."""
        each, tiles = self.high * self.wide, max(1, tiles)
        together = max(1, tiles // each)
        rows = self.high if each <= tiles else -(-self.high // -(-each // tiles))
        return [
            Block(n, min(n + together, self.images), t, min(t + rows, self.high))
            for n in range(0, self.images, together)
            for t in range(0, self.high, rows)
        ]


def to_frequencies(
    matrix: Array, x: Array, row: int, column: int, step: int, out: Array, phases: int = 1
) -> None:
    """out (n, n, t, N, u, C) = matrix X matrix^T for the window X of x (N, H, W, C) of each tile.

    The window of tile (t, u) begins at (row + t * step, column + u * step) and is as large as
    `matrix` has columns; outside x are zeros. With two `phases` each way, it takes every second
    row and column, tiles lie 2 * step apart, and out has 4 C channels.
    """
    n, window = matrix.shape
    high, images, wide, channels = out.shape[2:]
    height, width = (high - 1) * step + window, (wide - 1) * step + window
    fits = min(row, column) >= 0 and row + height <= x.shape[1] and column + width <= x.shape[2]
    if phases == 1 and fits and x.strides[3] == x.itemsize:
        source = x[:, row:, column:]
    else:
        source = workspace(0, (images, height, width, channels), x.dtype)
        split = source.reshape(images, height, width, phases, phases, -1)
        for i in range(phases):
            for j in range(phases):
                copy_padded(x, row + i, column + j, split[..., i, j, :], phases, phases)
    halfway = planes(1, (n,), (height, images, wide, channels), x.dtype)
    for left, right in window_views(source, window, step, halfway, out):
        np.matmul(matrix, left, out=right)


def window_views(
    source: Array, window: int, step: int, halfway: Array, out: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """What a matrix multiplies from the left to give what: the windows' columns, then their rows.

    Of source (N, H, W, C), halfway (n, H, N, u, C) and out (n, n, t, N, u, C).
    """
    n, height, images, wide, channels = halfway.shape
    high, length = out.shape[2], images * wide * channels
    image, line, pixel, item = source.strides
    across = strided_view(
        source, (images, height, wide, window, channels), (image, line, step * pixel, pixel, item)
    )
    line = length * item
    down = strided_view(
        halfway, (n, high, window, length), (halfway.strides[0], step * line, line, item)
    )
    frequencies = out.reshape(n, n, high, length).transpose(1, 2, 0, 3)
    return (across, halfway.transpose(2, 1, 3, 0, 4)), (down, frequencies)


def to_outputs(matrix: Array, frequencies: Array, y: Array, phases: int = 1) -> None:
    """y (N, P, Q, K) = matrix X matrix^T of each tile X of `frequencies` (n, n, t, N, u, K).

    What lies beyond y is left out. With two `phases` each way, `frequencies` have 4 K filters,
    those of odd and of even rows and columns of y.
    """
    m, n = matrix.shape
    high, images, wide, filters = frequencies.shape[2:]
    halfway = planes(1, (m, n), (high, images, wide, filters), y.dtype)
    columns, lines, rows = output_views(frequencies, halfway)
    np.matmul(matrix, columns, out=lines)
    to_tiles(matrix, rows, y, phases)


def output_views(frequencies: Array, halfway: Array) -> tuple[Array, Array, Array]:
    """The tiles' columns, what a matrix times them gives, and that as the tiles' rows.

    Of frequencies (n, n, t, N, u, K) and halfway (m, n, t, N, u, K).
    """
    m, n = halfway.shape[:2]
    columns = frequencies.reshape(n, n, -1).transpose(1, 0, 2)
    lines = halfway.reshape(m, n, -1).transpose(1, 0, 2)
    return columns, lines, halfway.transpose(0, 2, 3, 4, 1, 5)


def to_tiles(matrix: Array, rows: Array, y: Array, phases: int) -> None:
    """y (N, P, Q, K), the last product of `to_outputs`: matrix times the tiles' rows."""
    m, high, images, wide, _, filters = rows.shape
    shape = (images, m * high, m * wide, filters)
    fits = phases == 1 and y.shape == shape and y.strides[3] == y.itemsize
    whole = y if fits else workspace(2, shape, y.dtype)
    tiles = whole.reshape(images, high, m, wide, m, filters).transpose(2, 1, 0, 3, 4, 5)
    np.matmul(matrix, rows, out=tiles)
    if fits:
        return
    split = whole.reshape(*shape[:3], phases, phases, -1)
    for i in range(phases):
        for j in range(phases):
            target = y[:, phases - 1 - i :: phases, phases - 1 - j :: phases]
            target[...] = split[:, : target.shape[1], : target.shape[2], i, j]


def filters_to_frequencies(t: Tiling, w: Array) -> Array:
    """(n n, I, O) = G W G^T for the filters W of w (r, r, I, O), in the workspace."""
    taps = workspace(0, w.shape, w.dtype)
    few = w.shape[3] if w.strides[3] == w.itemsize else _TOGETHER
    for k in range(0, w.shape[3], few):
        taps[..., k : k + few] = w[..., k : k + few]
    out = workspace(1, (len(t.filters), *w.shape[2:]), w.dtype)
    multiply(t.filters, taps.reshape(t.r * t.r, -1), out.reshape(len(t.filters), -1))
    return out


def filters_from_frequencies(t: Tiling, frequencies: Array, dw: Array) -> None:
    """dw (r, r, K, C) = G^T U G of each U of `frequencies` (n n, K, C)."""
    taps = workspace(0, dw.shape, dw.dtype)
    multiply(t.filters.T, frequencies.reshape(len(t.filters), -1), taps.reshape(t.r * t.r, -1))
    np.copyto(dw, taps)
