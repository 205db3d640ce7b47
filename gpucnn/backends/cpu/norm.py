"""Batch normalisation (Ioffe and Szegedy, arXiv 1502.03167), channels on axis 1."""

from __future__ import annotations

import numpy as np

from gpucnn.backends.cpu import elementwise
from gpucnn.backends.cpu.blocks import Array, memory_order, scratch
from gpucnn.backends.cpu.channel_layout import NEAR, layout_of, zeros


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
    layout = layout_of(x.shape, memory_order(x))
    dtype = x.dtype
    matrix = layout.matrix(x)
    shift = layout.guess(matrix)
    shifts = None if shift is None else layout.vectors(shift, dtype=dtype)[0]
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
    layout = layout_of(y.shape, memory_order(y))
    scale = _scale(variance, weight, eps)
    offset = mean * scale
    np.subtract(0 if bias is None else bias, offset, out=offset)
    scales, offsets = layout.vectors(scale, offset, dtype=y.dtype)
    source, target = layout.matrix(x), layout.matrix(y)
    added = None if addend is None else layout.matrix(addend)

    def work(rows: slice, columns: slice) -> None:
        out = target[rows, columns]
        np.multiply(source[rows, columns], layout.part(scales, rows), out=out)
        np.add(out, layout.part(offsets, rows), out=out)
        if added is not None:
            np.add(out, added[rows, columns], out=out)
        if relu:
            height, width = out.shape
            np.maximum(out, zeros(height, width, out.dtype), out=out)

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
    layout = layout_of(dx.shape, memory_order(dx))
    dtype = dx.dtype
    upstream, source, target = layout.matrix(dy), layout.matrix(x), layout.matrix(dx)
    near = bool((np.abs(mean) <= NEAR * np.sqrt(variance)).all())
    means = None if near else layout.vectors(mean, dtype=dtype)[0]
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
    scales, slopes, offsets = layout.vectors(scale, slope, offset, dtype=dtype)

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
