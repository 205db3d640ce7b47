"""Loads and stores of global memory: bounds, alignment, shadow, counters, then the data."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.emulator.isa import Array
from gpucnn.emulator.lanes import Lanes
from gpucnn.emulator.lower import Service
from gpucnn.emulator.memory import Buffer

SPACES = ("global", "shared", "local", "param", "const")


class GlobalAccess:
    """A load or store of `count` elements of `dtype` at address + offset."""

    def __init__(self, s: Service, dtype: str, count: int, offset: int, verb: str) -> None:
        self.index = s.index
        self.dtype = np.dtype(dtype)
        self.size = self.dtype.itemsize
        self.shift = self.size.bit_length() - 1
        self.count = count
        self.bytes = self.size * count
        self.offset = offset
        self.verb = verb
        self.constant = "nc" in s.mods
        self.space = next(
            (m.partition("__")[0] for m in s.mods if m.partition("__")[0] in SPACES), ""
        )
        self.buffer: Buffer | None = None

    def poison(self, n: int) -> tuple[Array, ...]:
        """What a load that may not happen returns."""
        bad = np.full(n * self.size, 0xFF, np.uint8).view(self.dtype)
        return (bad,) * self.count

    # Which lanes may go on; None when all may.

    def misaligned(self, x: Lanes, offset: Array) -> Array | None:
        if self.bytes == 1:
            return None
        bad = (offset & (self.bytes - 1)) != 0
        if not np.count_nonzero(bad):
            return None
        i = int(np.flatnonzero(x.spread(bad))[0])
        x.report(
            "alignment",
            f"{self.verb} {self.bytes} bytes at an address that is no multiple of them",
            self.index,
            i,
            count=int(np.count_nonzero(bad)),
            address=int(x.spread(offset)[i]),
        )
        return bad

    def outside(self, x: Lanes, bad: Array, address: Array, text: str) -> None:
        i = int(np.flatnonzero(x.spread(bad))[0])
        x.report(
            "bounds",
            f"{self.verb} {self.bytes} bytes {text}",
            self.index,
            i,
            count=int(np.count_nonzero(bad)),
            address=int(x.spread(address)[i]),
        )

    def tainted(self, x: Lanes, flag: Array | None) -> None:
        if flag is None or not np.count_nonzero(flag):
            return
        i = int(np.flatnonzero(x.spread(flag))[0])
        x.report(
            "overflow",
            f"{self.verb} an address computed in 32 bits that overflowed",
            self.index,
            i,
            count=int(np.count_nonzero(flag)),
        )

    # Global memory

    def locate(self, x: Lanes, address: Array) -> tuple[Buffer, Array] | None:
        """The one buffer that all lanes access, and the offsets there; None when it is not so."""
        low, high = int(address.min()) + self.offset, int(address.max()) + self.offset
        buffer = self.buffer
        if buffer is None or not (buffer.base <= low and high + self.bytes <= buffer.end):
            buffer = x.launch.memory.find(low)
            if buffer is None or high + self.bytes > buffer.end:
                return None
            self.buffer = buffer
        return buffer, address - (buffer.base - self.offset)

    def parts(self, x: Lanes, address: Array) -> list[tuple[Array, Buffer | None]]:
        """Lanes grouped by the buffer they access; None for those in no buffer."""
        address = x.spread(address) + self.offset
        left = np.ones(x.n, np.bool_)
        found: list[tuple[Array, Buffer | None]] = []
        outside = np.zeros(x.n, np.bool_)
        while left.any():
            i = int(np.flatnonzero(left)[0])
            buffer = x.launch.memory.find(int(address[i]))
            if buffer is None:
                before = x.launch.memory.before(int(address[i]))
                after = int(address[i])
                low = before.end if before else -(1 << 62)
                same = left & (address >= low) & (address <= after)
                outside |= same
            else:
                inside = (address >= buffer.base) & (address < buffer.end)
                same = left & inside & (address + self.bytes <= buffer.end)
                outside |= left & inside & ~same
                if same.any():
                    found.append((same, buffer))
                left &= ~inside
            left &= ~same
        if outside.any():
            self.outside(
                x,
                outside,
                address,
                x.launch.memory.describe(int(address[np.flatnonzero(outside)[0]])),
            )
            found.append((outside, None))
        return found

    def cells(self, x: Lanes, offset: Array, granule: int) -> list[Array]:
        """The numbers of the shadow's cells that an access covers, one array a cell."""
        first = x.spread(
            offset // granule if granule & (granule - 1) else offset >> (granule.bit_length() - 1)
        )
        return [first + k if k else first for k in range(max(self.bytes // granule, 1))]

    def global_load(self, x: Lanes, address: Array) -> tuple[Array, ...]:
        place = self.locate(x, address)
        if place is None:
            return self._split_load(x, address)
        buffer, offset = place
        bad = self.misaligned(x, offset)
        if bad is not None:
            return self._some(x, ~x.spread(bad), address, self.global_load)
        if x.launch.globals is not None:
            for cells in self.cells(x, offset, x.launch.globals.granule):
                x.launch.globals.read(x, buffer, cells, self.index, self.constant)
        if x.launch.tally.on:
            x.launch.tally.access("load", x, address, self.bytes, self.offset)
            x.launch.tally.touch(buffer, offset, self.bytes)
        data = buffer.view(self.dtype)
        element = offset >> self.shift
        if self.count == 1:
            return (data.take(element),)
        return tuple(data.take(element + k) for k in range(self.count))

    def _split_load(self, x: Lanes, address: Array) -> tuple[Array, ...]:
        results = [np.array(p) for p in self.poison(x.n)]
        address = x.spread(address)
        for mask, buffer in self.parts(x, address):
            if buffer is not None:
                for result, part in zip(
                    results, self.global_load(x.subset(mask), address[mask]), strict=True
                ):
                    result[mask] = part
        return tuple(results)

    def _some(self, x: Lanes, mask: Array, address: Array, load: Any) -> tuple[Array, ...]:
        """The load for some lanes, poison for the others."""
        results = [np.array(p) for p in self.poison(x.n)]
        if mask.any():
            for result, part in zip(
                results, load(x.subset(mask), x.spread(address)[mask]), strict=True
            ):
                result[mask] = part
        return tuple(results)

    def there(self, x: Lanes, data: Array, at: Array, values: tuple[Array, ...]) -> Array:
        """The lanes whose values are in memory already, bit for bit."""
        bits = f"u{self.size}"
        kept = np.ones(x.n, np.bool_)
        for k, value in enumerate(values):
            kept &= data.take(at + k).view(bits) == value.view(bits)
        return kept

    def global_store(self, x: Lanes, address: Array, *values: Array) -> None:
        place = self.locate(x, address)
        if place is None:
            address = x.spread(address)
            for mask, buffer in self.parts(x, address):
                if buffer is not None:
                    self.global_store(
                        x.subset(mask), address[mask], *(x.spread(v)[mask] for v in values)
                    )
            return
        buffer, offset = place
        bad = self.misaligned(x, offset)
        if bad is not None:
            good = ~x.spread(bad)
            if good.any():
                self.global_store(
                    x.subset(good), x.spread(address)[good], *(x.spread(v)[good] for v in values)
                )
            return
        if x.launch.globals is not None:

            def same() -> Array:
                return self.there(x, buffer.view(self.dtype), offset >> self.shift, values)

            for cells in self.cells(x, offset, x.launch.globals.granule):
                x.launch.globals.write(x, buffer, cells, self.index, same=same)
        if x.launch.tally.on:
            x.launch.tally.access("store", x, address, self.bytes, self.offset)
            x.launch.tally.touch(buffer, offset, self.bytes)
        data = buffer.view(self.dtype)
        element = x.spread(offset >> self.shift)
        for k, value in enumerate(values):
            data[element + k if k else element] = value
