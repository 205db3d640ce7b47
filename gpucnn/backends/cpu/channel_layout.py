"""Arrays as matrices, as they lie in memory, for sums and values a channel (axis 1).

With the channels fastest (NHWC), a row holds the channels of one or more positions and a channel's
parameters are a row vector; with positions fastest (NCHW, CHWN), a row holds positions of one
channel and they are a column. Sums are products with ones over few terms, or of one channel by
BLAS, combined in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from gpucnn.backends.cpu.blocks import BUFFER, Array, fold, rows_together
from gpucnn.backends.cpu.threads import parallel_for

_BLOCK = 1 << 18
"""Elements of one NumPy call, and of what a thread takes at a time: with calls that are shorter
threads spend their time waiting for each other."""
_LONGEST = 1 << 15  # elements of a row whose sum is one product
_TERMS = 64  # of a sum in the arrays' precision
_WIDE = 512  # columns from which sums by BLAS run at full speed
_SAMPLES = 64  # positions whose mean is the first guess of a channel's mean
NEAR = 4  # deviations of the mean from 0 up to which sums need no shift


class Layout:
    """How arrays of one shape, lying in one memory order, are cut as matrices."""

    def __init__(self, shape: tuple[int, ...], order: tuple[int, ...]) -> None:
        self.order = order
        lengths = [shape[axis] for axis in order]
        at = order.index(1)
        before, after = math.prod(lengths[:at]), math.prod(lengths[at + 1 :])
        self.channels = shape[1]
        self.count = before * after  # elements of a channel
        self.channels_in_rows = after == 1
        if self.channels_in_rows:
            summed = fold(before, _WIDE // self.channels)
            self.sum_width = summed * self.channels
            self.repeats = summed * rows_together(before // summed, self.sum_width)
            self.shape = (before // self.repeats, self.repeats * self.channels)
            rows, columns = self.shape
            self.step = (max(1, min(rows, _BLOCK // columns)), columns)
            # Sums of a block: of so many vectors at a time.
            self.sums = -(-self.step[0] * columns // (self.sum_width * _TERMS))
        else:
            self.repeats = before
            self.shape = (before * self.channels, after)
            self.step = (max(1, _BLOCK // after), min(after, _LONGEST))

    def matrix(self, array: Array) -> Array:
        """The array as a matrix: a view, or a copy where it lies in another order."""
        matrix: Array = array.transpose(self.order).reshape(self.shape)
        return matrix

    def vectors(self, *channels: Array, dtype: np.dtype[Any]) -> Array:
        """For each value a channel a row or a column that broadcasts against the matrix."""
        rows: Array = np.array(channels, dtype)[:, np.newaxis]
        repeated = rows.repeat(self.repeats, axis=1).reshape(len(channels), -1)
        return repeated if self.channels_in_rows else repeated[:, :, np.newaxis]

    def partial_sums(self, dtype: np.dtype[Any]) -> Array:
        """Room for the sums of all blocks: of their columns, or of their rows."""
        rows, columns = self.shape
        if self.channels_in_rows:
            return np.zeros((-(-rows // self.step[0]) * self.sums, self.sum_width), dtype)
        return np.empty((-(-columns // self.step[1]), rows), dtype)

    def add_up(self, block: Array, rows: slice, columns: slice, partial: Array) -> None:
        """Write the sums of one block where they belong in `partial`."""
        if self.channels_in_rows:
            block = block.reshape(-1, self.sum_width)
            out = partial[rows.start // self.step[0] * self.sums :]
            whole = len(block) // _TERMS
            stack = block[: whole * _TERMS].reshape(whole, _TERMS, self.sum_width)
            np.matmul(_ones(_TERMS, block.dtype), stack, out=out[:whole])
            if whole * _TERMS < len(block):
                rest = block[whole * _TERMS :]
                np.matmul(_ones(len(rest), block.dtype), rest, out=out[whole])
        else:
            out = partial[columns.start // self.step[1], rows]
            np.matmul(block, _ones(block.shape[1], block.dtype), out=out)

    def per_channel(self, partial: Array) -> Array:
        """The float64 totals of `partial_sums`, one a channel."""
        total = partial.sum(axis=0, dtype=np.float64)
        return np.asarray(total.reshape(-1, self.channels).sum(axis=0))

    def for_blocks(self, work: Callable[[slice, slice], None], *, blas: bool = False) -> None:
        """Call work(rows, columns) for every block of the matrix, on the pool's threads; `blas`
        says that it multiplies matrices."""
        row_step, column_step = self.step
        length, total = self.shape
        if length <= row_step and total <= column_step and not blas:
            work(slice(0, length), slice(0, total))
            return

        def piece(start: int, stop: int) -> None:
            for row in range(start, stop, row_step):
                rows = slice(row, min(row + row_step, stop))
                for column in range(0, total, column_step):
                    work(rows, slice(column, min(column + column_step, total)))

        grain = max(1, _BLOCK // total // row_step) * row_step
        parallel_for(length, grain, piece, blas=blas)

    def part(self, vector: Array, rows: slice) -> Array:
        """What of a `vector` belongs to a block of rows."""
        return vector if self.channels_in_rows else vector[rows]

    def guess(self, matrix: Array) -> Array | None:
        """The mean of a few positions of each channel, None where sums do well without it.

        That is where no mean lies more than a few deviations from 0.
        """
        if self.channels_in_rows:
            positions = matrix.reshape(-1, self.channels)
            sample = positions[:: max(1, len(positions) // _SAMPLES)]
        else:
            few = -(-_SAMPLES // self.repeats)
            sample = matrix[:, :: max(1, matrix.shape[1] // few)]
            sample = sample.reshape(self.repeats, self.channels, -1).swapaxes(1, 2)
        sample = sample.reshape(-1, self.channels).astype(np.float64)
        mean = sample.mean(axis=0)
        if (np.abs(mean) <= NEAR * sample.std(axis=0)).all():
            return None
        return np.where(np.isfinite(mean), mean, 0).astype(matrix.dtype)


@lru_cache(maxsize=1024)
def layout_of(shape: tuple[int, ...], order: tuple[int, ...]) -> Layout:
    return Layout(shape, order)


def zeros(rows: int, columns: int, dtype: np.dtype[Any]) -> Array:
    """Zeros to compare a block with: with a scalar NumPy's maximum would not be vectorised.

    One row of them where rows are long, see `rows_together`.
    """
    if columns >= BUFFER // 2:
        return _cached_zeros(dtype)[:columns] if columns <= _BLOCK else np.zeros(columns, dtype)
    return _cached_zeros(dtype)[: rows * columns].reshape(rows, columns)


@lru_cache(maxsize=4)
def _cached_zeros(dtype: np.dtype[Any]) -> Array:
    return np.zeros(_BLOCK, dtype)


def _ones(length: int, dtype: np.dtype[Any]) -> Array:
    return _cached_ones(dtype)[:length] if length <= _LONGEST else np.ones(length, dtype)


@lru_cache(maxsize=4)
def _cached_ones(dtype: np.dtype[Any]) -> Array:
    return np.ones(_LONGEST, dtype)
