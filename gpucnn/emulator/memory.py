"""Global memory of the emulated device: buffers at made-up addresses, guarded by gaps.

A buffer is host memory, a NumPy array's or the emulator's own. Its device address has nothing to do
with the host's: addresses between buffers belong to nobody, and an access there is a finding
instead of a corrupted process.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BASE = 0x7F00_0000_0000
ALIGNMENT = 256
GUARD = 1 << 16


class Buffer:
    """`size` bytes at device address `base`.

    `data` are the bytes (uint8); `view(dtype)` the same memory as elements, as many as fit.
    """

    def __init__(self, base: int, data: npt.NDArray[np.uint8], name: str, keep: Any = None) -> None:
        self.base = base
        self.data = data
        self.size = data.size
        self.end = base + data.size
        self.name = name
        self.keep = keep
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
        self._hosts: dict[int, Buffer] = {}

    def allocate(self, size: int, name: str = "") -> Buffer:
        """A new buffer of `size` bytes, filled with 0xFF (a NaN in every float type)."""
        raw = np.full(size + ALIGNMENT, 0xFF, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        return self._add(raw[start : start + size], name, raw)

    def register(self, array: Array, name: str = "") -> int:
        """The device address of an array's first element.

        The memory of the array that owns it becomes one buffer, which stays registered until
        `release`; arrays that share it get addresses in the same buffer. Bounds are those of the
        owner.
        """
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        if not isinstance(owner, np.ndarray) or owner.nbytes == 0:
            return self._add(np.empty(0, np.uint8), name, array).base
        low, high = np.lib.array_utils.byte_bounds(owner) if hasattr(np.lib, "array_utils") else (
            np.byte_bounds(owner)  # type: ignore[attr-defined]
        )
        found = self._hosts.get(low)
        if found is None or found.size != high - low:
            if not owner.flags.writeable and not owner.flags.owndata:
                raise ValueError("register: takes an array that can be written")
            dense = owner if owner.flags.c_contiguous else owner.T
            if not dense.flags.c_contiguous:
                raise ValueError("register: takes an array dense in memory, or a view of one")
            data = dense.reshape(-1).view(np.uint8) if dense.ndim else dense.reshape(1).view(np.uint8)
            found = self._add(data, name, owner)
            self._hosts[low] = found
        elif name:
            found.name = name
        return found.base + (array.__array_interface__["data"][0] - low)

    def _add(self, data: npt.NDArray[np.uint8], name: str, keep: Any) -> Buffer:
        buffer = Buffer(self._next, data, name or f"buffer {len(self._bases)}", keep)
        self._buffers[buffer.base] = buffer
        self._bases.append(buffer.base)  # ascending: addresses are not used again
        self._next += -(-(data.size + GUARD) // ALIGNMENT) * ALIGNMENT
        return buffer

    def release(self, address: int) -> None:
        """Forget the buffer that begins at `address`."""
        buffer = self._buffers.pop(address)
        del self._bases[bisect_right(self._bases, address) - 1]
        for low, each in list(self._hosts.items()):
            if each is buffer:
                del self._hosts[low]

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
        if buffer is None or address > buffer.end + (1 << 40):
            return "far from every buffer"
        if address < buffer.end:
            return f"byte {address - buffer.base} of {buffer!r}"
        after = self.before(address + GUARD)
        if after is not None and after is not buffer and after.base - address < address - buffer.end:
            return f"{after.base - address} bytes before {after!r}"
        return f"{address - buffer.end} bytes past the end of {buffer!r}"

    def buffers(self) -> list[Buffer]:
        return list(self._buffers.values())
