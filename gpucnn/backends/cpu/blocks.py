"""Cutting element-wise work into blocks that stay in cache and pieces for the threads.

A chain of several NumPy calls runs over blocks of `BLOCK` elements, so that what one call
writes the next still finds in cache. Arrays that lie densely in memory in the same order of
axes are walked as flat vectors, whatever that order is.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import DTypeLike, NDArray

from gpucnn.backends.cpu.threads import parallel_for

Array = NDArray[Any]

BLOCK = 32768
"""Elements per NumPy call in a chain: two to four float32 arrays of it fit a core's L2 cache."""

BUFFER = 8192
"""Elements that NumPy has room for between the operands of a call and their use."""
_LONGEST_ROW = 1 << 15
_LARGEST_KEPT = 16 * BLOCK  # scratch beyond this is given back to the allocator after use


class Kernel(NamedTuple):
    """An element-wise function and how its work is cut.

    function(*operands, out) writes `out` in full. One that makes several NumPy calls has a
    `block`, and may write `out` before the last of them reads its operands.
    """

    function: Callable[..., Any]
    piece: int  # elements a thread takes at a time at least; less than two pieces are not shared
    block: int = 0  # elements of one call, so that what lies between its steps stays in cache
    small: int = 2048  # elements up to which it costs less on the arrays as they are
    single: int = 0  # elements up to which it makes one NumPy call after all


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.buffers: dict[tuple[int, Any], Array] = {}


_scratch = _Scratch()


def scratch(slot: int, shape: tuple[int, ...] | int, dtype: DTypeLike) -> Array:
    """An uninitialised C-contiguous buffer of this thread, good until `slot` is asked for again.

    Slots are numbered per call: of the primitives that use them none runs inside another's piece.
    """
    size = shape if isinstance(shape, int) else math.prod(shape)
    key = (slot, dtype)
    buffer = _scratch.buffers.get(key)
    if buffer is None or buffer.size < size:
        buffer = np.empty(max(size, BLOCK), dtype)
        if size <= _LARGEST_KEPT:
            _scratch.buffers[key] = buffer
    flat = buffer[:size]
    return flat if isinstance(shape, int) else flat.reshape(shape)


def strided_view(array: Array, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """NumPy's `as_strided`; of dense memory in an eighth of the time, and within its bounds."""
    if array.flags.c_contiguous:
        return np.ndarray(shape, array.dtype, array, strides=strides)
    return as_strided(array, shape, strides)


@lru_cache(maxsize=1024)
def fold(rows: int, limit: int) -> int:
    """The largest divisor of `rows` up to `limit`."""
    return max(d for d in range(1, max(1, limit) + 1) if rows % d == 0)


def rows_together(rows: int, width: int) -> int:
    """How many of the rows of a matrix are one where a vector is spread over all of them.

    NumPy copies vectors of less than half its buffer before it uses them, which takes as long as
    the use. Longer ones are repeated, unless that were a large part of the work.
    """
    size = rows * width
    longest = max(size // 16, BUFFER if size >= 4 * BUFFER else 0)
    return fold(rows, min(_LONGEST_ROW, longest) // width)


def memory_order(array: Array) -> tuple[int, ...]:
    """The axes from slowest to fastest in memory (C order where strides are equal)."""
    return _order_of(array.strides)


@lru_cache(maxsize=1024)
def _order_of(strides: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(range(len(strides)), key=lambda axis: -abs(strides[axis])))


def dense_order(array: Array) -> tuple[int, ...] | None:
    """`memory_order` when the array is dense in that order, None when it is not."""
    if array.flags.c_contiguous:
        return tuple(range(array.ndim))
    order = _dense_order_of(array.shape, array.strides)
    return order if array.transpose(order).flags.c_contiguous else None


@lru_cache(maxsize=1024)
def _dense_order_of(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    # Axes of size 1 may have any stride: they go first, where they disturb nothing.
    return tuple(sorted(range(len(shape)), key=lambda axis: (shape[axis] != 1, -strides[axis])))


def memory_view(array: Array) -> Array | None:
    """The C-contiguous transpose of a dense array, None when it is not dense."""
    if array.flags.c_contiguous:
        return array
    order = dense_order(array)
    return None if order is None else array.transpose(order)


def flat_views(*arrays: Any) -> list[Any] | None:
    """1-D views of arrays of one shape and one dense memory order; scalars pass through.

    None when the arrays differ in shape or order, or one of them is not dense.
    """
    first: Array = arrays[-1]
    shape = first.shape
    order: tuple[int, ...] | None = None
    if not first.flags.c_contiguous:
        order = dense_order(first)
        if order is None:
            return None
    views: list[Any] = []
    for array in arrays:
        if not isinstance(array, np.ndarray):
            views.append(array)
            continue
        if array.shape != shape:
            return None
        view = array if order is None else array.transpose(order)
        if not view.flags.c_contiguous:
            return None
        views.append(view.reshape(-1))
    return views


def overlaps(array: Any, out: Array) -> bool:
    """Whether writing `out` element by element could change elements of `array` read later."""
    if array is out or not isinstance(array, np.ndarray) or not np.may_share_memory(array, out):
        return False
    return (
        array.shape != out.shape
        or array.strides != out.strides
        or array.itemsize != out.itemsize
        or array.__array_interface__["data"][0] != out.__array_interface__["data"][0]
    )


def apply(kernel: Kernel, *arrays: Any) -> None:
    """Run a kernel over operands and, last, its output: arrays that broadcast to it, or scalars.

    The output may be one of the operands or overlap them in any way.
    """
    function, piece, block, small, single = kernel
    out: Array = arrays[-1]
    size = out.size
    pieces = max(1, size // piece)
    if size <= single or (pieces == 1 and not block):  # NumPy takes care of overlap itself
        function(*arrays)
        return
    if any([overlaps(a, out) for a in arrays[:-1]]):
        arrays = (*(a.copy() if overlaps(a, out) else a for a in arrays[:-1]), out)
    views: Any = flat_views(*arrays) if size > small else None
    if size <= small or (size <= block and views):
        function(*(views or arrays))
        return
    if views is None:
        views, axis = _spread(arrays)
    else:
        axis = 0
    length = views[-1].shape[axis]
    unit = size // length
    step = max(1, block // unit) if block else length
    before = (slice(None),) * axis
    cut = [isinstance(view, np.ndarray) for view in views]

    def work(start: int, stop: int) -> None:
        for begin in range(start, stop, step):
            part = before + (slice(begin, min(begin + step, stop)),)
            function(*[v[part] if c else v for v, c in zip(views, cut, strict=True)])

    parallel_for(length, max(1, -(-length // pieces)), work, blas=False)


def _spread(arrays: tuple[Any, ...]) -> tuple[list[Any], int]:
    """All arrays broadcast and in the output's memory order, and the axis to cut them along."""
    out: Array = arrays[-1]
    order = memory_order(out)
    views = [
        np.broadcast_to(a, out.shape).transpose(order) if isinstance(a, np.ndarray) else a
        for a in arrays[:-1]
    ]
    target = out.transpose(order)
    axis = next((i for i, n in enumerate(target.shape) if n >= 8), int(np.argmax(target.shape)))
    return [*views, target], axis
