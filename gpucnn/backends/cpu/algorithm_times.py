"""A small model of the machine: how long each algorithm of convolution takes, from sizes alone.

It counts the matrix products that an algorithm makes, the elements that it moves in runs of which
length, and those that it transforms. The constants were measured (2.6 GHz EPYC, OpenBLAS 0.3.31);
only their ratios matter, and threads divide all of them alike. All times are nanoseconds of one
thread.
"""

from __future__ import annotations

from gpucnn.backends.cpu.patches import BLOCK, by_tap, turned
from gpucnn.ops.geometry import Conv2dGeometry

FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT = "forward", "backward_input", "backward_weight"

_MULTIPLY_ADD = 1 / 52
_SHORT = 4.0  # a side of n of a product costs as one of n + 4: vector lanes stay empty
_PACKED = 0.4  # an operand's element, where OpenBLAS packs: beyond `_UNPACKED` elements of both
_UNPACKED = 80_000  # inner x columns, see `products`
_MOVED = 0.12  # an element copied or added, in cache
_RUN = 10.0  # a run of contiguous elements among them
_TRANSFORMED = 0.22  # an element that a transform of Winograd's makes
_TRANSPOSED = 6.0  # the taps of a filter and channel
_COMPARED = 0.02  # a frequency that is kept: its share of looking at the filters
_SMALL_PRODUCT = 30.0  # a product of a stack, besides its elements
_TURNED_RUN = 0.7  # an element written where its channels are apart
_CALLS = 14_000.0  # the calls of NumPy around all this, for patches
_FEW_CALLS = 8_000.0  # for few pixels
_WINOGRAD_CALLS = 75_000.0
_SINGLE_CALLS = 18_000.0  # for few tiles
_FILTER_CALLS = 25_000.0  # those that transform filters
_TURNED = 1.0  # an element of filters whose channels and filters are exchanged
_LINE = 8  # elements of a column that a line of the cache holds, or nearly
FEW_PIXELS = 64
"""Pixels up to which products have the filters first, and threads share those."""
_LINED_CHANNELS = 16
"""Channels from which products of lines are long enough."""


def _product(rows: int, inner: int, columns: int) -> float:
    """(rows x inner) (inner x columns), the rows many and cut as needed."""
    shortest = max(1, min(rows, inner, columns))
    time = rows * inner * columns * _MULTIPLY_ADD * (shortest + _SHORT) / shortest
    time += rows * columns * _MOVED
    if inner * columns > _UNPACKED:
        time += _PACKED * inner * (rows + columns)
    return time


def _packed_again(elements: int, inner: int, columns: int) -> float:
    """What packing the filters costs, block by block of a patch matrix of so many elements."""
    return elements // BLOCK * _PACKED * inner * columns if inner * columns > _UNPACKED else 0.0


def _moves(elements: int, run: int) -> float:
    return elements * (_MOVED + _RUN / max(1, run))


def _forward_of(g: Conv2dGeometry, direction: str) -> Conv2dGeometry:
    """The convolution that is computed: backward_input is that of dy with turned filters."""
    return (turned(g) or g) if direction == BACKWARD_INPUT else g


def patches(g: Conv2dGeometry, direction: str) -> float:
    f = _forward_of(g, direction)
    pixels, taps = f.n * f.p * f.q, f.r * f.s * f.c
    turned_filters = _TURNED * taps * f.k if direction == BACKWARD_INPUT else 0.0
    if direction != BACKWARD_WEIGHT and is_of_lines(f):
        return _of_lines(f) + turned_filters
    run = f.q if f.s * f.c < f.q else f.s * f.c
    padded = _moves(f.n * f.h * f.w * f.c, f.w * f.c)
    if pixels <= FEW_PIXELS:
        padded += _moves(pixels * f.k, _LINE)  # the products are turned
    products = _product(pixels, taps, f.k) + _packed_again(pixels * taps, taps, f.k)
    return _CALLS + padded + _moves(pixels * taps, run) + products + turned_filters


def is_of_lines(g: Conv2dGeometry) -> bool:
    """Whether the products are of lines of the images, see `few_pixels`: the pixels are few, the
    channels are many, and patches overlap, so that a matrix of them would repeat its elements."""
    overlap = (g.p > 1 and g.stride_h < g.r) or (g.q > 1 and g.stride_w < g.s)
    few = g.n * g.p * g.q <= FEW_PIXELS and not by_tap(g, g.c)
    return few and overlap and g.c >= _LINED_CHANNELS


