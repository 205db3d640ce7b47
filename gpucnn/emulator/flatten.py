"""One kernel as a list of instructions: calls inlined, symbols placed in their spaces."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpucnn.emulator.errors import PtxError
from gpucnn.emulator.syntax import (
    Function,
    Group,
    Imm,
    Instruction,
    Loc,
    Mem,
    Not,
    Operand,
    Reg,
    Special,
    Symbol,
    Text,
    Variable,
)

RED_ZONE = 128
"""Bytes between two shared arrays, and before the first."""

IGNORED_CALLS = {"vprintf"}


@dataclass(frozen=True)
class SharedArray:
    name: str
    offset: int
    size: int


class Flat:
    """An entry of a module as one list of instructions.

    instructions: all of them, calls inlined; a position in the list is the name of an instruction.
    places: address of each symbol in its space (params, shared, local, and `globals_`).
    """

    def __init__(self, text: Text, entry: str, globals_: dict[str, int]) -> None:
        function = text.functions.get(entry)
        if function is None or not function.entry:
            names = ", ".join(f.name for f in text.functions.values() if f.entry)
            raise PtxError(f"no entry '{entry}', the module has {names}")
        self.text, self.function, self.globals = text, function, globals_
        self.name = entry
        self.instructions: list[Instruction] = []
        self.registers = 1 + max(
            (r.index for f in text.functions.values() for i in f.body for r in registers_in(i)),
            default=0,
        )
        self.specials: dict[str, Reg] = {}
        self.param_offsets: dict[str, tuple[int, int]] = {}
        self.param_size = 0
        for p in function.params:
            self.param_size = -(-self.param_size // p.align) * p.align
            self.param_offsets[p.name] = (self.param_size, p.size)
            self.param_size += p.size
        self.local_size = 0
        self.shared_size = 0
        self.shared_arrays: list[SharedArray] = []
        self.dynamic: int | None = None
        self._shared_places: dict[str, int] = {}
        self._dynamic_align = 16
        self._dynamic_names: list[str] = []
        for v in text.variables:
            if v.space == "shared":
                self._place_shared(v)
        self._inlined = 0
        self._labels: dict[str, int] = {}
        self._tables: dict[str, list[str]] = {}
        self._inline(function, "", {}, ())
        self._lay_dynamic()

    # Placement

    def _place_shared(self, v: Variable) -> None:
        if v.name in self._shared_places:
            return
        if v.extern:
            self._dynamic_align = max(self._dynamic_align, v.align)
            self._dynamic_names.append(v.name)
            self._shared_places[v.name] = -1
            return
        start = -(-(self.shared_size + RED_ZONE) // RED_ZONE) * RED_ZONE
        start = -(-start // v.align) * v.align
        self._shared_places[v.name] = start
        self.shared_arrays.append(SharedArray(v.name, start, v.size))
        self.shared_size = start + v.size

    def _lay_dynamic(self) -> None:
        """Dynamic shared memory lies last, all extern arrays at its start."""
        if not self._dynamic_names:
            return
        align = max(self._dynamic_align, RED_ZONE)
        start = -(-(self.shared_size + RED_ZONE) // align) * align
        self.dynamic = start
        for i, instruction in enumerate(self.instructions):
            self.instructions[i] = replace(
                instruction, operands=tuple(self._redirect(o, start) for o in instruction.operands)
            )

    def _redirect(self, operand: Operand, start: int) -> Operand:
        if isinstance(operand, Mem) and isinstance(operand.base, Symbol):
            return Mem(Imm(start), operand.offset)
        if isinstance(operand, Symbol) and operand.name == "dynamic shared":
            return Imm(start + operand.offset)
        return operand

    def _local(self, v: Variable) -> int:
        start = -(-self.local_size // v.align) * v.align
        self.local_size = start + max(v.size, 1)
        return start

    # Inlining

    def _inline(
        self, function: Function, prefix: str, renamed: dict[str, Imm], stack: tuple[str, ...]
    ) -> None:
        if function.name in stack:
            raise PtxError(
                f"line {function.line}: {function.name} calls itself, recursion is not run"
            )
        stack = (*stack, function.name)
        places: dict[str, tuple[str, int]] = {
            n: ("local", int(a.value)) for n, a in renamed.items()
        }
        for v in function.variables:
            if v.space in ("local", "param"):
                places[v.name] = ("local", self._local(v))
            else:
                self._place_shared(v)
        rename: dict[int, Reg] = {}
        for label, targets in function.tables.items():
            self._tables[prefix + label] = [prefix + t for t in targets]
        for instruction in function.body:
            if instruction.label is not None:
                self._labels[prefix + instruction.label] = len(self.instructions)
                continue
            operands = tuple(
                self._resolve(o, prefix, places, rename, stack) for o in instruction.operands
            )
            guard = instruction.guard
            if guard is not None:
                guard = self._renamed(guard, rename, stack)
            opcode = instruction.opcode
            name = opcode.partition(".")[0]
            if name == "call":
                self._call(replace(instruction, operands=operands), stack, places)
                continue
            if len(stack) > 1 and name == "ret":
                opcode, operands = "bra", (Symbol(prefix + "return"),)
            if ".param" in opcode and name in ("ld", "st"):
                address = instruction.operands[1 if name == "ld" else 0]
                base = address.base if isinstance(address, Mem) else None
                if isinstance(base, Symbol) and base.name in places:
                    opcode = opcode.replace(".param", ".local")
            self.instructions.append(
                replace(instruction, opcode=opcode, operands=operands, guard=guard)
            )
        self._labels[prefix + "return"] = len(self.instructions)

    def _call(
        self, call: Instruction, stack: tuple[str, ...], places: dict[str, tuple[str, int]]
    ) -> None:
        groups = [o for o in call.operands if isinstance(o, Group)]
        names = [o for o in call.operands if isinstance(o, Symbol)]
        if len(names) < 1 or names[0].name not in self.text.functions:
            raise PtxError(f"line {call.line}: only calls of functions by name are run")
        callee = self.text.functions[names[0].name]
        # (results), name, (arguments): either list may be missing.
        first_is_result = isinstance(call.operands[0], Group)
        results = groups[0].items if first_is_result else ()
        arguments = groups[-1].items if len(groups) > int(first_is_result) else ()
        if not callee.defined:
            self._external(call, callee.name)
            return
        self._inlined += 1
        prefix = f"{callee.name}#{self._inlined}:"
        formal = [*callee.results, *callee.params]
        actual = [*results, *arguments]
        if len(formal) != len(actual):
            raise PtxError(f"line {call.line}: {callee.name} takes {len(formal)} values")
        renamed = {}
        for variable, value in zip(formal, actual, strict=True):
            if not isinstance(value, Imm):
                raise PtxError(f"line {call.line}: arguments must be .param variables")
            renamed[variable.name] = value
        if call.guard is not None:
            over = Symbol(prefix + "over")
            jump = Instruction("bra", (over,), call.guard, not call.negated, call.line, call.loc)
            self.instructions.append(jump)
        self._inline(callee, prefix, renamed, stack)
        self._labels[prefix + "over"] = len(self.instructions)

    def _external(self, call: Instruction, name: str) -> None:
        if name in IGNORED_CALLS:
            return
        if name == "__assertfail":
            self.instructions.append(replace(call, opcode="trap", operands=()))
            return
        raise PtxError(f"line {call.line}: the function {name} has no body here")

    def _renamed(self, reg: Reg, rename: dict[int, Reg], stack: tuple[str, ...]) -> Reg:
        if len(stack) == 1:
            return reg
        if reg.index not in rename:
            rename[reg.index] = Reg(self.registers, reg.type, reg.name)
            self.registers += 1
        return rename[reg.index]

    def _resolve(
        self,
        operand: Operand,
        prefix: str,
        places: dict[str, tuple[str, int]],
        rename: dict[int, Reg],
        stack: tuple[str, ...],
    ) -> Operand:
        if isinstance(operand, Reg):
            return self._renamed(operand, rename, stack)
        if isinstance(operand, Not):
            return Not(self._renamed(operand.reg, rename, stack))
        if isinstance(operand, Group):
            return Group(
                tuple(self._resolve(o, prefix, places, rename, stack) for o in operand.items)
            )
        if isinstance(operand, Mem):
            base = self._resolve(operand.base, prefix, places, rename, stack)
            if isinstance(base, Symbol) and base.name != "dynamic shared":
                raise PtxError(f"unknown variable {base.name}")
            assert isinstance(base, (Reg, Imm, Symbol))
            return Mem(base, operand.offset)
        if isinstance(operand, Special):
            if operand.name not in self.specials:
                kind = "b64" if operand.name in ("clock64", "globaltimer") else "b32"
                self.specials[operand.name] = Reg(self.registers, kind, "%" + operand.name)
                self.registers += 1
            return self.specials[operand.name]
        if isinstance(operand, Symbol):
            return self._symbol(operand, prefix, places)
        return operand

    def _symbol(self, operand: Symbol, prefix: str, places: dict[str, tuple[str, int]]) -> Operand:
        name = operand.name
        if name in places:
            return Imm(places[name][1] + operand.offset)
        if name in self._shared_places:
            start = self._shared_places[name]
            return (
                Symbol("dynamic shared", operand.offset)
                if start < 0
                else Imm(start + operand.offset)
            )
        if name in self.param_offsets and not prefix:
            return Imm(self.param_offsets[name][0] + operand.offset)
        if name in self.globals:
            return Imm(self.globals[name] + operand.offset)
        if name in self.text.functions or name == "_":
            return operand
        return Symbol(prefix + name)

    def all_registers(self) -> list[Reg]:
        return [*(r for i in self.instructions for r in registers_in(i)), *self.specials.values()]

    def loc(self, index: int) -> Loc | None:
        return self.instructions[index].loc


def registers_in(instruction: Instruction) -> list[Reg]:
    found: list[Reg] = [instruction.guard] if instruction.guard else []

    def visit(operand: Operand) -> None:
        if isinstance(operand, Reg):
            found.append(operand)
        elif isinstance(operand, Not):
            found.append(operand.reg)
        elif isinstance(operand, Group):
            for item in operand.items:
                visit(item)
        elif isinstance(operand, Mem):
            visit(operand.base)

    for operand in instruction.operands:
        visit(operand)
    return found
