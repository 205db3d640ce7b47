"""Pooling as operations on shifted slices of whole images, one a window position.

Every array is seen as (A, H, W, B) in its memory order: channels-last has A = N, B = C, planar
images have A = N C, B = 1, batch-innermost has A = C, B = N. The formulas are the same for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gpucnn.backends.cpu.blocks import Array, scratch
from gpucnn.backends.cpu.threads import parallel_for
from gpucnn.ops.geometry import Pool2dGeometry

_BLOCK = 1 << 19
"""Elements of input that are pooled at a time."""

_SIGNED: dict[int, np.dtype[Any]] = {4: np.dtype(np.int32), 8: np.dtype(np.int64)}


class _Tap(NamedTuple):
    """A window position, the outputs whose window has it inside the input, and the inputs there."""

    number: int
    out_rows: slice
    out_columns: slice
    rows: slice
    columns: slice


@lru_cache(maxsize=256)
def _taps(g: Pool2dGeometry) -> tuple[_Tap, ...]:
    return tuple(_found(g))


def _found(g: Pool2dGeometry) -> Iterator[_Tap]:
    for r in range(g.r):
        p0, p1, h0 = _range(r * g.dilation_h - g.pad_h, g.stride_h, g.p, g.h)
        for s in range(g.s):
            q0, q1, w0 = _range(s * g.dilation_w - g.pad_w, g.stride_w, g.q, g.w)
            if p1 > p0 and q1 > q0:
                rows = slice(h0, h0 + (p1 - p0 - 1) * g.stride_h + 1, g.stride_h)
                columns = slice(w0, w0 + (q1 - q0 - 1) * g.stride_w + 1, g.stride_w)
                yield _Tap(r * g.s + s, slice(p0, p1), slice(q0, q1), rows, columns)


def _range(offset: int, stride: int, outputs: int, inputs: int) -> tuple[int, int, int]:
    """The outputs first..last whose position `o * stride + offset` is inside, and the first one."""
    first = max(0, -(offset // stride)) if offset < 0 else 0
    last = min(outputs, (inputs - 1 - offset) // stride + 1) if inputs > offset else 0
    return first, last, first * stride + offset


def _planes(*arrays: Array) -> list[Array]:
    """The arrays as (A, H, W, B) in the memory order of the last one, which is dense."""
    last = arrays[-1]
    if last.transpose(0, 2, 3, 1).flags.c_contiguous:
        return [a.transpose(0, 2, 3, 1) for a in arrays]
    if last.transpose(1, 2, 3, 0).flags.c_contiguous:
        return [a.transpose(1, 2, 3, 0) for a in arrays]
    if all(a.flags.c_contiguous for a in arrays):
        return [a.reshape(-1, *a.shape[2:], 1) for a in arrays]
    return [a.transpose(0, 2, 3, 1) for a in arrays]


def _grain(array: Array) -> int:
    return max(1, _BLOCK // max(1, array[0].size))


def max_pool2d(
    x: Array, y: Array, argmax: Array | None = None, *, geometry: Pool2dGeometry
) -> None:
    """y (N, C, P, Q) and, if wanted, argmax = each window's maximum and its position r*S + s."""
    if y.size == 0:
        return
    steps = _taps(geometry)
    if argmax is None:
        found, source = _planes(y, x)
        _maxima(found, source, steps, geometry)
        return
    source, best, position = _planes(x, y, argmax)

    def work(a: int, b: int) -> None:
        values, found, at = source[a:b], best[a:b], position[a:b]
        _maximum(values, found, at, steps, geometry, nan=False)
        # Comparisons pass over NaN; the values do not. Only then is the slow way needed.
        if np.isnan(found.min()):
            _maximum(values, found, at, steps, geometry, nan=True)

    parallel_for(source.shape[0], _grain(source), work, blas=False)


def _maxima(y: Array, x: Array, steps: tuple[_Tap, ...], g: Pool2dGeometry) -> None:
    """The maxima alone, which NaN is carried into as it comes."""

    def work(a: int, b: int) -> None:
        values, found = x[a:b], y[a:b]
        rest = _begin(values, found, steps, g)
        for _, rows, columns, in_rows, in_columns in rest:
            held = found[:, rows, columns]
            np.maximum(held, values[:, in_rows, in_columns], out=held)

    parallel_for(x.shape[0], _grain(x), work, blas=False)


def _begin(x: Array, y: Array, steps: tuple[_Tap, ...], g: Pool2dGeometry) -> tuple[_Tap, ...]:
    """Write what the maxima start from: a position that all windows have. The steps left."""
    if steps and steps[0][1:3] == (slice(0, g.p), slice(0, g.q)):
        np.copyto(y, x[:, steps[0].rows, steps[0].columns])
        return steps[1:]
    y.fill(-np.inf)
    return steps


def _maximum(
    x: Array, y: Array, at: Array, steps: tuple[_Tap, ...], g: Pool2dGeometry, nan: bool
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
    steps = _taps(g)
    if y is None:
        (gradients, position, total), maxima = _planes(dy, argmax, dx), None
    else:
        gradients, position, maxima, total = _planes(dy, argmax, y, dx)
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
    source, mean = _planes(x, y)
    steps = _taps(geometry)
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
    gradients, total = _planes(dy, dx)
    steps = _taps(geometry)
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
    source, mean = _planes(x, y)
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
    gradients, total = _planes(dy, dx)
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
