"""Depthwise convolution: one filter a channel, as sums of shifted images times a tap.

Each result is a float32 sum of R S (or N P Q) terms, as exact as such sums are.
"""

from __future__ import annotations

import numpy as np

from gpucnn.backends.cpu.blocks import Array
from gpucnn.backends.cpu.epilogue import WHOLE, Epilogue
from gpucnn.backends.cpu.patches import taps, whole
from gpucnn.backends.cpu.threads import parallel_for
from gpucnn.backends.cpu.workspace import workspace
from gpucnn.ops.geometry import Conv2dGeometry

_BLOCK = 1 << 17
"""Elements of the output that are made at a time."""


def _images(g: Conv2dGeometry) -> int:
    return max(1, _BLOCK // max(1, g.p * g.q * g.c))


def forward(x: Array, w: Array, g: Conv2dGeometry, finish: Epilogue) -> None:
    """y (N, P, Q, C) = sum over r, s of x (N, H, W, C) shifted by (r, s), times w (R, S, C)."""
    factors = np.ascontiguousarray(w)

    def work(n0: int, n1: int) -> None:
        source = whole(x, g, n0, n1)
        total = workspace(2, (n1 - n0, g.p, g.q, g.c), x.dtype)
        term = workspace(3, total.shape, x.dtype)
        for r, s, rows, columns in taps(g):
            shifted = source[:, rows, columns]
            if r == s == 0:
                np.multiply(shifted, factors[r, s], out=total)
            else:
                np.multiply(shifted, factors[r, s], out=term)
                np.add(total, term, out=total)
        part = (slice(n0, n1), *WHOLE[1:])
        out = finish.target(part)
        out[...] = total
        finish(part, out)

    parallel_for(g.n, _images(g), work, blas=False)


def backward_input(dy: Array, w: Array, g: Conv2dGeometry, finish: Epilogue) -> None:
    """dx (N, H, W, C) = the sum of dy (N, P, Q, C) times each tap of w (R, S, C), added where the
    tap read."""
    factors = np.ascontiguousarray(w)
    height = max(g.h + g.pad_top, (g.p - 1) * g.stride_h + (g.r - 1) * g.dilation_h + 1)
    width = max(g.w + g.pad_left, (g.q - 1) * g.stride_w + (g.s - 1) * g.dilation_w + 1)

    def work(n0: int, n1: int) -> None:
        total = workspace(0, (n1 - n0, height, width, g.c), dy.dtype)
        total.fill(0)
        term = workspace(3, (n1 - n0, g.p, g.q, g.c), dy.dtype)
        for r, s, rows, columns in taps(g):
            np.multiply(dy[n0:n1], factors[r, s], out=term)
            target = total[:, rows, columns]
            np.add(target, term, out=target)
        part = (slice(n0, n1), *WHOLE[1:])
        out = finish.target(part)
        out[...] = total[:, g.pad_top : g.pad_top + g.h, g.pad_left : g.pad_left + g.w]
        finish(part, out)

    parallel_for(g.n, _images(g), work, blas=False)


def backward_weight(x: Array, dy: Array, dw: Array, g: Conv2dGeometry) -> None:
    """dw (R, S, C) = the sum over n, p, q of dy (N, P, Q, C) times x (N, H, W, C) shifted."""
    images = _images(g)
    count = -(-g.n // images)
    partials = np.empty((count, g.r, g.s, g.c), dw.dtype)
    ones = np.ones(images * g.p * g.q, dw.dtype)

    def work(n0: int, n1: int) -> None:
        source = whole(x, g, n0, n1)
        term = workspace(3, (n1 - n0, g.p, g.q, g.c), dw.dtype)
        rows_of_term = term.reshape(-1, g.c)
        for r, s, rows, columns in taps(g):
            np.multiply(source[:, rows, columns], dy[n0:n1], out=term)
            np.matmul(ones[: len(rows_of_term)], rows_of_term, out=partials[n0 // images, r, s])

    parallel_for(g.n, images, work)
    dw[...] = partials.sum(axis=0)
