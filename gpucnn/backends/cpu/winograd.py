"""Convolution by Winograd's minimal filtering, in channels-last memory.

Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016. An image is cut
into tiles of m x m outputs, each of which reads n x n inputs, n = m + r - 1 for filters of r x r.
With small matrices B^T (n x n), G (n x r), A^T (m x n), for each tile, channel c and filter k:

    forward, backward_input   y  = A^T [sum over c of (G w G^T) * (B^T x B)] A
    backward_weight           dw = G^T [sum over tiles of (A dy A^T) * (B^T x B)] G

where * is element by element. For each of the n x n elements ("frequencies") the sum over c is a
product of matrices (tiles x C) (C x K), the sum over tiles one of (K x tiles) (tiles x C). An
output takes n^2 / m^2 multiplications instead of r^2: for 3x3 filters 2.25 with m = 4 and 4 with
m = 2 instead of 9, for 5x5 filters 9 with m = 2 instead of 25.

Backward_input is forward with dy for x, channels and filters exchanged, and turned tiles in place
of turned filters. A 3x3 filter of stride 2 and padding 1 is one of stride 1 with 2x2 taps and the
four phases of the larger images as channels; where a phase has a single tap its value at infinity
is 0, so that 5.3 multiplications remain of 9.

The filters are transformed in each call: that takes 1 % of a call for 64 channels of 32 x 32
images, and more only where the images are few and small, as in the inference of one image. There
the frequencies are kept while the filters do not change (`winograd_filters`), and one thread
makes all transforms (`winograd_single`).

Accuracy: in float32 the error is below 1e-5 of the largest result (1e-6 to 4e-6 is usual). NaN and
infinity spread over the outputs of every tile that reads them, and values beyond 1e37 may overflow.
"""

from __future__ import annotations

import numpy as np

from gpucnn.backends.cpu.blocks import Array
from gpucnn.backends.cpu.epilogue import Epilogue
from gpucnn.backends.cpu.products import multiply
from gpucnn.backends.cpu.threads import blas_single, parallel_for
from gpucnn.backends.cpu.winograd_filters import frequencies
from gpucnn.backends.cpu.winograd_plan import Plan, backward_plan, forward_plan
from gpucnn.backends.cpu.winograd_single import single
from gpucnn.backends.cpu.winograd_transforms import (
    Block,
    Grid,
    filters_from_frequencies,
    to_frequencies,
)
from gpucnn.backends.cpu.workspace import planes, workspace
from gpucnn.ops.geometry import Conv2dGeometry

_CHUNK = 1 << 16
"""Tiles times channels of which backward_weight keeps the frequencies."""
_SHORTEST = 128
"""Tiles of such a chunk, as the terms that one product sums."""
_MANY = 4
"""Filters for each tile that make their sums more than the frequencies of the images."""


def forward(x: Array, w: Array, y: Array, m: int, g: Conv2dGeometry, finish: Epilogue) -> None:
    """y (N, P, Q, K) from x (N, H, W, C) and w (R, S, C, K), all of any strides."""
    plan = forward_plan(m, g)
    if not plan.is_small(g.c, g.k):
        _convolve(plan, x, w, y, finish)
        return
    with blas_single():
        single((m, g, False), plan, x, g.k)(x, frequencies(plan, w), y, finish)


def backward_input(
    dy: Array, w: Array, dx: Array, m: int, g: Conv2dGeometry, finish: Epilogue
) -> None:
    """dx (N, H, W, C) from dy (N, P, Q, K) and w (R, S, K, C), all of any strides."""
    plan = backward_plan(m, g)
    if not plan.is_small(g.k, g.c):
        _convolve(plan, dy, w, dx, finish)
        return
    with blas_single():
        single((m, g, True), plan, dy, g.c)(dy, plan.spectrum(w), dx, finish)


def _convolve(plan: Plan, x: Array, w: Array, y: Array, finish: Epilogue) -> None:
    """Any strides; `finish` is called for each part of y."""
    grid, channels, filters = plan.grid, x.shape[3], y.shape[3]
    # Few tiles and many filters: each thread transforms the filters that it multiplies with.
    if grid.tiles <= 2 * filters or len(grid.blocks(plan.tiles(max(channels, filters)))) < 4:
        _by_filters(plan, x, w, y, finish)
    else:
        _by_images(plan, x, w, y, finish)


