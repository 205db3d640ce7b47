"""From an instruction to a step: a function, the forms its sources are wanted in, its results.

Arithmetic comes from the table (`isa.py`); moves and address conversions are here; memory, atomics,
copies, matrices and exchanges between lanes have a module each, entered in `SERVICES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpucnn.emulator.errors import UnknownInstruction
from gpucnn.emulator.isa import CODES, Array, find
from gpucnn.emulator.syntax import SIZES, Group, Imm, Instruction, Mem, Not, Operand, Reg, Symbol

SHARED_WINDOW = 0x0001_0000_0000_0000
LOCAL_WINDOW = 0x0002_0000_0000_0000
PARAM_WINDOW = 0x0003_0000_0000_0000
WINDOW = 1 << 40
WINDOWS = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW, "param": PARAM_WINDOW}
"""Where the generic addresses of a space begin."""


@dataclass
class Step:
    """What an instruction does to the registers.

    sources: operands with the form each is wanted in ("a8": an address as int64).
    results: registers (None: thrown away) with the PTX type of each value.
    lanes: whether the function takes the lanes it runs for as its first argument.
    alias: the result is the source itself.
    """

    function: Callable[..., Any]
    sources: list[tuple[Operand, str]]
    results: list[tuple[Reg | None, str]]
    kind: str
    lanes: bool = False
    alias: bool = False
    flops: int = 0
    flushed: bool = False
    wraps: str = ""


@dataclass
class Service:
    """One instruction that touches more than registers: where it stands, and what it is."""

    index: int
    instruction: Instruction
    mods: tuple[str, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        self.mods = tuple(self.instruction.opcode.replace("::", "__").split("."))[1:]

    def unknown(self) -> UnknownInstruction:
        return unknown(self.instruction)

    def type(self) -> str:
        """The last type in the opcode."""
        for mod in reversed(self.mods):
            if mod in SIZES:
                return mod
        raise self.unknown()


def unknown(instruction: Instruction) -> UnknownInstruction:
    where = f" ({instruction.loc})" if instruction.loc else ""
    return UnknownInstruction(
        f"line {instruction.line}{where}: the instruction {instruction.opcode} "
        "is not one this emulator knows"
    )


SERVICES: dict[str, Callable[[Service], Step]] = {}


def service(*names: str) -> Callable[[Callable[[Service], Step]], Callable[[Service], Step]]:
    def register(function: Callable[[Service], Step]) -> Callable[[Service], Step]:
        for name in names:
            SERVICES[name] = function
        return function

    return register


def lower(index: int, instruction: Instruction) -> Step:
    """Raises UnknownInstruction, naming opcode and line."""
    operation = find(instruction.opcode)
    if operation is None:
        from gpucnn.emulator import access, atomics, carry, copies, matrix, warp  # noqa: F401

        make = SERVICES.get(instruction.opcode.partition(".")[0])
        if make is None:
            raise unknown(instruction)
        return make(Service(index, instruction))
    results, sources = instruction.operands[0], instruction.operands[1:]
    if len(sources) != len(operation.sources):
        raise unknown(instruction)
    function = operation.function
    targets: list[tuple[Reg | None, str]]
    if isinstance(results, Group):
        # setp p|q: the second is the complement.
        if operation.results != ("pred",) or len(sources) != 2:
            raise unknown(instruction)
        single = function
        function = lambda *v: (single(*v), ~single(*v))  # noqa: E731
        targets = [(_register(r), "pred") for r in results.items]
    else:
        targets = [(_register(results), operation.results[0])]
    return Step(
        function,
        list(zip(sources, operation.forms, strict=True)),
        targets,
        operation.kind,
        flops=operation.flops,
        flushed=operation.flushed,
        wraps=_wraps(instruction.opcode),
    )


def _wraps(opcode: str) -> str:
    """Which signed 32-bit arithmetic an opcode is, for the overflow check."""
    return {
        "add.s32": "add", "sub.s32": "sub", "mul.lo.s32": "mul", "mad.lo.s32": "mad",
        "shl.b32": "shl",
    }.get(opcode, "")  # fmt: skip


def _register(operand: Operand) -> Reg | None:
    if isinstance(operand, Reg):
        return operand
    return None


def registers_of(step: Step) -> tuple[set[int], set[int]]:
    """Indices of the registers a step reads and writes."""
    reads: set[int] = set()
    for operand, _ in step.sources:
        if isinstance(operand, Not):
            operand = operand.reg
        if isinstance(operand, Mem):
            operand = operand.base
        if isinstance(operand, Reg):
            reads.add(operand.index)
    return reads, {r.index for r, _ in step.results if r is not None}


def vector(operand: Operand) -> list[Operand]:
    """The items of {a, b}, or the operand alone."""
    return list(operand.items) if isinstance(operand, Group) else [operand]


def registers(operand: Operand) -> list[Reg | None]:
    return [_register(o) for o in vector(operand)]


@service("mov")
def _mov(s: Service) -> Step:
    to, source = s.instruction.operands
    kind = s.type()
    if isinstance(source, Group):
        parts = source.items
        each = f"b{8 * SIZES[kind] // len(parts)}"
        size = SIZES[each]
        code = CODES[kind]

        def pack(*values: Array) -> Array:
            out = np.zeros((), code)
            for i, v in enumerate(values):
                out = out | (v.astype(code) << np.array([8 * size * i], code))
            return out

        return Step(pack, [(p, CODES[each]) for p in parts], [(_register(to), kind)], "move")
    if isinstance(to, Group):
        each = f"b{8 * SIZES[kind] // len(to.items)}"
        count, size = len(to.items), SIZES[each]
        dtype = CODES[each]

        def unpack(v: Array) -> tuple[Array, ...]:
            shift = 8 * size
            return tuple((v >> np.array([shift * i], v.dtype)).astype(dtype) for i in range(count))

        return Step(
            unpack, [(source, CODES[kind])], [(_register(r), each) for r in to.items], "move"
        )
    if isinstance(source, Symbol):
        raise s.unknown()
    return Step(lambda v: v, [(source, CODES[kind])], [(_register(to), kind)], "move", alias=True)


@service("cvta")
def _cvta(s: Service) -> Step:
    to, source = s.instruction.operands
    kind = s.type()
    space = next((m.partition("__")[0] for m in s.mods if m.partition("__")[0] in WINDOWS), None)
    code = "i8"
    shift = WINDOWS[space] if space else 0
    if "to" in s.mods:
        shift = -shift
    step = np.array([shift], np.int64)
    if SIZES[kind] != 8 and shift:
        raise s.unknown()
    return Step(
        (lambda v: v + step) if shift else (lambda v: v),
        [(source, code)],
        [(_register(to), "s64")],
        "move",
        alias=not shift,
    )


@service("isspacep")
def _isspacep(s: Service) -> Step:
    to, source = s.instruction.operands
    space = s.mods[0].partition("__")[0]

    def inside(v: Array) -> Array:
        if space in WINDOWS:
            return (v >= WINDOWS[space]) & (v < WINDOWS[space] + WINDOW)
        return v >= PARAM_WINDOW + WINDOW

    return Step(inside, [(source, "i8")], [(_register(to), "pred")], "compare")


@service(
    "prefetch",
    "prefetchu",
    "discard",
    "applypriority",
    "nanosleep",
    "pmevent",
    "setmaxnreg",
    "griddepcontrol",
    "createpolicy",
)
def _nothing(s: Service) -> Step:
    results: list[tuple[Reg | None, str]] = []
    if s.instruction.opcode.startswith("createpolicy"):
        return Step(
            lambda: np.zeros(1, np.uint64),
            [],
            [(_register(s.instruction.operands[0]), "b64")],
            "move",
        )
    return Step(lambda: None, [], results, "move")


@service("trap", "brkpt")
def _trap(s: Service) -> Step:
    index = s.index

    def stop(x: Any) -> None:
        x.report("trap", "the kernel stopped itself (trap or a failed assert)", index)

    return Step(stop, [], [], "control", lanes=True)


@service("brx")
def _brx(s: Service) -> Step:
    # Its index register; the block's end reads it.
    return Step(lambda v: v, [(s.instruction.operands[0], "u4")], [], "control")


@service("activemask")
def _active(s: Service) -> Step:
    return Step(
        lambda x: x.active_mask(),
        [],
        [(_register(s.instruction.operands[0]), "b32")],
        "warp",
        lanes=True,
    )


def constant(operand: Imm, form: str) -> Array:
    """A literal in a form, as an array of one."""
    value = operand.value
    if form == "a8":
        form = "i8"
    if form in ("z4", "w8", "zw8"):
        from gpucnn.emulator.rounding import flush

        array = constant(operand, "f4")
        array = flush(array) if "z" in form else array
        return array.astype(np.float64) if "w" in form else array
    dtype = np.dtype("?" if form == "?" else form)
    if dtype.kind == "b":
        return np.array([bool(value)])
    if isinstance(value, float):
        if dtype.kind == "f":
            return np.array([value], dtype)
        return np.array([value], f"f{dtype.itemsize}").view(dtype)
    if dtype.kind == "f":
        bits = int(value) % (1 << 8 * dtype.itemsize)
        return np.array([bits], f"u{dtype.itemsize}").view(dtype)
    return np.array([int(value) % (1 << 8 * dtype.itemsize)], f"u{dtype.itemsize}").view(dtype)
