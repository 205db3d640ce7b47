"""Runs the blocks of a kernel for a chunk of the grid: lanes in step, divergence, waiting.

Lanes at the same basic block form a group. The schedule picks a group (by default the lowest
block, which is where diverged lanes meet again); it runs to the end of the block for all its lanes
at once. A group of all lanes works on the registers themselves, a smaller one on copies of its
lanes' values that are merged back. When lanes have returned and the rest runs together, the
registers are cut down to the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn.emulator.barriers import Waiting
from gpucnn.emulator.chunk import Chunk
from gpucnn.emulator.compile import Compiled
from gpucnn.emulator.isa import CODES, Array
from gpucnn.emulator.lanes import Lanes
from gpucnn.emulator.overflow import TAINT
from gpucnn.emulator.program import Block

if TYPE_CHECKING:
    from gpucnn.emulator.module import Kernel


class Group:
    """Lanes at one block: `index` into the registers (None: all of them)."""

    __slots__ = ("index", "lanes")

    def __init__(self, index: Array | None, lanes: Lanes) -> None:
        self.index = index
        self.lanes = lanes


class Registers(dict[int, Any]):
    """Values by register index; a register nothing has written reads as zero."""

    def __init__(self, types: dict[int, str]) -> None:
        super().__init__()
        self.types = types

    def __missing__(self, index: int) -> Any:
        if index >= TAINT:
            return None
        return np.zeros(1, CODES[self.types[index]])


class Execution:
    """One chunk from its first instruction to its last."""

    def __init__(self, kernel: Kernel, chunk: Chunk) -> None:
        self.kernel, self.chunk, self.launch = kernel, chunk, chunk.launch
        self.program = kernel.program
        self.registers = Registers(kernel.types)
        self.all = chunk.everyone
        for name, reg in self.program.specials.items():
            value = chunk.special(name)
            self.registers[reg.index] = value.astype(CODES[reg.type])
        self.alive = self.all.n
        # Keys are twice the number of the block, plus one for lanes that have done their waiting.
        self.ready: dict[int, list[Group]] = {0: [Group(None, self.all)]}
        self.waiting = chunk.waiting = Waiting(self)
        self.stopped = False

    def run(self) -> None:
        schedule = self.launch.schedule
        limit = self.launch.steps
        steps = 0
        while self.alive and not self.stopped:
            if not self.ready:
                if not self.waiting.resolve():
                    self.waiting.deadlock()
                    break
                continue
            key, group = schedule.pick(self)
            self.step(key, group)
            steps += 1
            if steps % 4096 == 0:
                self.waiting.resolve()
            if steps > limit:
                self.launch.report("deadlock", "the kernel does not come to an end", 0)
                break

    # Groups

    def take(self, key: int) -> Group:
        """All lanes that are ready at a key, as one group."""
        groups = self.ready.pop(key)
        if len(groups) == 1:
            group = groups[0]
        else:
            index = np.sort(np.concatenate([self.index(g) for g in groups]))
            group = self.group(index)
        if group.index is not None and group.lanes.n == self.alive:
            self._compact(group)
        return group

    def index(self, group: Group) -> Array:
        return np.arange(self.all.n) if group.index is None else group.index

    def group(self, index: Array) -> Group:
        if index.size == self.all.n:
            return Group(None, self.all)
        return Group(index, Lanes(self.chunk, self.all.slots[index]))

    def part(self, group: Group, mask: Array) -> Group:
        index = np.flatnonzero(mask) if group.index is None else group.index[mask]
        return Group(index, Lanes(self.chunk, group.lanes.slots[mask]))

    def put(self, key: int, group: Group) -> None:
        self.ready.setdefault(key, []).append(group)

    def _compact(self, group: Group) -> None:
        """Only this group is left: make it all there is."""
        if self.waiting.entries:
            return
        index = group.index
        for register, value in self.registers.items():
            if value is not None and value.size > 1:
                self.registers[register] = value.take(index)
        self.all = group.lanes
        group.index = None

    # Execution

    def step(self, key: int, group: Group) -> None:
        block = self.program.blocks[key >> 1]
        if block.end == "guarded" and not key & 1:
            rest = self._guarded(block, group)
            if rest is None:
                return
            group = rest
        if block.waits and not key & 1 and not self.waiting.pass_(block, group):
            return
        self.finish(block, group)

    def _guarded(self, block: Block, group: Group) -> Group | None:
        """Send the lanes whose guard fails on; the rest."""
        assert block.guard is not None
        guard = self.value(block.guard.index, group)
        if block.negated:
            guard = ~guard
        count = int(np.count_nonzero(guard))
        if guard.size == 1:
            count *= group.lanes.n
        if count == group.lanes.n:
            return group
        if count == 0:
            self.put(2 * (block.index + 1), group)
            return None
        self.put(2 * (block.index + 1), self.part(group, ~guard))
        return self.part(group, guard)

    def value(self, register: int, group: Group) -> Array:
        value: Array = self.registers[register]
        if group.index is None or value.size == 1:
            return value
        return value.take(group.index)

    def finish(self, block: Block, group: Group) -> None:
        """Run the instructions of a block, then send its lanes where they go."""
        compiled = self.kernel.compiled(block)
        tally = self.launch.tally
        if tally.on:
            tally.block(block.index, group.lanes)
        index = group.index
        if index is None:
            outcome = compiled.run(self.registers, group.lanes)
        else:
            outcome = self._masked(compiled, group, index)
        self._leave(block, group, outcome)

    def _masked(self, compiled: Compiled, group: Group, index: Array) -> Any:
        own = Registers(self.kernel.types)
        registers = self.registers
        for register in compiled.reads:
            value = registers[register]
            own[register] = value if value is None or value.size == 1 else value.take(index)
        outcome = compiled.run(own, group.lanes)
        for register in compiled.writes:
            value = own[register]
            old = registers.get(register)
            if value is None and old is None:
                continue
            if value is None:
                value = False
            # A copy: other registers may be the same array.
            if old is None or old.size == 1:
                full = np.empty(self.all.n, value.dtype if old is None else old.dtype)
                full[:] = 0 if old is None else old
            else:
                full = old.copy()
            full[index] = value
            registers[register] = full
        return outcome

    def _leave(self, block: Block, group: Group, outcome: Any) -> None:
        end = block.end
        if end in ("next", "jump", "guarded"):
            self.put(2 * block.targets[0], group)
        elif end == "branch":
            count = int(np.count_nonzero(outcome))
            n = group.lanes.n
            if outcome.size == 1:
                count *= n
            if count == n or count == 0:
                self.put(2 * block.targets[count == 0], group)
                return
            if self.launch.tally.on:
                self.launch.tally.diverged(group.lanes, outcome)
            self.put(2 * block.targets[0], self.part(group, outcome))
            self.put(2 * block.targets[1], self.part(group, ~outcome))
        elif end == "table":
            outcome = group.lanes.spread(outcome)
            for target, to in enumerate(block.targets):
                mask = outcome == target
                if mask.any():
                    self.put(2 * to, self.part(group, mask))
        elif end == "exit":
            self.alive -= group.lanes.n
            self.waiting.exited(group.lanes)
        else:
            self.stopped = True
