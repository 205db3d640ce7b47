"""2-D convolution by blocked patch matrices, in channels-last memory.

forward            y  = patches(x) W^T
backward_input     dx = convolution of dy with the turned filters (stride 1), else the sum of
                   dy W over the patches that share an input element
backward_weight    dW = dy^T patches(x), summed over blocks in a fixed order
Depthwise filters multiply and add shifted images instead; few channels of a batch are better kept
with the batch innermost (`batch_last`).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from gpucnn.backends.cpu import batch_last, depthwise
from gpucnn.backends.cpu.blocks import Array, scratch
from gpucnn.backends.cpu.patches import blocks, patches, taps
from gpucnn.backends.cpu.threads import parallel_for
from gpucnn.ops.geometry import Conv2dGeometry

_PARTIALS = 1 << 24
"""Elements of partial weight gradients that may be alive at a time."""


def conv2d(x: Array, w: Array, b: Array | None, y: Array, *, geometry: Conv2dGeometry) -> None:
    """y (N, K, P, Q) = x (N, C, H, W) convolved with w (K, C/groups, R, S), plus b (K,)."""
    g = geometry
    if y.size == 0:
        return
    if g.c == 0:
        y[...] = 0 if b is None else b[:, None, None]
        return
    if batch_last.fits(g) and _batch_last(y).flags.c_contiguous:
        batch_last.forward(_batch_last(x), _filters(w), b, _batch_last(y), g)
        return
    images, out = _channels_last(x), _channels_last(y)
    if depthwise.fits(g):
        depthwise.forward(images, w, b, out, g)
        return
    for group, part in _groups(g):
        channels, filters = group
        bias = None if b is None else b[filters]
        _forward(images[..., channels], w[filters], bias, out[..., filters], part)


def _forward(x: Array, w: Array, b: Array | None, y: Array, g: Conv2dGeometry) -> None:
    matrix = _filters(w).T
    pieces = blocks(g, g.c)
    direct = y.flags.c_contiguous

    def work(start: int, stop: int) -> None:
        for block in pieces[start:stop]:
            n0, n1, p0, p1 = block
            target = y[n0:n1, p0:p1]
            rows = (n1 - n0) * (p1 - p0) * g.q
            if direct:
                product = target.reshape(rows, g.k)
            else:
                product = scratch(2, (rows, g.k), y.dtype)
            np.matmul(patches(x, g, block), matrix, out=product)
            if b is not None:
                np.add(product, b, out=product)
            if not direct:
                target[...] = product.reshape(target.shape)

    parallel_for(len(pieces), 1, work)


def conv2d_backward_input(dy: Array, w: Array, dx: Array, *, geometry: Conv2dGeometry) -> None:
    """dx (N, C, H, W) from dy (N, K, P, Q) and w (K, C/groups, R, S)."""
    g = geometry
    if dx.size == 0:
        return
    if batch_last.fits(g):
        batch_last.backward_input(_batch_last(dy), _filters(w), _batch_last(dx), g)
        return
    gradients, out = _channels_last(dy), _channels_last(dx)
    if depthwise.fits(g):
        depthwise.backward_input(gradients, w, out, g)
        return
    for group, part in _groups(g):
        channels, filters = group
        turned = _turned(part)
        if turned is None:
            _scatter(gradients[..., filters], w[filters], out[..., channels], part)
        else:
            flipped = w[filters, :, ::-1, ::-1].transpose(1, 0, 2, 3)
            _forward(gradients[..., filters], flipped, None, out[..., channels], turned)


def _turned(g: Conv2dGeometry) -> Conv2dGeometry | None:
    """The convolution of dy that gives dx, for stride 1 and padding within the filter."""
    reach_h, reach_w = (g.r - 1) * g.dilation_h, (g.s - 1) * g.dilation_w
    top, left = reach_h - g.pad_top, reach_w - g.pad_left
    bottom, right = reach_h - g.pad_bottom, reach_w - g.pad_right
    if (g.stride_h, g.stride_w) != (1, 1) or min(top, left, bottom, right) < 0:
        return None
    return dataclasses.replace(
        g, c=g.k, h=g.p, w=g.q, k=g.c, p=g.h, q=g.w,
        pad_top=top, pad_left=left, pad_bottom=bottom, pad_right=right,
    )  # fmt: skip


def _scatter(dy: Array, w: Array, dx: Array, g: Conv2dGeometry) -> None:
    """dx = the patches' gradients dy W, each added where its patch was read."""
    matrix = _filters(w)
    pieces = blocks(g, g.c, whole_images=True)
    height = max(g.h + g.pad_top, (g.p - 1) * g.stride_h + (g.r - 1) * g.dilation_h + 1)
    width = max(g.w + g.pad_left, (g.q - 1) * g.stride_w + (g.s - 1) * g.dilation_w + 1)

    def work(start: int, stop: int) -> None:
        for n0, n1, _, _ in pieces[start:stop]:
            rows = _rows(dy, n0, n1, g)
            product = scratch(1, (rows.shape[0], matrix.shape[1]), dy.dtype)
            np.matmul(rows, matrix, out=product)
            shares = product.reshape(n1 - n0, g.p, g.q, g.r, g.s, g.c)
            total = scratch(0, (n1 - n0, height, width, g.c), dy.dtype)
            total.fill(0)
            for r, s, top, left in taps(g):
                target = total[:, top, left]
                np.add(target, shares[:, :, :, r, s], out=target)
            dx[n0:n1] = total[:, g.pad_top : g.pad_top + g.h, g.pad_left : g.pad_left + g.w]

    parallel_for(len(pieces), 1, work)


