"""Tiles of the direct convolution: which part of the images a block of the kernels takes.

Arithmetic on sizes alone, for the launches and for the choice between instances.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from gpucnn.backends.gpu.operands import ceil_div

THREADS = 256  # of kernels/conv2d_direct_sums.cuh
SHARED = 48 * 1024
"""Bytes that a block may have without being asked for specially."""


class Shape(NamedTuple):
    """The defines of one instance (see kernels/conv2d_direct_sums.cuh)."""

    filter: int
    stride: int
    lanes: int
    filters: int

    @property
    def patch(self) -> tuple[int, int]:
        """Rows and columns of output pixels of a thread."""
        return (4, 1) if self.stride == 4 else (2 * self.stride, 4 // self.stride)

    @property
    def block_filters(self) -> int:
        return self.lanes * self.filters

    @property
    def channel_filters(self) -> int:
        """Words of one channel's filters in shared memory."""
        tap = self.lanes * ceil_div(self.filters, 4) * 4 + 4
        taps = self.filter**2 * tap
        return taps + (3 * tap - taps) % 32

    @property
    def window(self) -> int:
        """Words of a row of a thread's window."""
        return ceil_div((self.patch[1] - 1) * self.stride + self.filter, 4) * 4


class Sizes(NamedTuple):
    """struct Sizes of kernels/conv2d_direct.cuh; the input and output of backward_input are dy
    and dx.
    """

    images: int
    channels: int
    height: int
    width: int
    filters: int
    rows: int
    columns: int
    pad_top: int
    pad_left: int


class Tiling(NamedTuple):
    """A block's tile in patches, the tiles of an image, and how its input lies (struct Planes)."""

    images: int
    rows: int
    columns: int
    down: int
    across: int
    chunk: int
    input_rows: int
    input_columns: int
    row: int
    group: int
    channel: int
    image: int

    def grid(self, sizes: Sizes, shape: Shape) -> tuple[int, int, int]:
        tiles = ceil_div(sizes.images, self.images) * self.down * self.across
        return tiles, ceil_div(sizes.filters, shape.block_filters), 1

    def threads(self, shape: Shape) -> int:
        return ceil_div(self.images * self.rows * self.columns * shape.lanes, 32) * 32

    def shared(self, shape: Shape) -> int:
        """Bytes of shared memory; what the pool gathers there takes less than the input did."""
        words = self.images * self.image + self.chunk * shape.channel_filters
        gathered = 5 * self.threads(shape) * shape.filters * shape.patch[0] * shape.patch[1] // 4
        return max(4 * words, gathered + 16)


def _tiling(
    shape: Shape, images: int, rows: int, columns: int, tiles: tuple[int, int], channels: int
) -> Tiling | None:
    """The tile of so many patches with as many channels at a time as fit, at most 8; or None."""
    patch_rows, patch_columns = shape.patch
    group_rows = patch_rows * shape.stride
    input_rows = (rows * patch_rows - 1) * shape.stride + shape.filter
    input_columns = 4 * (columns - 1) + shape.window
    group = group_rows * input_columns
    if shape.lanes < 8:
        # Patches go on in steps of 4 words modulo 32 from row to row, and from image to image.
        group += (4 * columns - group) % 32
    plane = ceil_div(input_rows, group_rows) * group
    channel = plane + (4 - plane) % 8
    for chunk in (8, 4, 2, 1):
        chunk = min(chunk, channels)
        image = chunk * channel
        image += (4 * rows * columns - image) % 32
        found = Tiling(
            images, rows, columns, *tiles, chunk, input_rows, input_columns,
            input_columns, group, channel, image,
        )  # fmt: skip
        if found.shared(shape) <= SHARED:
            return found
    return None


def work(tiling: Tiling, shape: Shape, sizes: Sizes) -> tuple[int, int]:
    """Instructions of a thread that multiply, and about those that fill shared memory."""
    rows, columns = shape.patch
    chunks = ceil_div(sizes.channels, tiling.chunk)
    multiply = sizes.channels * shape.filter**2 * rows * columns * shape.filters
    words = tiling.images * tiling.chunk * tiling.input_rows * tiling.input_columns
    words += tiling.chunk * shape.channel_filters
    # Each chunk waits for its first words, too.
    return multiply, chunks * (15 * ceil_div(words, tiling.threads(shape)) + 200) + 200


def _covers(tiling: Tiling, shape: Shape, sizes: Sizes) -> bool:
    """Whether the tiles are full and cover the images exactly."""
    rows, columns = tiling.down * tiling.rows, tiling.across * tiling.columns
    full = tiling.images * tiling.rows * tiling.columns * shape.lanes == THREADS
    patch_rows, patch_columns = shape.patch
    return full and (rows * patch_rows, columns * patch_columns) == (sizes.rows, sizes.columns)


@lru_cache(maxsize=1024)
def plan(
    shape: Shape, sizes: Sizes, multiprocessors: int, whole: bool = False
) -> tuple[Tiling, float] | None:
    """The tile with the least work of the busiest multiprocessor, and the useful share of it.

    None where there is none; with `whole`, of tiles of as many patches as a block has room for, all
    of them inside the images.
    """
    rows, columns = ceil_div(sizes.rows, shape.patch[0]), ceil_div(sizes.columns, shape.patch[1])
    most = THREADS // shape.lanes
    candidates = [
        _tiling(shape, images, rows, columns, (1, 1), sizes.channels)
        for images in range(1, most // max(rows * columns, 1) + 1)
        if whole or images <= max(sizes.images, 1)
    ]
    for across in range(1, columns + 1):
        width = ceil_div(columns, across)
        if width > most or ceil_div(columns, width) != across:
            continue
        for height in range(1, min(most // width, rows) + 1):
            tiles = ceil_div(rows, height), across
            if tiles != (1, 1) and ceil_div(rows, tiles[0]) == height:
                candidates.append(_tiling(shape, 1, height, width, tiles, sizes.channels))

    def time(tiling: Tiling) -> float:
        tiles, filters, _ = tiling.grid(sizes, shape)
        warps = tiling.threads(shape) / 32
        each = max(ceil_div(tiles * filters, multiprocessors), 1)  # of an empty batch, too
        # Few warps do not hide each other's latency.
        return each * warps * sum(work(tiling, shape, sizes)) * (1 + 2 / (min(each, 2) * warps))

    fitting = [
        tiling
        for tiling in candidates
        if tiling is not None and (not whole or _covers(tiling, shape, sizes))
    ]
    if not fitting:
        return None
    best = min(fitting, key=time)
    blocks, filters, _ = best.grid(sizes, shape)
    multiply, fill = work(best, shape, sizes)
    needed = sizes.images * sizes.rows * sizes.columns * sizes.filters
    needed *= sizes.channels * shape.filter**2
    done = blocks * filters * best.threads(shape) * (multiply + fill)
    return best, needed / max(done, 1)
