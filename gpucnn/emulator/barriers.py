"""Lanes that wait: barriers of a block (all threads, named, counted) and meetings within a warp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn.emulator.isa import Array
from gpucnn.emulator.lanes import Lanes
from gpucnn.emulator.program import Block
from gpucnn.emulator.syntax import Imm, Operand, Reg

if TYPE_CHECKING:
    from gpucnn.emulator.execute import Execution, Group

FULL = np.uint32(0xFFFFFFFF)


@dataclass
class Entry:
    """Lanes waiting at a block. Barriers: `ids` and `counts` a lane (0: all threads). Meetings:
    `masks` of the lanes each waits for.
    """

    block: Block
    group: Group
    ids: Array | None = None
    counts: Array | None = None
    masks: Array | None = None


class Waiting:
    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.chunk = execution.chunk
        self.entries: list[Entry] = []
        self.alive_masks = np.zeros(self.chunk.warps, np.uint32)
        lanes = self.chunk.everyone
        np.add.at(
            self.alive_masks, lanes.warp, np.left_shift(np.uint32(1), lanes.lane.astype(np.uint32))
        )
        self.alive = np.full(self.chunk.count, execution.launch.threads, np.int64)
        self.arrived: dict[tuple[int, int], int] = {}
        self.arrived_warps: dict[tuple[int, int], list[int]] = {}
        self.reduction: dict[int, Array] = {}

    def exited(self, lanes: Lanes) -> None:
        bits = np.left_shift(np.uint32(1), lanes.lane.astype(np.uint32))
        np.subtract.at(self.alive_masks, lanes.warp, bits)
        np.subtract.at(self.alive, lanes.block, 1)

    def pass_(self, block: Block, group: Group) -> bool:
        """Whether the group may go on at once; else it waits."""
        instruction = self.execution.program.instructions[block.instructions[0]]
        name = instruction.opcode
        if name.startswith(("bar.", "barrier.")) and ".warp" not in name:
            self.entries.append(self._barrier(block, group))
            return False
        masks = self._masks(block, group)
        missing = masks & self.alive_masks[group.lanes.warp] & ~group.lanes.present
        if np.count_nonzero(missing) == 0:
            return True
        # Warps that are complete need not wait for the others.
        waiting = np.zeros(self.chunk.warps, np.bool_)
        waiting[group.lanes.warp[missing != 0]] = True
        stay = waiting[group.lanes.warp]
        if np.count_nonzero(stay) < stay.size:
            self.execution.put(2 * block.index + 1, self.execution.part(group, ~stay))
            group, masks = self.execution.part(group, stay), masks[stay]
        self.entries.append(Entry(block, group, masks=masks))
        return False

    def _masks(self, block: Block, group: Group) -> Array:
        instruction = self.execution.program.instructions[block.instructions[0]]
        name = instruction.opcode.partition(".")[0]
        if name in ("ldmatrix", "stmatrix", "mma", "movmatrix"):
            return np.full(group.lanes.n, FULL)
        return group.lanes.spread(self.evaluate(instruction.operands[-1], group))

    def evaluate(self, operand: Operand, group: Group) -> Array:
        if isinstance(operand, Imm):
            return np.array([int(operand.value) % (1 << 32)], np.uint32)
        assert isinstance(operand, Reg)
        return self.execution.value(operand.index, group).view(np.uint32)

    def _barrier(self, block: Block, group: Group) -> Entry:
        instruction = self.execution.program.instructions[block.instructions[0]]
        operands = list(instruction.operands)
        if ".red" in instruction.opcode:
            operands = operands[1:-1]  # result, barrier, count, predicate
        ids = self.evaluate(operands[0], group) if operands else np.zeros(1, np.uint32)
        counts = self.evaluate(operands[1], group) if len(operands) > 1 else np.zeros(1, np.uint32)
        return Entry(block, group, ids=ids, counts=counts)

    # Release

    def resolve(self) -> bool:
        """Let go whoever has met; whether anybody moved."""
        return self._meetings(False) or self._barriers() or self._meetings(True)

    def _barriers(self) -> bool:
        entries = [e for e in self.entries if e.ids is not None]
        if not entries:
            return False
        if len(entries) == 1 and self._everyone(entries[0]):
            return True
        slots = np.concatenate([e.group.lanes.slots for e in entries])
        which = np.concatenate([np.full(e.group.lanes.n, k) for k, e in enumerate(entries)])
        ids = np.concatenate([e.group.lanes.spread(e.ids) for e in entries if e.ids is not None])
        counts = np.concatenate(
            [e.group.lanes.spread(e.counts) for e in entries if e.counts is not None]
        )
        released = np.zeros(slots.size, np.bool_)
        blocks = slots // self.chunk.width
        for block, number in sorted({(int(b), int(i)) for b, i in zip(blocks, ids)}):
            here = (blocks == block) & (ids == number)
            if self._met(block, number, entries, slots[here], which[here], counts[here]):
                released |= here
        if not released.any():
            return False
        for k, entry in enumerate(entries):
            mask = released[which == k]
            self._release(entry, mask)
        if self.chunk.shadow is not None:
            self.chunk.shadow.settle()
        return True

    def _everyone(self, entry: Entry) -> bool:
        """The common case: all lanes of the chunk at one barrier of all threads."""
        lanes = entry.group.lanes
        assert entry.ids is not None and entry.counts is not None
        threads = self.execution.launch.threads
        whole = lanes.n == self.chunk.count * threads and entry.ids.size == 1
        if not whole or not (entry.counts.size == 1 and int(entry.counts[0]) in (0, threads)):
            return False
        self.entries.remove(entry)
        if self.chunk.shadow is not None:
            for block in range(self.chunk.count):
                self.chunk.shadow.barrier(block, None)
            self.chunk.shadow.settle()
        self.execution.put(2 * entry.block.index + 1, entry.group)
        self.execution.launch.tally.barriers += self.chunk.warps
        return True

    def _met(
        self,
        block: int,
        number: int,
        entries: list[Entry],
        slots: Array,
        which: Array,
        counts: Array,
    ) -> bool:
        """Whether barrier `number` of a block is complete, and if so what it orders."""
        expected = int(counts.max())
        shadow = self.chunk.shadow
        arrived = self.arrived.get((block, number), 0)
        warps = np.unique(slots >> 5)
        if expected == 0:
            if slots.size + arrived < self.alive[block]:
                return False
            self._divergence(block, entries, slots, which)
            everyone = True
        else:
            if 32 * warps.size + arrived < expected:
                return False
            everyone = expected == self.execution.launch.threads and slots.size == expected
        if shadow is not None:
            joined = np.array(self.arrived_warps.get((block, number), []), np.int64)
            shadow.barrier(block, None if everyone else np.unique(np.concatenate([warps, joined])))
        self.arrived.pop((block, number), None)
        self.arrived_warps.pop((block, number), None)
        self.execution.launch.tally.barriers += warps.size
        return True

    def _divergence(self, block: int, entries: list[Entry], slots: Array, which: Array) -> None:
        launch = self.execution.launch
        numbers = np.unique(which)
        firsts = [entries[k].block.instructions[0] for k in numbers]
        lines = {launch.where(i) for i in firsts}
        if len(lines) > 1:
            a, b = (int(slots[np.flatnonzero(which == k)[0]]) for k in numbers[:2])
            launch.report(
                "barrier",
                "threads of one block wait at different barriers",
                firsts[0],
                **self.chunk.place(a),
                other=launch.where(firsts[1]),
                other_thread=self.chunk.place(b)["thread"],
            )
        gone = launch.threads - int(self.alive[block])
        if gone:
            launch.report(
                "barrier",
                f"{gone} threads of the block have returned and never come to the barrier",
                firsts[0],
                **self.chunk.place(int(slots[0])),
            )

    def _release(self, entry: Entry, mask: Array) -> None:
        if not mask.any():
            return
        if mask.all():
            self.entries.remove(entry)
            self.execution.put(2 * entry.block.index + 1, entry.group)
            return
        self.execution.put(2 * entry.block.index + 1, self.execution.part(entry.group, mask))
        keep = ~mask
        for name in ("ids", "counts", "masks"):
            values = getattr(entry, name)
            if values is not None and values.size > 1:
                setattr(entry, name, values[keep])
        entry.group = self.execution.part(entry.group, keep)

    def _meetings(self, force: bool) -> bool:
        entries = [e for e in self.entries if e.masks is not None]
        if not entries:
            return False
        by_block: dict[Any, list[Entry]] = {}
        for entry in entries:
            first = self.execution.program.instructions[entry.block.instructions[0]]
            loose = first.opcode.startswith(("bar.warp", "barrier.warp"))
            by_block.setdefault("syncwarp" if loose else entry.block.index, []).append(entry)
        moved = False
        for same in by_block.values():
            present = np.zeros(self.chunk.warps, np.uint32)
            for entry in same:
                lanes = entry.group.lanes
                np.bitwise_or.at(
                    present, lanes.warp, np.left_shift(np.uint32(1), lanes.lane.astype(np.uint32))
                )
            for entry in same:
                assert entry.masks is not None
                warp = entry.group.lanes.warp
                met = (entry.masks & self.alive_masks[warp] & ~present[warp]) == 0
                if force and not met.any():
                    self.execution.launch.report(
                        "warp mask",
                        "waits for lanes of its warp that wait elsewhere",
                        entry.block.instructions[0],
                        **entry.group.lanes.place(0),
                    )
                    met[:] = True
                if met.any():
                    moved = True
                    self._release(entry, met)
            if moved:
                return True
        return moved

    def deadlock(self) -> None:
        """Nobody can move: say who waits for what, and stop."""
        for entry in self.entries:
            self.execution.launch.report(
                "deadlock",
                "waits for threads that never come",
                entry.block.instructions[0],
                count=entry.group.lanes.n,
                **entry.group.lanes.place(0),
            )
