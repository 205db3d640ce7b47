"""Rows of integer arithmetic. Results wrap; a division by zero gives all ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.emulator.isa import CODES, WIDE, Array, Semantics, row

INTS = "s16 u16 s32 u32 s64 u64"
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_M32 = np.array([0xFFFFFFFF], np.uint64)
_S32 = np.array([32], np.uint64)


def _wide(kinds: tuple[str, ...]) -> np.dtype[Any]:
    return np.dtype(CODES[WIDE[kinds[0]]])


def multiply_high(a: Array, b: Array) -> Array:
    """The upper half of the double-width product."""
    if a.dtype.itemsize < 8:
        wide = np.dtype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")
        shift = np.array([8 * a.dtype.itemsize], wide)
        return ((a.astype(wide) * b.astype(wide)) >> shift).astype(a.dtype)
    x, y = a.view(np.uint64), b.view(np.uint64)
    xl, xh, yl, yh = x & _M32, x >> _S32, y & _M32, y >> _S32
    low, m1, m2 = xl * yl, xh * yl, xl * yh
    middle = (low >> _S32) + (m1 & _M32) + (m2 & _M32)
    high = xh * yh + (m1 >> _S32) + (m2 >> _S32) + (middle >> _S32)
    if a.dtype.kind == "u":
        return high
    # The product of the signed values differs where an operand is negative.
    return high.view(np.int64) - np.where(a < 0, b, 0) - np.where(b < 0, a, 0)


def divide(a: Array, b: Array) -> Array:
    """Rounded towards zero."""
    unsigned = _UNSIGNED[a.dtype.itemsize]
    zero = b == 0
    if a.dtype.kind == "u":
        quotient = a // np.where(zero, b.dtype.type(1), b)
        return np.where(zero, ~b.dtype.type(0), quotient)
    x = np.where(a < 0, -a, a).view(unsigned)
    y = np.where(b < 0, -b, b).view(unsigned)
    magnitude = (x // np.where(zero, unsigned(1), y)).view(a.dtype)
    quotient = np.where((a < 0) != (b < 0), -magnitude, magnitude)
    return np.where(zero, a.dtype.type(-1), quotient)


def remainder(a: Array, b: Array) -> Array:
    """With the sign of a; a itself when b is zero."""
    return np.where(b == 0, a, a - divide(a, b) * b)


def saturated(function: Semantics) -> Semantics:
    """s32 results clamped instead of wrapped."""

    def apply(*values: Array) -> Array:
        wide = function(*(v.astype(np.int64) for v in values))
        return np.clip(wide, -(2**31), 2**31 - 1).astype(np.int32)

    return apply


def _product_wide(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
    wide = _wide(kinds)
    return lambda a, b: a.astype(wide) * b.astype(wide)


def _mad_wide(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
    wide = _wide(kinds)
    return lambda a, b, c: a.astype(wide) * b.astype(wide) + c


def _low24(a: Array) -> Array:
    shift = np.array([8], a.dtype)
    return (a << shift) >> shift


def _absolute(a: Array) -> Array:
    return np.where(a < 0, -a, a)


def _mul24(a: Array, b: Array) -> Array:
    return _low24(a) * _low24(b)


def _mul24_high(a: Array, b: Array) -> Array:
    wide = np.int64 if a.dtype.kind == "i" else np.uint64
    product = _low24(a).astype(wide) * _low24(b).astype(wide)
    return (product >> np.array([16], wide)).astype(a.dtype)


def _sad(a: Array, b: Array, c: Array) -> Array:
    return c + np.where(a < b, b - a, a - b)


row("add", INTS, "T<TT", np.add)
row("sub", INTS, "T<TT", np.subtract)
row("add", "s32", "T<TT", saturated(np.add), needs="sat")
row("sub", "s32", "T<TT", saturated(np.subtract), needs="sat")
row("mul", INTS, "T<TT", np.multiply, needs="lo")
row("mul", INTS, "T<TT", multiply_high, needs="hi")
row("mul", " ".join(WIDE), "W<TT", make=_product_wide, needs="wide")
row("mad", INTS, "T<TTT", lambda a, b, c: a * b + c, needs="lo")
row("mad", INTS, "T<TTT", lambda a, b, c: multiply_high(a, b) + c, needs="hi")
row("mad", "s32", "T<TTT", saturated(lambda a, b, c: (a * b >> 32) + c), needs="hi sat")
row("mad", " ".join(WIDE), "W<TTW", make=_mad_wide, needs="wide")
row("mul24", "s32 u32", "T<TT", _mul24, needs="lo")
row("mul24", "s32 u32", "T<TT", _mul24_high, needs="hi")
row("mad24", "s32 u32", "T<TTT", lambda a, b, c: _mul24(a, b) + c, needs="lo")
row("mad24", "s32 u32", "T<TTT", lambda a, b, c: _mul24_high(a, b) + c, needs="hi")
row("sad", INTS, "T<TTT", _sad)
row("div", INTS, "T<TT", divide)
row("rem", INTS, "T<TT", remainder)
row("abs", "s16 s32 s64", "T<T", _absolute)
row("neg", "s16 s32 s64", "T<T", np.negative)
row("min", INTS, "T<TT", np.minimum)
row("max", INTS, "T<TT", np.maximum)
row("min", "s32", "T<TT", lambda a, b: np.maximum(np.minimum(a, b), a.dtype.type(0)), needs="relu")
row("max", "s32", "T<TT", lambda a, b: np.maximum(np.maximum(a, b), a.dtype.type(0)), needs="relu")


def _dot(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
    """dp4a: four products of bytes; dp2a: two of 16-bit by 8-bit halves."""
    first, second = (np.dtype(np.int8 if k == "s32" else np.uint8) for k in kinds)

    def dp4a(a: Array, b: Array, c: Array) -> Array:
        a, b = np.broadcast_arrays(a, b)
        x = np.ascontiguousarray(a).view(first).reshape(-1, 4).astype(np.int64)
        y = np.ascontiguousarray(b).view(second).reshape(-1, 4).astype(np.int64)
        return ((x * y).sum(axis=1) + c).astype(c.dtype)

    return dp4a


row("dp4a", "s32/s32 s32/u32 u32/s32", "J<TUJ", make=_dot)
row("dp4a", "u32/u32", "I<TUI", make=_dot)
