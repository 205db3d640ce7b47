"""PTX text to functions of instructions with typed operands. Nothing is executed here.

Registers are numbered over the whole module; names of inner scopes (`{ .reg .b32 %temp; ... }`) are
told apart. Each instruction keeps its line in the PTX and the `.loc` mark (file, line) above it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from gpucnn.emulator.errors import PtxError
from gpucnn.emulator.syntax import (
    SIZES,
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
    literal,
    split,
)

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_LINE_DIRECTIVE = re.compile(r"\.(version|target|address_size|file|loc)\b([^\n]*)")
_LABEL = re.compile(r"([A-Za-z_$%][\w$.]*)\s*:(?!:)")
_HEADER = re.compile(r"(?:\.(?:visible|extern|weak|common)\s+)*\.(entry|func)\b")
_SECTION = re.compile(r"\.section\b[^{]*\{[^}]*\}")
_VARIABLE = re.compile(
    r"(?P<extern>\.extern\s+)?(?:\.(?:visible|weak|common)\s+)*"
    r"\.(?P<space>global|const|shared|local|param)\b(?P<rest>.*)",
    re.DOTALL,
)
_DECLARATOR = re.compile(
    r"(?:\.align\s+(?P<align>\d+)\s+)?(?:\.ptr\b[^%\w]*(?:\.\w+\s+)*)?(?:\.v(?P<vector>[24])\s+)?"
    r"\.(?P<type>\w+)\s+(?:\.ptr(?:\s+\.(?:global|shared|const|local))?(?:\s+\.align\s+\d+)?\s+)?"
    r"(?P<name>[\w$%.]+)\s*(?P<dims>(?:\[\s*\d*\s*\])*)\s*(?:=\s*(?P<value>.*))?$",
    re.DOTALL,
)
_REGISTERS = re.compile(r"\.reg\s+(?:\.v[24]\s+)?\.(\w+)\s+(.*)", re.DOTALL)
_SPECIAL = re.compile(
    r"%(tid|ntid|ctaid|nctaid)\.[xyz]$|%(laneid|warpid|nwarpid|smid|nsmid|gridid|clock|clock_hi|"
    r"clock64|globaltimer|lanemask_(eq|le|lt|ge|gt)|dynamic_smem_size|total_smem_size)$"
)
_INSTRUCTION = re.compile(r"(?:@(!?)\s*([%\w$]+)\s+)?([a-z_][\w.:]*)\s*(.*)$", re.DOTALL)


def parse(text: str) -> Text:
    """Raises PtxError, with the line, for text that is not PTX."""
    return _Parser(text).module()


class _Parser:
    def __init__(self, text: str) -> None:
        blank = lambda match: re.sub(r"[^\n]", " ", match[0])  # noqa: E731
        self.text = _COMMENT.sub(blank, text.rstrip("\0"))
        self.result = Text()
        self.files: dict[int, str] = {}
        self.registers = 0

    def module(self) -> Text:
        self.scopes: list[dict[str, Reg]] = []
        self.function: Function | None = None
        self.loc: Loc | None = None
        # Lines are told by counting on from the last position: positions only grow.
        self.counted, self.line = 0, 1
        text, position = self.text, 0
        for match in re.finditer(r'\.file\s+(\d+)\s+"([^"]*)"', text):
            self.files[int(match[1])] = re.split(r"[\\/]", match[2])[-1]
        while True:
            while position < len(text) and text[position].isspace():
                position += 1
            if position >= len(text):
                break
            position = self._statement(position)
        return self.result

    def _at(self, position: int) -> int:
        self.line += self.text.count("\n", self.counted, position)
        self.counted = position
        return self.line

    def _statement(self, position: int) -> int:
        text = self.text
        line = self._at(position)
        if text[position] == "{":
            self.scopes.append({})
            return position + 1
        if text[position] == "}":
            self.scopes.pop()
            if not self.scopes:
                self.function = None
            return position + 1
        if text[position] == ";":
            return position + 1
        if text[position] == ".":
            match = _LINE_DIRECTIVE.match(text, position)
            if match:
                self._directive(match[1], match[2])
                return match.end()
            match = _SECTION.match(text, position)
            if match:
                return match.end()
            if _HEADER.match(text, position):
                end = min(i for i in (text.find("{", position), text.find(";", position)) if i >= 0)
                self._header(text[position:end], line, text[end] == "{")
                if text[end] == "{":
                    self.scopes.append({})
                return end + 1
        match = _LABEL.match(text, position)
        if match and self.function is not None:
            self._label(match[1], line)
            return match.end()
        end = text.find(";", position)
        if end < 0:
            raise PtxError(
                f"line {line}: statement without an end: {text[position : position + 60]!r}"
            )
        self._one(text[position:end].strip(), line)
        return end + 1

    def _directive(self, name: str, rest: str) -> None:
        if name == "target":
            self.result.target = rest.strip()
        elif name == "loc":
            numbers = re.match(r"\s*(\d+)\s+(\d+)", rest)
            if numbers and int(numbers[2]) > 0:
                file = self.files.get(int(numbers[1]), "?")
                self.loc = Loc(file, int(numbers[2]))

    def _header(self, head: str, line: int, defined: bool) -> None:
        match = re.match(
            r".*?\.(entry|func)\s*(?:\((?P<out>[^)]*)\))?\s*(?P<name>[\w$]+)\s*"
            r"(?:\((?P<args>[^)]*)\))?(?P<rest>.*)$",
            head,
            re.DOTALL,
        )
        if match is None:
            raise PtxError(f"line {line}: cannot read the function header {head.strip()!r}")
        function = Function(match["name"], match[1] == "entry", line=line, defined=defined)
        for target, declared in (
            (function.results, match["out"]),
            (function.params, match["args"]),
        ):
            for part in split(declared or ""):
                target.extend(self._variables(part, line))
        bounds = re.search(
            r"\.(?:maxntid|reqntid)\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?", match["rest"]
        )
        if bounds:
            function.threads = int(bounds[1]) * int(bounds[2] or 1) * int(bounds[3] or 1)
        if defined or function.name not in self.result.functions:
            self.result.functions[function.name] = function
        self.function = function if defined else None
        self.loc = None

    def _label(self, name: str, line: int) -> None:
        assert self.function is not None
        self.function.body.append(Instruction("", (), None, False, line, self.loc, label=name))

    def _one(self, statement: str, line: int) -> None:
        function = self.function
        if statement.startswith(".reg"):
            self._declare(statement, line)
        elif statement.startswith(".branchtargets"):
            assert function is not None
            label = function.body.pop().label
            function.tables[label or ""] = split(statement[len(".branchtargets") :])
        elif statement.startswith((".pragma", ".minn", ".maxn", ".calltargets", ".callprototype")):
            pass
        elif statement.startswith("."):
            (self.result.variables if function is None else function.variables).extend(
                self._variables(statement, line)
            )
        elif function is None:
            raise PtxError(f"line {line}: outside a function: {statement[:60]!r}")
        else:
            function.body.append(self._instruction(statement, line))

    def _variables(self, statement: str, line: int) -> Iterator[Variable]:
        match = _VARIABLE.match(statement.strip())
        if match is None:
            raise PtxError(f"line {line}: cannot read {statement[:80]!r}")
        found = _DECLARATOR.match(match["rest"].strip())
        if found is None:
            raise PtxError(f"line {line}: cannot read the declaration {statement[:80]!r}")
        count = int(found["vector"] or 1)
        for size in re.findall(r"\[\s*(\d*)\s*\]", found["dims"]):
            count *= int(size or 0)
        item = SIZES[found["type"]]
        data = self._initial(found["value"], found["type"]) if found["value"] else None
        if found["dims"].strip() == "[]" and data is not None:
            count = len(data) // item
        yield Variable(
            found["name"],
            match["space"],
            int(found["align"] or item),
            count * item,
            data,
            bool(match["extern"]),
        )

    def _initial(self, value: str, kind: str) -> bytes:
        items = split(value.strip().replace("{", "").replace("}", ""))
        out = bytearray()
        for item in items:
            number = literal(item)
            if number is None:
                raise PtxError(f"initial value {item!r} is not a number")
            if isinstance(number, float):
                out += struct.pack("<d" if SIZES[kind] == 8 else "<f", number)
            else:
                out += (int(number) % (1 << 8 * SIZES[kind])).to_bytes(SIZES[kind], "little")
        return bytes(out)

    def _declare(self, statement: str, line: int) -> None:
        match = _REGISTERS.match(statement)
        if match is None:
            raise PtxError(f"line {line}: cannot read {statement!r}")
        for name in split(match[2]):
            many = re.match(r"([\w$%]+)<(\d+)>$", name)
            names = [f"{many[1]}{i}" for i in range(int(many[2]))] if many else [name]
            for each in names:
                self.scopes[-1][each] = Reg(self.registers, match[1], each)
                self.registers += 1

    def _instruction(self, statement: str, line: int) -> Instruction:
        match = _INSTRUCTION.match(statement)
        if match is None:
            raise PtxError(f"line {line}: cannot read {statement[:80]!r}")
        guard = None
        if match[2]:
            operand = self._operand(match[2], line)
            if not isinstance(operand, Reg):
                raise PtxError(f"line {line}: {match[2]} is not a register")
            guard = operand
        operands = tuple(self._operand(part, line) for part in split(match[4]))
        return Instruction(match[3], operands, guard, match[1] == "!", line, self.loc)

    def _operand(self, text: str, line: int) -> Operand:
        text = text.strip()
        if text[0] in "{(":
            return Group(tuple(self._operand(part, line) for part in split(text[1:-1])))
        if text[0] == "[":
            return self._address(text[1:-1].strip(), line)
        if text[0] == "!":
            inner = self._operand(text[1:], line)
            assert isinstance(inner, Reg)
            return Not(inner)
        if "|" in text:
            return Group(tuple(self._operand(part, line) for part in text.split("|")))
        number = literal(text)
        if number is not None:
            return Imm(number)
        for scope in reversed(self.scopes):
            if text in scope:
                return scope[text]
        if _SPECIAL.match(text):
            return Special(text[1:])
        if text == "WARP_SZ":
            return Imm(32)
        if text == "_":
            return Symbol("_")
        if text.startswith("%"):
            raise PtxError(f"line {line}: unknown register {text}")
        name, _, offset = text.partition("+")
        return Symbol(name.strip(), int(offset or "0", 0))

    def _address(self, text: str, line: int) -> Mem:
        match = re.match(r"([^+\s]+?)\s*(?:\+\s*(-?(?:0[xX])?[0-9a-fA-F]+))?$", text)
        if match is None:
            raise PtxError(f"line {line}: cannot read the address [{text}]")
        base = self._operand(match[1], line)
        if not isinstance(base, (Reg, Symbol, Imm)):
            raise PtxError(f"line {line}: cannot read the address [{text}]")
        return Mem(base, int(match[2] or "0", 0))
