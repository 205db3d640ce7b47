"""Pooling as operations on shifted slices of whole images (A, H, W, B), see `windows`."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backends.cpu.blocks import Array, scratch
from gpucnn.backends.cpu.threads import parallel_for
from gpucnn.backends.cpu.windows import Line, Tap, as_planes, lines, taps
from gpucnn.ops.geometry import Pool2dGeometry

_BLOCK = 1 << 19
"""Elements of input that are pooled at a time."""

_SIGNED: dict[int, np.dtype[Any]] = {4: np.dtype(np.int32), 8: np.dtype(np.int64)}


def _grain(array: Array) -> int:
    return max(1, _BLOCK // max(1, array[0].size))


def max_pool2d(
    x: Array, y: Array, argmax: Array | None = None, *, geometry: Pool2dGeometry
) -> None:
    """y (N, C, P, Q) and, if wanted, argmax = each window's maximum and its position r*S + s."""
    if y.size == 0:
        return
    if argmax is None:
        found, source = as_planes(y, x)
        _maxima(found, source, geometry)
        return
    steps = taps(geometry)
    source, best, position = as_planes(x, y, argmax)

    def work(a: int, b: int) -> None:
        values, found, at = source[a:b], best[a:b], position[a:b]
        _maximum(values, found, at, steps, geometry, nan=False)
        # Comparisons pass over NaN; the values do not. Only then is the slow way needed.
        if np.isnan(found.min()):
            _maximum(values, found, at, steps, geometry, nan=True)

    parallel_for(source.shape[0], _grain(source), work, blas=False)


def _maxima(y: Array, x: Array, g: Pool2dGeometry) -> None:
    """The maxima alone, down the columns and then along the rows; NaN is carried along.

    Of zeros of both signs in a window it may be another one than the first.
    """
    down, along = lines(g)

    def work(a: int, b: int) -> None:
        values = x[a:b]
        columns = scratch(0, (b - a, g.p, *values.shape[2:]), x.dtype)
        _largest(values, columns, down)
        _largest(columns, y[a:b], along)

    parallel_for(x.shape[0], _grain(x), work, blas=False)


def _largest(x: Array, y: Array, positions: tuple[Line, ...]) -> None:
    """y = the largest elements of x at the positions of windows along one axis."""
    if len(positions) > 1 and positions[0].always and positions[1].always:
        np.maximum(x[positions[0].inputs], x[positions[1].inputs], out=y)
        positions = positions[2:]
    else:
        y.fill(-np.inf)
    for line in positions:
        held = y[line.outputs]
        np.maximum(held, x[line.inputs], out=held)


def _begin(x: Array, y: Array, steps: tuple[Tap, ...], g: Pool2dGeometry) -> tuple[Tap, ...]:
    """Write what the maxima start from: a position that all windows have. The steps left."""
    if steps and steps[0][1:3] == (slice(0, g.p), slice(0, g.q)):
        np.copyto(y, x[:, steps[0].rows, steps[0].columns])
        return steps[1:]
    y.fill(-np.inf)
    return steps


def _maximum(
    x: Array, y: Array, at: Array, steps: tuple[Tap, ...], g: Pool2dGeometry, nan: bool
) -> None:
    rest = _begin(x, y, steps, g)
    if len(rest) < len(steps):
        at.fill(steps[0].number)
    else:
        at[...] = _first_inside(g).astype(at.dtype)[:, :, None]
    for number, rows, columns, in_rows, in_columns in rest:
        candidate, held = x[:, in_rows, in_columns], y[:, rows, columns]
        larger = scratch(0, candidate.shape, np.bool_)
        np.greater(candidate, held, out=larger)
        if nan:
            larger |= np.isnan(candidate)
        np.maximum(held, candidate, out=held)
        # Positions come in rising order, so "take this one" is a maximum as well.
        chosen = scratch(1, candidate.shape, at.dtype)
        np.multiply(larger.view(np.uint8), at.dtype.type(number), out=chosen)
        held_at = at[:, rows, columns]
        np.maximum(held_at, chosen, out=held_at)


def _first_inside(g: Pool2dGeometry) -> Array:
    """For each output (P, Q) the first position of its window that is inside the input."""
    top = np.arange(g.p) * g.stride_h - g.pad_h
    left = np.arange(g.q) * g.stride_w - g.pad_w
    r = np.maximum(0, -(top // g.dilation_h))
    s = np.maximum(0, -(left // g.dilation_w))
    return np.where(top < 0, r, 0)[:, None] * g.s + np.where(left < 0, s, 0)[None, :]


def max_pool2d_backward(
    dy: Array, argmax: Array, y: Array | None, dx: Array, *, geometry: Pool2dGeometry
) -> None:
    """dx (N, C, H, W) = dy (N, C, P, Q) added at the maximum of each window.

    Where the maxima y (N, C, P, Q) of a ReLU's output are given, dy is 0 where y <= 0.
    """
    g = geometry
    if dx.size == 0:
        return
    steps = taps(g)
    if y is None:
        (gradients, position, total), maxima = as_planes(dy, argmax, dx), None
    else:
        gradients, position, maxima, total = as_planes(dy, argmax, y, dx)
    signed = _SIGNED[dx.itemsize]
    apart = g.stride_h >= g.r and g.stride_w >= g.s and g.dilation_h == g.dilation_w == 1
    # Windows that tile the input write each element once: nothing to clear first.
    strides = (g.stride_h, g.stride_w)
    tiled = apart and strides == (g.r, g.s) and (g.p * g.r, g.q * g.s) == (g.h, g.w)
    covered = tiled and g.pad_h == g.pad_w == 0

    def work(a: int, b: int) -> None:
        bits = gradients[a:b].view(signed)
        if not covered:
            total[a:b] = 0
        kept = None
        if maxima is not None:
            kept = scratch(2, maxima[a:b].shape, np.bool_)
            np.less_equal(maxima[a:b], 0, out=kept)
            np.logical_not(kept, out=kept)  # NaN is kept
        for number, rows, columns, in_rows, in_columns in reversed(steps):
            at = position[a:b, rows, columns]
            mask = scratch(0, at.shape, np.bool_)
            np.equal(at, number, out=mask)
            if kept is not None:
                np.logical_and(mask, kept[:, rows, columns], out=mask)
            # A mask of bits, not a factor: 0 times infinity would be NaN.
            selector = mask.view(np.int8)
            np.negative(selector, out=selector)
            target = total[a:b, in_rows, in_columns]
            if apart:
                np.bitwise_and(bits[:, rows, columns], selector, out=target.view(signed))
            else:
                share = scratch(1, at.shape, signed)
                np.bitwise_and(bits[:, rows, columns], selector, out=share)
                np.add(target, share.view(dx.dtype), out=target)

    parallel_for(total.shape[0], _grain(total), work, blas=False)


def max_pool2d_indices(argmax: Array, indices: Array, *, geometry: Pool2dGeometry) -> None:
    """indices = h*W + w in the input plane, from positions within the window."""
    g = geometry
    at = argmax.astype(np.int64)
    row = (np.arange(g.p) * g.stride_h - g.pad_h)[:, None] + at // g.s * g.dilation_h
    column = np.arange(g.q) * g.stride_w - g.pad_w + at % g.s * g.dilation_w
    np.add(row * g.w, column, out=indices)


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

    parallel_for(source.shape[0], _grain(source), work, blas=False)


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

    parallel_for(total.shape[0], _grain(total), work, blas=False)


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

    parallel_for(source.shape[0], _grain(source), work, blas=False)


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

    parallel_for(total.shape[0], _grain(total), work, blas=False)
