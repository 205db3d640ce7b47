"""Max, average and adaptive average pooling."""

from __future__ import annotations

import itertools
import math

import numpy as np


def pooled_size(size, kernel, stride, padding, dilation=1, ceil_mode=False):
    """PyTorch's output size: with ceil_mode the last window must begin inside input or left pad."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return span // stride + 1
    out = math.ceil(span / stride) + 1
    if (out - 1) * stride >= size + padding:
        out -= 1
    return out


def _pooled_shape(shape, kernel, stride, padding, dilation, ceil_mode):
    p, q = (
        pooled_size(shape[2 + i], kernel[i], stride[i], padding[i], dilation[i], ceil_mode)
        for i in (0, 1)
    )
    return shape[0], shape[1], p, q


def max_pool2d(x, kernel, stride, padding=(0, 0), dilation=(1, 1), ceil_mode=False):
    """(y, position r * S + s in the window, position h * W + w in the plane)."""
    shape = _pooled_shape(x.shape, kernel, stride, padding, dilation, ceil_mode)
    y = np.zeros(shape)
    window = np.zeros(shape, np.int64)
    plane = np.zeros(shape, np.int64)
    for n, c, p, q in np.ndindex(*shape):
        best = None
        for r, s in np.ndindex(*kernel):
            h = p * stride[0] - padding[0] + r * dilation[0]
            w = q * stride[1] - padding[1] + s * dilation[1]
            if 0 <= h < x.shape[2] and 0 <= w < x.shape[3]:
                value = float(x[n, c, h, w])
                if best is None or value > best or math.isnan(value):
                    best = value
                    y[n, c, p, q] = value
                    window[n, c, p, q] = r * kernel[1] + s
                    plane[n, c, p, q] = h * x.shape[3] + w
    return y, window, plane


def max_pool2d_backward(dy, plane, x_shape):
    dx = np.zeros(x_shape)
    for n, c, p, q in np.ndindex(*dy.shape):
        h, w = divmod(int(plane[n, c, p, q]), x_shape[3])
        dx[n, c, h, w] += float(dy[n, c, p, q])
    return dx


def _avg_windows(x_shape, y_shape, kernel, stride, padding, count_include_pad, divisor_override):
    """(p, q, rows, columns, divisor) of every window that touches the input."""
    for p, q in np.ndindex(*y_shape[2:]):
        top, left = p * stride[0] - padding[0], q * stride[1] - padding[1]
        bottom = min(top + kernel[0], x_shape[2] + padding[0])
        right = min(left + kernel[1], x_shape[3] + padding[1])
        with_pad = (bottom - top) * (right - left)
        rows = range(max(top, 0), min(bottom, x_shape[2]))
        columns = range(max(left, 0), min(right, x_shape[3]))
        if len(rows) == 0 or len(columns) == 0:
            continue
        if divisor_override is not None:
            divisor = divisor_override
        else:
            divisor = with_pad if count_include_pad else len(rows) * len(columns)
        yield p, q, rows, columns, divisor


def avg_pool2d(
    x, kernel, stride, padding=(0, 0), ceil_mode=False, count_include_pad=True,
    divisor_override=None,
):  # fmt: skip
    y = np.zeros(_pooled_shape(x.shape, kernel, stride, padding, (1, 1), ceil_mode))
    windows = _avg_windows(
        x.shape, y.shape, kernel, stride, padding, count_include_pad, divisor_override
    )
    for p, q, rows, columns, divisor in windows:
        for n, c in np.ndindex(*x.shape[:2]):
            total = sum(float(x[n, c, h, w]) for h in rows for w in columns)
            y[n, c, p, q] = total / divisor
    return y


def avg_pool2d_backward(
    dy, x_shape, kernel, stride, padding=(0, 0), count_include_pad=True, divisor_override=None
):
    dx = np.zeros(x_shape)
    windows = _avg_windows(
        x_shape, dy.shape, kernel, stride, padding, count_include_pad, divisor_override
    )
    for p, q, rows, columns, divisor in windows:
        for n, c in np.ndindex(*x_shape[:2]):
            for h, w in itertools.product(rows, columns):
                dx[n, c, h, w] += float(dy[n, c, p, q]) / divisor
    return dx


def _adaptive_range(i, inputs, outputs):
    return range(math.floor(i * inputs / outputs), math.ceil((i + 1) * inputs / outputs))


def adaptive_avg_pool2d(x, size):
    y = np.zeros(x.shape[:2] + tuple(size))
    for n, c, p, q in np.ndindex(*y.shape):
        rows = _adaptive_range(p, x.shape[2], size[0])
        columns = _adaptive_range(q, x.shape[3], size[1])
        total = sum(float(x[n, c, h, w]) for h in rows for w in columns)
        y[n, c, p, q] = total / (len(rows) * len(columns))
    return y


def adaptive_avg_pool2d_backward(dy, x_shape):
    dx = np.zeros(x_shape)
    for n, c, p, q in np.ndindex(*dy.shape):
        rows = _adaptive_range(p, x_shape[2], dy.shape[2])
        columns = _adaptive_range(q, x_shape[3], dy.shape[3])
        for h, w in itertools.product(rows, columns):
            dx[n, c, h, w] += float(dy[n, c, p, q]) / (len(rows) * len(columns))
    return dx
