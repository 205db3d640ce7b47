"""A basic block as one Python function over NumPy arrays.

The function takes the registers (a list or dictionary by register index) and the lanes. Inside, a
register is a local variable in each form it is wanted in: raw bits, flushed, widened; a form is
made once and used until the register is written again. Registers hold their declared type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpucnn.emulator.isa import CODES, Array
from gpucnn.emulator.lower import Step, constant
from gpucnn.emulator.overflow import TAINT, checked
from gpucnn.emulator.program import Block, Program
from gpucnn.emulator.rounding import flush
from gpucnn.emulator.syntax import Imm, Instruction, Mem, Not, Operand, Reg

Run = Callable[[Any, Any], Any]


@dataclass
class Compiled:
    """A block ready to run.

    run(registers, lanes) writes the registers of `writes` and returns the branch's predicate or
    table index; `kinds` counts its instructions by class, `flops` those of a lane.
    """

    run: Run
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    kinds: dict[str, int]
    flops: dict[str, int]
    source: str
    lines: frozenset[tuple[str, int]] = frozenset()
    head: Step | None = None


@dataclass
class _Writer:
    lines: list[str] = field(default_factory=list)
    names: dict[str, Any] = field(default_factory=dict)
    forms: dict[int, dict[str, str]] = field(default_factory=dict)
    taints: dict[int, str] = field(default_factory=dict)
    reads: dict[int, None] = field(default_factory=dict)
    count: int = 0

    def fresh(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def name(self, value: Any) -> str:
        self.count += 1
        name = f"c{self.count}"
        self.names[name] = value
        return name

    def emit(self, text: str) -> None:
        self.lines.append("    " + text)

    def read(self, reg: Reg, form: str) -> str:
        forms = self.forms.get(reg.index)
        own = CODES[reg.type]
        if forms is None:
            var = self.fresh()
            self.emit(f"{var} = R[{reg.index}]")
            forms = self.forms[reg.index] = {own: var}
            self.reads[reg.index] = None
        if form not in forms:
            forms[form] = self._derive(reg, forms, form)
        return forms[form]

    def _derive(self, reg: Reg, forms: dict[str, str], form: str) -> str:
        if form == "a8":
            wide = np.dtype(CODES[reg.type]).itemsize == 8
            # 32-bit addresses are signed here: a negative one with an offset is still in place.
            base = self.read(reg, "i8" if wide else "i4")
            return base if wide else self._make(f"{base}.astype(i8)")
        if form == "z4":
            return self._make(f"flush({self.read(reg, 'f4')})")
        if form == "w8":
            return self._make(f"{self.read(reg, 'f4')}.astype(f8)")
        if form == "zw8":
            return self._make(f"{self.read(reg, 'z4')}.astype(f8)")
        size = np.dtype(form).itemsize
        raw = [f for f in forms if f not in ("a8", "z4", "w8", "zw8")]
        for known in raw:
            if np.dtype(known).itemsize == size:
                return self._make(f"{forms[known]}.view({self.dtype(form)})")
        own = np.dtype(CODES[reg.type]).itemsize
        if own < size:
            # A narrower register read as a wider type: zero-extended.
            base = self.read(reg, f"u{own}" if reg.type != "pred" else "?")
            return self._make(f"{base}.astype({self.dtype(f'u{size}')}).view({self.dtype(form)})")
        base = self.read(reg, f"u{own}")
        return self._make(f"{base}.astype({self.dtype(f'u{size}')}).view({self.dtype(form)})")

    def dtype(self, form: str) -> str:
        name = "bool_" if form == "?" else form
        self.names[name] = np.dtype(form)
        return name

    def _make(self, expression: str) -> str:
        var = self.fresh()
        self.emit(f"{var} = {expression}")
        return var

    def operand(self, operand: Operand, form: str) -> str:
        if isinstance(operand, Mem):
            operand = operand.base
        if isinstance(operand, Not):
            return "~" + self.read(operand.reg, form)
        if isinstance(operand, Reg):
            return self.read(operand, form)
        if isinstance(operand, Imm):
            return self.name(constant(operand, form))
        raise TypeError(f"{operand} cannot be read")

    def write(self, reg: Reg, kind: str, var: str, flushed: bool) -> None:
        own, form = CODES[reg.type], CODES[kind]
        if np.dtype(form).itemsize != np.dtype(own).itemsize:
            # Narrower results are extended by their sign, wider ones cut.
            to = np.dtype(own)
            target = f"{np.dtype(form).kind}{to.itemsize}" if form != "?" else own
            if np.dtype(form).kind == "f":
                var, form = self._make(f"{var}.view({self.dtype('u' + form[1])})"), "u" + form[1]
                target = own
            var = self._make(f"{var}.astype({self.dtype(target)})")
            form = target
        forms = {form: var}
        if flushed and form == "f4":
            forms["z4"] = var
        self.forms[reg.index] = forms
        self.taints.pop(reg.index, None)


def compile_block(
    program: Program, block: Block, overflow: frozenset[int] = frozenset()
) -> Compiled:
    """`overflow`: registers whose wrapping is followed (see `overflow.py`)."""
    w = _Writer()
    w.names.update(flush=flush, f8=np.dtype("f8"), i8=np.dtype("i8"))
    kinds: dict[str, int] = {}
    flops: dict[str, int] = {}
    head = None
    written: dict[int, Reg] = {}
    for position, i in enumerate(block.instructions):
        instruction = program.instructions[i]
        step = program.step(i)
        kinds[step.kind] = kinds.get(step.kind, 0) + 1
        if step.flops:
            flops[step.kind] = flops.get(step.kind, 0) + step.flops
        if position == 0 and block.waits:
            head = step
        _emit(w, step, instruction, overflow)
        for reg, _ in step.results:
            if reg is not None:
                written[reg.index] = reg
    result = "None"
    if block.guard is not None and block.end == "branch":
        result = ("~" if block.negated else "") + w.read(block.guard, "?")
    elif block.end == "table":
        result = w.operand(program.instructions[block.instructions[-1]].operands[0], "u4")
    if block.end not in ("next", "guarded") or block.guard is not None:
        kinds["control"] = kinds.get("control", 0) + (block.end not in ("table", "guarded"))
    outs = sorted(index for index in written if index in block.live_out)
    for index in outs:
        reg = written[index]
        w.emit(f"R[{index}] = {w.read(reg, CODES[reg.type])}")
    taints = _taints_out(w, overflow, written, block)
    w.emit(f"return {result}")
    source = "def run(R, x):\n" + "\n".join(w.lines) + "\n"
    scope = dict(w.names)
    exec(compile(source, f"<{program.name} block {block.index}>", "exec"), scope)  # noqa: S102
    reads = list(w.reads)
    marks = [program.instructions[i].loc for i in block.instructions]
    lines = frozenset((mark.file, mark.line) for mark in marks if mark is not None)
    return Compiled(scope["run"], tuple(reads), (*outs, *taints), kinds, flops, source, lines, head)


def _emit(w: _Writer, step: Step, instruction: Instruction, overflow: frozenset[int]) -> None:
    if step.alias and step.results[0][0] is not None and isinstance(step.sources[0][0], Reg):
        source, to = step.sources[0][0], step.results[0][0]
        w.read(source, CODES[source.type])
        if np.dtype(CODES[source.type]).itemsize == np.dtype(CODES[to.type]).itemsize:
            taint = _taint_of(w, [source], overflow)
            w.forms[to.index] = dict(w.forms[source.index])
            _set_taint(w, to, taint, overflow)
            return
    arguments = [w.operand(operand, form) for operand, form in step.sources]
    regs = [o.base if isinstance(o, Mem) else o for o, _ in step.sources]
    taint = _taint_of(w, [r for r in regs if isinstance(r, Reg)], overflow)
    target = step.results[0][0] if step.results else None
    if step.wraps and target is not None and target.index in overflow:
        var = w.fresh()
        flag = w.fresh()
        call = w.name(checked(step.wraps, step.function))
        w.emit(f"{var}, {flag} = {call}({', '.join([*arguments, taint or 'None'])})")
        w.write(target, step.results[0][1], var, False)
        w.taints[target.index] = flag
        return
    if step.lanes:
        if taint is not None and hasattr(step.function, "tainted"):
            w.emit(f"{w.name(step.function.tainted)}(x, {taint})")
        arguments = ["x", *arguments]
    call = f"{w.name(step.function)}({', '.join(arguments)})"
    names = [w.fresh() for _ in step.results]
    w.emit(f"{', '.join(names)} = {call}" if names else call)
    for var, (reg, kind) in zip(names, step.results, strict=True):
        if reg is not None:
            w.write(reg, kind, var, step.flushed)
            if not step.lanes:
                _set_taint(w, reg, taint, overflow)


def _taint_of(w: _Writer, regs: list[Reg], overflow: frozenset[int]) -> str | None:
    """The variable that says which lanes' sources have wrapped, None when none can have."""
    found = []
    for reg in regs:
        if reg.index not in overflow:
            continue
        if reg.index not in w.taints:
            var = w.fresh()
            w.emit(f"{var} = R[{TAINT + reg.index}]")
            w.reads[TAINT + reg.index] = None
            w.taints[reg.index] = var
        found.append(w.taints[reg.index])
    if not found:
        return None
    if len(found) == 1:
        return found[0]
    w.names["either"] = _either
    var = w.fresh()
    w.emit(f"{var} = either({', '.join(found)})")
    return var


def _set_taint(w: _Writer, reg: Reg, taint: str | None, overflow: frozenset[int]) -> None:
    if reg.index in overflow:
        w.taints[reg.index] = taint or "None"


def _taints_out(
    w: _Writer, overflow: frozenset[int], written: dict[int, Reg], block: Block
) -> list[int]:
    outs = []
    for index in sorted(written):
        if index in overflow and index in block.live_out:
            w.emit(f"R[{TAINT + index}] = {w.taints.get(index, 'None')}")
            outs.append(TAINT + index)
    return outs


def _either(*flags: Array | None) -> Array | None:
    found = [f for f in flags if f is not None]
    if not found:
        return None
    result = found[0]
    for f in found[1:]:
        result = result | f
    return result
