"""Memory that the primitives of convolution work in, kept from one call to the next.

Large new arrays cost more than their use: the system hands them out page by page, zeroed.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpucnn.backends.cpu.blocks import Array

BOUND = 48 << 20
"""Bytes that a thread keeps at most; what goes beyond is given back after its use."""
_ALIGNMENT = 64  # a cache line, and the widest vectors
_VIEWS = 256  # kept at most: beyond, all are forgotten
_GAP = 80  # elements between planes: some lines, and no power of two


class _Kept(threading.local):
    def __init__(self) -> None:
        self.buffers: dict[int, Array] = {}
        self.views: dict[tuple[Any, ...], Array] = {}  # what was asked for lately
        self.size = 0


_kept = _Kept()


def workspace(slot: int, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """An uninitialised C-contiguous array of this thread, good until `slot` is asked for again.

    Slots are numbered within a primitive: none runs inside another's piece of work.
    """
    key = (slot, shape, dtype)
    array = _kept.views.get(key)
    if array is not None:
        return array
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    buffer = _kept.buffers.get(slot)
    if buffer is None or buffer.size < size:
        if buffer is not None:
            del _kept.buffers[slot]
            _kept.views.clear()
            _kept.size -= buffer.size
        memory = np.empty(size + _ALIGNMENT, np.uint8)
        start = -memory.__array_interface__["data"][0] % _ALIGNMENT
        buffer = memory[start : start + size]
        if _kept.size + size <= BOUND:
            _kept.buffers[slot] = buffer
            _kept.size += size
    array = buffer[:size].view(kind).reshape(shape)
    if slot in _kept.buffers:
        if len(_kept.views) == _VIEWS:
            _kept.views.clear()
        _kept.views[key] = array
    return array


def planes(slot: int, outer: tuple[int, ...], inner: tuple[int, ...], dtype: DTypeLike) -> Array:
    """`workspace` of shape (*outer, *inner), the inner arrays a little apart from each other.

    Side by side, arrays whose sizes are powers of two would fall onto the same lines of a cache,
    and what works on all of them at once would find none there.
    """
    size = math.prod(inner)
    apart = workspace(slot, (math.prod(outer), size + _GAP), dtype)
    array: Array = apart[:, :size].reshape(*outer, *inner)
    return array


def kept() -> int:
    """Bytes that this thread keeps."""
    return _kept.size
