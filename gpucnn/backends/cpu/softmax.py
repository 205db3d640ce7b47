"""Softmax and log-softmax along one axis."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gpucnn.backends.cpu.blocks import BLOCK, Array, dense_order, scratch
from gpucnn.backends.cpu.threads import parallel_for

_PIECE = BLOCK  # elements a thread takes at a time: they stay in its cache between the steps
_PRODUCT = (8192, 16384)  # elements from which, and terms up to which, BLAS adds rows


def softmax(x: Array, y: Array, *, axis: int, log: bool) -> None:
    """y = softmax of x along `axis`, or its logarithm; shifted by the maximum."""
    _by_slices(log_softmax_slices if log else _softmax_slices, (x, y), axis)


def softmax_backward(dy: Array, y: Array, dx: Array, *, axis: int, log: bool) -> None:
    """dx from the output y: y * (dy - sum(dy * y)), or dy - exp(y) * sum(dy) with `log`."""
    _by_slices(_log_softmax_backward if log else _softmax_backward, (dy, y, dx), axis)


def _softmax_slices(x: Array, y: Array) -> None:
    # Always shifted: a row's bits depend on its differences alone, not on its neighbours.
    np.subtract(x, np.maximum.reduce(x, axis=1, keepdims=True), out=y)
    np.exp(y, out=y)
    np.divide(y, _totals(y), out=y)


def log_softmax_slices(x: Array, y: Array) -> None:
    """y = log_softmax of x along axis 1, both (A, C) or (A, C, B)."""
    exponentials = scratch(0, y.shape, y.dtype)
    np.subtract(x, np.maximum.reduce(x, axis=1, keepdims=True), out=y)
    np.exp(y, out=exponentials)
    total = _totals(exponentials)
    np.log(total, out=total)
    np.subtract(y, total, out=y)


def _softmax_backward(dy: Array, y: Array, dx: Array) -> None:
    product = scratch(0, y.shape, y.dtype)
    np.multiply(dy, y, out=product)
    np.subtract(dy, _totals(product), out=product)
    np.multiply(product, y, out=dx)


def _log_softmax_backward(dy: Array, y: Array, dx: Array) -> None:
    product = scratch(0, y.shape, y.dtype)
    np.exp(y, out=product)
    np.multiply(product, _totals(dy), out=product)
    np.subtract(dy, product, out=dx)


def _totals(x: Array) -> Array:
    """The sums along axis 1, kept as an axis of size 1."""
    least, most = _PRODUCT
    if x.ndim == 2 and x.size >= least and x.shape[1] <= most and x.flags.c_contiguous:
        return np.asarray(np.matmul(x, np.ones((x.shape[1], 1), x.dtype)))
    return np.asarray(np.add.reduce(x, axis=1, keepdims=True))


def _by_slices(function: Callable[..., None], arrays: tuple[Array, ...], axis: int) -> None:
    """Run function(*arrays) on pieces of the arrays as (A, C, B) in the last one's memory order."""
    out = arrays[-1]
    if out.size == 0:
        return
    order = dense_order(out)
    if order is None:
        raise ValueError(f"softmax: the output must be dense, got strides {out.strides}")
    shape = [out.shape[i] for i in order]
    at = order.index(axis)
    before, along, after = math.prod(shape[:at]), shape[at], math.prod(shape[at + 1 :])
    folded = (before, along, after) if after > 1 else (before, along)
    views = [a.transpose(order).reshape(folded) for a in arrays]
    by_before = before > 1 or after == 1
    unit = along * after if by_before else along

    def work(start: int, stop: int) -> None:
        part = np.s_[start:stop] if by_before else np.s_[:, :, start:stop]
        function(*[view[part] for view in views])

    parallel_for(before if by_before else after, max(1, _PIECE // unit), work)
