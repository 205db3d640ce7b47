"""Convolution, its gradients and max pooling in float64, tap by tap; arrays of a host runtime."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpucnn.backends.gpu.emulated import EmulatedRuntime
from gpucnn.ops.geometry import Conv2dGeometry, Pool2dGeometry

Array = np.ndarray[Any, Any]
LAST = (0, 2, 3, 1)
FIRST = (0, 1, 2, 3)


def geometry(
    x: tuple[int, ...], k: int, size: int, stride: int = 1, padding: int = 0, groups: int = 1
) -> Conv2dGeometry:
    w = k, x[1] // groups, size, size
    return Conv2dGeometry.of("test", x, w, stride, padding, 1, groups)


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def small_integers(seed: int, *shape: int) -> Array:
    """Sums of a few are exact in float32, and often equal."""
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def put(runtime: EmulatedRuntime, values: Array | None, order: tuple[int, ...] = LAST) -> Any:
    """A copy whose axes lie in `order`."""
    if values is None:
        return None
    result = runtime.empty(values.shape, values.dtype, order if values.ndim == 4 else None)
    result[...] = values
    return result


def unwritten(
    runtime: EmulatedRuntime,
    shape: tuple[int, ...],
    order: tuple[int, ...] = LAST,
    dtype: Any = "f4",
) -> Any:
    result = runtime.empty(shape, dtype, order if len(shape) == 4 else None)
    result.view(np.uint8 if dtype == "u1" else np.float32)[...] = 77 if dtype == "u1" else np.nan
    return result


def _taps(g: Conv2dGeometry) -> Iterator[tuple[int, int, tuple[slice, ...]]]:
    """Row and column of each tap, and the padded input under it."""
    for r in range(g.r):
        for s in range(g.s):
            rows = slice(r, r + g.stride_h * (g.p - 1) + 1, g.stride_h)
            columns = slice(s, s + g.stride_w * (g.q - 1) + 1, g.stride_w)
            yield r, s, (slice(None), slice(None), rows, columns)


def _padded(x: Array, g: Conv2dGeometry) -> Array:
    below, beside = g.pad_bottom + g.r, g.pad_right + g.s
    wide = (0, 0), (0, 0), (g.pad_top, below), (g.pad_left, beside)
    return np.pad(x.astype(np.float64), wide)


def forward(x: Array, w: Array, b: Array | None, g: Conv2dGeometry) -> Array:
    """y (N, K, P, Q)."""
    padded, y = _padded(x, g), np.zeros(g.y_shape)
    depthwise = g.groups > 1
    for r, s, under in _taps(g):
        tap = w[:, :, r, s].astype(np.float64)
        if depthwise:
            y += padded[under] * tap[:, 0, None, None]
        else:
            y += np.einsum("nchw,kc->nkhw", padded[under], tap)
    return y if b is None else y + b[:, None, None]


def backward_input(dy: Array, w: Array, g: Conv2dGeometry) -> Array:
    """dx (N, C, H, W)."""
    padded = _padded(np.zeros(g.x_shape), g)
    for r, s, under in _taps(g):
        tap = w[:, :, r, s].astype(np.float64)
        if g.groups > 1:
            padded[under] += dy * tap[:, 0, None, None]
        else:
            padded[under] += np.einsum("nkhw,kc->nchw", dy.astype(np.float64), tap)
    return padded[:, :, g.pad_top : g.pad_top + g.h, g.pad_left : g.pad_left + g.w]


def backward_weight(x: Array, dy: Array, g: Conv2dGeometry) -> Array:
    """dw (K, C/groups, R, S)."""
    padded, dw = _padded(x, g), np.zeros(g.w_shape)
    for r, s, under in _taps(g):
        if g.groups > 1:
            dw[:, 0, r, s] = (padded[under] * dy.astype(np.float64)).sum((0, 2, 3))
        else:
            dw[:, :, r, s] = np.einsum("nchw,nkhw->kc", padded[under], dy.astype(np.float64))
    return dw


def max_pool(x: Array, g: Pool2dGeometry) -> tuple[Array, Array]:
    """y and argmax by PyTorch's rule: the first of the largest, the last NaN."""
    y, argmax = np.full(g.y_shape, -np.inf, x.dtype), np.zeros(g.y_shape, np.int64)
    for n, c, p, q in np.ndindex(*g.y_shape):
        best, place = None, 0
        for r in range(g.r):
            for s in range(g.s):
                h = p * g.stride_h - g.pad_h + r * g.dilation_h
                w = q * g.stride_w - g.pad_w + s * g.dilation_w
                if not (0 <= h < g.h and 0 <= w < g.w):
                    continue
                value = x[n, c, h, w]
                if best is None or value > best or value != value:
                    best, place = value, r * g.s + s
        y[n, c, p, q], argmax[n, c, p, q] = best, place
    return y, argmax


def max_pool_backward(dy: Array, argmax: Array, g: Pool2dGeometry) -> Array:
    """dx in float64."""
    dx = np.zeros(g.x_shape)
    for n, c, p, q in np.ndindex(*g.y_shape):
        r, s = divmod(int(argmax[n, c, p, q]), g.s)
        h = p * g.stride_h - g.pad_h + r * g.dilation_h
        w = q * g.stride_w - g.pad_w + s * g.dilation_w
        dx[n, c, h, w] += dy[n, c, p, q]
    return dx


def error(found: Any, wanted: Array) -> float:
    """Largest difference over the largest entry; NaN where one is left."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
