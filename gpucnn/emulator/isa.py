"""The table of instructions that compute: a row an opcode family.

A row says which types and modifiers an opcode takes, what its operands are, which NumPy function
gives the result, and how a launch's counters see it. What touches memory, other lanes or the
program counter is no row: see `access.py`, `warp.py` and `program.py`.

Values are arrays of one lane each (or of length 1 where all lanes agree). A *form* of an array says
how a function wants it: a dtype code ("i4": the bits as int32), "z4" (float32 with subnormals
flushed to zero), "w8" (a float32 widened to float64), "zw8" (both).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Semantics = Callable[..., Any]

CODES = {
    "pred": "?", "b8": "u1", "u8": "u1", "s8": "i1", "b16": "u2", "u16": "u2", "s16": "i2",
    "f16": "f2", "bf16": "u2", "b32": "u4", "u32": "u4", "s32": "i4", "f32": "f4", "tf32": "u4",
    "f16x2": "u4", "bf16x2": "u4", "b64": "u8", "u64": "u8", "s64": "i8", "f64": "f8",
}  # fmt: skip
WIDE = {"s16": "s32", "u16": "u32", "s32": "s64", "u32": "u64"}

ANY = "integer float32 float64 float16 tensor special convert move compare logic".split()


@dataclass(frozen=True)
class Row:
    """One line of the table.

    name: the opcode before its first dot.
    types: the accepted lists of types, each "f32" or "u32 f32" for two.
    modifiers: those it may carry besides.
    operands: "T<TT": results, then sources; T first type, U second, W twice as wide as T, P
        predicate, I u32, B the unsigned integer of T's size.
    make: (modifiers, types) -> the function of the sources.
    kind: class for the counters; flops: floating-point operations of one lane.
    widened: float32 sources are wanted as float64.
    """

    name: str
    types: tuple[str, ...]
    modifiers: frozenset[str]
    operands: str
    make: Callable[[frozenset[str], tuple[str, ...]], Semantics]
    kind: str
    flops: int = 0
    widened: bool = False
    needs: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Operation:
    """A row applied to one opcode: result types, source types with the form of each, function."""

    results: tuple[str, ...]
    sources: tuple[str, ...]
    forms: tuple[str, ...]
    function: Semantics
    kind: str
    flops: int
    flushed: bool
    row: Row


ROWS: list[Row] = []


def row(
    name: str,
    types: str,
    operands: str,
    function: Semantics | None = None,
    *,
    make: Callable[[frozenset[str], tuple[str, ...]], Semantics] | None = None,
    modifiers: str = "",
    needs: str = "",
    kind: str = "integer",
    flops: int = 0,
    widened: bool = False,
) -> None:
    """Add a row. `types` are alternatives separated by spaces, "a/b" for an opcode of two types."""
    if make is None:
        if function is None:
            raise ValueError(f"{name}: a row needs its function")
        chosen: Semantics = function
        make = lambda mods, kinds: chosen  # noqa: E731
    ROWS.append(
        Row(
            name,
            tuple(types.split()),
            frozenset((modifiers + " " + needs).split()),
            operands,
            make,
            kind,
            flops,
            widened,
            frozenset(needs.split()),
        )
    )


@lru_cache(maxsize=4096)
def find(opcode: str) -> Operation | None:
    """The operation behind "add.rn.ftz.f32", None when no row takes it."""
    name, *suffixes = opcode.replace("::", "__").split(".")
    types = tuple(s for s in suffixes if s in CODES)
    mods = frozenset(s for s in suffixes if s not in CODES)
    for each in _by_name().get(name, ()):
        if mods <= each.modifiers and each.needs <= mods and "/".join(types) in each.types:
            return _apply(each, mods, types)
    return None


_INDEX: dict[str, list[Row]] = {}


def _by_name() -> dict[str, list[Row]]:
    if not _INDEX:
        from gpucnn.emulator import (  # noqa: F401  (their import fills ROWS)
            isa_bits,
            isa_convert,
            isa_float,
            isa_half,
            isa_integer,
        )

        for each in ROWS:
            _INDEX.setdefault(each.name, []).append(each)
    return _INDEX


def table() -> list[Row]:
    """All rows."""
    _by_name()
    return ROWS


def opcodes() -> list[str]:
    """One opcode for each row and list of types, with the modifiers the row needs."""
    return [
        ".".join([each.name, *sorted(each.needs), *types.split("/")])
        for each, types in ((r, t) for r in table() for t in r.types)
    ]


def _apply(each: Row, mods: frozenset[str], types: tuple[str, ...]) -> Operation:
    results, sources = (
        tuple(_type_of(letter, types) for letter in part) for part in each.operands.split("<")
    )
    ftz = "ftz" in mods
    forms = []
    for kind in sources:
        form = CODES[kind]
        if kind == "f32":
            form = ("zw8" if each.widened else "z4") if ftz else ("w8" if each.widened else "f4")
        forms.append(form)
    return Operation(
        results, sources, tuple(forms), each.make(mods, types), each.kind, each.flops, ftz, each
    )


def _type_of(letter: str, types: tuple[str, ...]) -> str:
    if letter == "T":
        return types[0]
    if letter == "U":
        return types[1]
    if letter == "W":
        return WIDE[types[0]]
    if letter == "B":
        return {"tf32": "b32"}.get(types[0], "b" + types[0].lstrip("usfb"))
    return {"P": "pred", "I": "u32", "J": "s32", "L": "b64", "H": "b16", "F": "f32"}[letter]


def dtype_of(kind: str) -> np.dtype[Any]:
    """The NumPy dtype of a PTX type."""
    return np.dtype(CODES[kind])


def combinations(*parts: str) -> str:
    """ "s32 u32", "s64" -> all pairs as "s32/s64 u32/s64"."""
    return " ".join("/".join(p) for p in product(*(part.split() for part in parts)))
