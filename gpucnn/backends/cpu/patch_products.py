"""2-D convolution as products of patch matrices, in channels-last memory.

forward            y  = patches(x) W
backward_input     dx = the sum of dy W^T over the patches that share an input element; for stride
                   1 it is the forward convolution of dy with turned filters instead
backward_weight    dW = patches(x)^T dy, summed over blocks in a fixed order

The error is that of a float32 sum of R S C (or N P Q) terms: about 1e-6 of the largest result.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from gpucnn.backends.cpu import few_pixels, reduce
from gpucnn.backends.cpu.algorithm_times import FEW_PIXELS, is_of_lines
from gpucnn.backends.cpu.blocks import Array
from gpucnn.backends.cpu.epilogue import WHOLE, Epilogue
from gpucnn.backends.cpu.patches import blocks, by_tap, halves, patches, patches_by_tap, taps
from gpucnn.backends.cpu.pooled_gradient import PooledGradient
from gpucnn.backends.cpu.products import multiply, multiply_long
from gpucnn.backends.cpu.threads import parallel_for
from gpucnn.backends.cpu.workspace import workspace
from gpucnn.ops.geometry import Conv2dGeometry

_PARTIALS = 1 << 24
"""Elements of partial weight gradients that may be alive at a time."""
_LONG = 1024
"""Terms from which a product of two matrices, the right one by columns, is cut for speed."""
_TRANSPOSED = 1 << 19
"""Elements of a matrix of filters up to which it is transposed in memory."""


def forward(x: Array, w: Array, g: Conv2dGeometry, finish: Epilogue) -> None:
    """y (N, P, Q, K) from x (N, H, W, C) and w (R, S, C, K), all of any strides."""
    if is_of_lines(g):
        few_pixels.forward(x, w, g, finish)
        return
    pieces, transposed = blocks(g, g.c), by_tap(g, g.c)
    if len(pieces) == 1 and not transposed and g.n * g.p * g.q <= FEW_PIXELS:
        _by_filters(patches(x, g, pieces[0]), w, finish, few_pixels.share(g))
        return
    if len(pieces) == 1 and g.flops > few_pixels.SHARED:
        pieces = halves(pieces[0])
    matrix = _matrix(w)
    if transposed:
        bias = np.zeros(g.k, w.dtype) if finish.bias is None else finish.bias
        matrix = np.concatenate([matrix, bias[None]])
        finish = dataclasses.replace(finish, bias=None)

    def work(start: int, stop: int) -> None:
        for block in pieces[start:stop]:
            n0, n1, p0, p1 = block
            part = (slice(n0, n1), slice(p0, p1), slice(None), slice(None))
            target = finish.target(part)
            direct = target.flags.c_contiguous
            rows = (n1 - n0) * (p1 - p0) * g.q
            product = target.reshape(rows, g.k) if direct else workspace(2, (rows, g.k), x.dtype)
            left = patches_by_tap(x, g, block).T if transposed else patches(x, g, block)
            multiply(left, matrix, product)
            if not direct:
                target[...] = product.reshape(target.shape)
            finish(part, target)

    parallel_for(len(pieces), 1, work)


def writes_images(g: Conv2dGeometry) -> bool:
    """Whether `forward` writes all rows and columns of an image at once."""
    return g.n > 1 and blocks(g, g.c)[0].p1 == g.p


def _by_filters(rows: Array, w: Array, finish: Epilogue, share: int) -> None:
    """y from a patch matrix and w (R, S, C, K), the positions few: some filters at a time.

    Filters are then the longer side, and what BLAS is given first: it is up to twice as fast.
    """
    columns = rows.T
    filters = np.ascontiguousarray(w.transpose(3, 0, 1, 2)).reshape(w.shape[3], -1)

    def work(start: int, stop: int) -> None:
        some = slice(start, stop)
        product = workspace(2, (stop - start, rows.shape[0]), rows.dtype)
        if columns.shape[0] >= _LONG:
            multiply(filters[some], columns, product)
        else:
            np.matmul(filters[some], columns, out=product)
        part = (*WHOLE[:3], some)
        out = finish.target(part)
        out[...] = product.T.reshape(out.shape)
        finish(part, out)

    parallel_for(w.shape[3], share, work)


def scatter(dy: Array, w: Array, g: Conv2dGeometry, finish: Epilogue) -> None:
    """dx (N, H, W, C) from dy (N, P, Q, K) and w (K, R, S, C): the patches' gradients dy W, each
    added where its patch was read."""
    matrix = np.ascontiguousarray(w).reshape(g.k, -1)
    pieces = blocks(g, g.c, whole_images=True)
    height = max(g.h + g.pad_top, (g.p - 1) * g.stride_h + (g.r - 1) * g.dilation_h + 1)
    width = max(g.w + g.pad_left, (g.q - 1) * g.stride_w + (g.s - 1) * g.dilation_w + 1)

    def work(start: int, stop: int) -> None:
        for n0, n1, _, _ in pieces[start:stop]:
            rows = _rows(dy[n0:n1], g)
            product = workspace(1, (rows.shape[0], matrix.shape[1]), dy.dtype)
            multiply(rows, matrix, product)
            shares = product.reshape(n1 - n0, g.p, g.q, g.r, g.s, g.c)
            total = workspace(0, (n1 - n0, height, width, g.c), dy.dtype)
            total.fill(0)
            for r, s, top, left in taps(g):
                target = total[:, top, left]
                np.add(target, shares[:, :, :, r, s], out=target)
            part = (slice(n0, n1), *WHOLE[1:])
            out = finish.target(part)
            out[...] = total[:, g.pad_top : g.pad_top + g.h, g.pad_left : g.pad_left + g.w]
            finish(part, out)

    parallel_for(len(pieces), 1, work)


def backward_weight(
    x: Array, dy: Array | PooledGradient, dw: Array, db: Array | None, g: Conv2dGeometry
) -> None:
    """dw (K, R, S, C) and db (K) from x (N, H, W, C) and dy (N, P, Q, K), all of any strides.

    A gradient that is made in parts is that of few channels, where its sums are a tap's.
    """
    pieces = blocks(g, g.c)
    transposed = by_tap(g, g.c)
    # Few taps: (R S C + 1, K), the sums of dy last. Many: (K, R S C), the order of dw in memory.
    shape = (g.r * g.s * g.c + 1, g.k) if transposed else (g.k, g.r * g.s * g.c)
    # As many partial sums as keep several threads busy; their number depends on sizes alone.
    count = min(len(pieces), 8, max(2, _PARTIALS // dw.size))
    partials = workspace(4, (count, *shape), dw.dtype)

    def work(start: int, stop: int) -> None:
        for index in range(start, stop):
            partial = partials[index]
            mine = pieces[len(pieces) * index // count : len(pieces) * (index + 1) // count]
            for number, block in enumerate(mine):
                n0, n1, p0, p1 = block
                rows = _rows(dy[n0:n1][:, p0:p1], g)
                if transposed:
                    left, right = patches_by_tap(x, g, block), rows
                else:
                    left, right = rows.T, patches(x, g, block)
                if number == 0:
                    multiply_long(left, right, partial)
                else:
                    product = workspace(3, partial.shape, dw.dtype)
                    multiply_long(left, right, product)
                    np.add(partial, product, out=partial)

    parallel_for(count, 1, work)
    total = partials[0]
    for partial in partials[1:]:
        np.add(total, partial, out=total)
    if transposed:
        dw[...] = total[:-1].reshape(g.r, g.s, g.c, g.k).transpose(3, 0, 1, 2)
        if db is not None:
            db[...] = total[-1]
        return
    dw[...] = total.reshape(g.k, g.r, g.s, g.c)
    if db is not None:
        assert isinstance(dy, np.ndarray)
        reduce.reduce(dy, db, op="sum", axes=(0, 1, 2), keepdims=False)


def _matrix(w: Array) -> Array:
    """Filters (R, S, C, K) as the matrix (R S C, K).

    Contiguous where that is soon done; BLAS packs a large one anyway, transposed or not.
    """
    if w.size <= _TRANSPOSED or w.strides[3] == w.itemsize:
        return np.ascontiguousarray(w).reshape(-1, w.shape[3])
    return np.ascontiguousarray(w.transpose(3, 0, 1, 2)).reshape(w.shape[3], -1).T


def _rows(part: Array, g: Conv2dGeometry) -> Array:
    """dy (n, p, q, K) of some images and rows as a contiguous matrix of K columns."""
    shape = (part.shape[0] * part.shape[1] * part.shape[2], g.k)
    if part.flags.c_contiguous:
        return part.reshape(shape)
    copied = workspace(2, shape, part.dtype)
    copied.reshape(part.shape)[...] = part
    return copied