def _by_images(plan: Plan, x: Array, w: Array, y: Array, finish: Epilogue) -> None:
    """Each block of images from beginning to end, with all filters."""
    n, filters = plan.t.n, y.shape[3]
    inputs, parts = x.shape[3] * plan.phases.read**2, plan.phases.written**2
    spectrum = workspace(3, (n, n, inputs, parts, filters), x.dtype)

    def transform(k0: int, k1: int) -> None:
        part = spectrum[..., k0:k1]
        part[...] = plan.spectrum(w[..., k0:k1]).reshape(part.shape)

    parallel_for(filters, plan.share(filters, x.shape[3]), transform)
    blocks = plan.grid.blocks(plan.tiles(max(inputs, parts * filters)))
    flat = spectrum.reshape(n, n, inputs, -1)

    def work(start: int, stop: int) -> None:
        for block in blocks[start:stop]:
            shape = (block.t1 - block.t0, block.n1 - block.n0, plan.grid.wide)
            images = planes(2, (n, n), (*shape, inputs), x.dtype)
            plan.read(x, block, images)
            product = planes(0, (n, n), (*shape, parts * filters), x.dtype)
            plan.multiply(
                images.reshape(n, n, -1, inputs), flat, product.reshape(n, n, -1, parts * filters)
            )
            plan.write(product, y, block, slice(None), finish)

    parallel_for(len(blocks), 1, work)


