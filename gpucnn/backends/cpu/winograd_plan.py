"""What a convolution by Winograd's filtering reads and writes, in terms of tiles."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from numpy.typing import DTypeLike

from gpucnn.backends.cpu.algorithm_times import is_small_winograd
from gpucnn.backends.cpu.blocks import Array
from gpucnn.backends.cpu.epilogue import Part
from gpucnn.backends.cpu.products import multiply
from gpucnn.backends.cpu.winograd_tiles import Reading, Writing
from gpucnn.backends.cpu.winograd_transforms import (
    Block,
    Grid,
    Tiling,
    filters_to_frequencies,
    tiling,
    turned,
)
from gpucnn.backends.cpu.workspace import held, planes, workspace
from gpucnn.ops.geometry import Conv2dGeometry

_BLOCK = 1 << 14
"""Tiles times channels of a block: what is made of them stays in the outer cache."""
_LEAST = 128
"""Tiles of a block, as rows of a product with many channels."""
_PAIRS = 1 << 15
"""Pairs of channel and filter that a thread takes at a time."""
_FEW_PAIRS = 1 << 13
"""Pairs up to which it takes all: less is done before another thread is awake."""
_PIECES = 4
"""Pieces that there should be for threads, and how few filters then make one."""
_FEWEST = 16


class Phases(NamedTuple):
    """How many phases each way the images that are read, and those that are written, have."""

    read: int = 1
    written: int = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """One convolution of stride 1 over tiles; there is one for each geometry and direction.

    The window of the first tile begins at `start` of the images that are read, of `size`, with
    `channels`; its outputs begin at the first pixel of those that are written, with `filters`.
    """

    t: Tiling
    grid: Grid
    phases: Phases
    start: tuple[int, int]
    size: tuple[int, int]
    channels: int
    filters: int

    @property
    def inputs(self) -> int:
        """Channels of the frequencies that are read, I."""
        return self.channels * self.phases.read**2

    @property
    def outputs(self) -> int:
        """Filters of the frequencies that are written, O."""
        return self.filters * self.phases.written**2

    def reading(self, t0: int, out: Array, own: bool = False) -> Reading:
        """Images to the frequencies `out` of the tiles in rows from t0 on."""
        start = self.start[0] + t0 * self.t.m * self.phases.read, self.start[1]
        return Reading(self.t.image, self.size, start, self.t.m, out, self.phases.read, own)

    def writing(self, product: Array, own: bool = False) -> Writing:
        """Frequencies of outputs to outputs."""
        return Writing(self.t.output, product, self.phases.written, own)

    def part(self, block: Block, filters: slice) -> Part:
        """Where the outputs of a block are in y (N, P, Q, K)."""
        high = self.t.m * self.phases.written
        rows = slice(block.t0 * high, block.t1 * high)
        return slice(block.n0, block.n1), rows, slice(None), filters

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
        if self.phases == (1, 1):
            multiply(images, spectrum, product)
            return
        for rows, columns, read, written in self.parts():
            inner, outer = images.shape[3] * read // 4, spectrum.shape[3] * written // 4
            part = product[rows, columns]
            part[..., outer:] = 0
            multiply(
                images[rows, columns, :, :inner],
                spectrum[rows, columns, :inner, :outer],
                part[..., :outer],
            )

    def spectrum(self, w: Array, slot: int = 1) -> Array:
        """The frequencies (n, n, I, O) of filters w (R, S, C, K), in a slot of the workspace."""
        t, (_, _, channels, filters) = self.t, w.shape
        if self.phases != (1, 1):
            by_channel = self.phases.read == 2
            w = _phases_of(w, by_channel)
            w = w.reshape(2, 2, *((4 * channels, filters) if by_channel else (channels, -1)))
        return filters_to_frequencies(t, w, slot).reshape(t.n, t.n, *w.shape[2:])

    @property
    def transformed(self) -> int:
        """Elements of the frequencies of all filters."""
        return self.t.n**2 * self.inputs * self.outputs

    @property
    def is_small(self) -> bool:
        """Whether one thread makes all transforms, see `winograd_single`."""
        return is_small_winograd(self.grid.tiles, self.transformed, self.filters)

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
    phases, start = Phases(read=g.stride_h), (-g.pad_top, -g.pad_left)
    return Plan(tiling(m, taps), grid, phases, start, (g.h, g.w), g.c, g.k)


@lru_cache(maxsize=512)
def backward_plan(m: int, g: Conv2dGeometry) -> Plan:
    """Of dx from dy."""
    if g.stride_h == 2:
        grid = Grid(g.n, -(-g.h // (2 * m)), -(-g.w // (2 * m)))
        return Plan(tiling(m, 2), grid, Phases(written=2), (0, 0), (g.p, g.q), g.k, g.c)
    grid, start = Grid(g.n, -(-g.h // m), -(-g.w // m)), (g.pad_top - g.r + 1, g.pad_left - g.s + 1)
    return Plan(turned(tiling(m, g.r)), grid, Phases(), start, (g.p, g.q), g.k, g.c)


class Tiles:
    """Some tiles from images to outputs, rows t0..t1 of them of `images` images.

    In this thread's workspace (slots 0, 1 and 2), or in memory of their `own`.
    """

    def __init__(
        self, plan: Plan, images: int, t0: int, t1: int, dtype: DTypeLike, own: bool = False
    ) -> None:
        n, shape = plan.t.n, (t1 - t0, images, plan.grid.wide)
        read = planes(None if own else 2, (n, n), (*shape, plan.inputs), dtype)
        self.read = plan.reading(t0, read, own)
        written = planes(None if own else 0, (n, n), (*shape, plan.outputs), dtype)
        self.write = plan.writing(written, own)
        self.images = read.reshape(n, n, -1, plan.inputs)
        self.product = written.reshape(n, n, -1, plan.outputs)
        self.size = held(read) + held(written) + self.read.size + self.write.size