def _of_lines(g: Conv2dGeometry) -> float:
    pixels, taps = g.n * g.p * g.q, g.r * g.s * g.c
    rows = g.p + (g.r - 1) * g.dilation_h // g.stride_h
    lines = g.s * min(g.stride_h, g.r) * g.c * rows * g.n * g.q
    shortest = max(1, min(pixels, taps, g.k))
    products = taps * pixels * g.k * _MULTIPLY_ADD * (shortest + _SHORT) / shortest
    added = g.r * g.s * g.k * pixels * _MOVED
    return _FEW_CALLS + (lines + g.k * pixels) * _TURNED_RUN + products + added


def pointwise(g: Conv2dGeometry, direction: str) -> float:
    f = _forward_of(g, direction)
    return _product(f.n * f.p * f.q, f.c, f.k)


def scatter(g: Conv2dGeometry, direction: str) -> float:
    pixels, taps = g.n * g.p * g.q, g.r * g.s * g.c
    products = _product(pixels, g.k, taps) + _packed_again(pixels * taps, g.k, taps)
    return _CALLS + products + _moves(3 * pixels * taps, g.c)


def batch_last(g: Conv2dGeometry, direction: str) -> float:
    pixels, taps = g.n * g.p * g.q, g.r * g.s * g.c
    run = g.n * (g.q if g.stride_w == 1 else 1)
    lines = g.n * g.h * g.q * g.s * g.c
    moved = _moves(lines, run) * (2 if direction == BACKWARD_INPUT else 1)
    return _CALLS + moved + _product(pixels, taps, g.k)


def depthwise_tile(g: Conv2dGeometry) -> int:
    """m of the tiles of m x m outputs."""
    return 4 if g.r == 3 else 2


def depthwise(g: Conv2dGeometry, direction: str) -> float:
    return _moves(4 * g.n * g.p * g.q * g.r * g.s * g.c, g.c)


def depthwise_winograd(g: Conv2dGeometry, direction: str) -> float:
    f, m = _forward_of(g, direction), depthwise_tile(g)
    tiles, n = f.n * -(-f.p // m) * -(-f.q // m), m + f.r - 1
    transforms = 2 * (f.c * n * (m + n) * _TRANSFORMED + m * _SMALL_PRODUCT)
    return _WINOGRAD_CALLS + tiles * (transforms + f.c * n * n * _MOVED)


_FEW_FILTERS, _FEW_PRODUCTS = 1 << 20, 1 << 24


def is_small_winograd(tiles: int, frequencies: int, filters: int) -> bool:
    """Whether one thread transforms all `filters`, of so many frequencies, and these tiles: threads
    would wait for each other between calls as short as these. Forward then keeps the frequencies.
    """
    few = frequencies < _FEW_FILTERS and tiles <= 2 * filters
    return few and frequencies * tiles <= _FEW_PRODUCTS


def winograd(m: int, g: Conv2dGeometry, direction: str) -> float:
    """Tiles of m x m outputs; the phases of stride 2 are channels, of which 3.4 of 4 count."""
    f = _forward_of(g, direction)
    taps, c, k, p, q, share, apart = g.r, f.c, f.k, f.p, f.q, 1.0, 0.0
    transposed = _TRANSPOSED * c * k
    if g.stride_h == 2:
        taps, share = 2, 0.85
        apart = _moves(2 * g.n * g.c * g.h * g.w, g.c)
        c, k = 4 * g.c, g.k
        if direction == BACKWARD_INPUT:
            p, q, c, k = (g.h + 1) // 2, (g.w + 1) // 2, k, c
    tiles, n = g.n * -(-p // m) * -(-q // m), m + taps - 1
    of_x = tiles * (c * n * (m + n) * _TRANSFORMED + m * _SMALL_PRODUCT)
    of_y = tiles * (k * n * (m + n) * _TRANSFORMED + m * _SMALL_PRODUCT)
    filters = _FILTER_CALLS + c * k * n * n * _TRANSFORMED + transposed
    calls = _WINOGRAD_CALLS
    written = g.c if direction == BACKWARD_INPUT else g.k
    if direction != BACKWARD_WEIGHT and is_small_winograd(tiles, c * k * n * n, written):
        calls = _SINGLE_CALLS
        if direction == FORWARD:
            filters = c * k * n * n * _COMPARED  # as in an inference: the filters do not change
    rows, inner, columns = (c, tiles, k) if direction == BACKWARD_WEIGHT else (tiles, c, k)
    products = n * n * _product(rows, inner, columns) * share
    return calls + apart + of_x + of_y + filters + products
