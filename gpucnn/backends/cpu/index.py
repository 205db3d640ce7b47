"""Moving elements: gather, its scatter-add gradient, concatenation, padding."""

from __future__ import annotations

import numpy as np

from gpucnn.backends.cpu.blocks import Array, dense_order
from gpucnn.backends.cpu.elementwise import copy, full

_ROW = 32  # elements from which adding row by row beats np.add.at


def take(x: Array, index: Array, y: Array, *, axis: int) -> None:
    """y = x with `axis` replaced by its elements at `index` (M,); negative counts from the end.

    Raises IndexError when an index lies outside the axis.
    """
    _check(index, x.shape[axis], axis, "take")
    if y.size == 0:
        return
    # np.take walks C order only: give it x and y as they lie in memory.
    order = dense_order(y)
    if order is not None and x.transpose(order).flags.c_contiguous:
        x, y, axis = x.transpose(order), y.transpose(order), order.index(axis)
    np.take(x, index, axis=axis, out=y, mode="wrap")  # "raise" would buffer the output


def take_backward(dy: Array, index: Array, dx: Array, *, axis: int) -> None:
    """dx = 0, then dx[index[m]] += dy[m] along `axis`, for m ascending.

    Raises IndexError when an index lies outside the axis.
    """
    length = dx.shape[axis]
    _check(index, length, axis, "take_backward")
    full(dx, value=0)
    if dy.size == 0:
        return
    target, source = np.moveaxis(dx, axis, 0), np.moveaxis(dy, axis, 0)
    wrapped = np.where(index < 0, index + length, index)
    if np.bincount(wrapped, minlength=length).max() == 1:
        target[wrapped] = source
    elif dy.size < _ROW * index.size:
        np.add.at(target, wrapped, source)
    else:
        for m, i in enumerate(wrapped.tolist()):
            row = target[i]
            np.add(row, source[m], out=row)


def _check(index: Array, length: int, axis: int, call: str) -> None:
    if index.size:
        low, high = int(index.min()), int(index.max())
        if low < -length or high >= length:
            came = low if low < -length else high
            raise IndexError(f"{call}: index must lie in axis {axis} of size {length}, got {came}")


def concatenate(*arrays: Array, axis: int) -> None:
    """The last array = all before it one after the other along `axis`."""
    *xs, y = arrays
    before = (slice(None),) * axis
    start = 0
    for x in xs:
        stop = start + x.shape[axis]
        copy(x, y[before + (slice(start, stop),)])
        start = stop


def pad(x: Array, y: Array, *, padding: tuple[tuple[int, int], ...], value: float) -> None:
    """y = x with padding[i] = (before, after) elements of `value` around each axis i."""
    inner = y
    for axis, (low, high) in enumerate(padding):
        before = (slice(None),) * axis
        stop = inner.shape[axis] - high
        for border in (slice(0, low), slice(stop, None)):
            if inner[before + (border,)].size:
                full(inner[before + (border,)], value=value)
        inner = inner[before + (slice(low, stop),)]
    copy(x, inner)
