"""Rows of float32 and float64 arithmetic, comparisons and special functions.

The approximate functions (ex2, lg2, rcp, rsqrt, sqrt, sin, cos, tanh, div.approx, div.full) return
the float32 nearest to the exact value: inside the error the PTX ISA allows (2 units in the last
place, 2^-11 for tanh, absolute 2^-20.5 to 2^-22 for sin, cos and lg2), better than a device.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.emulator.isa import Array, Semantics, row
from gpucnn.emulator.rounding import (
    flush,
    fma32,
    fma32_flushed,
    fma32_mode,
    fma64,
    narrow,
    toward,
    two_product,
    two_sum,
)

ROUND = "rn rz rm rp"
Make = Any


def _mode(mods: frozenset[str]) -> str:
    return next((m for m in ("rz", "rm", "rp") if m in mods), "rn")


def _saturate(a: Array) -> Array:
    # + 0 turns -0 into +0.
    return (np.where(np.isnan(a), 0, np.clip(a, 0, 1)) + 0).astype(a.dtype)


def _finish(function: Semantics, mods: frozenset[str]) -> Semantics:
    """With the result flushed and saturated as the modifiers say."""
    if "sat" in mods:
        inner = function
        function = lambda *v: _saturate(inner(*v))  # noqa: E731
    if "ftz" not in mods:
        return function
    return lambda *v: flush(function(*v))


def _simple(function: Semantics) -> Make:
    return lambda mods, kinds: _finish(function, mods)


def _sum32(sign: int) -> Make:
    operation = np.add if sign > 0 else np.subtract

    def make(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
        mode = _mode(mods)
        if mode == "rn":
            return _finish(operation, mods)

        def directed(a: Array, b: Array) -> Array:
            s, e = two_sum(a.astype(np.float64), sign * b.astype(np.float64))
            return narrow(s, e, mode)

        return _finish(directed, mods)

    return make


def _sum64(sign: int) -> Make:
    operation = np.add if sign > 0 else np.subtract

    def make(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
        mode = _mode(mods)
        if mode == "rn":
            return operation
        return lambda a, b: toward(*two_sum(a, sign * b), mode)

    return make


def _product32(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
    mode = _mode(mods)
    if mode == "rn":
        return _finish(np.multiply, mods)
    return _finish(
        lambda a, b: narrow(a.astype(np.float64) * b.astype(np.float64), None, mode), mods
    )


def _product64(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
    mode = _mode(mods)
    return np.multiply if mode == "rn" else lambda a, b: toward(*two_product(a, b), mode)


def _fma32(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
    mode, ftz = _mode(mods), "ftz" in mods
    if mode != "rn":
        function: Semantics = lambda a, b, c: fma32_mode(a, b, c, mode, ftz)  # noqa: E731
    else:
        function = fma32_flushed if ftz else fma32
    if "sat" in mods:
        return lambda a, b, c: _saturate(function(a, b, c))
    return function


def _fma64(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
    mode = _mode(mods)
    if mode == "rn":
        return fma64

    def directed(a: Array, b: Array, c: Array) -> Array:
        nearest = fma64(a, b, c)
        p, low = two_product(a, b)
        s, e = two_sum(p, c)
        high, rest = two_sum(e, low)
        return toward(nearest, ((s - nearest) + high) + rest, mode)

    return directed


def _wide32(function: Semantics) -> Make:
    """A float32 function done in float64: for quotients and roots one more rounding does no harm
    (Figueroa 1995: 53 bits are at least twice 24 and two).
    """

    def make(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
        mode = _mode(mods)
        if mode == "rn":
            return _finish(lambda *v: function(*v).astype(np.float32), mods)
        return _finish(lambda *v: narrow(function(*v), None, mode), mods)

    return make


def _divide_approx(a: Array, b: Array) -> Array:
    # PTX ISA: for 2^126 < |b| < 2^128 the result is 0.
    large = (np.abs(b) > 2.0**126) & np.isfinite(b)
    return np.where(large, np.where(np.isinf(a), np.nan, a * 0), a / b)


def extremum(function: Semantics) -> Make:
    """min and max: the other operand for a NaN, or NaN with .NaN; -0 is below +0."""
    smaller = function is np.fmin

    def make(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
        def apply(*values: Array) -> Array:
            result = values[0]
            for b in values[1:]:
                a = result
                result = function(a, b)
                zeros = (a == 0) & (b == 0)
                if np.count_nonzero(zeros):
                    sign = (
                        np.signbit(a) | np.signbit(b) if smaller else np.signbit(a) & np.signbit(b)
                    )
                    zero = np.where(sign, a.dtype.type(-0.0), a.dtype.type(0.0))
                    result = np.where(zeros, zero, result)
                if "NaN" in mods:
                    result = np.where(np.isnan(a) | np.isnan(b), a.dtype.type(np.nan), result)
            return result

        if "xorsign" in mods:
            return lambda a, b: np.copysign(
                apply(np.abs(a), np.abs(b)), np.where(np.signbit(a) ^ np.signbit(b), -1, 1)
            ).astype(a.dtype)
        return apply

    return make


def _upper_half(function: Semantics) -> Semantics:
    """float64 approximations give the upper 32 bits of the result, the lower are zero."""
    mask = np.array([0xFFFFFFFF00000000], np.uint64)

    def apply(a: Array) -> Array:
        result = (function(a).view(np.uint64) & mask).view(np.float64)
        return np.where(np.isnan(a), np.nan, result)

    return apply


def _flush64(function: Semantics) -> Semantics:
    def apply(a: Array) -> Array:
        a = np.where(np.abs(a) < 2.0**-1022, np.copysign(0.0, a), a)
        r: Array = function(a)
        return np.where(np.abs(r) < 2.0**-1022, np.copysign(0.0, r), r)

    return apply


def _copysign(a: Array, b: Array) -> Array:
    return np.copysign(b, a)


def _testp(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
    def subnormal(a: Array) -> Array:
        return (np.abs(a) < np.finfo(a.dtype).tiny) & (a != 0)

    tests: dict[str, Semantics] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda a: ~np.isnan(a),
        "notanumber": np.isnan,
        "normal": lambda a: np.isfinite(a) & (np.abs(a) >= np.finfo(a.dtype).tiny),
        "subnormal": subnormal,
    }
    return tests[next(iter(mods))]


F32: dict[str, Any] = {"kind": "float32", "flops": 1}
F64: dict[str, Any] = {"kind": "float64", "flops": 1}
row("add", "f32", "T<TT", make=_sum32(1), modifiers=ROUND + " ftz sat", **F32)
row("sub", "f32", "T<TT", make=_sum32(-1), modifiers=ROUND + " ftz sat", **F32)
row("mul", "f32", "T<TT", make=_product32, modifiers=ROUND + " ftz sat", **F32)
row("add", "f64", "T<TT", make=_sum64(1), modifiers=ROUND, **F64)
row("sub", "f64", "T<TT", make=_sum64(-1), modifiers=ROUND, **F64)
row("mul", "f64", "T<TT", make=_product64, modifiers=ROUND, **F64)
for _name in ("fma", "mad"):
    row(
        _name,
        "f32",
        "T<TTT",
        make=_fma32,
        modifiers=ROUND + " ftz sat",
        kind="float32",
        flops=2,
        widened=True,
    )
    row(_name, "f64", "T<TTT", make=_fma64, modifiers=ROUND, kind="float64", flops=2)
row("div", "f32", "T<TT", make=_wide32(np.divide), modifiers=ROUND + " ftz", widened=True, **F32)
row(
    "div",
    "f32",
    "T<TT",
    make=_wide32(np.divide),
    modifiers="ftz",
    needs="full",
    widened=True,
    **F32,
)
row(
    "div",
    "f32",
    "T<TT",
    make=_wide32(_divide_approx),
    modifiers="ftz",
    needs="approx",
    widened=True,
    **F32,
)
row("div", "f64", "T<TT", np.divide, modifiers="rn", **F64)
row("rcp", "f64", "T<T", lambda a: 1 / a, modifiers="rn", **F64)
row("sqrt", "f64", "T<T", np.sqrt, modifiers="rn", **F64)
row("rcp", "f64", "T<T", _flush64(_upper_half(lambda a: 1 / a)), needs="approx ftz", **F64)
row(
    "rsqrt",
    "f64",
    "T<T",
    _flush64(_upper_half(lambda a: 1 / np.sqrt(a))),
    needs="approx ftz",
    **F64,
)
row("rsqrt", "f64", "T<T", lambda a: 1 / np.sqrt(a), needs="approx", **F64)
_SPECIAL: dict[str, Any] = {"kind": "special", "flops": 1, "widened": True}
row("rcp", "f32", "T<T", make=_wide32(lambda a: 1 / a), modifiers=ROUND + " ftz approx", **_SPECIAL)
row("sqrt", "f32", "T<T", make=_wide32(np.sqrt), modifiers=ROUND + " ftz approx", **_SPECIAL)
row(
    "rsqrt",
    "f32",
    "T<T",
    make=_wide32(lambda a: 1 / np.sqrt(a)),
    modifiers="approx ftz",
    **_SPECIAL,
)
row("ex2", "f32", "T<T", make=_wide32(np.exp2), modifiers="approx ftz", **_SPECIAL)
row("lg2", "f32", "T<T", make=_wide32(np.log2), modifiers="approx ftz", **_SPECIAL)
row("sin", "f32", "T<T", make=_wide32(np.sin), modifiers="approx ftz", **_SPECIAL)
row("cos", "f32", "T<T", make=_wide32(np.cos), modifiers="approx ftz", **_SPECIAL)
row("tanh", "f32", "T<T", make=_wide32(np.tanh), modifiers="approx", **_SPECIAL)
row("abs", "f32", "T<T", make=_simple(np.abs), modifiers="ftz", kind="float32")
row("neg", "f32", "T<T", make=_simple(np.negative), modifiers="ftz", kind="float32")
row("abs", "f64", "T<T", np.abs, kind="float64")
row("neg", "f64", "T<T", np.negative, kind="float64")
row("min", "f32", "T<TT", make=extremum(np.fmin), modifiers="ftz NaN xorsign abs", kind="float32")
row("max", "f32", "T<TT", make=extremum(np.fmax), modifiers="ftz NaN xorsign abs", kind="float32")
row("min", "f64", "T<TT", make=extremum(np.fmin), kind="float64")
row("max", "f64", "T<TT", make=extremum(np.fmax), kind="float64")
row("copysign", "f32 f64", "T<TT", _copysign, kind="float32")
for _test in "finite infinite number notanumber normal subnormal".split():
    row("testp", "f32 f64", "P<T", make=_testp, needs=_test, kind="compare")
