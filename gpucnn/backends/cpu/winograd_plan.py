"""What a convolution by Winograd's filtering reads and writes, in terms of tiles."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from gpucnn.backends.cpu.algorithm_times import is_small_winograd
from gpucnn.backends.cpu.blocks import Array
from gpucnn.backends.cpu.epilogue import Epilogue
from gpucnn.backends.cpu.products import multiply
from gpucnn.backends.cpu.winograd_transforms import (
    Block,
    Grid,
    Tiling,
    filters_to_frequencies,
    tiling,
    to_frequencies,
    to_outputs,
    turned,
)
from gpucnn.backends.cpu.workspace import workspace
from gpucnn.ops.geometry import Conv2dGeometry

_BLOCK = 1 << 14
"""Tiles times channels of a block: what is made of them stays in the outer cache."""
_LEAST = 128
"""Tiles of a block, as rows of a product with many channels."""
_PAIRS = 1 << 15
"""Pairs of channel and filter that a thread takes at a time."""
_FEW_PAIRS = 1 << 12
"""Pairs up to which it takes all: less is done before another thread is awake."""
_PIECES = 4
"""Pieces that there should be for threads, and how few filters then make one."""
_FEWEST = 16


class Phases(NamedTuple):
    """How many phases each way the images that are read, and those that are written, have."""

    read: int = 1
    written: int = 1


class Plan(NamedTuple):
    """One convolution of stride 1 over tiles.

    The window of the first tile begins at `start` of the images that are read; its outputs begin
    at the first pixel of those that are written.
    """

    t: Tiling
    grid: Grid
    phases: Phases
    start: tuple[int, int]

    def read(self, x: Array, block: Block, out: Array) -> None:
        """The frequencies of a block of x (N, H, W, C)."""
        row = self.start[0] + block.t0 * self.t.m * self.phases.read
        images = x[block.n0 : block.n1]
        to_frequencies(self.t.image, images, row, self.start[1], self.t.m, out, self.phases.read)

    def write(
        self, product: Array, y: Array, block: Block, filters: slice, finish: Epilogue
    ) -> None:
        """A block of y (N, P, Q, K) from the frequencies of some filters."""
        high = self.t.m * self.phases.written
        part = (
            slice(block.n0, block.n1),
            slice(block.t0 * high, block.t1 * high),
            slice(None),
            filters,
        )
        to_outputs(self.t.output, product, y[part], self.phases.written)
        finish(part)

    def parts(self) -> Iterator[tuple[slice, slice, int, int]]:
        """Rows and columns of frequencies, and how many quarters of the channels read and of the
        filters written count there: phases of a single tap have no value at infinity, the last."""
        n = self.t.n
        if self.phases == (1, 1):
            yield slice(0, n), slice(0, n), 4, 4
            return
        finite, last = slice(0, n - 1), slice(n - 1, n)
        for rows, columns, count in (
            (finite, finite, 4),
            (finite, last, 3),  # phases 0 and 2 have two taps in a row
            (last, finite, 2),  # phases 0 and 1 have two taps in a column
            (last, last, 1),
        ):
            yield rows, columns, *((count, 4) if self.phases.read == 2 else (4, count))

    def multiply(self, images: Array, spectrum: Array, product: Array) -> None:
        """product (n, n, T, O) = images (n, n, T, I) spectrum (n, n, I, O)."""
        for rows, columns, read, written in self.parts():
            inner, outer = images.shape[3] * read // 4, spectrum.shape[3] * written // 4
            part = product[rows, columns]
            part[..., outer:] = 0
            multiply(
                images[rows, columns, :, :inner],
                spectrum[rows, columns, :inner, :outer],
                part[..., :outer],
            )

    def spectrum(self, w: Array) -> Array:
        """The frequencies (n, n, I, O) of filters w (R, S, C, K), in the workspace."""
        t, (_, _, channels, filters) = self.t, w.shape
        if self.phases != (1, 1):
            by_channel = self.phases.read == 2
            w = _phases_of(w, by_channel)
            w = w.reshape(2, 2, *((4 * channels, filters) if by_channel else (channels, -1)))
        return filters_to_frequencies(t, w).reshape(t.n, t.n, *w.shape[2:])

    def transformed(self, channels: int, filters: int) -> int:
        """Elements of the frequencies of filters (R, S, C, K)."""
        return self.t.n**2 * channels * filters * self.phases.read**2 * self.phases.written**2

    def is_small(self, channels: int, filters: int) -> bool:
        """Whether one thread makes all transforms, see `winograd_single`."""
        return is_small_winograd(self.grid.tiles, self.transformed(channels, filters), filters)

    def tiles(self, channels: int) -> int:
        """Tiles of a block."""
        return max(_LEAST, _BLOCK // channels)

    def share(self, length: int, others: int) -> int:
        """How many of `length` filters a thread takes, with `others` channels."""
        most = -(-length // (_PIECES * _FEWEST)) * _FEWEST
        return max(_FEW_PAIRS // others, min(most, max(_FEWEST, _PAIRS // others)))


def _phases_of(w: Array, by_channel: bool) -> Array:
    """3x3 filters w (3, 3, C, K) of stride 2 as 2x2 filters of stride 1, in the workspace.

    (2, 2, 4, C, K) for phases of what is read, (2, 2, C, 4, K) for phases of what is written.
    """
    channels, filters = w.shape[2:]
    shape = (2, 2, 4, channels, filters) if by_channel else (2, 2, channels, 4, filters)
    taps = workspace(2, shape, w.dtype)
    taps.fill(0)
    for r in range(3):
        for s in range(3):
            phase = 2 * (r % 2) + s % 2
            if by_channel:
                taps[r // 2, s // 2, phase] = w[r, s]
            else:
                taps[(2 - r) // 2, (2 - s) // 2, :, phase] = w[r, s]
    return taps


@lru_cache(maxsize=512)
def forward_plan(m: int, g: Conv2dGeometry) -> Plan:
    """Of y from x, or of dw from x and dy."""
    taps = g.r if g.stride_h == 1 else 2
    grid = Grid(g.n, -(-g.p // m), -(-g.q // m))
    return Plan(tiling(m, taps), grid, Phases(read=g.stride_h), (-g.pad_top, -g.pad_left))


@lru_cache(maxsize=512)
def backward_plan(m: int, g: Conv2dGeometry) -> Plan:
    """Of dx from dy."""
    if g.stride_h == 2:
        grid = Grid(g.n, -(-g.h // (2 * m)), -(-g.w // (2 * m)))
        return Plan(tiling(m, 2), grid, Phases(written=2), (0, 0))
    grid = Grid(g.n, -(-g.h // m), -(-g.w // m))
    return Plan(turned(tiling(m, g.r)), grid, Phases(), (g.pad_top - g.r + 1, g.pad_left - g.s + 1))
