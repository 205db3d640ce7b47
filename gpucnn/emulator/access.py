"""Loads and stores of shared, local, parameter and generic addresses: ld and st."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.emulator.global_access import SPACES, GlobalAccess
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
from gpucnn.emulator.syntax import SIZES, Mem


class Access(GlobalAccess):
    """An access to any state space."""

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

            def same() -> Array:
                at = (x.shared_base + offset) >> self.shift
                return self.there(x, chunk.shared_view(self.dtype), at, values)

            for cells in self.cells(x, offset, shadow.granule):
                shadow.write(x, base + cells, self.index, same=same)
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
            "race",
            "several threads write different values to one place at once",
            self.index,
            int(hit[0]),
            count=hit.size,
            address=int(x.spread(offset)[hit[0]]),
            other=x.launch.where(self.index),
        )

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
                x.report(
                    "uninitialised",
                    "reads local memory that the thread has not written",
                    self.index,
                    i,
                    count=int(np.count_nonzero(fresh)),
                )
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
    return Step(
        call,
        [(source, "a8")],
        [(r, kind) for r in regs],
        kinds.get(access.space, "move" if access.space == "param" else "global load"),
        lanes=True,
    )


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
    return Step(
        call,
        [(target, "a8"), *((v, CODES[kind]) for v in items)],
        [],
        kinds.get(access.space, "global store"),
        lanes=True,
    )


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
