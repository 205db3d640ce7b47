"""Pooling of means as operations on shifted slices of whole images (A, H, W, B), see `windows`."""

from __future__ import annotations

import numpy as np

from gpucnn.backends.cpu.blocks import Array, scratch
from gpucnn.backends.cpu.threads import parallel_for
from gpucnn.backends.cpu.windows import as_planes, grain, taps
from gpucnn.ops.geometry import Pool2dGeometry


def avg_pool2d(x: Array, y: Array, *, geometry: Pool2dGeometry) -> None:
    """y (N, C, P, Q) = the sum of each window over its divisor."""
    if y.size == 0:
        return
    source, mean = as_planes(x, y)
    steps = taps(geometry)
    divisor = _divisors(geometry).astype(y.dtype)[:, :, None]

    def work(a: int, b: int) -> None:
        total = mean[a:b]
        total.fill(0)
        for _, rows, columns, in_rows, in_columns in steps:
            target = total[:, rows, columns]
            np.add(target, source[a:b, in_rows, in_columns], out=target)
        np.divide(total, divisor, out=total)

    parallel_for(source.shape[0], grain(source), work, blas=False)


def avg_pool2d_backward(dy: Array, dx: Array, *, geometry: Pool2dGeometry) -> None:
    """dx (N, C, H, W) = the sum of dy / divisor over the windows that hold each element."""
    if dx.size == 0:
        return
    gradients, total = as_planes(dy, dx)
    steps = taps(geometry)
    divisor = _divisors(geometry).astype(dx.dtype)[:, :, None]

    def work(a: int, b: int) -> None:
        total[a:b] = 0
        share = scratch(0, gradients[a:b].shape, dx.dtype)
        np.divide(gradients[a:b], divisor, out=share)
        for _, rows, columns, in_rows, in_columns in reversed(steps):
            target = total[a:b, in_rows, in_columns]
            np.add(target, share[:, rows, columns], out=target)

    parallel_for(total.shape[0], grain(total), work, blas=False)


def _divisors(g: Pool2dGeometry) -> Array:
    """The divisor of each output (P, Q), by PyTorch's rules."""
    if g.divisor_override is not None:
        return np.full((g.p, g.q), g.divisor_override)
    top = np.arange(g.p) * g.stride_h - g.pad_h
    left = np.arange(g.q) * g.stride_w - g.pad_w
    bottom = np.minimum(top + g.r, g.h + g.pad_h)
    right = np.minimum(left + g.s, g.w + g.pad_w)
    if not g.count_include_pad:
        top, left = np.maximum(top, 0), np.maximum(left, 0)
        bottom, right = np.minimum(bottom, g.h), np.minimum(right, g.w)
    return (bottom - top)[:, None] * (right - left)[None, :]


def _even(n: int, outputs: int) -> list[tuple[int, int]]:
    """The input range of each output i: floor(i n / outputs) to ceil((i + 1) n / outputs)."""
    return [(i * n // outputs, -(-(i + 1) * n // outputs)) for i in range(outputs)]


def adaptive_avg_pool2d(x: Array, y: Array) -> None:
    """y (N, C, P, Q) = means of evenly divided ranges of x (N, C, H, W)."""
    if y.size == 0:
        return
    source, mean = as_planes(x, y)
    height, width = source.shape[1:3]
    rows, columns = _even(height, mean.shape[1]), _even(width, mean.shape[2])

    def work(a: int, b: int) -> None:
        band = scratch(0, (b - a, width, source.shape[3]), y.dtype)
        for p, (h0, h1) in enumerate(rows):
            np.add.reduce(source[a:b, h0:h1], axis=1, out=band)
            for q, (w0, w1) in enumerate(columns):
                target = mean[a:b, p, q]
                np.add.reduce(band[:, w0:w1], axis=1, out=target)
                np.divide(target, y.dtype.type((h1 - h0) * (w1 - w0)), out=target)

    parallel_for(source.shape[0], grain(source), work, blas=False)


def adaptive_avg_pool2d_backward(dy: Array, dx: Array) -> None:
    """dx (N, C, H, W) = the sum of dy / window size over the windows that hold each element."""
    if dx.size == 0:
        return
    gradients, total = as_planes(dy, dx)
    rows = _even(total.shape[1], gradients.shape[1])
    columns = _even(total.shape[2], gradients.shape[2])

    def work(a: int, b: int) -> None:
        total[a:b] = 0
        for p, (h0, h1) in enumerate(rows):
            for q, (w0, w1) in enumerate(columns):
                area = dx.dtype.type((h1 - h0) * (w1 - w0))
                target = total[a:b, h0:h1, w0:w1]
                np.add(target, (gradients[a:b, p, q] / area)[:, None, None], out=target)

    parallel_for(total.shape[0], grain(total), work, blas=False)
