"""Matrix products cut to the sizes that OpenBLAS is fastest at.

For AVX-512 OpenBLAS has two ways to multiply float32 matrices: large products copy both operands
into packed panels first, while those of at most a million multiplications run on the operands as
they lie. The second way reaches 110 GFLOP/s where the first reaches 95, and for matrices of few
columns, as convolutions of few channels make them, 60 to 110 instead of 15 to 70 (one thread of
a 2.6 GHz EPYC). Long matrices are therefore multiplied as stacks of short ones in one call of
`numpy.matmul`, which multiplies a stack without Python in between.

Elsewhere, and for float64, each product is one call. How a product is cut depends on its sizes
alone. The callers hold BLAS at one thread.
"""

from __future__ import annotations

import functools

import numpy as np

from gpucnn.backends.cpu.blocks import Array
from gpucnn.backends.cpu.workspace import workspace

_SMALL = 1_000_000
"""M x N x K up to which OpenBLAS multiplies without packing (kernel/x86_64, *_small_kernel_permit,
since 0.3.17)."""
_SMALL_KERNELS = ("skylakex", "cooperlake", "sapphirerapids")
_ROWS, _COLUMNS, _TERMS = 12, 96, 96
"""The shortest pieces of the three sides: below, packing is faster, or adding up partial sums
costs more than is won."""
_PANEL = 64  # columns come in such panels where rows are cut as well
_UNIT = 4


@functools.cache
def _limit() -> int:
    """M x N x K of the largest product of a stack; 0 where BLAS has one way only."""
    from threadpoolctl import ThreadpoolController

    controllers = ThreadpoolController().select(internal_api="openblas").lib_controllers
    names = [str(getattr(c, "architecture", "")).lower() for c in controllers]
    return _SMALL if names and all(name in _SMALL_KERNELS for name in names) else 0


def _piece(length: int, others: int, shortest: int, limit: int) -> int:
    """How much of a side of `length` one product takes when its other two sides multiply to
    `others`: about equal pieces; 0 if they were too short."""
    if length * others <= limit:
        return length
    longest = limit // max(1, others) // _UNIT * _UNIT
    if longest < shortest:
        return 0
    count = -(-length // longest)
    return -(-length // (count * _UNIT)) * _UNIT


def _cut(rows: int, inner: int, columns: int, dtype: np.dtype[np.generic]) -> tuple[int, int]:
    """Rows and columns of one product of a stack."""
    limit = _limit() if dtype == np.float32 else 0
    if limit == 0 or rows * inner * columns <= limit:
        return rows, columns
    high = _piece(rows, inner * columns, _ROWS, limit)
    wide = _piece(columns, inner * rows, _COLUMNS, limit)
    if high and (rows >= columns or not wide):
        return high, columns
    if wide:
        return rows, wide
    wide = limit // (inner * _ROWS) // _PANEL * _PANEL
    if not wide or rows < 2 * _ROWS:
        return rows, columns
    wide = min(wide, columns)
    return _piece(rows, inner * wide, _ROWS, limit), wide


def multiply(a: Array, b: Array, out: Array) -> None:
    """out (..., M, N) = a (..., M, K) b (..., K, N), matrix by matrix; M and N are cut."""
    (rows, inner), columns = a.shape[-2:], b.shape[-1]
    high, wide = _cut(rows, inner, columns, out.dtype)
    if (high, wide) == (rows, columns):
        np.matmul(a, b, out=out)
        return
    batch = out.ndim - 2
    panels_first = (*range(batch), batch + 2, batch, batch + 1, batch + 3)
    for r0, r1, step in _stacks(rows, high):
        left = a[..., r0:r1, :].reshape(*a.shape[:-2], 1, -1, step, inner)
        for c0, c1, width in _stacks(columns, wide):
            panels = (c1 - c0) // width
            right = b[..., c0:c1].reshape(*b.shape[:-1], panels, width).swapaxes(-2, -3)
            part = out[..., r0:r1, c0:c1]
            target = part.reshape(*out.shape[:-2], -1, step, panels, width)
            np.matmul(left, right[..., None, :, :], out=target.transpose(panels_first))


def _stacks(length: int, step: int) -> list[tuple[int, int, int]]:
    """(start, stop, step): the even stack that fits into `length`, and the rest."""
    whole = length // step * step if step else 0
    parts = [(0, whole, step), (whole, length, length - whole)]
    return [part for part in parts if part[1] > part[0]]


def _terms(length: int, others: int, dtype: np.dtype[np.generic]) -> int:
    """How many of `length` terms one product adds up."""
    return _piece(length, others, _TERMS, _limit() if dtype == np.float32 else 0) or length


def multiply_long(a: Array, b: Array, out: Array) -> None:
    """out (..., M, N) = a (..., M, T) b (..., T, N), matrix by matrix; the sum over the long side T
    in stacks."""
    (rows, length), columns = a.shape[-2:], b.shape[-1]
    step = _terms(length, rows * columns, out.dtype)
    whole = length // step * step
    stacks = whole // step
    if stacks < 2:
        np.matmul(a, b, out=out)
        return
    batch = a.shape[:-2]
    partials = workspace(_PARTIALS, (*batch, stacks, rows, columns), out.dtype)
    left = a[..., :whole].reshape(*batch, rows, stacks, step).swapaxes(-2, -3)
    np.matmul(left, b[..., :whole, :].reshape(*batch, stacks, step, columns), out=partials)
    np.sum(partials, axis=-3, out=out)
    if whole < length:
        rest = partials[..., 0, :, :]
        np.matmul(a[..., whole:], b[..., whole:, :], out=rest)
        np.add(out, rest, out=out)


_PARTIALS = 7
"""The slot of scratch memory that sums of stacks use."""
