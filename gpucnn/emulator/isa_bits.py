"""Rows of bits, shifts, comparisons and selections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn.emulator.isa import Array, Semantics, row
from gpucnn.emulator.rounding import flush

BITS = "b16 b32 b64"
LOGIC: dict[str, Any] = {"kind": "logic"}
_COMPARE: dict[str, Semantics] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater,
    "hs": np.greater_equal,
    # Unordered: true when an operand is NaN. `ne` of NumPy is true then, the ordered one is not.
    "equ": lambda a, b: ~((a < b) | (a > b)),
    "neu": np.not_equal,
    "ltu": lambda a, b: ~(a >= b), "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b), "geu": lambda a, b: ~(a < b),
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
    "nan": lambda a, b: np.isnan(a) | np.isnan(b),
}  # fmt: skip
_JOIN: dict[str, Semantics] = {
    "and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor,
}  # fmt: skip


def _comparison(mods: frozenset[str], kind: str) -> Semantics:
    name = next(m for m in mods if m in _COMPARE)
    if name == "ne" and kind[0] == "f":
        return lambda a, b: (a < b) | (a > b)
    return _COMPARE[name]


def _setp(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
    return _comparison(mods, kinds[0])


def _setp_joined(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
    compare, join = _comparison(mods, kinds[0]), _JOIN[next(m for m in mods if m in _JOIN)]
    return lambda a, b, c: join(compare(a, b), c)


def _set(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
    compare = _comparison(mods, kinds[1])
    if kinds[0] == "f32":
        return lambda a, b: compare(a, b).astype(np.float32)
    to = np.uint32 if kinds[0] == "u32" else np.int32
    return lambda a, b: (-compare(a, b).astype(np.int32)).view(to)


def _shift_left(a: Array, b: Array) -> Array:
    width = 8 * a.dtype.itemsize
    shifted = a << np.minimum(b, np.uint32(width - 1)).astype(a.dtype)
    return np.where(b >= width, a.dtype.type(0), shifted) if b.max() >= width else shifted


def _shift_right(a: Array, b: Array) -> Array:
    width = 8 * a.dtype.itemsize
    shifted = a >> np.minimum(b, np.uint32(width - 1)).astype(a.dtype)
    if a.dtype.kind == "i" or b.max() < width:
        return shifted
    return np.where(b >= width, a.dtype.type(0), shifted)


def _funnel(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
    """shf: 64 bits b:a shifted, the upper word for left, the lower for right."""
    limit = 32 if "clamp" in mods else 31

    def apply(a: Array, b: Array, c: Array) -> Array:
        n = np.minimum(c, np.uint32(limit)) if "clamp" in mods else c & np.uint32(limit)
        both = (b.astype(np.uint64) << np.uint64(32)) | a.astype(np.uint64)
        wide = n.astype(np.uint64)
        if "l" in mods:
            return ((both << wide) >> np.uint64(32)).astype(np.uint32)
        return (both >> wide).astype(np.uint32)

    return apply


def _extract(a: Array, b: Array, c: Array) -> Array:
    """bfe: `c` bits from position `b`; the sign is the last bit of the field inside the value."""
    width = 8 * a.dtype.itemsize
    position, length = b & np.uint32(255), c & np.uint32(255)
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    u = a.view(unsigned)
    moved = _shift_right(a, position).view(unsigned)
    mask = ~_shift_left(np.array([~unsigned.type(0)]), length)
    field = moved & mask
    if a.dtype.kind == "u":
        return field
    last = np.minimum(position.astype(np.int64) + length - 1, width - 1)
    sign = (u >> np.maximum(last, 0).astype(unsigned)) & unsigned.type(1)
    negative = (sign != 0) & (length != 0)
    return np.where(negative, field | ~mask, field).view(a.dtype)


def _insert(a: Array, b: Array, c: Array, d: Array) -> Array:
    """bfi: the low `d` bits of a put into b at position `c`."""
    position, length = c & np.uint32(255), d & np.uint32(255)
    ones = np.array([~a.dtype.type(0)])
    mask = _shift_left(~_shift_left(ones, length), position)
    return (b & ~mask) | (_shift_left(a, position) & mask)


def _mask(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
    def apply(a: Array, b: Array) -> Array:
        if "wrap" in mods:
            a, b = a & np.uint32(31), b & np.uint32(31)
        ones = np.array([0xFFFFFFFF], np.uint32)
        return _shift_left(~_shift_left(ones, b), a)

    return apply


_SELECT_MODES = {
    "f4e": lambda n: [n, n + 1, n + 2, n + 3],
    "b4e": lambda n: [n, n - 1, n - 2, n - 3],
    "rc8": lambda n: [n & 3] * 4,
    "ecl": lambda n: [np.maximum(n & 3, i) for i in range(4)],
    "ecr": lambda n: [np.minimum(n & 3, i) for i in range(4)],
    "rc16": lambda n: [(n & 1) * 2, (n & 1) * 2 + 1] * 2,
}


def _permute(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
    mode = next((m for m in mods if m in _SELECT_MODES), None)

    def apply(a: Array, b: Array, c: Array) -> Array:
        both = (b.astype(np.uint64) << np.uint64(32)) | a.astype(np.uint64)
        if mode is not None:
            chosen = [
                x.astype(np.uint64) & np.uint64(7)
                for x in _SELECT_MODES[mode](c.astype(np.int64) & 3)
            ]
        else:
            chosen = [((c >> np.uint32(4 * i)) & np.uint32(15)).astype(np.uint64) for i in range(4)]
        result = np.zeros((), np.uint64)
        for i, n in enumerate(chosen):
            byte = (both >> ((n & np.uint64(7)) * np.uint64(8))) & np.uint64(255)
            if mode is None:
                sign = np.where(byte >= 128, np.uint64(255), np.uint64(0))
                byte = np.where(n >= 8, sign, byte)
            result = result | (byte << np.uint64(8 * i))
        return result.astype(np.uint32)

    return apply


def _lop3(a: Array, b: Array, c: Array, table: Array) -> Array:
    """Any function of three bits: bit (a, b, c) of the table."""
    n = int(table.flat[0])
    result = np.zeros_like(a)
    for i in range(8):
        if n >> i & 1:
            result = result | ((a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c))
    return result


def _reverse(a: Array) -> Array:
    width = 8 * a.dtype.itemsize
    step = width // 2
    result, ones = a, (1 << width) - 1
    while step:
        mask = a.dtype.type(ones // ((1 << step) + 1))
        shift = a.dtype.type(step)
        result = ((result >> shift) & mask) | ((result & mask) << shift)
        step //= 2
    return result


def _count(a: Array) -> Array:
    bytes_ = np.ascontiguousarray(a).view(np.uint8).reshape(a.size, -1)
    return np.unpackbits(bytes_, axis=1).sum(axis=1).astype(np.uint32)


def _highest(a: Array) -> Array:
    """Position of the highest one bit, -1 for 0."""
    result = np.full(a.shape, -1, np.int64)
    rest = a.astype(np.uint64)
    for step in (32, 16, 8, 4, 2, 1):
        big = rest >> np.uint64(step)
        take = big != 0
        result = np.where(take, result + step, result)
        rest = np.where(take, big, rest)
    return np.where(rest != 0, result + 1, result)


def _leading_zeros(a: Array) -> Array:
    return (8 * a.dtype.itemsize - 1 - _highest(a)).astype(np.uint32)


def _find(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
    width = int(kinds[0][1:])

    def apply(a: Array) -> Array:
        unsigned = a.view(f"u{a.dtype.itemsize}")
        if a.dtype.kind == "i":
            unsigned = np.where(a < 0, ~unsigned, unsigned)
        place = _highest(unsigned)
        if "shiftamt" in mods:
            place = np.where(place < 0, place, width - 1 - place)
        return place.astype(np.int32).view(np.uint32)

    return apply


def _logical(bitwise: Semantics) -> Callable[..., Semantics]:
    return lambda mods, kinds: bitwise


def _select_sign(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
    if kinds[1] == "f32" and "ftz" in mods:
        return lambda a, b, c: np.where(flush(c) >= 0, a, b)
    return lambda a, b, c: np.where(c >= 0, a, b)


for _name, _function in (("and", np.bitwise_and), ("or", np.bitwise_or), ("xor", np.bitwise_xor)):
    row(_name, "pred " + BITS, "T<TT", _function, **LOGIC)
row("not", "pred " + BITS, "T<T", np.invert, **LOGIC)
row("cnot", BITS, "T<T", lambda a: (a == 0).astype(a.dtype), **LOGIC)
row("shl", BITS, "T<TI", _shift_left, **LOGIC)
row("shr", BITS + " u16 u32 u64 s16 s32 s64", "T<TI", _shift_right, **LOGIC)
for _side in "lr":
    for _end in ("clamp", "wrap"):
        row("shf", "b32", "T<TTI", make=_funnel, needs=f"{_side} {_end}", **LOGIC)
row("bfe", "u32 s32 u64 s64", "T<TII", _extract, **LOGIC)
row("bfi", "b32 b64", "T<TTII", _insert, **LOGIC)
for _end in ("clamp", "wrap"):
    row("bmsk", "b32", "T<II", make=_mask, needs=_end, **LOGIC)
row("prmt", "b32", "T<TTI", make=_permute, modifiers=" ".join(_SELECT_MODES), **LOGIC)
row("lop3", "b32", "T<TTTI", _lop3, **LOGIC)
row("brev", "b32 b64", "T<T", _reverse, **LOGIC)
row("popc", "b32 b64", "I<T", _count, **LOGIC)
row("clz", "b32 b64", "I<T", _leading_zeros, **LOGIC)
row("bfind", "u32 s32 u64 s64", "I<T", make=_find, modifiers="shiftamt", **LOGIC)

_ORDERS = {
    "b16 b32 b64": "eq ne",
    "u16 u32 u64": "eq ne lt le gt ge lo ls hi hs",
    "s16 s32 s64": "eq ne lt le gt ge",
    "f32 f64 f16": "eq ne lt le gt ge equ neu ltu leu gtu geu num nan",
}
for _types, _orders in _ORDERS.items():
    for _order in _orders.split():
        row("setp", _types, "P<TT", make=_setp, needs=_order, modifiers="ftz", kind="compare")
        for _join in _JOIN:
            row(
                "setp",
                _types,
                "P<TTP",
                make=_setp_joined,
                needs=f"{_order} {_join}",
                modifiers="ftz",
                kind="compare",
            )
        _pairs = " ".join(f"{d}/{t}" for d in ("u32", "s32", "f32") for t in _types.split())
        row("set", _pairs, "T<UU", make=_set, needs=_order, modifiers="ftz", kind="compare")
_SELECTED = "b16 b32 b64 u16 u32 u64 s16 s32 s64 f32 f64"
row("selp", _SELECTED, "T<TTP", lambda a, b, p: np.where(p, a, b), kind="compare")
row(
    "slct",
    " ".join(f"{t}/{s}" for t in _SELECTED.split() for s in ("s32", "f32")),
    "T<TTU",
    make=_select_sign,
    modifiers="ftz",
    kind="compare",
)
