"""Batch normalisation (Ioffe and Szegedy, arXiv 1502.03167), channels on axis 1.

An array is walked as a matrix, as it lies in memory. With the channels fastest (NHWC), a row
holds the channels of one or more positions and a channel's parameters are a row vector; with
positions fastest (NCHW, CHWN), a row holds positions of one channel and they are a column.
Sums are products with ones over few terms, or of one channel by BLAS, combined in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from gpucnn.backends.cpu import elementwise
from gpucnn.backends.cpu.blocks import Array, fold, memory_order, rows_together, scratch
from gpucnn.backends.cpu.threads import parallel_for

_BLOCK = 1 << 18
"""Elements of one NumPy call, and of what a thread takes at a time: with calls that are shorter
threads spend their time waiting for each other."""
_LONGEST = 1 << 15  # elements of a row whose sum is one product
_TERMS = 64  # of a sum in the arrays' precision
_WIDE = 512  # columns from which sums by BLAS run at full speed
_SAMPLES = 64  # positions whose mean is the first guess of a channel's mean
_NEAR = 4  # deviations of the mean from 0 up to which sums need no shift


class _Layout:
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

    def vector(self, channels: Array, dtype: np.dtype[Any]) -> Array:
        """A value a channel, as a row or a column that broadcasts against the matrix."""
        row = channels.astype(dtype).reshape(1, -1)
        repeated = row.repeat(self.repeats, axis=0)
        return repeated.reshape(-1) if self.channels_in_rows else repeated.reshape(-1, 1)

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
        total = self.shape[1]

        def piece(start: int, stop: int) -> None:
            for row in range(start, stop, row_step):
                rows = slice(row, min(row + row_step, stop))
                for column in range(0, total, column_step):
                    work(rows, slice(column, min(column + column_step, total)))

        grain = max(1, _BLOCK // total // row_step) * row_step
        parallel_for(self.shape[0], grain, piece, blas=blas)

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
        if (np.abs(mean) <= _NEAR * sample.std(axis=0)).all():
            return None
        return np.where(np.isfinite(mean), mean, 0).astype(matrix.dtype)


@lru_cache(maxsize=1024)
def _layout(shape: tuple[int, ...], order: tuple[int, ...]) -> _Layout:
    return _Layout(shape, order)


def _zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A block of zeros, to be read: with a scalar NumPy's maximum would not be vectorised."""
    size = math.prod(shape)
    return _cached_zeros(dtype)[:size].reshape(shape) if size <= _BLOCK else np.zeros(shape, dtype)


@lru_cache(maxsize=4)
def _cached_zeros(dtype: np.dtype[Any]) -> Array:
    return np.zeros(_BLOCK, dtype)


def _ones(length: int, dtype: np.dtype[Any]) -> Array:
    return _cached_ones(dtype)[:length] if length <= _LONGEST else np.ones(length, dtype)


@lru_cache(maxsize=4)
def _cached_ones(dtype: np.dtype[Any]) -> Array:
    return np.ones(_LONGEST, dtype)


