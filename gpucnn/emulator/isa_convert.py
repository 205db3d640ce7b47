"""Rows of cvt: between integers, floats and the short formats of tensor cores."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.emulator.isa import CODES, Array, Semantics, row
from gpucnn.emulator.rounding import (
    ROUNDERS,
    flush,
    from_bfloat16,
    narrow,
    to_bfloat16,
    to_tf32,
)

INTEGERS = "u8 s8 u16 s16 u32 s32 u64 s64"
CONVERT: dict[str, Any] = {"kind": "convert"}


def _mode(mods: frozenset[str]) -> str:
    return next((m for m in ("rz", "rm", "rp") if m in mods), "rn")


def _integer(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
    to = np.dtype(CODES[kinds[0]])
    if "sat" not in mods:
        return lambda a: a.astype(to)
    info = np.iinfo(to)

    def clamp(a: Array) -> Array:
        own = np.iinfo(a.dtype)
        low, high = max(info.min, own.min), min(info.max, own.max)
        return np.clip(a, a.dtype.type(low), a.dtype.type(high)).astype(to)

    return clamp


def _float_to_integer(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
    """Rounded, clamped to the range; NaN gives 0, or the lowest of 64 bits (PTX ISA, cvt)."""
    to = np.dtype(CODES[kinds[0]])
    info = np.iinfo(to)
    rounder = ROUNDERS[next(m for m in mods if m in ROUNDERS)]
    wide = to.itemsize == 8 or kinds[1] == "f64"
    for_nan = (
        np.array([1 << (8 * to.itemsize - 1)], f"u{to.itemsize}").view(to) if wide else to.type(0)
    )

    def apply(a: Array) -> Array:
        r = rounder(a.astype(np.float64))
        # 2^63 and 2^64 are floats, the largest integers are not: compare with the power of two.
        above, below = r >= float(info.max) + (to.itemsize < 8), r < float(info.min)
        bad = above | below | np.isnan(r)
        safe = np.where(bad, 0.0, r)
        if to == np.uint64:
            high = safe >= 2.0**63
            shifted = np.where(high, safe - 2.0**63, safe).astype(np.int64).view(np.uint64)
            result = np.where(high, shifted + np.uint64(1 << 63), shifted)
        else:
            result = safe.astype(np.int64).astype(to)
        result = np.where(above, to.type(info.max), result)
        result = np.where(below, to.type(info.min), result)
        return np.where(np.isnan(r), for_nan, result).astype(to)

    return apply


def _integer_to_float(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
    to, mode = np.dtype(CODES[kinds[0]]), _mode(mods)

    def apply(a: Array) -> Array:
        if mode == "rn":
            return _finish(a.astype(to), mods)
        largest = np.finfo(to).max
        nearest = np.clip(a.astype(to), -largest, largest)
        # Compare in integers: float64 cannot hold all of 64 bits.
        exact = a.astype(object)
        back = np.array([int(x) for x in nearest.ravel()], dtype=object).reshape(nearest.shape)
        error = np.array([(x > y) - (x < y) for x, y in zip(exact, back, strict=True)])
        down = np.where(error < 0, np.nextafter(nearest, to.type(-np.inf)), nearest)
        up = np.where(error > 0, np.nextafter(nearest, to.type(np.inf)), nearest)
        if mode == "rz":
            return _finish(np.where(a < 0, up, down).astype(to), mods)
        return _finish((down if mode == "rm" else up).astype(to), mods)

    return apply


def _finish(a: Array, mods: frozenset[str]) -> Array:
    if "sat" in mods:
        a = (np.where(np.isnan(a), 0, np.clip(a, 0, 1)) + 0).astype(a.dtype)
    if "relu" in mods:
        a = np.where(a > 0, a, a.dtype.type(0)).astype(a.dtype)
    return flush(a) if "ftz" in mods and a.dtype == np.float32 else a


def _directed(a: Array, mode: str) -> Array:
    """float64 to float16 rounded in a direction."""
    largest = np.finfo(np.float16).max
    r = np.clip(a.astype(np.float16), -largest, largest)
    back = r.astype(np.float64)
    lower = np.where(back > a, np.nextafter(r, np.float16(-np.inf)), r)
    upper = np.where(back < a, np.nextafter(r, np.float16(np.inf)), r)
    chosen = np.where(a < 0, upper, lower) if mode == "rz" else lower if mode == "rm" else upper
    return np.where(np.isfinite(a), chosen, a).astype(np.float16)


def _float_to_float(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
    to, mode = np.dtype(CODES[kinds[0]]), _mode(mods)
    rounder = next((ROUNDERS[m] for m in mods if m in ROUNDERS), None)

    def apply(a: Array) -> Array:
        if rounder is not None:
            return _finish(rounder(a).astype(to), mods)
        if to == np.float32 and a.dtype == np.float64:
            return _finish(narrow(a, None, mode), mods)
        if to == np.float16 and mode != "rn":
            return _finish(_directed(a.astype(np.float64), mode), mods)
        return _finish(a.astype(to), mods)

    return apply


def _pack16(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
    """Two float32 to a pair of 16-bit floats: a in the upper half."""

    def half(a: Array) -> Array:
        if "relu" in mods:
            a = np.where(a > 0, a, np.float32(0)).astype(np.float32)
        if kinds[0].startswith("bf16"):
            return to_bfloat16(a, _mode(mods))
        return _float_to_float(mods - {"relu"}, ("f16", "f32"))(a).view(np.uint16)

    def apply(a: Array, b: Array) -> Array:
        return (half(a).astype(np.uint32) << np.uint32(16)) | half(b).astype(np.uint32)

    return apply


def _to_bf16(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
    return lambda a: to_bfloat16(_finish(a, mods - {"ftz"}), _mode(mods))


def _to_tf32(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
    mode = "rna" if "rna" in mods else _mode(mods)
    return lambda a: to_tf32(_finish(a, mods - {"ftz"}), mode)


_PAIRS = " ".join(f"{d}/{s}" for d in INTEGERS.split() for s in INTEGERS.split())
_FLOATS = "f16 f32 f64"
row("cvt", _PAIRS, "T<U", make=_integer, modifiers="sat", **CONVERT)
_TO_INT = " ".join(f"{d}/{s}" for d in INTEGERS.split() for s in _FLOATS.split())
for _round in ROUNDERS:
    row("cvt", _TO_INT, "T<U", make=_float_to_integer, needs=_round, modifiers="ftz sat", **CONVERT)
    row(
        "cvt",
        "f16/f16 f32/f32 f64/f64",
        "T<U",
        make=_float_to_float,
        needs=_round,
        modifiers="ftz sat",
        **CONVERT,
    )
_FROM_INT = " ".join(f"{d}/{s}" for d in _FLOATS.split() for s in INTEGERS.split())
row("cvt", _FROM_INT, "T<U", make=_integer_to_float, modifiers="rn rz rm rp sat", **CONVERT)
_FLOAT_PAIRS = " ".join(f"{d}/{s}" for d in _FLOATS.split() for s in _FLOATS.split())
row("cvt", _FLOAT_PAIRS, "T<U", make=_float_to_float, modifiers="rn rz rm rp ftz sat", **CONVERT)
row("cvt", "bf16/f32", "T<U", make=_to_bf16, modifiers="rn rz relu", **CONVERT)
row("cvt", "f32/bf16", "T<U", lambda a: from_bfloat16(a), modifiers="ftz", **CONVERT)
row("cvt", "bf16x2/f32 f16x2/f32", "T<UU", make=_pack16, modifiers="rn rz relu", **CONVERT)
row("cvt", "tf32/f32", "B<U", make=_to_tf32, modifiers="rna rn rz relu satfinite", **CONVERT)
