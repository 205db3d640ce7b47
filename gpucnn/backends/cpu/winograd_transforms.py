"""The matrices of Winograd's minimal filtering, its tiles, and the transforms of filters."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from gpucnn.backends.cpu.blocks import Array
from gpucnn.backends.cpu.products import multiply
from gpucnn.backends.cpu.workspace import workspace

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


def filters_to_frequencies(t: Tiling, w: Array, slot: int) -> Array:
    """(n n, I, O) = G W G^T for the filters W of w (r, r, I, O), in a slot of the workspace."""
    taps = workspace(0, w.shape, w.dtype)
    few = w.shape[3] if w.strides[3] == w.itemsize else _TOGETHER
    for k in range(0, w.shape[3], few):
        taps[..., k : k + few] = w[..., k : k + few]
    out = workspace(slot, (len(t.filters), *w.shape[2:]), w.dtype)
    multiply(t.filters, taps.reshape(t.r * t.r, -1), out.reshape(len(t.filters), -1))
    return out


def filters_from_frequencies(t: Tiling, frequencies: Array, dw: Array) -> None:
    """dw (r, r, K, C) = G^T U G of each U of `frequencies` (n n, K, C)."""
    taps = workspace(0, dw.shape, dw.dtype)
    multiply(t.filters.T, frequencies.reshape(len(t.filters), -1), taps.reshape(t.r * t.r, -1))
    np.copyto(dw, taps)
