"""2-D convolution of few channels, with the batch innermost in memory (C, H, W, N).

Matrices of few channels are then still made of long runs, and the products have the batch as their
long side. An image row is written once for each filter column, shifted by it, with a row of ones:
its "lines" (S C + 1, Q N). The patches of an output row are the lines of the R image rows that it
reads, which lie next to each other, so that nothing is copied for the filter's rows:

forward            y_p (K, Q N)     = W (K, R (S C + 1))  lines of the rows p .. p + R
backward_weight    dW               = the sum over p of dy_p (lines of the rows p .. p + R)^T
backward_input     dx_h             = the sum over s of W_s^T (dy of the rows h - R .. h), shifted

The bias is the weight of the ones of the first row, and the sum of dy its gradient. The error is
that of a float32 sum, as of `patch_products`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from gpucnn.backends.cpu.blocks import Array, strided_view
from gpucnn.backends.cpu.epilogue import Epilogue
from gpucnn.backends.cpu.padding import copy_padded
from gpucnn.backends.cpu.products import multiply, multiply_long
from gpucnn.backends.cpu.threads import parallel_for
from gpucnn.backends.cpu.workspace import workspace
from gpucnn.ops.geometry import Conv2dGeometry

ORDER = (1, 2, 3, 0)

_PIECE = 1 << 18
"""Elements of lines that are made at a time: few NumPy calls on much, as threads that make many
short ones wait for each other; and not beyond the cache that they share."""
_NARROW = 8


def _rows_of_piece(rows: int, elements: int) -> int:
    """Rows that a thread takes at a time: about equal pieces, an even number of them."""
    pieces = 2 * max(1, round(elements / (2 * _PIECE)))
    return max(1, -(-rows // pieces))


def _lines(x: Array, g: Conv2dGeometry, p0: int, p1: int) -> Array:
    """The windows (p, R (S C + 1), Q N) of output rows p0..p1: overlapping views of lines."""
    height = (p1 - p0 - 1) * g.stride_h + g.r
    width = (g.q - 1) * g.stride_w + (g.s - 1) * g.dilation_w + 1
    row = p0 * g.stride_h - g.pad_top
    if row >= 0 and row + height <= g.h and g.pad_left == 0 and width <= g.w:
        source = x[:, row : row + height]
    else:
        source = workspace(3, (g.c, height, width, g.n), x.dtype)
        copy_padded(x, row, -g.pad_left, source)
    lines = workspace(0, (height, g.s * g.c + 1, g.q, g.n), x.dtype)
    channel, line, column, image = source.strides
    shifted = strided_view(
        source,
        (height, g.s, g.c, g.q, g.n),
        (line, g.dilation_w * column, channel, g.stride_w * column, image),
    )
    lines[:, :-1].reshape(shifted.shape)[...] = shifted
    lines[:, -1] = 1
    row, line = lines.strides[:2]
    return np.ndarray(
        (p1 - p0, g.r * (g.s * g.c + 1), g.q * g.n),
        x.dtype,
        lines,
        strides=(g.stride_h * row, line, x.itemsize),
    )


def forward(x: Array, w: Array, g: Conv2dGeometry, finish: Epilogue) -> None:
    """y (K, P, Q, N), contiguous, from x (C, H, W, N) and w (K, R, S, C) of any strides."""
    weights = np.zeros((g.k, g.r, g.s * g.c + 1), w.dtype)
    weights[:, :, :-1] = w.reshape(g.k, g.r, -1)
    if finish.bias is not None:
        weights[:, 0, -1] = finish.bias
        finish = dataclasses.replace(finish, bias=None)
    matrix = weights.reshape(g.k, -1)

    def work(p0: int, p1: int) -> None:
        part = (slice(None), slice(p0, p1), slice(None), slice(None))
        out = finish.target(part)
        multiply(matrix, _lines(x, g, p0, p1), out.reshape(g.k, p1 - p0, -1).transpose(1, 0, 2))
        finish(part, out)

    parallel_for(g.p, _rows_of_piece(g.p, g.h * g.s * g.c * g.q * g.n), work)


def backward_weight(x: Array, dy: Array, dw: Array, db: Array | None, g: Conv2dGeometry) -> None:
    """dw (K, R, S, C) and db (K) from x (C, H, W, N) and dy (K, P, Q, N), dy contiguous."""
    rows = dy.reshape(g.k, g.p, -1).transpose(1, 0, 2)
    partials = np.empty((g.p, g.r * (g.s * g.c + 1), g.k), dw.dtype)

    def work(p0: int, p1: int) -> None:
        gradients = rows[p0:p1].transpose(0, 2, 1)
        if g.k > _NARROW:  # BLAS adds rows of many filters faster than it multiplies long rows
            gradients = workspace(2, gradients.shape, dy.dtype)
            gradients[...] = rows[p0:p1].transpose(0, 2, 1)
        multiply_long(_lines(x, g, p0, p1), gradients, partials[p0:p1])

    parallel_for(g.p, _rows_of_piece(g.p, g.h * g.s * g.c * g.q * g.n), work)
    total = partials.sum(axis=0, dtype=np.float64).reshape(g.r, g.s * g.c + 1, g.k)
    dw[...] = total[:, :-1].reshape(g.r, g.s, g.c, g.k).transpose(3, 0, 1, 2)
    if db is not None:
        db[...] = total[0, -1]


def backward_input(dy: Array, w: Array, g: Conv2dGeometry, finish: Epilogue) -> None:
    """dx (C, H, W, N) from dy (K, P, Q, N) and w (K, R, S, C), all of any strides."""
    # An input row meets every `stride_h`th filter row; the last of them the first row of dy.
    phases = [w[:, phase :: g.stride_h][:, ::-1] for phase in range(min(g.stride_h, g.r))]
    matrices = [np.ascontiguousarray(f.transpose(2, 3, 1, 0)) for f in phases]
    gradients = np.ascontiguousarray(dy.transpose(1, 0, 2, 3)).reshape(g.p * g.k, -1)

    def work(h0: int, h1: int) -> None:
        shares = workspace(1, (h1 - h0, g.s, g.c, g.q, g.n), dy.dtype)
        flat = shares.reshape(h1 - h0, g.s * g.c, -1)
        for h in range(h0, h1):
            last, phase = divmod(h + g.pad_top, g.stride_h)
            count = matrices[phase].shape[2] if phase < len(matrices) else 0
            first = last + 1 - count
            p0, p1 = max(0, first), min(g.p, last + 1)
            if p0 >= p1:
                flat[h - h0] = 0
                continue
            taps = matrices[phase][:, :, p0 - first : p1 - first].reshape(g.s * g.c, -1)
            multiply(taps, gradients[p0 * g.k : p1 * g.k], flat[h - h0])
        part = (slice(None), slice(h0, h1), slice(None), slice(None))
        out = finish.target(part)
        _scatter(shares.transpose(1, 2, 0, 3, 4), out, g)
        finish(part, out)

    parallel_for(g.h, _rows_of_piece(g.h, g.h * g.s * g.c * g.q * g.n), work)


def _scatter(shares: Array, dx: Array, g: Conv2dGeometry) -> None:
    """dx (C, h, W, N) = the shares (S, C, h, Q, N), each added where its filter column was read."""
    dx[...] = 0
    for s in range(g.s):
        shift = s * g.dilation_w - g.pad_left
        q0 = max(0, -(shift // g.stride_w))
        q1 = min(g.q, (g.w - 1 - shift) // g.stride_w + 1)
        if q0 < q1:
            first = q0 * g.stride_w + shift
            target = dx[:, :, first : first + (q1 - q0 - 1) * g.stride_w + 1 : g.stride_w]
            np.add(target, shares[s, :, :, q0:q1], out=target)
