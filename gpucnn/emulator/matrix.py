"""ldmatrix and mma.sync.

mma multiplies what the tensor core sees: float16 and bfloat16 exactly, float32 operands of tf32 cut
to 10 bits of mantissa (the hardware ignores the rest). Products are exact. How a tensor core adds
is not published; the model is that of Fasi, Higham, Mikaitis and Pranesh (PeerJ CS 7:e330, 2021):
the products of a step and the accumulator are aligned to the largest exponent, cut (towards zero)
below a fixed number of bits, added exactly, and cut to float32. `NEAREST` rounds once instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.emulator.access import Access
from gpucnn.emulator.isa import Array
from gpucnn.emulator.lanes import Lanes
from gpucnn.emulator.lower import SHARED_WINDOW, Service, Step, registers, service, vector
from gpucnn.emulator.rounding import from_bfloat16
from gpucnn.emulator.syntax import Mem, Operand

# Bits kept below the largest exponent when terms are aligned: 24 and one more (Ampere).
KEPT = 25
STEP = {"f16": 8, "bf16": 8, "tf32": 4}
"""Products that are added in one step, with the accumulator."""


def accumulate(products: Array, c: Array, step: int, truncating: bool = True) -> Array:
    """c + the sum of products over the last axis, `step` of them at a time, in float32."""
    total = c.astype(np.float64)
    for start in range(0, products.shape[-1], step):
        terms = np.concatenate([products[..., start : start + step], total[..., None]], axis=-1)
        if truncating:
            _, exponent = np.frexp(np.abs(terms).max(axis=-1, keepdims=True))
            unit = np.ldexp(1.0, np.maximum(exponent - KEPT, -149))
            finite = np.isfinite(terms).all(axis=-1)
            cut = (np.trunc(terms / unit) * unit).sum(axis=-1)
            total = np.where(finite, _cut(cut), terms.sum(axis=-1))
        else:
            total = terms.sum(axis=-1).astype(np.float32).astype(np.float64)
    return total.astype(np.float32)


def _cut(a: Array) -> Array:
    """float64 cut to the precision of float32."""
    r = a.astype(np.float32)
    over = np.abs(r.astype(np.float64)) > np.abs(a)
    return np.where(over, np.nextafter(r, np.float32(0)), r).astype(np.float64)


def halves(words: Array, kind: str) -> tuple[Array, Array]:
    """The two 16-bit floats of a register as float64."""
    parts = []
    for shift in (0, 16):
        bits = ((words >> np.uint32(shift)) & np.uint32(0xFFFF)).astype(np.uint16)
        parts.append(bits.view(np.float16) if kind == "f16" else from_bfloat16(bits))
    return parts[0].astype(np.float64), parts[1].astype(np.float64)


def elements(words: Array, kind: str) -> list[Array]:
    """The values of one register, as float64."""
    if kind == "tf32":
        return [(words & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)]
    return list(halves(words, kind))


def places(kind: str, k: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Row offset and column offset, within the thread's (group, thread-in-group) place, of each
    element of A (16 x k) and of B (k x 8), in the order of the registers.

    PTX ISA, "Matrix fragments for mma.m16n8k*". A row is group + offset; a column is
    per * thread-in-group + offset, where a register holds `per` neighbours.
    """
    per = 1 if kind == "tf32" else 2
    width = 4 * per
    a = [(row, column + e) for column in range(0, k, width) for row in (0, 8) for e in range(per)]
    b = [(column + e, 0) for column in range(0, k, width) for e in range(per)]
    return a, b


