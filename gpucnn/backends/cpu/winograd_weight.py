"""The gradient of filters by Winograd's filtering, in channels-last memory, see `winograd`.

For each frequency the sum over all tiles is a product of matrices (K x tiles) (tiles x C), whose
operands are as large as the images and more. Three ways to go through them, by sizes alone:

few sums       a thread transforms some tiles, multiplies them while they are in its cache, and adds
               to sums of its own; these are added up at the end
many sums      chunks of tiles are transformed by all threads, then each multiplies its frequencies
more sums than tiles   a thread has some filters, from their products to the filters' gradients
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from gpucnn.backends.cpu.blocks import Array
from gpucnn.backends.cpu.products import multiply
from gpucnn.backends.cpu.threads import parallel_for
from gpucnn.backends.cpu.winograd_plan import Plan, forward_plan
from gpucnn.backends.cpu.winograd_tiles import Reading
from gpucnn.backends.cpu.winograd_transforms import Block, Grid, filters_from_frequencies
from gpucnn.backends.cpu.workspace import planes, views, workspace
from gpucnn.ops.geometry import Conv2dGeometry

_FEW_SUMS = 1 << 13
"""Pairs of channel and filter of which several threads have sums of their own."""
_FEWEST_SHARES, _SHARES = 4, 8
"""How many such sums there are, by the tiles, whatever the number of threads."""
_TILES, _LEAST = 256, 64
"""Tiles that are transformed and multiplied at a time, and the fewest."""
_CHUNK = 1 << 16
"""Tiles times channels of which the frequencies are kept otherwise."""
_SHORTEST = 128
"""Tiles of such a chunk, as the terms that one product sums."""
_MANY = 4
"""Filters for each tile that make their sums more than the frequencies of the images."""


def backward_weight(x: Array, dy: Array, dw: Array, m: int, g: Conv2dGeometry) -> None:
    """dw (R, S, K, C) from x (N, H, W, C) and dy (N, P, Q, K), all of any strides."""
    plan = forward_plan(m, g)
    shares = max(_FEWEST_SHARES, min(_SHARES, plan.grid.tiles // (2 * _TILES)))
    each = min(_TILES, plan.grid.tiles // shares)
    few = plan.grid.blocks(each)
    if plan.filters * plan.inputs <= _FEW_SUMS and each >= _LEAST and len(few) >= shares:
        total = _by_tiles(plan, few, shares, x, dy)
    else:
        chunks = plan.grid.blocks(max(_SHORTEST, _CHUNK // max(plan.inputs, plan.filters)))
        if len(chunks) == 1 and plan.grid.tiles * _MANY <= plan.filters:
            _by_filters(plan, chunks[0], x, dy, dw)
            return
        total = _by_frequencies(plan, chunks, x, dy)

    def finish(k0: int, k1: int) -> None:
        part = total[0, :, :, k0:k1]
        for share in total[1:]:
            np.add(part, share[:, :, k0:k1], out=part)
        _to_filters(plan, part, dw[:, :, k0:k1])

    parallel_for(plan.filters, plan.share(plan.filters, plan.inputs * len(total)), finish)


def _by_tiles(plan: Plan, blocks: list[Block], shares: int, x: Array, dy: Array) -> Array:
    """Shares (shares, n, n, K, I) of the sums, each of about as many blocks of tiles."""
    n = plan.t.n
    total = workspace(5, (shares, n, n, plan.filters, plan.inputs), x.dtype)

    def work(start: int, stop: int) -> None:
        for share in range(start, stop):
            first, last = (len(blocks) * s // shares for s in (share, share + 1))
            for number, (n0, n1, t0, t1) in enumerate(blocks[first:last]):
                operands = views(_Tiles, plan, dy.shape[1:3], n1 - n0, t0, t1, x.dtype)
                operands.read_x(x[n0:n1])
                operands.read_dy(dy[n0:n1])
                _multiply(plan, operands.of_dy, operands.of_x, total[share], number > 0)

    parallel_for(shares, 1, work)
    return total


def _by_frequencies(plan: Plan, chunks: list[Block], x: Array, dy: Array) -> Array:
    """The sums (1, n, n, K, I)."""
    n = plan.t.n
    total = workspace(5, (1, n, n, plan.filters, plan.inputs), x.dtype)
    for number, chunk in enumerate(chunks):
        operands = _chunk(plan, chunk, x, dy)

        def work(line: int, stop: int, of: _Operands = operands, add: bool = number > 0) -> None:
            # A frequency's operands stay in a thread's cache until it is done with all filters.
            _multiply(plan, of.of_dy, of.of_x, total[0, line:stop], add, line)

        parallel_for(n, 1, work)
    return total


def _by_filters(plan: Plan, chunk: Block, x: Array, dy: Array, dw: Array) -> None:
    """The sums are larger than what they are sums of: some filters from beginning to end."""
    n = plan.t.n
    operands = _chunk(plan, chunk, x, dy)

    def work(k0: int, k1: int) -> None:
        sums = workspace(1, (n, n, k1 - k0, plan.inputs), x.dtype)
        _multiply(plan, operands.of_dy[:, :, k0:k1], operands.of_x, sums)
        _to_filters(plan, sums, dw[:, :, k0:k1])

    parallel_for(plan.filters, plan.share(plan.filters, plan.inputs), work)


class _Operands:
    """What is multiplied for T tiles, `high` rows of them of some images: of_dy (n, n, K, T) and
    of_x (n, n, T, I), in this thread's workspace."""

    def __init__(self, plan: Plan, images: int, high: int, dtype: DTypeLike) -> None:
        n, shape = plan.t.n, (high, images, plan.grid.wide)
        self.x = planes(3, (n, n), (*shape, plan.inputs), dtype)
        self.dy = planes(4, (n, n), (*shape, plan.filters), dtype)
        self.of_x = self.x.reshape(n, n, -1, plan.inputs)
        self.of_dy = self.dy.reshape(n, n, -1, plan.filters).transpose(0, 1, 3, 2)