def _by_filters(plan: Plan, x: Array, w: Array, y: Array, finish: Epilogue) -> None:
    """All images to frequencies, then some filters at a time from beginning to end."""
    n, grid = plan.t.n, plan.grid
    inputs, parts = x.shape[3] * plan.phases.read**2, plan.phases.written**2
    shape = (grid.high, grid.images, grid.wide)
    images = planes(3, (n, n), (*shape, inputs), x.dtype)
    blocks = grid.blocks(max(1, plan.tiles(inputs) // 4))

    def transform(start: int, stop: int) -> None:
        for block in blocks[start:stop]:
            plan.read(x, block, images[:, :, block.t0 : block.t1, block.n0 : block.n1])

    parallel_for(len(blocks), 1, transform)
    everything = Block(0, grid.images, 0, grid.high)

    filters = y.shape[3]

    def work(k0: int, k1: int) -> None:
        spectrum = plan.spectrum(w[..., k0:k1])
        product = planes(0, (n, n), (*shape, parts * (k1 - k0)), x.dtype)
        flat = product.reshape(n, n, -1, parts * (k1 - k0))
        plan.multiply(images.reshape(n, n, -1, inputs), spectrum, flat)
        plan.write(product, y, everything, slice(k0, k1), finish)

    parallel_for(filters, plan.share(filters, parts * inputs), work)


def backward_weight(x: Array, dy: Array, dw: Array, m: int, g: Conv2dGeometry) -> None:
    """dw (R, S, K, C) from x (N, H, W, C) and dy (N, P, Q, K), all of any strides."""
    plan = forward_plan(m, g)
    n, filters, inputs = plan.t.n, g.k, g.c * plan.phases.read**2
    chunks = plan.grid.blocks(max(_SHORTEST, _CHUNK // max(inputs, filters)))
    share = plan.share(filters, inputs)
    if len(chunks) == 1 and plan.grid.tiles * _MANY <= filters:
        # The sums are larger than what they are sums of: some filters from beginning to end.
        operands = _gradient_frequencies(plan, chunks[0], x, dy)

        def work(k0: int, k1: int) -> None:
            sums = workspace(1, (n, n, k1 - k0, inputs), x.dtype)
            _multiply_sums(plan, *operands, slice(0, n), slice(k0, k1), sums, add=False)
            _to_filters(plan, sums, dw[:, :, k0:k1])

        parallel_for(filters, share, work)
        return
    total = workspace(5, (n, n, filters, inputs), x.dtype)
    for number, chunk in enumerate(chunks):
        _add_chunk(plan, _gradient_frequencies(plan, chunk, x, dy), total, number > 0)

    def finish(k0: int, k1: int) -> None:
        _to_filters(plan, total[:, :, k0:k1], dw[:, :, k0:k1])

    parallel_for(filters, share, finish)


def _gradient_frequencies(plan: Plan, chunk: Block, x: Array, dy: Array) -> tuple[Array, Array]:
    """(n, n, K, T) of dy and (n, n, T, I) of x, for the T tiles of a chunk."""
    t, filters, inputs = plan.t, dy.shape[3], x.shape[3] * plan.phases.read**2
    part = Grid(chunk.n1 - chunk.n0, chunk.t1 - chunk.t0, plan.grid.wide)
    shape = (part.high, part.images, part.wide)
    of_x = planes(3, (t.n, t.n), (*shape, inputs), x.dtype)
    of_dy = planes(4, (t.n, t.n), (*shape, filters), x.dtype)
    blocks = part.blocks(plan.tiles(max(inputs, filters)))

    def transform(start: int, stop: int) -> None:
        for n0, n1, t0, t1 in blocks[start:stop]:
            block = Block(chunk.n0 + n0, chunk.n0 + n1, chunk.t0 + t0, chunk.t0 + t1)
            plan.read(x, block, of_x[:, :, t0:t1, n0:n1])
            gradients = dy[block.n0 : block.n1]
            to_frequencies(t.gradient, gradients, block.t0 * t.m, 0, t.m, of_dy[:, :, t0:t1, n0:n1])

    parallel_for(len(blocks), 1, transform)
    of_dy = of_dy.reshape(t.n, t.n, -1, filters)
    return of_dy.transpose(0, 1, 3, 2), of_x.reshape(t.n, t.n, -1, inputs)


def _multiply_sums(
    plan: Plan, of_dy: Array, of_x: Array, lines: slice, filters: slice, out: Array, add: bool
) -> None:
    """out (n, n, K, I) = of_dy (n, n, K, T) times of_x (n, n, T, I), or adds it, for some lines of
    the frequencies and some filters, which `out` begins with."""
    inputs = of_x.shape[3]
    for rows, columns, read, _ in plan.parts():
        mine = slice(max(rows.start, lines.start), min(rows.stop, lines.stop))
        if mine.start >= mine.stop:
            continue
        few, target = inputs * read // 4, out[mine.start - lines.start : mine.stop - lines.start]
        target = target[:, columns]
        left, right = of_dy[mine, columns, filters], of_x[mine, columns, :, :few]
        if add:
            product = workspace(0, (*target.shape[:3], few), out.dtype)
            multiply(left, right, product)
            np.add(target[..., :few], product, out=target[..., :few])
        else:
            target[..., few:] = 0
            multiply(left, right, target[..., :few])


def _add_chunk(plan: Plan, operands: tuple[Array, Array], total: Array, add: bool) -> None:
    """total (n, n, K, I) = the products of a chunk, or adds them; a frequency's operands stay in a
    thread's cache until it is done with all filters."""

    def work(start: int, stop: int) -> None:
        lines = slice(start, stop)
        _multiply_sums(plan, *operands, lines, slice(None), total[lines], add)

    parallel_for(plan.t.n, 1, work)


def _to_filters(plan: Plan, frequencies: Array, dw: Array) -> None:
    """dw (R, S, K, C) from the frequencies (n, n, K, I) of some filters."""
    _, _, filters, channels = dw.shape
    flat = frequencies.reshape(plan.t.n**2, filters, -1)
    if plan.phases.read == 1:
        filters_from_frequencies(plan.t, flat, dw)
        return
    taps = workspace(2, (2, 2, filters, 4, channels), dw.dtype)
    filters_from_frequencies(plan.t, flat, taps.reshape(2, 2, filters, -1))
    for r in range(3):
        for s in range(3):
            dw[r, s] = taps[r // 2, s // 2, :, 2 * (r % 2) + s % 2]
