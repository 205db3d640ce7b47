"""Matrix products."""

from __future__ import annotations

import math

import numpy as np

from gpucnn.backends.cpu import elementwise
from gpucnn.backends.cpu.blocks import Array
from gpucnn.backends.cpu.threads import blas_single, parallel_for

# A piece is worth a thread's wake-up, and wide enough that BLAS packs the other operand for many
# rows.
_FLOP = 1 << 24
_ROWS = 128
_PIECES = 16


def linear_backward_weight(
    x: Array, dy: Array, dw: Array, db: Array | None = None, *, precision: str
) -> None:
    """dw (O, I) = dy (M, O)^T x (M, I) and db (O) = the sum of dy's rows."""
    if db is not None:
        with blas_single():
            np.matmul(np.ones(dy.shape[0], dy.dtype), _blas_ready(dy), out=db)
    matmul(dy.T, x, None, None, dw, relu=False, precision=precision)


def matmul(
    a: Array,
    b: Array,
    bias: Array | None,
    mask: Array | None,
    y: Array,
    *,
    relu: bool,
    precision: str,
) -> None:
    """y (..., M, N) = a (..., M, K) @ b (..., K, N) + bias (N,); leading axes broadcast.

    With `relu` its positive part; 0 where `mask` (..., M, N) <= 0. float32 products are
    float32's under each precision.

    Transposed views go to BLAS as they are, other strides by a copy. Each piece of rows or
    columns runs on one thread of BLAS.
    """
    if y.size == 0:
        return
    a, b = _blas_ready(a), _blas_ready(b)
    if y.ndim > 2:
        if b.ndim == 2 and a.flags.c_contiguous and y.flags.c_contiguous:
            rows = math.prod(y.shape[:-1])
            a, y = a.reshape(rows, a.shape[-1]), y.reshape(rows, y.shape[-1])
            mask = None if mask is None else np.ascontiguousarray(mask).reshape(y.shape)
        else:
            _batched(a, b, bias, y)
            _finish(y, mask, relu)
            return
    rows, columns = y.shape
    by_rows = rows >= columns
    length = rows if by_rows else columns
    grain = _grain(length, 2 * rows * columns * a.shape[-1])
    if grain >= length:
        with blas_single():
            _product(a, b, bias, y)
        _finish(y, mask, relu)
        return

    def work(start: int, stop: int) -> None:
        part = slice(start, stop)
        if by_rows:
            _product(a[part], b, bias, y[part])
        else:
            _product(a, b[:, part], None if bias is None else bias[part], y[:, part])

    parallel_for(length, grain, work)
    _finish(y, mask, relu)


def _finish(y: Array, mask: Array | None, relu: bool) -> None:
    if relu:
        elementwise.unary(y, y, op="relu")
    if mask is not None:
        elementwise.binary(y, mask, y, op="relu_backward")


def _grain(length: int, flop: int) -> int:
    """Rows or columns of a piece, by the product's size alone."""
    pieces = min(_PIECES, flop // _FLOP, length // _ROWS)
    return length if pieces < 2 else -(-length // (16 * pieces)) * 16


def _product(a: Array, b: Array, bias: Array | None, y: Array) -> None:
    np.matmul(a, b, out=y)
    if bias is not None:
        np.add(y, bias, out=y)


def _batched(a: Array, b: Array, bias: Array | None, y: Array) -> None:
    batch = y.shape[:-2]
    a, b = (np.broadcast_to(m, batch + m.shape[-2:]) for m in (a, b))
    unit = 2 * math.prod(y.shape[1:]) * a.shape[-1]

    def work(start: int, stop: int) -> None:
        _product(a[start:stop], b[start:stop], bias, y[start:stop])

    parallel_for(batch[0], max(1, _FLOP // max(unit, 1)), work)


def _blas_ready(matrix: Array) -> Array:
    """The matrices themselves where rows or columns are contiguous, else a copy."""
    row, column = matrix.strides[-2:]
    size = matrix.itemsize
    rows, columns = matrix.shape[-2:]
    by_rows = column == size and row >= columns * size and row % size == 0
    by_columns = row == size and column >= rows * size and column % size == 0
    return matrix if by_rows or by_columns else np.ascontiguousarray(matrix)
