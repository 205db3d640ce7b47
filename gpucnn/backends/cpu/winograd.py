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

from gpucnn.backends.cpu.blocks import Array
from gpucnn.backends.cpu.epilogue import Epilogue
from gpucnn.backends.cpu.threads import blas_single, parallel_for
from gpucnn.backends.cpu.winograd_filters import frequencies
from gpucnn.backends.cpu.winograd_plan import Plan, Tiles, backward_plan, forward_plan
from gpucnn.backends.cpu.winograd_single import convolve
from gpucnn.backends.cpu.winograd_transforms import Block
from gpucnn.backends.cpu.workspace import planes, views, workspace
from gpucnn.ops.geometry import Conv2dGeometry


def forward(x: Array, w: Array, m: int, g: Conv2dGeometry, finish: Epilogue) -> None:
    """y (N, P, Q, K) from x (N, H, W, C) and w (R, S, C, K), all of any strides."""
    plan = forward_plan(m, g)
    if not plan.is_small:
        _convolve(plan, x, w, finish)
        return
    with blas_single():
        convolve(plan, x, frequencies(plan, w), finish)


def backward_input(dy: Array, w: Array, m: int, g: Conv2dGeometry, finish: Epilogue) -> None:
    """dx (N, H, W, C) from dy (N, P, Q, K) and w (R, S, K, C), all of any strides."""
    plan = backward_plan(m, g)
    if not plan.is_small:
        _convolve(plan, dy, w, finish)
        return
    with blas_single():
        convolve(plan, dy, plan.spectrum(w), finish)


def _convolve(plan: Plan, x: Array, w: Array, finish: Epilogue) -> None:
    """Any strides."""
    grid = plan.grid
    blocks = grid.blocks(plan.tiles(max(plan.channels, plan.filters)))
    # Few tiles and many filters: each thread transforms the filters that it multiplies with.
    if grid.tiles <= 2 * plan.filters or len(blocks) < 4:
        _by_filters(plan, x, w, finish)
    else:
        _by_images(plan, x, w, finish)


def _by_images(plan: Plan, x: Array, w: Array, finish: Epilogue) -> None:
    """Each block of images from beginning to end, with all filters."""
    spectrum = _spectrum(plan, w)
    blocks = _blocks(plan)

    def work(start: int, stop: int) -> None:
        for block in blocks[start:stop]:
            n0, n1, t0, t1 = block
            tiles = views(Tiles, plan, n1 - n0, t0, t1, x.dtype)
            tiles.read(x[n0:n1])
            plan.multiply(tiles.images, spectrum, tiles.product)
            part = plan.part(block, slice(None))
            out = finish.target(part)
            tiles.write(out)
            finish(part, out)

    parallel_for(len(blocks), 1, work)


def _blocks(plan: Plan) -> list[Block]:
    return plan.grid.blocks(plan.tiles(max(plan.inputs, plan.outputs)))


def writes_images(m: int, g: Conv2dGeometry) -> bool:
    """Whether `forward` writes all rows and columns of an image at once."""
    plan = forward_plan(m, g)
    return _blocks(plan)[0].t1 == plan.grid.high


def _spectrum(plan: Plan, w: Array) -> Array:
    """The frequencies (n, n, I, O) of all filters, made by all threads if they are many."""
    n, parts, share = plan.t.n, plan.phases.written**2, plan.share(plan.filters, plan.channels)
    if share >= plan.filters:
        return plan.spectrum(w, slot=3)
    spectrum = workspace(3, (n, n, plan.inputs, parts, plan.filters), w.dtype)

    def transform(k0: int, k1: int) -> None:
        part = spectrum[..., k0:k1]
        part[...] = plan.spectrum(w[..., k0:k1]).reshape(part.shape)

    parallel_for(plan.filters, share, transform)
    return spectrum.reshape(n, n, plan.inputs, -1)


def _by_filters(plan: Plan, x: Array, w: Array, finish: Epilogue) -> None:
    """All images to frequencies, then some filters at a time from beginning to end."""
    n, grid, parts = plan.t.n, plan.grid, plan.phases.written**2
    shape = (grid.high, grid.images, grid.wide)
    images = planes(3, (n, n), (*shape, plan.inputs), x.dtype)
    blocks = grid.blocks(max(1, plan.tiles(plan.inputs) // 4))

    def transform(start: int, stop: int) -> None:
        for n0, n1, t0, t1 in blocks[start:stop]:
            plan.reading(t0, images[:, :, t0:t1, n0:n1])(x[n0:n1])

    parallel_for(len(blocks), 1, transform)
    flat, everything = images.reshape(n, n, -1, plan.inputs), Block(0, grid.images, 0, grid.high)

    def work(k0: int, k1: int) -> None:
        spectrum = plan.spectrum(w[..., k0:k1])
        product = planes(0, (n, n), (*shape, parts * (k1 - k0)), x.dtype)
        plan.multiply(flat, spectrum, product.reshape(n, n, -1, parts * (k1 - k0)))
        part = plan.part(everything, slice(k0, k1))
        out = finish.target(part)
        plan.writing(product)(out)
        finish(part, out)

    parallel_for(plan.filters, plan.share(plan.filters, parts * plan.inputs), work)
