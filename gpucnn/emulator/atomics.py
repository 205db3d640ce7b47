"""atom and red: one lane after the other where they meet, in the order of the lanes."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.emulator.access import Access
from gpucnn.emulator.isa import CODES, Array
from gpucnn.emulator.lanes import Lanes
from gpucnn.emulator.lower import SHARED_WINDOW, WINDOW, Service, Step, registers, service
from gpucnn.emulator.rounding import flush
from gpucnn.emulator.syntax import Mem

OPERATIONS = ("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec", "sub")


def apply(operation: str, old: Array, b: Array, c: Array | None, kind: str) -> Array:
    """The new value of a cell."""
    if operation == "add":
        if kind == "f32":
            return flush(old + b)
        if kind == "f16x2":
            return (old.view(np.float16) + b.view(np.float16)).view(np.uint32)
        return old + b
    if operation == "exch":
        return b
    if operation == "cas":
        assert c is not None
        return np.where(old == b, c, old)
    if operation == "inc":
        return np.where(old >= b, old.dtype.type(0), old + old.dtype.type(1))
    if operation == "dec":
        return np.where((old == 0) | (old > b), b, old - old.dtype.type(1))
    function: Any = {
        "min": np.fmin, "max": np.fmax, "and": np.bitwise_and, "or": np.bitwise_or,
        "xor": np.bitwise_xor, "sub": np.subtract,
    }[operation]  # fmt: skip
    return function(old, b)


class Atomic(Access):
    def __init__(self, s: Service, kind: str, offset: int, operation: str) -> None:
        super().__init__(s, CODES[kind], 1, offset, "updates")
        self.kind, self.operation = kind, operation

    def update(self, data: Array, at: Array, b: Array, c: Array | None) -> Array:
        """Old values; lanes at one place go one after the other, in rounds of distinct places."""
        order = np.argsort(at, kind="stable")
        places = at[order]
        first = np.concatenate(([True], places[1:] != places[:-1]))
        start = np.maximum.accumulate(np.where(first, np.arange(places.size), 0))
        turn = np.arange(places.size) - start
        old = np.empty(at.size, data.dtype)
        if self._sums(turn):
            return self._sum(data, at, b)
        for n in range(int(turn.max()) + 1):
            lanes = order[turn == n]
            before = data[at[lanes]]
            old[lanes] = before
            data[at[lanes]] = apply(
                self.operation, before, b[lanes], None if c is None else c[lanes], self.kind
            )
        return old

    def _sums(self, turn: Array) -> bool:
        return self.operation == "add" and self.kind[0] in "us" and int(turn.max()) > 8

    @staticmethod
    def _sum(data: Array, at: Array, b: Array) -> Array:
        """Many integer additions at few places: prefix sums instead of rounds."""
        order = np.argsort(at, kind="stable")
        places, values = at[order], b[order]
        running = np.cumsum(values, dtype=data.dtype)
        first = np.concatenate(([True], places[1:] != places[:-1]))
        starts = np.flatnonzero(first)
        before = np.concatenate((np.zeros(1, data.dtype), running[:-1]))
        offset = np.repeat(before[starts], np.diff(np.append(starts, places.size)))
        old = np.empty(at.size, data.dtype)
        old[order] = data[places] + (before - offset)
        ends = np.append(starts[1:], places.size) - 1
        data[places[ends]] += running[ends] - before[starts]
        return old

    def __call__(self, x: Lanes, address: Array, b: Array, c: Array | None = None) -> Array:
        address, b = x.spread(address), x.spread(b)
        c = None if c is None else x.spread(c)
        if self.space == "shared":
            return self.shared(x, address, b, c)
        if self.space == "":
            inside = (address >= SHARED_WINDOW) & (address < SHARED_WINDOW + WINDOW)
            if inside.all():
                return self.shared(x, address - SHARED_WINDOW, b, c)
            if inside.any():
                out = np.empty(x.n, self.dtype)
                for mask, shift in ((inside, SHARED_WINDOW), (~inside, 0)):
                    run = self.shared if shift else self.global_
                    out[mask] = run(
                        x.subset(mask),
                        address[mask] - shift,
                        b[mask],
                        None if c is None else c[mask],
                    )
                return out
        return self.global_(x, address, b, c)

    def shared(self, x: Lanes, address: Array, b: Array, c: Array | None) -> Array:
        some, offset, mask = self.shared_place(x, address)
        if mask is not None:
            out = np.zeros(x.n, self.dtype)
            if mask.any():
                out[mask] = self.shared(
                    some, address[mask], b[mask], None if c is None else c[mask]
                )
            return out
        shadow = x.chunk.shadow
        if shadow is not None:
            for cells in self.cells(x, offset, shadow.granule):
                shadow.read(x, x.cell_base + cells, self.index, atomic=True)
                shadow.write(x, x.cell_base + cells, self.index, atomic=True)
        at = (x.shared_base + offset) >> self.shift
        return self.update(x.chunk.shared_view(self.dtype), at, b, c)

    def global_(self, x: Lanes, address: Array, b: Array, c: Array | None) -> Array:
        place = self.locate(x, address)
        if place is None:
            out = np.zeros(x.n, self.dtype)
            for mask, buffer in self.parts(x, address):
                if buffer is not None:
                    out[mask] = self.global_(
                        x.subset(mask), address[mask], b[mask], None if c is None else c[mask]
                    )
            return out
        buffer, offset = place
        bad = self.misaligned(x, offset)
        if bad is not None:
            offset = offset & -self.size
        shadow = x.launch.globals
        if shadow is not None:
            shadow.atomic(x, address)
            for cells in self.cells(x, offset, shadow.granule):
                shadow.write(x, buffer, cells, self.index, atomic=True)
        if x.launch.tally.on:
            x.launch.tally.access("store", x, address, self.bytes, self.offset)
            x.launch.tally.touch(buffer, offset, self.bytes)
        return self.update(buffer.view(self.dtype), offset >> self.shift, b, c)


@service("atom", "red")
def _atomic(s: Service) -> Step:
    operands = list(s.instruction.operands)
    returns = s.instruction.opcode.startswith("atom")
    target = registers(operands.pop(0))[0] if returns else None
    address, *values = operands
    operation = next((m for m in s.mods if m in OPERATIONS), None)
    kind = s.type()
    if operation is None or not isinstance(address, Mem) or kind not in CODES or "v2" in s.mods:
        raise s.unknown()
    values = values[: 2 if operation == "cas" else 1]
    atomic = Atomic(s, kind, address.offset, operation)
    call = atomic if returns else lambda x, *v: (atomic(x, *v), None)[1]
    where = "shared" if atomic.space == "shared" else "global"
    return Step(
        call,
        [(address, "a8"), *((v, CODES[kind]) for v in values)],
        [(target, kind)] if returns else [],
        f"{where} atomic",
        lanes=True,
    )


@service("membar", "fence")
def _fence(s: Service) -> Step:
    wide = any(m in s.mods for m in ("gl", "gpu", "sys"))

    def fence(x: Lanes) -> None:
        if wide and x.launch.globals is not None:
            x.launch.globals.fence(x)

    return Step(fence, [], [], "barrier", lanes=True)
