"""Loads and stores of all state spaces: bounds, alignment, shadows, counters, then the data."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.emulator.isa import CODES, Array
from gpucnn.emulator.lanes import Lanes
from gpucnn.emulator.lower import (
    LOCAL_WINDOW,
    PARAM_WINDOW,
    SHARED_WINDOW,
    WINDOW,
    Service,
    Step,
    registers,
    service,
    vector,
)
from gpucnn.emulator.memory import Buffer
from gpucnn.emulator.parse import SIZES, Mem

SPACES = ("global", "shared", "local", "param", "const")


class Access:
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
            "alignment", f"{self.verb} {self.bytes} bytes at an address that is no multiple of them",
            self.index, i, count=int(np.count_nonzero(bad)), address=int(x.spread(offset)[i]),
        )  # fmt: skip
        return bad

    def outside(self, x: Lanes, bad: Array, address: Array, text: str) -> None:
        i = int(np.flatnonzero(x.spread(bad))[0])
        x.report(
            "bounds", f"{self.verb} {self.bytes} bytes {text}", self.index, i,
            count=int(np.count_nonzero(bad)), address=int(x.spread(address)[i]),
        )  # fmt: skip

    def tainted(self, x: Lanes, flag: Array | None) -> None:
        if flag is None or not np.count_nonzero(flag):
            return
        i = int(np.flatnonzero(x.spread(flag))[0])
        x.report(
            "overflow", f"{self.verb} an address computed in 32 bits that overflowed", self.index, i,
            count=int(np.count_nonzero(flag)),
        )  # fmt: skip

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
            self.outside(x, outside, address,
                         x.launch.memory.describe(int(address[np.flatnonzero(outside)[0]])))  # fmt: skip
            found.append((outside, None))
        return found

    def cells(self, x: Lanes, offset: Array, granule: int) -> list[Array]:
        """The numbers of the shadow's cells that an access covers, one array a cell."""
        first = x.spread(offset // granule if granule & (granule - 1) else
                         offset >> (granule.bit_length() - 1))  # fmt: skip
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
            for cells in self.cells(x, offset, x.launch.globals.granule):
                x.launch.globals.write(x, buffer, cells, self.index)
        if x.launch.tally.on:
            x.launch.tally.access("store", x, address, self.bytes, self.offset)
            x.launch.tally.touch(buffer, offset, self.bytes)
        data = buffer.view(self.dtype)
        element = x.spread(offset >> self.shift)
        for k, value in enumerate(values):
            data[element + k if k else element] = value

    # Shared memory

    def shared_place(self, x: Lanes, address: Array) -> tuple[Lanes, Array, Array | None]:
        """Lanes and offsets that lie in the window, and the mask of these lanes (None: all)."""
        offset = address + self.offset if self.offset else address
        limit = x.chunk.shared_pitch - self.bytes
        mask = None
        if offset.size and (int(offset.min()) < 0 or int(offset.max()) > limit):
            bad = x.spread((offset < 0) | (offset > limit))
            self.outside(
                x, bad, offset, f"outside the {x.launch.shared_size} bytes of shared memory"
            )
            mask = ~bad
        wrong = self.misaligned(x, offset)
        if wrong is not None:
            mask = ~x.spread(wrong) if mask is None else mask & ~x.spread(wrong)
        if mask is None:
            return x, offset, None
        return x.subset(mask), x.spread(offset)[mask], mask

    def shared_load(self, x: Lanes, address: Array) -> tuple[Array, ...]:
        some, offset, mask = self.shared_place(x, address)
        if mask is not None:
            return self._some(x, mask, address, self.shared_load)
        shadow = x.chunk.shadow
        chunk = x.chunk
        if shadow is not None:
            base = 0 if chunk.count == 1 else x.cell_base
            for cells in self.cells(x, offset, shadow.granule):
                shadow.read(x, base + cells, self.index)
        if chunk.copies:
            chunk.copies.touch(x, offset, self, "reads")
        if x.launch.tally.on:
            x.launch.tally.shared("load", x, offset, self.bytes)
        data = chunk.shared_view(self.dtype)
        at = (offset if chunk.count == 1 else x.shared_base + offset) >> self.shift
        if self.count == 1:
            return (data.take(at),)
        return tuple(data.take(at + k) for k in range(self.count))

    def shared_store(self, x: Lanes, address: Array, *values: Array) -> None:
        some, offset, mask = self.shared_place(x, address)
        if mask is not None:
            if mask.any():
                self.shared_store(
                    some, x.spread(address)[mask], *(x.spread(v)[mask] for v in values)
                )
            return
        shadow, chunk = x.chunk.shadow, x.chunk
        if shadow is not None:
            base = 0 if chunk.count == 1 else x.cell_base
            for cells in self.cells(x, offset, shadow.granule):
                shadow.write(x, base + cells, self.index)
        if chunk.copies:
            chunk.copies.touch(x, offset, self, "writes")
        if x.launch.tally.on:
            x.launch.tally.shared("store", x, offset, self.bytes)
        data = chunk.shared_view(self.dtype)
        at = x.spread((x.shared_base + offset) >> self.shift)
        for k, value in enumerate(values):
            place = at + k if k else at
            data[place] = value
            if shadow is not None and x.launch.checks.races:
                self._lost(x, data.take(place), value, offset)

    def _lost(self, x: Lanes, kept: Array, value: Array, offset: Array) -> None:
        """Several lanes of one store wrote different values to one place."""
        same = kept.view(f"u{self.size}") == value.view(f"u{self.size}")
        if np.count_nonzero(same) == same.size:
            return
        hit = np.flatnonzero(~x.spread(same))
        x.report(
            "race", "several threads write different values to one place at once", self.index,
            int(hit[0]), count=hit.size, address=int(x.spread(offset)[hit[0]]),
            other=x.launch.where(self.index),
        )  # fmt: skip

    # Local memory and parameters

    def local_place(self, x: Lanes, address: Array) -> Array:
        offset = address + self.offset
        limit = x.launch.program.local_size - self.bytes
        bad = (offset < 0) | (offset > limit)
        if np.count_nonzero(bad):
            self.outside(x, bad, offset, f"outside the {limit + self.bytes} bytes of local memory")
            offset = np.where(bad, 0, offset)
        self.misaligned(x, offset)
        return x.spread((x.local_base + (offset & -self.bytes)) >> self.shift)

    def local_load(self, x: Lanes, address: Array) -> tuple[Array, ...]:
        at = self.local_place(x, address)
        if x.launch.checks.uninitialised:
            fresh = ~x.chunk.local_written[at << self.shift]
            if np.count_nonzero(fresh):
                i = int(np.flatnonzero(fresh)[0])
                x.report("uninitialised", "reads local memory that the thread has not written",
                         self.index, i, count=int(np.count_nonzero(fresh)))  # fmt: skip
        data = x.chunk.local_view(self.dtype)
        return tuple(data.take(at + k) for k in range(self.count))

    def local_store(self, x: Lanes, address: Array, *values: Array) -> None:
        at = self.local_place(x, address)
        if x.launch.checks.uninitialised:
            for k in range(self.bytes):
                x.chunk.local_written[(at << self.shift) + k] = True
        data = x.chunk.local_view(self.dtype)
        for k, value in enumerate(values):
            data[at + k] = value

    def param_load(self, x: Lanes, address: Array) -> tuple[Array, ...]:
        params = x.launch.params
        offset = address + self.offset
        bad = (offset < 0) | (offset + self.bytes > params.size)
        if np.count_nonzero(bad):
            self.outside(x, bad, offset, "outside the parameters")
            return self.poison(x.n)
        data = params[: params.size // self.size * self.size].view(self.dtype)
        return tuple(data.take((offset >> self.shift) + k) for k in range(self.count))

    # Generic addresses

    def generic(self, x: Lanes, address: Array, *values: Array) -> Any:
        kind = address // WINDOW
        first = int(kind.flat[0])
        if np.count_nonzero(kind == first) == kind.size:
            return self._in_space(first * WINDOW, x, address, *values)
        address, kind = x.spread(address), x.spread(kind)
        results = [np.array(p) for p in self.poison(x.n)]
        for each in np.unique(kind):
            mask = kind == each
            found = self._in_space(
                int(each) * WINDOW,
                x.subset(mask),
                address[mask],
                *(x.spread(v)[mask] for v in values),
            )
            if found is not None:
                for result, part in zip(results, found, strict=True):
                    result[mask] = part
        return None if values else tuple(results)

    def _in_space(self, window: int, x: Lanes, address: Array, *values: Array) -> Any:
        verb = "store" if values else "load"
        name = {SHARED_WINDOW: "shared", LOCAL_WINDOW: "local", PARAM_WINDOW: "param"}.get(window)
        if name is None:
            return getattr(self, f"global_{verb}")(x, address, *values)
        return getattr(self, f"{name}_{verb}")(x, address - window, *values)

    def method(self, verb: str) -> Any:
        if self.space == "":
            return self.generic
        return getattr(self, f"{'global' if self.space == 'const' else self.space}_{verb}")


class _Call:
    """The bound method of an access, with the overflow check next to it."""

    def __init__(self, access: Access, verb: str, single: bool) -> None:
        self.run = access.method(verb)
        self.tainted = access.tainted
        self.single = single

    def __call__(self, x: Lanes, *values: Array) -> Any:
        result = self.run(x, *values)
        return result[0] if self.single else result


def _element(kind: str) -> str:
    code = CODES[kind]
    return "u" + code[1] if code[0] == "f" and code == "f2" else code


@service("ld", "ldu")
def _load(s: Service) -> Step:
    to, source = s.instruction.operands[:2]
    if not isinstance(source, Mem):
        raise s.unknown()
    kind = s.type()
    regs = registers(to)
    access = Access(s, CODES[kind], len(regs), source.offset, "reads")
    call = _Call(access, "load", len(regs) == 1)
    kinds = {"global": "global load", "shared": "shared load", "local": "local load"}
    return Step(call, [(source, "a8")], [(r, kind) for r in regs],
                kinds.get(access.space, "move" if access.space == "param" else "global load"), lanes=True)  # fmt: skip


@service("st")
def _store(s: Service) -> Step:
    target, values = s.instruction.operands[:2]
    if not isinstance(target, Mem):
        raise s.unknown()
    kind = s.type()
    items = vector(values)
    access = Access(s, CODES[kind], len(items), target.offset, "writes")
    call = _Call(access, "store", False)
    kinds = {"shared": "shared store", "local": "local store"}
    return Step(call, [(target, "a8"), *((v, CODES[kind]) for v in items)], [],
                kinds.get(access.space, "global store"), lanes=True)  # fmt: skip


def smallest(instructions: list[Any], space: str) -> int:
    """Bytes of the smallest access to a space among instructions, at most 16."""
    sizes = [16]
    for instruction in instructions:
        mods = instruction.opcode.replace("::", "__").split(".")
        if mods[0] in ("ldmatrix", "stmatrix") and space == "shared":
            sizes.append(4)
        if mods[0] == "cp" and "async" in mods:
            sizes.append(4)
        if mods[0] not in ("ld", "st", "atom", "red", "ldu"):
            continue
        named = [m.partition("__")[0] for m in mods if m.partition("__")[0] in SPACES]
        if named and named[0] != space:
            continue
        kind = next((SIZES[m] for m in reversed(mods) if m in SIZES), 4)
        count = 4 if "v4" in mods else 2 if "v2" in mods else 1
        sizes.append(kind * count)
    return min(sizes)


__all__ = ["Access", "SIZES", "smallest"]