class Multiply:
    def __init__(self, s: Service, kind: str, k: int, result: str) -> None:
        self.kind, self.k, self.result = kind, k, result
        self.flops = 2 * 16 * 8 * k
        self.a_count = len(places(kind, k)[0]) // (1 if kind == "tf32" else 2)
        self.b_count = len(places(kind, k)[1]) // (1 if kind == "tf32" else 2)

    def __call__(self, x: Lanes, *words: Array) -> tuple[Array, ...]:
        whole = x.n % 32 == 0 and x.warps * 32 == x.n
        if not whole:
            return (np.full(x.n, 0x7FC00000, np.uint32),) * (4 if self.result == "f32" else 2)
        warps = x.n // 32
        per = 1 if self.kind == "tf32" else 2
        full = [np.ascontiguousarray(x.spread(w)) for w in words]
        a = self._gather(full[: self.a_count], warps, 16, True, per)
        b = self._gather(full[self.a_count : self.a_count + self.b_count], warps, 8, False, per)
        c = self._accumulator(full[self.a_count + self.b_count :], warps)
        products = a[:, :, None, :] * b.transpose(0, 2, 1)[:, None, :, :]
        truncating = x.launch.schedule.truncating
        d = accumulate(products, c, min(STEP[self.kind], self.k), truncating)
        if x.launch.tally.on:
            x.launch.tally.flop(
                "tensor tf32" if self.kind == "tf32" else "tensor", warps * self.flops
            )
        return self._scatter(d, warps)

    def _gather(self, words: list[Array], warps: int, rows: int, is_a: bool, per: int) -> Array:
        """A as (warps, 16, k), B as (warps, k, 8)."""
        group, thread = np.arange(32) // 4, np.arange(32) % 4
        shape = (warps, rows, self.k) if is_a else (warps, self.k, 8)
        out = np.zeros(shape)
        place = places(self.kind, self.k)[0 if is_a else 1]
        values = [v for w in words for v in elements(w, self.kind)]
        for (i, j), value in zip(place, values, strict=True):
            if is_a:
                out[:, group + i, per * thread + j] = value.reshape(warps, 32)
            else:
                out[:, per * thread + i, group] = value.reshape(warps, 32)
        return out

    _PLACES = ((0, 0), (0, 1), (8, 0), (8, 1))

    def _accumulator(self, words: list[Array], warps: int) -> Array:
        group, thread = np.arange(32) // 4, np.arange(32) % 4
        out = np.zeros((warps, 16, 8))
        if self.result == "f32":
            values = [w.view(np.float32) for w in words]
        else:
            values = [v for w in words for v in halves(w, "f16")]
        for (i, j), value in zip(self._PLACES, values, strict=True):
            out[:, group + i, 2 * thread + j] = value.reshape(warps, 32)
        return out

    def _scatter(self, d: Array, warps: int) -> tuple[Array, ...]:
        group, thread = np.arange(32) // 4, np.arange(32) % 4
        values = [d[:, group + i, 2 * thread + j].reshape(-1) for i, j in self._PLACES]
        if self.result == "f32":
            return tuple(np.ascontiguousarray(v).view(np.uint32) for v in values)
        h = [v.astype(np.float16).view(np.uint16).astype(np.uint32) for v in values]
        return h[0] | (h[1] << np.uint32(16)), h[2] | (h[3] << np.uint32(16))


@service("mma")
def _mma(s: Service) -> Step:
    shape = next((m for m in s.mods if m.startswith("m16n8k")), None)
    kinds = [m for m in s.mods if m in ("f16", "bf16", "tf32", "f32")]
    depths = {"tf32": (4, 8), "f16": (8, 16), "bf16": (8, 16)}
    if shape is None or len(kinds) != 4 or kinds[1] not in depths or "row" not in s.mods:
        raise s.unknown()
    k, kind = int(shape[6:]), kinds[1]
    if k not in depths[kind] or kinds[0] not in ("f32", "f16") or kinds[0] != kinds[3]:
        raise s.unknown()
    d, *sources = s.instruction.operands
    items: list[tuple[Operand, str]] = [(o, "u4") for source in sources[:3] for o in vector(source)]
    return Step(
        Multiply(s, kind, k, kinds[0]),
        items,
        [(r, "b32") for r in registers(d)],
        "tensor",
        lanes=True,
    )


class LoadMatrix(Access):
    """Each quarter of a warp gives the rows of one 8 x 8 matrix of 16-bit elements."""

    def __init__(self, s: Service, count: int, offset: int, transposed: bool) -> None:
        super().__init__(s, "u4", 4, offset, "reads")
        self.matrices, self.transposed = count, transposed

    def __call__(self, x: Lanes, address: Array) -> Any:
        address = x.spread(address)
        if address.size and int(address.min()) >= SHARED_WINDOW:
            address = address - SHARED_WINDOW
        count = x.chunk.count * x.chunk.width
        table = np.zeros(count, np.int64)
        table[x.slots] = address
        used = x.lane < 8 * self.matrices
        rows = np.zeros((count, 4), np.uint32)
        some = x.subset(used)
        for k, part in enumerate(self.shared_load(some, address[used])):
            rows[some.slots, k] = part
        results = []
        lane = x.lane
        for m in range(self.matrices):
            start = (x.warp << 5) + 8 * m
            if not self.transposed:
                results.append(rows[start + lane // 4, lane % 4])
                continue
            halves_ = rows.view(np.uint16)  # (slots, 8)
            column = lane // 4
            low = halves_[start + 2 * (lane % 4), column].astype(np.uint32)
            high = halves_[start + 2 * (lane % 4) + 1, column].astype(np.uint32)
            results.append(low | (high << np.uint32(16)))
        return results[0] if self.matrices == 1 else tuple(results)


@service("ldmatrix")
def _ldmatrix(s: Service) -> Step:
    to, source = s.instruction.operands
    if not isinstance(source, Mem) or "m8n8" not in s.mods or s.type() != "b16":
        raise s.unknown()
    regs = registers(to)
    load = LoadMatrix(s, len(regs), source.offset, "trans" in s.mods)
    return Step(load, [(source, "a8")], [(r, "b32") for r in regs], "shared load", lanes=True)
