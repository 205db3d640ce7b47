"""Extended-precision arithmetic: add.cc, addc, sub.cc, subc, mad.cc, madc and their carry bit."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.emulator.isa import CODES, Array
from gpucnn.emulator.isa_integer import multiply_high
from gpucnn.emulator.lower import Service, Step, registers, service
from gpucnn.emulator.syntax import Operand, Reg

CARRY = Reg(1 << 27, "pred", "CC")
"""The condition code register of a thread."""


@service("add", "addc", "sub", "subc", "mad", "madc")
def _carry(s: Service) -> Step:
    name = s.instruction.opcode.partition(".")[0]
    kind = s.type()
    takes, gives = name.endswith("c"), "cc" in s.mods
    if not (takes or gives) or kind not in ("u32", "s32", "u64", "s64"):
        raise s.unknown()
    code = "u" + CODES[kind][1]
    signed = np.dtype(CODES[kind])
    high = "hi" in s.mods

    def total(a: Array, b: Array, carry: Any) -> tuple[Array, Array]:
        first = a + b
        result = first + carry.astype(code)
        return result, (first < a) | (result < first)

    def difference(a: Array, b: Array, borrow: Any) -> tuple[Array, Array]:
        taken = borrow.astype(code)
        first = a - b
        result = first - taken
        return result, (a < b) | (first < taken)

    def multiply(a: Array, b: Array, c: Array, carry: Any) -> tuple[Array, Array]:
        product = multiply_high(a.view(signed), b.view(signed)).view(code) if high else a * b
        return total(product, c, carry)

    function: Any = {"add": total, "sub": difference, "mad": multiply}[name.removesuffix("c")]
    none = np.zeros(1, np.bool_)

    def run(*values: Array) -> Any:
        result, carry = function(*values) if takes else function(*values, none)
        return (result, carry) if gives else result

    to, *sources = s.instruction.operands
    items: list[tuple[Operand, str]] = [(o, code) for o in sources]
    if takes:
        items.append((CARRY, "?"))
    results = [(registers(to)[0], "b" + kind[1:])]
    if gives:
        results.append((CARRY, "pred"))
    return Step(run, items, results, "integer")
