"""The parts of PTX text: registers, literals, addresses, instructions, variables, functions."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Reg:
    """A register: `index` within the module, declared `type` such as "b32"."""

    index: int
    type: str
    name: str


@dataclass(frozen=True)
class Imm:
    """A literal: the integer, or the float behind `0f` and `0d`."""

    value: int | float


@dataclass(frozen=True)
class Special:
    """A read-only register such as %tid.x."""

    name: str


@dataclass(frozen=True)
class Symbol:
    """A label, variable, parameter or function."""

    name: str
    offset: int = 0


@dataclass(frozen=True)
class Mem:
    """[base + offset]"""

    base: Reg | Symbol | Imm
    offset: int


@dataclass(frozen=True)
class Group:
    """{a, b, ...} of vectors, a|b of two results, (a, b) of calls."""

    items: tuple[Operand, ...]


@dataclass(frozen=True)
class Not:
    """!p"""

    reg: Reg


Operand = Reg | Imm | Special | Symbol | Mem | Group | Not


@dataclass(frozen=True)
class Loc:
    """A place in the source; `inlined` is the call site, None at the end of the chain."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass
class Instruction:
    opcode: str
    operands: tuple[Operand, ...]
    guard: Reg | None
    negated: bool
    line: int
    loc: Loc | None
    label: str | None = None  # set on the marks that stand for labels


@dataclass
class Variable:
    """A variable of a state space; `data` are its first bytes, None when it is not initialised."""

    name: str
    space: str
    align: int
    size: int
    data: bytes | None = None
    extern: bool = False


@dataclass
class Function:
    name: str
    entry: bool
    params: list[Variable] = field(default_factory=list)
    results: list[Variable] = field(default_factory=list)
    variables: list[Variable] = field(default_factory=list)
    body: list[Instruction] = field(default_factory=list)
    tables: dict[str, list[str]] = field(default_factory=dict)
    threads: int = 1024
    line: int = 0
    defined: bool = False


@dataclass
class Text:
    """A parsed module."""

    functions: dict[str, Function] = field(default_factory=dict)
    variables: list[Variable] = field(default_factory=list)
    target: str = ""


SIZES = {
    "pred": 1, "b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2,
    "b32": 4, "u32": 4, "s32": 4, "f32": 4, "f16x2": 4, "bf16x2": 4, "tf32": 4,
    "b64": 8, "u64": 8, "s64": 8, "f64": 8, "b128": 16,
}  # fmt: skip

_INTEGER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|\d+)U?$")
_FLOAT = re.compile(r"(-?)0([fFdD])([0-9a-fA-F]+)$")
_DECIMAL = re.compile(r"[+-]?\d+\.\d*(?:[eE][+-]?\d+)?$")


def split(text: str) -> list[str]:
    """At the commas outside brackets."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        if c in "{[(":
            depth += 1
        elif c in "}])":
            depth -= 1
        elif c == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    last = text[start:].strip()
    return [*parts, last] if last else parts


def literal(text: str) -> int | float | None:
    """The number a token stands for, None when it is not a literal."""
    if _INTEGER.match(text):
        return (
            int(text.rstrip("U"), 0)
            if not re.match(r"[+-]?0\d", text)
            else int(text.rstrip("U"), 8)
        )
    match = _FLOAT.match(text)
    if match:
        raw = bytes.fromhex(match[3])
        value: float = struct.unpack(">f" if match[2] in "fF" else ">d", raw)[0]
        return -value if match[1] else value
    return float(text) if _DECIMAL.match(text) else None
