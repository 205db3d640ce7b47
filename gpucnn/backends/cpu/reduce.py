"""Reductions over axes: sums, extrema and their positions.

A sum is a product with ones: BLAS adds a few hundred terms, the partial sums are added in
float64. The rounding error thus stays that of a short sum, at the speed of memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn.backends.cpu.blocks import BLOCK, Array, memory_order
from gpucnn.backends.cpu.threads import blas_single, parallel_for

_ROWS = 256  # terms of a column added by one product: BLAS adds them a few at a time
_COLUMNS = 1024  # terms of a row added by one product: BLAS adds them in many lanes
_PIECE = 8 * BLOCK  # elements a thread takes at a time
_DIRECT = 1024  # elements up to which one call of NumPy's own sum in float64 is faster
_SMALL = BLOCK  # elements up to which one in the array's dtype is, where it is exact enough
_FEW = 128  # terms that may be added one after the other
_WIDE = 1024  # columns from which BLAS runs at full speed

_EXTREMA: dict[str, Callable[..., Any]] = {"max": np.max, "min": np.min}


def reduce(x: Array, y: Array, *, op: str, axes: tuple[int, ...], keepdims: bool) -> None:
    """y = sum, maximum or minimum of x over `axes`; NaN propagates, an empty sum is 0."""
    if op != "sum":
        _extremum(x, y, op, axes, keepdims)
    elif x.dtype.kind != "f":
        y[...] = x.sum(axis=axes, keepdims=keepdims)
    elif x.size <= _DIRECT:
        y[...] = x.sum(axis=axes, dtype=np.float64, keepdims=keepdims)
    elif x.size <= _SMALL and x.size <= _FEW * y.size:
        y[...] = x.sum(axis=axes, keepdims=keepdims)
    elif x.size <= _SMALL and y.size == 1 and x.flags.c_contiguous:  # added pairwise
        y[...] = np.add.reduce(x.reshape(-1))
    else:
        total = _sum_kept(x, tuple(axis for axis in range(x.ndim) if axis not in axes))
        y[...] = total.reshape(y.shape)


def arg_reduce(x: Array, y: Array, *, op: str, axis: int, keepdims: bool) -> None:
    """y = position of the first maximum or minimum along `axis`; the first NaN wins."""
    function = np.argmax if op == "argmax" else np.argmin
    y[...] = function(x, axis=axis, keepdims=keepdims)


def _extremum(x: Array, y: Array, op: str, axes: tuple[int, ...], keepdims: bool) -> None:
    function = _EXTREMA[op]
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    if x.size <= _PIECE or not kept:
        # Not out=y: NumPy 1.26 gives wrong maxima of negative strides then.
        y[...] = function(x, axis=axes, keepdims=keepdims)
        return
    target = y if keepdims else np.expand_dims(y, axes)
    axis = max(kept, key=lambda k: x.shape[k])
    before = (slice(None),) * axis

    def work(start: int, stop: int) -> None:
        part = before + (slice(start, stop),)
        target[part] = function(x[part], axis=axes, keepdims=True)

    parallel_for(x.shape[axis], max(1, _PIECE * x.shape[axis] // x.size), work, blas=False)


def _sum_kept(x: Array, kept: tuple[int, ...]) -> Array:
    """The float64 sums of a float array over all axes but `kept` (ascending): x.shape[kept]."""
    order = memory_order(x)
    dense = x.transpose(order)
    runs = _runs(dense.shape, [axis in kept for axis in order])
    if not dense.flags.c_contiguous or runs is None:  # strided, or axes kept and summed in turns
        summed = tuple(axis for axis in range(x.ndim) if axis not in kept)
        return np.asarray(x.sum(axis=summed, dtype=np.float64))
    kept_order = [axis for axis in order if axis in kept]
    with blas_single():
        total = _sum_middle(dense.reshape(runs)).reshape([x.shape[axis] for axis in kept_order])
    ascending: Array = total.transpose([kept_order.index(axis) for axis in kept])
    return ascending


def _runs(shape: tuple[int, ...], is_kept: list[bool]) -> tuple[int, int, int] | None:
    """(summed, kept, summed) lengths where the kept axes longer than 1 lie side by side."""
    runs = [1, 1, 1]
    run = 0
    for length, kept in zip(shape, is_kept, strict=True):
        if length == 1:
            continue
        if kept != (run == 1):
            run += 1
            if run == 3:
                return None
        runs[run] *= length
    return runs[0], runs[1], runs[2]


def _sum_middle(x: Array) -> Array:
    """The float64 sums of a C-contiguous (A, K, B) float array over A and B: shape (K,)."""
    before, kept, after = x.shape
    if kept == 1:
        return _column_sums(x.reshape(-1, 1))
    if after == 1:
        return _column_sums(x.reshape(before, kept))
    total: Array = _row_sums(x.reshape(-1, after)).reshape(before, kept).sum(axis=0)
    return total


def _row_sums(x: Array) -> Array:
    """The float64 sums of the rows of a C-contiguous matrix."""
    rows, columns = x.shape
    partial = np.empty((-(-columns // _COLUMNS), rows), x.dtype)
    ones = np.ones(min(columns, _COLUMNS), x.dtype)

    def work(start: int, stop: int) -> None:
        for i, begin in enumerate(range(0, columns, _COLUMNS)):
            part = x[start:stop, begin : begin + _COLUMNS]
            np.matmul(part, ones[: part.shape[1]], out=partial[i, start:stop])

    parallel_for(rows, max(1, _PIECE // columns), work, blas=False)
    total: Array = partial.sum(axis=0, dtype=np.float64)
    return total


def _column_sums(x: Array) -> Array:
    """The float64 sums of the columns of a C-contiguous matrix."""
    rows, columns = x.shape
    fold = max(1, _WIDE // columns)  # narrow rows are summed as rows of several
    folded = rows // fold
    wide = x[: folded * fold].reshape(folded, fold * columns)
    grain = min(_ROWS, max(16, _PIECE // wide.shape[1]))
    partial = np.empty((-(-folded // grain), wide.shape[1]), x.dtype)
    ones = np.ones(min(folded, grain), x.dtype)

    def work(start: int, stop: int) -> None:
        np.matmul(ones[: stop - start], wide[start:stop], out=partial[start // grain])

    parallel_for(folded, grain, work, blas=False)
    total: Array = partial.sum(axis=0, dtype=np.float64).reshape(fold, columns).sum(axis=0)
    rest = x[folded * fold :]
    if rest.size:
        total += rest.sum(axis=0, dtype=np.float64)
    return total
