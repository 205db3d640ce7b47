"""One kernel as basic blocks, with the registers that are live at their ends.

A block ends at a branch; a barrier or another instruction that waits for lanes begins one, and a
guarded instruction is a block of its own, jumped over where the guard fails. Blocks are numbered in
the order of the text: the number is the program counter.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gpucnn.emulator.errors import PtxError
from gpucnn.emulator.flatten import Flat
from gpucnn.emulator.lower import Step, lower, registers_of
from gpucnn.emulator.syntax import Instruction, Reg, Symbol, Text

WAITING = {
    "bar",
    "barrier",
    "shfl",
    "vote",
    "match",
    "redux",
    "ldmatrix",
    "mma",
    "elect",
    "stmatrix",
    "movmatrix",
}
_JUMPS = {"bra", "ret", "exit", "trap", "brx"}


@dataclass
class Block:
    index: int
    instructions: list[int] = field(default_factory=list)
    waits: bool = False
    # How it ends: "next", "jump", "branch" (guard true: targets[0], else targets[1]), "table",
    # "exit", "trap".
    end: str = "next"
    targets: list[int] = field(default_factory=list)
    guard: Reg | None = None
    negated: bool = False
    reads: set[int] = field(default_factory=set)
    writes: set[int] = field(default_factory=set)
    live_out: set[int] = field(default_factory=set)


class Program(Flat):
    """An entry of a module, ready to be compiled to NumPy."""

    def __init__(self, text: Text, entry: str, globals_: dict[str, int]) -> None:
        super().__init__(text, entry, globals_)
        self._steps: dict[int, Step] = {}
        self.blocks = self._split()
        self._liveness()

    def step(self, index: int) -> Step:
        """What an instruction does. Raises UnknownInstruction, naming opcode and line."""
        found = self._steps.get(index)
        if found is None:
            found = self._steps[index] = lower(index, self.instructions[index])
        return found

    # Basic blocks

    def _split(self) -> list[Block]:
        leaders = {0, *self._labels.values()}
        for i, instruction in enumerate(self.instructions):
            name = instruction.opcode.partition(".")[0]
            if name in _JUMPS:
                leaders.add(i + 1)
            elif instruction.guard is not None:
                leaders |= {i, i + 1}
            elif self.waits(instruction):
                leaders.add(i)
        count = len(self.instructions)
        starts = sorted(leaders - {count})
        number = {start: k for k, start in enumerate(starts)}
        number[count] = len(starts)
        blocks = []
        for k, start in enumerate(starts):
            end = starts[k + 1] if k + 1 < len(starts) else count
            blocks.append(self._block(k, start, end, number))
        blocks.append(Block(len(starts), end="exit"))
        self._guards(blocks)
        return blocks

    @staticmethod
    def waits(instruction: Instruction) -> bool:
        """Whether lanes wait there for others."""
        name, _, rest = instruction.opcode.partition(".")
        return name in WAITING and not rest.startswith(("arrive", "cta.arrive"))

    def _block(self, k: int, start: int, end: int, number: dict[int, int]) -> Block:
        block = Block(k, list(range(start, end)), targets=[k + 1])
        if start == end:
            return block
        block.waits = self.waits(self.instructions[start])
        last = self.instructions[end - 1]
        name = last.opcode.partition(".")[0]
        if name not in _JUMPS:
            return block
        if name != "brx" and name != "trap":
            block.instructions.pop()
        block.guard, block.negated = last.guard, last.negated
        if name == "bra":
            target = last.operands[0]
            assert isinstance(target, Symbol)
            if target.name not in self._labels:
                raise PtxError(f"line {last.line}: unknown label {target.name}")
            to = number[self._labels[target.name]]
            block.end, block.targets = ("branch", [to, k + 1]) if last.guard else ("jump", [to])
        elif name == "brx":
            table = last.operands[1]
            assert isinstance(table, Symbol)
            block.end = "table"
            block.targets = [number[self._labels[t]] for t in self._table(table.name)]
        else:
            block.end = "trap" if name == "trap" else "exit"
            if last.guard is not None:
                block.end = "branch"
                block.targets = [len(number) - 1, k + 1]
        return block

    def _table(self, name: str) -> list[str]:
        prefix = name.rpartition(":")[0]
        targets = self._tables[name]
        return targets if all(t in self._labels for t in targets) else [prefix + t for t in targets]

    def _guards(self, blocks: list[Block]) -> None:
        """Guarded instructions: the block before jumps over them."""
        for block in blocks[:-1]:
            if not block.instructions:
                continue
            first = self.instructions[block.instructions[0]]
            name = first.opcode.partition(".")[0]
            if first.guard is None or name in _JUMPS:
                continue
            block.guard, block.negated = first.guard, first.negated
            block.end = "guarded"

    def _liveness(self) -> None:
        for block in self.blocks:
            for i in block.instructions:
                reads, writes = registers_of(self.step(i))
                block.reads |= reads - block.writes
                block.writes |= writes
            if block.guard is not None and block.end != "guarded":
                block.reads |= {block.guard.index} - block.writes
        live_in: list[set[int]] = [set(b.reads) for b in self.blocks]
        changed = True
        while changed:
            changed = False
            for block in reversed(self.blocks):
                out: set[int] = set()
                for target in self.successors(block):
                    out |= live_in[target]
                block.live_out = out
                inside = block.reads | (out - block.writes)
                if block.end == "guarded" and block.guard is not None:
                    inside = inside | out | {block.guard.index}
                if inside != live_in[block.index]:
                    live_in[block.index] = inside
                    changed = True

    def successors(self, block: Block) -> list[int]:
        return [] if block.end in ("exit", "trap") else block.targets
