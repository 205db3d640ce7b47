"""2-D convolution of few channels, with the batch innermost in memory (C, H, W, N).

A row of a patch matrix is then one shifted image row of the whole batch, so that matrices of few
channels are still made of long runs, and the products have the batch as their long side:

forward            y (K, P Q N)   = W (K, R S C)  patches (R S C, P Q N)
backward_weight    dW (K, R S C)  = the sum over blocks of rows of dy (K, p Q N) patches^T
backward_input     dx = the sum over taps of W^T dy, shifted to where the tap read
"""

from __future__ import annotations

import numpy as np

from gpucnn.backends.cpu.blocks import Array, scratch
from gpucnn.backends.cpu.patches import taps
from gpucnn.backends.cpu.threads import parallel_for
from gpucnn.ops.geometry import Conv2dGeometry

ORDER = (1, 2, 3, 0)

_FEW, _BATCH = 16, 16
_BLOCK = 1 << 19
"""Elements of a patch matrix that are made at a time."""
_IMAGES = 32
"""Images whose gradient is scattered at a time: long enough runs, enough pieces for threads."""


def fits(g: Conv2dGeometry) -> bool:
    """Whether this memory order is the better one: few channels in and out, a real batch."""
    return g.groups == 1 and g.c <= _FEW // 2 and g.k <= _FEW and g.n >= _BATCH


def _rows(g: Conv2dGeometry) -> int:
    return max(1, min(g.p, _BLOCK // max(1, g.r * g.s * g.c * g.q * g.n)))


def _patches(x: Array, g: Conv2dGeometry, p0: int, p1: int) -> Array:
    """The patch matrix (R S C, (p1 - p0) Q N) of output rows p0..p1, in scratch memory."""
    first = p0 * g.stride_h - g.pad_top
    height = (p1 - p0 - 1) * g.stride_h + (g.r - 1) * g.dilation_h + 1
    width = (g.q - 1) * g.stride_w + (g.s - 1) * g.dilation_w + 1
    source = scratch(0, (g.c, height, width, g.n), x.dtype)
    start = min(max(first, 0), g.h)
    stop = min(max(first + height, start), g.h)
    top = start - first if stop > start else 0
    bottom, left = top + stop - start, g.pad_left
    columns = min(g.w, width - left)
    source[:, :top] = 0
    source[:, bottom:] = 0
    source[:, top:bottom, :left] = 0
    source[:, top:bottom, left + columns :] = 0
    source[:, top:bottom, left : left + columns] = x[:, start:stop, :columns]
    c, h, w, n = source.strides
    view = np.lib.stride_tricks.as_strided(
        source,
        (g.r, g.s, g.c, p1 - p0, g.q, g.n),
        (g.dilation_h * h, g.dilation_w * w, c, g.stride_h * h, g.stride_w * w, n),
    )
    matrix = scratch(1, (g.r * g.s * g.c, (p1 - p0) * g.q * g.n), x.dtype)
    np.copyto(matrix.reshape(view.shape), view)
    return matrix


def forward(x: Array, w: Array, b: Array | None, y: Array, g: Conv2dGeometry) -> None:
    """y (K, P, Q, N), contiguous, from x (C, H, W, N) of any strides and w (K, R S C)."""
    flat = y.reshape(g.k, -1)
    row = g.q * g.n

    def work(p0: int, p1: int) -> None:
        product = flat[:, p0 * row : p1 * row]
        np.matmul(w, _patches(x, g, p0, p1), out=product)
        if b is not None:
            np.add(product, b[:, None], out=product)

    parallel_for(g.p, _rows(g), work)


def backward_weight(x: Array, dy: Array, dw: Array, g: Conv2dGeometry) -> None:
    """dw (K, R S C) from x (C, H, W, N) of any strides and dy (K, P, Q, N), contiguous."""
    rows, row = _rows(g), g.q * g.n
    flat = dy.reshape(g.k, -1)
    partials = np.empty((-(-g.p // rows), *dw.shape), dw.dtype)

    def work(p0: int, p1: int) -> None:
        matrix = _patches(x, g, p0, p1)
        np.matmul(flat[:, p0 * row : p1 * row], matrix.T, out=partials[p0 // rows])

    parallel_for(g.p, rows, work)
    np.sum(partials, axis=0, out=dw)


def backward_input(dy: Array, w: Array, dx: Array, g: Conv2dGeometry) -> None:
    """dx (C, H, W, N) of any strides from dy (K, P, Q, N) of any strides and w (K, R S C)."""
    height = max(g.h + g.pad_top, (g.p - 1) * g.stride_h + (g.r - 1) * g.dilation_h + 1)
    width = max(g.w + g.pad_left, (g.q - 1) * g.stride_w + (g.s - 1) * g.dilation_w + 1)
    steps = [(r * g.s + s, rows, columns) for r, s, rows, columns in taps(g)]

    def work(n0: int, n1: int) -> None:
        gradient = scratch(2, (g.k, g.p, g.q, n1 - n0), dy.dtype)
        np.copyto(gradient, dy[..., n0:n1])
        shares = scratch(1, (w.shape[1], g.p * g.q * (n1 - n0)), dy.dtype)
        np.matmul(w.T, gradient.reshape(g.k, -1), out=shares)
        by_tap = shares.reshape(g.r * g.s, g.c, g.p, g.q, n1 - n0)
        total = scratch(0, (g.c, height, width, n1 - n0), dy.dtype)
        total.fill(0)
        for number, rows, columns in steps:
            target = total[:, rows, columns]
            np.add(target, by_tap[number], out=target)
        dx[..., n0:n1] = total[:, g.pad_top : g.pad_top + g.h, g.pad_left : g.pad_left + g.w]

    parallel_for(g.n, _IMAGES, work)
