"""Floating-point results as the hardware rounds them: once, in any direction, subnormals flushed.

float32 work is done in float64. One operation on float32 values has an exact float64 result (a
product) or one whose rounding error is known exactly (a sum, by Knuth's TwoSum), so the single
rounding to float32 can be made right: a second rounding goes wrong only on a tie, and there the
sign of the error decides. A float64 fma is done as Boldo and Melquiond (Emulation of FMA and
correctly rounded sums, IEEE TC 2008): error-free sum and product, and a final sum rounded to odd.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TINY = np.array([2.0**-126], np.float32)
TINY_WIDE = np.array([2.0**-126])
_TIE_MASK = np.array([0x1FFFFFFF], np.uint64)
_TIE = np.array([0x10000000], np.uint64)
_ONE = np.array([1], np.uint64)
_SPLIT = np.array([2.0**27 + 1])


def flush(a: Array) -> Array:
    """float32 with subnormals replaced by zeros of the same sign."""
    small = np.abs(a) < TINY
    if np.count_nonzero(small):
        return np.where(small, np.copysign(np.float32(0), a), a)
    return a


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """s = a + b rounded, and the exact error: s + e = a + b."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """p = a * b rounded, and the exact error (Dekker; no overflow in the splitting)."""
    p = a * b
    x, y = _SPLIT * a, _SPLIT * b
    ah, bh = x - (x - a), y - (y - b)
    al, bl = a - ah, b - bh
    return p, al * bl - (((p - ah * bh) - al * bh) - ah * bl)


def narrow(s: Array, error: Array | None, mode: str = "rn", ftz: bool = False) -> Array:
    """s + error (float64, |error| below half a unit of s) rounded once to float32."""
    r = s.astype(np.float32)
    if mode == "rn":
        if error is not None:
            ties = (s.view(np.uint64) & _TIE_MASK) == _TIE
            if np.count_nonzero(ties):
                ties = ties & (error != 0)
                if np.count_nonzero(ties):
                    # On a tie the error, however small, decides; nudge s off the tie.
                    nudged = np.nextafter(s, np.where(error > 0, np.inf, -np.inf))
                    r = np.where(ties, nudged.astype(np.float32), r)
    else:
        away = s - r.astype(np.float64)
        if error is not None:
            away = np.where(away == 0, error, away)
        away = np.where(np.isfinite(s), away, 0)
        down, up = np.float32(-np.inf), np.float32(np.inf)
        lower = np.where(away < 0, np.nextafter(r, down), r)
        upper = np.where(away > 0, np.nextafter(r, up), r)
        if mode == "rz":
            r = np.where(s < 0, upper, lower)
        else:
            r = lower if mode == "rm" else upper
        r = r.astype(np.float32)
    return flush(r) if ftz else r


def fma32(a: Array, b: Array, c: Array) -> Array:
    """round(a * b + c) to float32, from float64 copies of float32 values."""
    p = a * b
    s = p + c
    r = s.astype(np.float32)
    ties = (s.view(np.uint64) & _TIE_MASK) == _TIE
    if np.count_nonzero(ties):
        return narrow(s, two_sum(p, c)[1])
    return r


def fma32_flushed(a: Array, b: Array, c: Array) -> Array:
    """`fma32` with a subnormal result flushed."""
    p = a * b
    s = p + c
    r = s.astype(np.float32)
    odd = (s.view(np.uint64) & _TIE_MASK) == _TIE
    if np.count_nonzero(odd):
        r = narrow(s, two_sum(p, c)[1])
    small = np.abs(r) < TINY
    if np.count_nonzero(small):
        return np.where(small, np.copysign(np.float32(0), r), r)
    return r


def fma32_mode(a: Array, b: Array, c: Array, mode: str, ftz: bool) -> Array:
    s, e = two_sum(a * b, c)
    return narrow(s, e, mode, ftz)


def sum_to_odd(a: Array, b: Array) -> Array:
    """a + b rounded to odd: when inexact, to the neighbour whose last bit is one."""
    s, e = two_sum(a, b)
    even = (s.view(np.uint64) & _ONE) == 0
    wrong = even & (e != 0) & np.isfinite(s)
    if np.count_nonzero(wrong):
        toward = np.nextafter(s, np.where(e > 0, np.inf, -np.inf))
        return np.where(wrong, toward, s)
    return s


def fma64(a: Array, b: Array, c: Array) -> Array:
    """round(a * b + c) to float64."""
    plain = a * b + c
    high, low = two_product(a, b)
    th, tl = two_sum(c, low)
    vh, vl = two_sum(high, th)
    result = vh + sum_to_odd(tl, vl)
    result = np.where(result == 0, plain, result)  # an exact zero has the sign of the plain sum
    # The error terms are exact only away from the ends of the exponent range.
    size = np.maximum(np.abs(a), np.abs(b))
    product_size = np.abs(high)
    safe = (size < 2.0**990) & (product_size < 2.0**1000) & (np.abs(c) < 2.0**1000)
    safe &= (product_size > 2.0**-900) | (a == 0) | (b == 0)
    if np.count_nonzero(safe) == safe.size:
        return result
    result = np.where(safe, result, plain)
    a, b, c, safe = np.broadcast_arrays(a, b, c, safe)
    bounded = np.isfinite(a) & np.isfinite(b)
    result = np.where(bounded & ~np.isfinite(c), c, result)
    finite = bounded & np.isfinite(c)
    for i in np.flatnonzero(~safe & finite):
        result[i] = _exact(float(a[i]), float(b[i]), float(c[i]), float(result[i]))
    return result


def _exact(a: float, b: float, c: float, otherwise: float) -> float:
    total = Fraction(a) * Fraction(b) + Fraction(c)
    if total == 0:
        return otherwise
    try:
        return total.numerator / total.denominator  # correctly rounded by Python
    except OverflowError:
        return float("inf") if total > 0 else float("-inf")


def toward(s: Array, error: Array, mode: str) -> Array:
    """float64 s + error, |error| at most half a unit, rounded in a direction."""
    error = np.where(np.isfinite(s), error, 0)
    lower = np.where(error < 0, np.nextafter(s, -np.inf), s)
    upper = np.where(error > 0, np.nextafter(s, np.inf), s)
    if mode == "rz":
        return np.where(s < 0, upper, lower)
    return {"rm": lower, "rp": upper}.get(mode, s)


def nearest_even(a: Array) -> Array:
    """Rounded to an integer in the same type."""
    return np.rint(a)


ROUNDERS = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def to_bfloat16(a: Array, mode: str = "rn") -> Array:
    """float32 to bfloat16 bits (uint16): nearest even, or truncated for rz."""
    bits = a.view(np.uint32)
    if mode == "rz":
        out = bits >> np.uint32(16)
    else:
        out = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(a), np.uint32(0x7FFF), out).astype(np.uint16)


def from_bfloat16(bits: Array) -> Array:
    """bfloat16 bits (uint16) as float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_tf32(a: Array, mode: str = "rna") -> Array:
    """float32 to tf32 (10 bits of mantissa) in float32 bits: ties away, ties even, or truncated."""
    bits = a.view(np.uint32)
    if mode == "rna":
        out = bits + np.uint32(0x1000)
    elif mode == "rn":
        out = bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))
    else:
        out = bits
    out = out & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(a), out, bits)
