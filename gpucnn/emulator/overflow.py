"""Signed 32-bit index arithmetic that wraps on its way to an address.

Registers on the path from signed 32-bit arithmetic to an address carry a flag of the lanes whose
value has wrapped (None while there are none). A memory access reports the lanes whose address came
from such a value. Unsigned arithmetic may wrap, and what reaches no access is nobody's business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpucnn.emulator.isa import Array
from gpucnn.emulator.program import Program
from gpucnn.emulator.syntax import Mem, Reg

TAINT = 1 << 28
"""Added to a register's index: where its flag is kept."""

_CARRIES = {
    "add",
    "sub",
    "mul",
    "mad",
    "shl",
    "cvt",
    "mov",
    "selp",
    "cvta",
    "min",
    "max",
    "neg",
    "or",
}


def _unsigned(opcode: str) -> bool:
    """Whether a 32-bit value is widened as unsigned: then wrapping is arithmetic modulo 2^32."""
    return opcode.startswith(("mul.wide.u32", "mad.wide.u32", "cvt.u64.u32", "cvt.s64.u32"))


def followed(program: Program) -> frozenset[int]:
    """The registers whose wrapping matters: those an address is computed from."""
    feeds: dict[int, set[int]] = {}
    wanted: set[int] = set()
    signed: set[int] = set()
    for index, instruction in enumerate(program.instructions):
        name = instruction.opcode.partition(".")[0]
        for operand in instruction.operands:
            if isinstance(operand, Mem) and isinstance(operand.base, Reg):
                wanted.add(operand.base.index)
        if name not in _CARRIES or _unsigned(instruction.opcode):
            continue
        step = program.step(index)
        for reg, kind in step.results:
            if reg is None or kind[0] == "f" or kind == "pred":
                continue
            if step.wraps:
                signed.add(reg.index)
            sources = [o for o, form in step.sources if isinstance(o, Reg) and form[0] in "iua"]
            feeds.setdefault(reg.index, set()).update(o.index for o in sources)
    pending = list(wanted)
    while pending:
        for source in feeds.get(pending.pop(), ()):
            if source not in wanted:
                wanted.add(source)
                pending.append(source)
    # Of those, the ones that signed arithmetic reaches.
    reached = wanted & signed
    changed = True
    while changed:
        changed = False
        for target, sources_ in feeds.items():
            if target in wanted and target not in reached and sources_ & reached:
                reached.add(target)
                changed = True
    return frozenset(reached)


def checked(kind: str, function: Callable[..., Array]) -> Callable[..., tuple[Array, Any]]:
    """The function of 32-bit signed values with a flag: (values..., flag) -> result, flag."""
    if kind in ("add", "sub"):
        sign = 1 if kind == "add" else -1

        def add(a: Array, b: Array, flag: Any) -> tuple[Array, Any]:
            result = function(a, b)
            wrong = ((a ^ result) & ((b if sign > 0 else ~b) ^ result)) < 0
            return result, _merge(flag, wrong)

        return add
    if kind == "mul":

        def multiply(a: Array, b: Array, flag: Any) -> tuple[Array, Any]:
            wide = a.astype(np.int64) * b
            result = wide.astype(np.int32)
            return result, _merge(flag, wide != result)

        return multiply
    if kind == "mad":

        def mad(a: Array, b: Array, c: Array, flag: Any) -> tuple[Array, Any]:
            wide = a.astype(np.int64) * b + c
            result = wide.astype(np.int32)
            return result, _merge(flag, wide != result)

        return mad

    def shift(a: Array, b: Array, flag: Any) -> tuple[Array, Any]:
        result = function(a, b)
        back = result.view(np.int32) >> np.minimum(b, np.uint32(31)).view(np.int32)
        wrong = back != a.view(np.int32)
        # A shift of an unsigned value drops bits on purpose where its sign is not kept.
        return result, _merge(flag, wrong)

    return shift


def _merge(flag: Any, wrong: Array) -> Any:
    if np.count_nonzero(wrong) == 0:
        return flag
    return wrong if flag is None else flag | wrong
