"""Rows of 16-bit floats, single and in pairs.

A float16 or bfloat16 operation is done in float32 (fma: float64) and rounded to 16 bits: more than
twice the digits and two, so the second rounding does no harm.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.emulator.isa import Array, Semantics, row
from gpucnn.emulator.isa_float import extremum
from gpucnn.emulator.rounding import from_bfloat16, sum_to_odd, to_bfloat16

HALF: dict[str, Any] = {"kind": "float16"}


def _fma(a: Array, b: Array, c: Array) -> Array:
    # Products are exact in float64; the sum keeps what was lost as an odd last bit.
    return sum_to_odd(a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64))


_FUNCTIONS: dict[str, Semantics] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "fma": _fma,
    "min": extremum(np.fmin)(frozenset(), ()), "max": extremum(np.fmax)(frozenset(), ()),
    "neg": np.negative, "abs": np.abs,
}  # fmt: skip


def _half(function: Semantics, mods: frozenset[str]) -> Semantics:
    def apply(*values: Array) -> Array:
        result = function(*(v.astype(np.float32) for v in values)).astype(np.float16)
        if "sat" in mods:
            result = (np.where(np.isnan(result), 0, np.clip(result, 0, 1)) + 0).astype(np.float16)
        if "relu" in mods:
            result = np.where(result > 0, result, np.float16(0)).astype(np.float16)
        return result

    return apply


def _brain(function: Semantics, mods: frozenset[str]) -> Semantics:
    def apply(*values: Array) -> Array:
        wide = function(*(from_bfloat16(v) for v in values))
        if wide.dtype == np.float64:
            # To float32 rounded to odd, so that the next rounding is the only one.
            near = wide.astype(np.float32)
            inexact = (near.astype(np.float64) != wide) & np.isfinite(near)
            cut = np.where(np.abs(near) > np.abs(wide), np.nextafter(near, np.float32(0)), near)
            odd = (cut.astype(np.float32).view(np.uint32) | np.uint32(1)).view(np.float32)
            wide = np.where(inexact, odd, near).astype(np.float32)
        if "relu" in mods:
            wide = np.where(wide > 0, wide, np.float32(0)).astype(np.float32)
        return to_bfloat16(wide)

    return apply


def _pair(single: Semantics, brain: bool) -> Semantics:
    def apply(*values: Array) -> Array:
        halves = []
        for shift in (0, 16):
            parts = [
                ((v >> np.uint32(shift)) & np.uint32(0xFFFF)).astype(np.uint16) for v in values
            ]
            result = single(*(parts if brain else [p.view(np.float16) for p in parts]))
            halves.append((result if brain else result.view(np.uint16)).astype(np.uint32))
        return halves[0] | (halves[1] << np.uint32(16))

    return apply


def _make(name: str) -> Semantics:
    function = _FUNCTIONS[name]

    def make(mods: frozenset[str], kinds: tuple[str, ...]) -> Semantics:
        brain = kinds[0].startswith("bf16")
        single = (_brain if brain else _half)(function, mods)
        return _pair(single, brain) if kinds[0].endswith("x2") else single

    return make


for _name in _FUNCTIONS:
    _count = {"fma": 3, "neg": 1, "abs": 1}.get(_name, 2)
    row(
        _name,
        "f16 f16x2 bf16 bf16x2",
        "T<" + "T" * _count,
        make=_make(_name),
        modifiers="rn ftz sat relu",
        flops=2 if _name == "fma" else 1,
        **HALF,
    )
row(
    "ex2",
    "f16",
    "T<T",
    lambda a: np.exp2(a.astype(np.float32)).astype(np.float16),
    needs="approx",
    kind="special",
)
row(
    "tanh",
    "f16",
    "T<T",
    lambda a: np.tanh(a.astype(np.float32)).astype(np.float16),
    needs="approx",
    kind="special",
)
