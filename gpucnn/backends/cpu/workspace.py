"""Memory that the primitives of convolution work in, kept from one call to the next.

Large new arrays cost more than their use: the system hands them out page by page, zeroed.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from gpucnn.backends.cpu.blocks import Array

BOUND = 48 << 20
"""Bytes that a thread keeps at most; what goes beyond is given back after its use."""
_ALIGNMENT = 64  # a cache line, and the widest vectors
_VIEWS = 512  # kept at most: beyond, all are forgotten
_OBJECTS = 1024  # elements that the objects around a kept value count for
_GAP = 80  # elements between planes: some lines, and no power of two


class Sized(Protocol):
    """What says how many elements it has."""

    @property
    def size(self) -> int: ...


Value = TypeVar("Value", bound=Sized)
Made = TypeVar("Made")


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.buffers: dict[int, Array] = {}
        self.views: dict[tuple[Any, ...], Any] = {}  # of the buffers, as asked for lately
        self.size = 0
        self.replaced = 0  # buffers, so far
        self.loose = 0  # arrays that are not of a buffer, so far

    def keep(self, key: tuple[Any, ...], value: Any) -> None:
        if len(self.views) == _VIEWS:
            self.views.clear()
        self.views[key] = value


_memory = _Buffers()


def workspace(slot: int, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """An uninitialised C-contiguous array of this thread, good until `slot` is asked for again.

    Slots are numbered within a primitive: none runs inside another's piece of work, but pooling
    inside a convolution's, which has slots of its own.
    """
    key = (slot, shape, dtype)
    array: Array | None = _memory.views.get(key)
    if array is not None:
        return array
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    buffer = _memory.buffers.get(slot)
    if buffer is None or buffer.size < size:
        memory = np.empty(size + _ALIGNMENT, np.uint8)
        start = -memory.__array_interface__["data"][0] % _ALIGNMENT
        before, buffer = buffer, memory[start : start + size]
        grown = size if before is None else size - before.size
        if _memory.size + grown > BOUND:
            _memory.loose += 1
            return buffer.view(kind).reshape(shape)
        if before is not None:
            _memory.views.clear()
            _memory.replaced += 1
        _memory.buffers[slot] = buffer
        _memory.size += grown
    array = buffer[:size].view(kind).reshape(shape)
    _memory.keep(key, array)
    return array


def views(make: Callable[..., Made], *arguments: Hashable) -> Made:
    """make(*arguments), views of this thread's workspaces: kept until one of those is replaced.

    What is beyond the bound of the workspaces is not kept: each call then makes new memory.
    Making views takes longer than many a call of NumPy on them, and holds the interpreter's lock.
    """
    key = (make, *arguments)
    found: Made | None = _memory.views.get(key)
    while found is None:
        replaced, loose = _memory.replaced, _memory.loose
        made = make(*arguments)
        if _memory.replaced == replaced:  # else some of them are of memory that was given back
            found = made
            if _memory.loose == loose:
                _memory.keep(key, made)
    return found


def planes(
    slot: int | None, outer: tuple[int, ...], inner: tuple[int, ...], dtype: DTypeLike
) -> Array:
    """`workspace` of shape (*outer, *inner), the inner arrays a little apart from each other.

    Side by side, arrays whose sizes are powers of two would fall onto the same lines of a cache,
    and what works on all of them at once would find none there. Without a slot it is new memory.
    """
    size = math.prod(inner)
    shape = math.prod(outer), size + _GAP
    apart = np.empty(shape, dtype) if slot is None else workspace(slot, shape, dtype)
    array: Array = apart[:, :size].reshape(*outer, *inner)
    return array


def held(array: Array) -> int:
    """How many elements `planes` without a slot holds, those between the inner arrays included."""
    return array.size if array.base is None else array.base.size


class Kept(threading.local, Generic[Value]):
    """What each thread keeps by a key: up to `bound` elements, what was used last.

    A value counts for its elements, and for as many more as its Python objects take.
    """

    def __init__(self, bound: int) -> None:
        self.bound, self.size = bound, 0
        self.values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()

    def get(self, key: Hashable) -> Value | None:
        found = self.values.get(key)
        if found is None:
            return None
        self.values.move_to_end(key)
        return found[0]

    def of(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """What is kept, or else a new one, which is."""
        found = self.get(key)
        if found is None:
            found = make()
            self.put(key, found)
        return found

    def put(self, key: Hashable, value: Value) -> None:
        size = value.size + _OBJECTS
        if size > self.bound:  # it would only drive out the others
            return
        self.values[key] = value, size
        self.size += size
        while self.size > self.bound and self.values:
            _, (_, oldest) = self.values.popitem(last=False)
            self.size -= oldest


def kept() -> int:
    """Bytes that this thread keeps for `workspace`."""
    return _memory.size
