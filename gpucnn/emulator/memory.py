"""Global memory of the emulated device: buffers at made-up addresses, guarded by gaps.

A buffer is the memory of a NumPy array. Its device address has nothing to do with the host's:
addresses between buffers belong to nobody, and an access there is a finding instead of a corrupted
process. Buffers live as long as their arrays; addresses are not used again.
"""

from __future__ import annotations

import ctypes
import weakref
from bisect import bisect_right, insort
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BASE = 0x7F00_0000_0000
ALIGNMENT = 256
GUARD = 1 << 16


class Buffer:
    """`size` bytes at device address `base`, `host` on this machine.

    `data` are the bytes (uint8); `view(dtype)` the same memory as elements, as many as fit. It does
    not keep the memory alive: the array it belongs to does.
    """

    def __init__(self, base: int, host: int, size: int, name: str) -> None:
        self.base = base
        self.host = host
        self.size = size
        self.end = base + size
        self.name = name
        raw: Any = (ctypes.c_uint8 * size).from_address(host) if size else bytearray()
        self.data: npt.NDArray[np.uint8] = np.frombuffer(raw, np.uint8)
        self._views: dict[Any, Array] = {}

    def view(self, dtype: np.dtype[Any]) -> Array:
        found = self._views.get(dtype)
        if found is None:
            whole = self.size // dtype.itemsize * dtype.itemsize
            found = self._views[dtype] = self.data[:whole].view(dtype)
        return found

    def __repr__(self) -> str:
        return f"buffer '{self.name}' of {self.size} bytes at {self.base:#x}"


class Memory:
    """The buffers of a device."""

    def __init__(self) -> None:
        self._next = BASE
        self._buffers: dict[int, Buffer] = {}
        self._bases: list[int] = []
        self._hosts: list[tuple[int, int]] = []  # host address, base
        self._named = 0

    def empty(self, size: int, name: str = "") -> npt.NDArray[np.uint8]:
        """New bytes on 256, filled with 0xFF (a NaN in every float type), as a buffer."""
        raw = np.full(size + ALIGNMENT, 0xFF, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        self._add(raw, raw.ctypes.data + start, size, name)
        return raw[start : start + size]

    def register(self, array: Array, name: str = "") -> int:
        """The device address of an array's first element.

        The memory of the array that owns it becomes one buffer; views of it have addresses in the
        same buffer, whose bounds are those of the owner. Raises ValueError when the owner is not
        dense in memory.
        """
        address = self.address(array)
        if address is not None:
            if name:
                self.buffer_of(address).name = name
            return address
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        if not (owner.flags.c_contiguous or owner.flags.f_contiguous):
            raise ValueError("register: takes an array dense in memory, or a view of one")
        self._add(owner, owner.__array_interface__["data"][0], owner.nbytes, name)
        found = self.address(array)
        if found is None:  # an array without bytes
            return self._bases[-1]
        return found

    def address(self, array: Array) -> int | None:
        """The device address of an array in a registered buffer, None for other arrays."""
        host = array.__array_interface__["data"][0]
        i = bisect_right(self._hosts, (host, 1 << 62)) - 1
        if i < 0:
            return None
        start, base = self._hosts[i]
        return base + host - start if host < start + max(self._buffers[base].size, 1) else None

    def buffer_of(self, address: int) -> Buffer:
        found = self.before(address)
        assert found is not None
        return found

    def _add(self, owner: Array, host: int, size: int, name: str) -> None:
        self._named += 1
        buffer = Buffer(self._next, host, size, name or f"buffer {self._named}")
        self._buffers[buffer.base] = buffer
        self._bases.append(buffer.base)  # ascending
        insort(self._hosts, (host, buffer.base))
        self._next += -(-(size + GUARD) // ALIGNMENT) * ALIGNMENT
        weakref.finalize(owner, self._drop, buffer.base).atexit = False

    def _drop(self, base: int) -> None:
        buffer = self._buffers.pop(base)
        del self._bases[bisect_right(self._bases, base) - 1]
        self._hosts.remove((buffer.host, base))

    def find(self, address: int) -> Buffer | None:
        """The buffer that holds the byte at `address`, None for the gaps."""
        buffer = self.before(address)
        return buffer if buffer is not None and address < buffer.end else None

    def before(self, address: int) -> Buffer | None:
        """The last buffer that begins at or before `address`."""
        i = bisect_right(self._bases, address) - 1
        return self._buffers[self._bases[i]] if i >= 0 else None

    def describe(self, address: int) -> str:
        """Where an address lies with respect to the nearest buffer."""
        buffer = self.before(address)
        if buffer is not None and address < buffer.end:
            return f"at the end of {buffer!r}, byte {address - buffer.base}"
        after = self.before(address + GUARD)
        if after is not None and after is not buffer:
            if buffer is None or after.base - address < address - buffer.end:
                return f"{after.base - address} bytes before {after!r}"
        if buffer is None or address > buffer.end + (1 << 40):
            return "far from every buffer"
        return f"{address - buffer.end} bytes past the end of {buffer!r}"

    @property
    def used(self) -> int:
        """Bytes of all buffers."""
        return sum(buffer.size for buffer in self._buffers.values())
