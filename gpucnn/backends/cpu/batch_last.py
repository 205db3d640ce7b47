"""2-D convolution of few channels, with the batch innermost in memory (C, H, W, N).

A row of a patch matrix is then one shifted image row of the whole batch, so that matrices of few
channels are still made of long runs, and the products have the batch as their long side:

forward            y (K, P Q N)   = W (K, R S C)  patches (R S C, P Q N)
backward_weight    dW (K, R S C)  = the sum over blocks of rows of dy (K, p Q N) patches^T
backward_input     dx = the sum over taps of W^T dy, shifted to where the tap read

The error is that of a float32 sum, as of `patch_products`.
"""

from __future__ import annotations

import numpy as np

from gpucnn.backends.cpu.blocks import Array
from gpucnn.backends.cpu.epilogue import Epilogue
from gpucnn.backends.cpu.padding import copy_padded
from gpucnn.backends.cpu.patches import taps
from gpucnn.backends.cpu.products import multiply, multiply_long
from gpucnn.backends.cpu.threads import parallel_for
from gpucnn.backends.cpu.workspace import workspace
from gpucnn.ops.geometry import Conv2dGeometry

ORDER = (1, 2, 3, 0)

_BLOCK = 1 << 18
"""Elements of a patch matrix that are made at a time."""
_NARROW = 8
_IMAGES = 32
"""Images whose gradient is scattered at a time: long enough runs, enough pieces for threads."""


def _rows(g: Conv2dGeometry) -> int:
    return max(1, min(g.p, _BLOCK // max(1, g.r * g.s * g.c * g.q * g.n)))


def _patches(x: Array, g: Conv2dGeometry, p0: int, p1: int) -> Array:
    """The patch matrix (R S C, (p1 - p0) Q N) of output rows p0..p1 and, as in `patches_by_tap`, a
    row of ones for the bias."""
    height = (p1 - p0 - 1) * g.stride_h + (g.r - 1) * g.dilation_h + 1
    width = (g.q - 1) * g.stride_w + (g.s - 1) * g.dilation_w + 1
    source = workspace(0, (g.c, height, width, g.n), x.dtype)
    copy_padded(x, p0 * g.stride_h - g.pad_top, -g.pad_left, source)
    c, h, w, n = source.strides
    view = np.lib.stride_tricks.as_strided(
        source,
        (g.r, g.s, g.c, p1 - p0, g.q, g.n),
        (g.dilation_h * h, g.dilation_w * w, c, g.stride_h * h, g.stride_w * w, n),
    )
    matrix = workspace(1, (g.r * g.s * g.c + 1, (p1 - p0) * g.q * g.n), x.dtype)
    np.copyto(matrix[:-1].reshape(view.shape), view)
    matrix[-1] = 1
    return matrix


def forward(x: Array, w: Array, y: Array, g: Conv2dGeometry, finish: Epilogue) -> None:
    """y (K, P, Q, N), contiguous, from x (C, H, W, N) and w (K, R, S, C) of any strides."""
    bias = np.zeros(g.k, w.dtype) if finish.bias is None else finish.bias
    matrix = np.concatenate([w.reshape(g.k, -1), bias[:, None]], axis=1)
    finish = finish._replace(bias=None)
    flat = y.reshape(g.k, -1)
    row = g.q * g.n

    def work(p0: int, p1: int) -> None:
        multiply(matrix, _patches(x, g, p0, p1), flat[:, p0 * row : p1 * row])
        finish((slice(None), slice(p0, p1), slice(None), slice(None)))

    parallel_for(g.p, _rows(g), work)


def backward_weight(x: Array, dy: Array, dw: Array, db: Array | None, g: Conv2dGeometry) -> None:
    """dw (K, R, S, C) and db (K) from x (C, H, W, N) and dy (K, P, Q, N), dy contiguous."""
    rows, row = _rows(g), g.q * g.n
    flat = dy.reshape(g.k, -1)
    partials = np.empty((-(-g.p // rows), g.r * g.s * g.c + 1, g.k), dw.dtype)

    def work(p0: int, p1: int) -> None:
        matrix = _patches(x, g, p0, p1)
        gradient = flat[:, p0 * row : p1 * row]
        if g.k > _NARROW:  # BLAS adds rows of many filters faster than it multiplies long rows
            gradient = workspace(0, gradient.T.shape, dy.dtype).T
            gradient[...] = flat[:, p0 * row : p1 * row]
        multiply_long(matrix, gradient.T, partials[p0 // rows])

    parallel_for(g.p, rows, work)
    total = partials.sum(axis=0, dtype=np.float64)
    dw[...] = total[:-1].reshape(g.r, g.s, g.c, g.k).transpose(3, 0, 1, 2)
    if db is not None:
        db[...] = total[-1]


def backward_input(dy: Array, w: Array, dx: Array, g: Conv2dGeometry, finish: Epilogue) -> None:
    """dx (C, H, W, N) from dy (K, P, Q, N) and w (K, R, S, C), all of any strides."""
    matrix = np.ascontiguousarray(w.transpose(1, 2, 3, 0)).reshape(g.r, -1, g.k)
    height = max(g.h + g.pad_top, (g.p - 1) * g.stride_h + (g.r - 1) * g.dilation_h + 1)
    width = max(g.w + g.pad_left, (g.q - 1) * g.stride_w + (g.s - 1) * g.dilation_w + 1)
    places = [place[2:] for place in taps(g)]
    steps = [places[r * g.s : (r + 1) * g.s] for r in range(g.r)]

    def work(n0: int, n1: int) -> None:
        gradient = workspace(2, (g.k, g.p, g.q, n1 - n0), dy.dtype)
        np.copyto(gradient, dy[..., n0:n1])
        total = workspace(0, (g.c, height, width, n1 - n0), dy.dtype)
        total.fill(0)
        shares = workspace(1, (g.s, g.c, g.p, g.q, n1 - n0), dy.dtype)
        for r, row_of_taps in enumerate(steps):  # a row at a time stays in cache
            multiply(matrix[r], gradient.reshape(g.k, -1), shares.reshape(g.s * g.c, -1))
            for s, (rows, columns) in enumerate(row_of_taps):
                target = total[:, rows, columns]
                np.add(target, shares[s], out=target)
        dx[..., n0:n1] = total[:, g.pad_top : g.pad_top + g.h, g.pad_left : g.pad_left + g.w]
        finish((slice(None), slice(None), slice(None), slice(n0, n1)))

    parallel_for(g.n, _IMAGES, work)