def batch_norm_statistics(
    x: Array,
    running_mean: Array | None,
    running_variance: Array | None,
    mean: Array,
    variance: Array,
    *,
    momentum: float,
) -> None:
    """mean and biased variance (C,) of x (N, C, *spatial); the running statistics move.

    running = (1 - momentum) * running + momentum * batch, in place, the batch variance of M
    elements times M / (M - 1).
    """
    _statistics(x, mean, variance)
    if running_mean is None or running_variance is None:
        return
    count = np.float64(x.size // max(x.shape[1], 1))
    unbiased = variance * (count / (count - 1))
    for running, batch in ((running_mean, mean), (running_variance, unbiased)):
        running[...] = (1 - momentum) * running.astype(np.float64) + momentum * batch


def _statistics(x: Array, mean: Array, variance: Array) -> None:
    """mean and biased variance (C,) of x.

    Where the mean is large beside the deviation, x - k and its square are summed with k near the
    mean, so that nothing cancels (Chan, Golub and LeVeque, 1983, "shifted data").
    """
    if x.size == 0:
        mean[...] = np.nan
        variance[...] = np.nan
        return
    layout = _layout(x.shape, memory_order(x))
    dtype = x.dtype
    matrix = layout.matrix(x)
    shift = layout.guess(matrix)
    shifts = None if shift is None else layout.vector(shift, dtype)
    sums, squares = layout.partial_sums(dtype), layout.partial_sums(dtype)

    def work(rows: slice, columns: slice) -> None:
        block = matrix[rows, columns]
        square = scratch(0, block.shape, dtype)
        if shifts is not None:
            block = np.subtract(block, layout.part(shifts, rows), out=square)
        layout.add_up(block, rows, columns, sums)
        np.multiply(block, block, out=square)
        layout.add_up(square, rows, columns, squares)

    layout.for_blocks(work, blas=True)
    offset = layout.per_channel(sums) / layout.count
    mean[...] = offset if shift is None else shift + offset
    variance[...] = np.maximum(layout.per_channel(squares) / layout.count - offset**2, 0)


def batch_norm(
    x: Array,
    mean: Array,
    variance: Array,
    weight: Array | None,
    bias: Array | None,
    addend: Array | None,
    y: Array,
    *,
    eps: float,
    relu: bool,
) -> None:
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, as x * scale + offset.

    Plus `addend`; then, with `relu`, its positive part.
    """
    if y.size == 0:
        return
    layout = _layout(y.shape, memory_order(y))
    scale = _scale(variance, weight, eps)
    offset = mean * scale
    np.subtract(0 if bias is None else bias, offset, out=offset)
    scales, offsets = layout.vector(scale, y.dtype), layout.vector(offset, y.dtype)
    source, target = layout.matrix(x), layout.matrix(y)
    added = None if addend is None else layout.matrix(addend)

    def work(rows: slice, columns: slice) -> None:
        out = target[rows, columns]
        np.multiply(source[rows, columns], layout.part(scales, rows), out=out)
        np.add(out, layout.part(offsets, rows), out=out)
        if added is not None:
            np.add(out, added[rows, columns], out=out)
        if relu:
            np.maximum(out, _zeros(out.shape, out.dtype), out=out)

    layout.for_blocks(work)


def batch_norm_backward(
    dy: Array,
    x: Array,
    mean: Array,
    variance: Array,
    weight: Array | None,
    y: Array | None,
    dx: Array,
    dweight: Array,
    dbias: Array,
    daddend: Array | None = None,
    *,
    eps: float,
    training: bool,
) -> None:
    """Gradients of `batch_norm`; with `training`, mean and variance are those of x.

    With M elements a channel and xhat = (x - mean) / sqrt(variance + eps):
    dbias = sum dy, dweight = sum dy * xhat, and
    dx = weight / sqrt(variance + eps) * (dy - dbias / M - xhat * dweight / M), in evaluation
    without the last two terms. Where the output y of a ReLU behind it is given, dy is 0 where
    y <= 0; `daddend` gets that dy.
    """
    if dx.size == 0:
        dweight[...] = 0
        dbias[...] = 0
        return
    if y is not None:
        masked = np.empty_like(dx) if daddend is None else daddend
        elementwise.binary(dy, y, masked, op="relu_backward")
        dy = masked
    elif daddend is not None:
        daddend[...] = dy
    layout = _layout(dx.shape, memory_order(dx))
    dtype = dx.dtype
    upstream, source, target = layout.matrix(dy), layout.matrix(x), layout.matrix(dx)
    near = bool((np.abs(mean) <= _NEAR * np.sqrt(variance)).all())
    means = None if near else layout.vector(mean, dtype)
    sums, products = layout.partial_sums(dtype), layout.partial_sums(dtype)

    def reduce_block(rows: slice, columns: slice) -> None:
        gradient = upstream[rows, columns]
        product = scratch(0, gradient.shape, dtype)
        values = source[rows, columns]
        if means is not None:
            values = np.subtract(values, layout.part(means, rows), out=product)
        np.multiply(values, gradient, out=product)
        layout.add_up(product, rows, columns, products)
        layout.add_up(gradient, rows, columns, sums)

    layout.for_blocks(reduce_block, blas=True)
    inverse_deviation = _scale(variance, None, eps)
    scale = _scale(variance, weight, eps)
    dbias64 = layout.per_channel(sums)
    dweight64 = layout.per_channel(products)
    if near:  # sum dy * x, not sum dy * (x - mean)
        dweight64 -= mean * dbias64
    dweight64 *= inverse_deviation
    dbias[...] = dbias64
    dweight[...] = dweight64
    # dx = dy * scale + (x * slope + offset)
    slope = -scale * dweight64 * inverse_deviation / layout.count
    offset = -scale * dbias64 / layout.count - slope * mean
    scales = layout.vector(scale, dtype)
    slopes, offsets = layout.vector(slope, dtype), layout.vector(offset, dtype)

    def apply_block(rows: slice, columns: slice) -> None:
        out = target[rows, columns]
        if not training:
            np.multiply(upstream[rows, columns], layout.part(scales, rows), out=out)
            return
        along = scratch(0, out.shape, dtype)
        np.multiply(source[rows, columns], layout.part(slopes, rows), out=along)
        np.add(along, layout.part(offsets, rows), out=along)
        np.multiply(upstream[rows, columns], layout.part(scales, rows), out=out)
        np.add(out, along, out=out)

    layout.for_blocks(apply_block)


def _scale(variance: Array, weight: Array | None, eps: float) -> Array:
    """weight / sqrt(variance + eps) in float64."""
    scale: Array = np.add(variance, eps, dtype=np.float64)
    np.sqrt(scale, out=scale)
    return np.divide(1 if weight is None else weight, scale, out=scale)