class _Tiles(_Operands):
    """The same with what makes them: rows t0..t1 of tiles, dy being of `size`."""

    def __init__(
        self, plan: Plan, size: tuple[int, int], images: int, t0: int, t1: int, dtype: DTypeLike
    ) -> None:
        super().__init__(plan, images, t1 - t0, dtype)
        self.read_x, self.read_dy = _readings(plan, size, t0, self.x, self.dy)


def _readings(
    plan: Plan, size: tuple[int, int], t0: int, of_x: Array, of_dy: Array
) -> tuple[Reading, Reading]:
    """To the frequencies of the tiles in rows from t0 on, of x and of dy."""
    t = plan.t
    return plan.reading(t0, of_x), Reading(t.gradient, size, (t0 * t.m, 0), t.m, of_dy)


def _chunk(plan: Plan, chunk: Block, x: Array, dy: Array) -> _Operands:
    """The operands of a chunk of tiles, made by all threads."""
    size, high, images = dy.shape[1:3], chunk.t1 - chunk.t0, chunk.n1 - chunk.n0
    operands = views(_Operands, plan, images, high, x.dtype)
    blocks = Grid(images, high, plan.grid.wide).blocks(plan.tiles(max(plan.inputs, plan.filters)))

    def transform(start: int, stop: int) -> None:
        for n0, n1, t0, t1 in blocks[start:stop]:
            of_x, of_dy = (part[:, :, t0:t1, n0:n1] for part in (operands.x, operands.dy))
            read_x, read_dy = _readings(plan, size, chunk.t0 + t0, of_x, of_dy)
            these = slice(chunk.n0 + n0, chunk.n0 + n1)
            read_x(x[these])
            read_dy(dy[these])

    parallel_for(len(blocks), 1, transform)
    return operands


def _multiply(
    plan: Plan, of_dy: Array, of_x: Array, out: Array, add: bool = False, line: int = 0
) -> None:
    """out (h, n, K, I) = of_dy (n, n, K, T) times of_x (n, n, T, I), or adds it, for the h lines of
    frequencies from `line` on."""
    for rows, columns, read, _ in plan.parts():
        mine = slice(max(rows.start, line), min(rows.stop, line + len(out)))
        if mine.start >= mine.stop:
            continue
        few, target = plan.inputs * read // 4, out[mine.start - line : mine.stop - line, columns]
        left, right = of_dy[mine, columns], of_x[mine, columns, :, :few]
        if add:
            product = workspace(0, (*target.shape[:3], few), out.dtype)
            multiply(left, right, product)
            np.add(target[..., :few], product, out=target[..., :few])
        else:
            target[..., few:] = 0
            multiply(left, right, target[..., :few])


def _to_filters(plan: Plan, frequencies: Array, dw: Array) -> None:
    """dw (R, S, K, C) from the frequencies (n, n, K, I) of some filters."""
    flat = frequencies.reshape(plan.t.n**2, *frequencies.shape[2:])
    if plan.phases.read == 1:
        filters_from_frequencies(plan.t, flat, dw)
        return
    filters, channels = dw.shape[2:]
    taps = workspace(2, (2, 2, filters, 4, channels), dw.dtype)
    filters_from_frequencies(plan.t, flat, taps.reshape(2, 2, filters, -1))
    for r in range(3):
        for s in range(3):
            dw[r, s] = taps[r // 2, s // 2, :, 2 * (r % 2) + s % 2]