def conv2d_backward_weight(x: Array, dy: Array, dw: Array, *, geometry: Conv2dGeometry) -> None:
    """dw (K, C/groups, R, S) from x (N, C, H, W) and dy (N, K, P, Q)."""
    g = geometry
    if g.n == 0 or g.p * g.q == 0 or dw.size == 0:
        dw[...] = 0
        return
    if batch_last.fits(g) and _batch_last(dy).flags.c_contiguous:
        matrix = np.empty((g.k, g.r * g.s * g.c), dw.dtype)
        batch_last.backward_weight(_batch_last(x), _batch_last(dy), matrix, g)
        dw[...] = matrix.reshape(g.k, g.r, g.s, g.c).transpose(0, 3, 1, 2)
        return
    images, gradients = _channels_last(x), _channels_last(dy)
    if depthwise.fits(g):
        depthwise.backward_weight(images, gradients, dw, g)
        return
    for group, part in _groups(g):
        channels, filters = group
        _weight(images[..., channels], gradients[..., filters], dw[filters], part)


def _weight(x: Array, dy: Array, dw: Array, g: Conv2dGeometry) -> None:
    pieces = blocks(g, g.c)
    # As many partial sums as keep several threads busy; their number depends on sizes alone.
    count = min(len(pieces), 8, max(2, _PARTIALS // dw.size))
    partials = np.empty((count, g.r * g.s * g.c, g.k), dw.dtype)

    def work(start: int, stop: int) -> None:
        for index in range(start, stop):
            partial = partials[index]
            mine = pieces[len(pieces) * index // count : len(pieces) * (index + 1) // count]
            for number, block in enumerate(mine):
                n0, n1, p0, p1 = block
                rows = _rows(dy[:, p0:p1], n0, n1, g)
                matrix = patches(x, g, block)
                if number == 0:
                    np.matmul(matrix.T, rows, out=partial)
                else:
                    product = scratch(3, partial.shape, dw.dtype)
                    np.matmul(matrix.T, rows, out=product)
                    np.add(partial, product, out=partial)

    parallel_for(count, 1, work)
    for index in range(1, count):
        np.add(partials[0], partials[index], out=partials[0])
    dw[...] = partials[0].reshape(g.r, g.s, g.c, g.k).transpose(3, 2, 0, 1)


def _rows(dy: Array, n0: int, n1: int, g: Conv2dGeometry) -> Array:
    """dy (n, p, q, K) of some images as a contiguous matrix of K columns."""
    part = dy[n0:n1]
    shape = (part.shape[0] * part.shape[1] * part.shape[2], g.k)
    if part.flags.c_contiguous:
        return part.reshape(shape)
    copied = scratch(2, shape, dy.dtype)
    copied.reshape(part.shape)[...] = part
    return copied


def _groups(g: Conv2dGeometry) -> list[tuple[tuple[slice, slice], Conv2dGeometry]]:
    """For each group its channels and filters, and the geometry of one group alone."""
    c, k = g.c // g.groups, g.k // g.groups
    part = g if g.groups == 1 else dataclasses.replace(g, c=c, k=k, groups=1)
    return [((slice(i * c, (i + 1) * c), slice(i * k, (i + 1) * k)), part) for i in range(g.groups)]


def _channels_last(x: Array) -> Array:
    return x.transpose(0, 2, 3, 1)


def _batch_last(x: Array) -> Array:
    return x.transpose(1, 2, 3, 0)


def _filters(w: Array) -> Array:
    """w (K, C, R, S) as the contiguous matrix K x (R S C); a view where memory has that order."""
    return np.ascontiguousarray(w.transpose(0, 2, 3, 1)).reshape(w.shape[0], -1)
