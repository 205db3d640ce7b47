"""Global memory within one launch: which cells were written, by which block, and who read them.

Blocks of a launch are ordered by nothing but atomics behind a fence. A cell remembers the block
that wrote it and the blocks that read it; a cell that two blocks touch, one of them writing, is a
race. Reads of a buffer are only logged until the launch first writes to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn.emulator.isa import Array
from gpucnn.emulator.lanes import Lanes
from gpucnn.emulator.memory import Buffer

if TYPE_CHECKING:
    from gpucnn.emulator.launch import Launch

BLOCK = 24
ATOMIC = 1 << 23
_INDEX = ATOMIC - 1
_LOG = 64


class _Cells:
    """The shadow of one buffer. Keys are (block + 1) << 24 | atomic | instruction."""

    def __init__(self, buffer: Buffer, granule: int) -> None:
        self.buffer = buffer
        self.granule = granule
        self.shift = granule.bit_length() - 1
        self.count = -(-buffer.size // granule)
        self.log: list[tuple[Array, Array, int, bool]] = []
        self.written: Array | None = None
        self.highest: Array | None = None  # reading block of the largest number
        self.lowest: Array | None = None  # of the smallest, negated
        self.constant: Array | None = None  # read through ld.global.nc, instruction + 1

    def fold(self) -> None:
        """Enter the logged reads."""
        if self.highest is None or self.lowest is None or self.constant is None:
            self.highest = np.zeros(self.count, np.int64)
            self.lowest = np.full(self.count, -(1 << 62), np.int64)
            self.constant = np.zeros(self.count, np.int32)
        for cells, blocks, index, constant in self.log:
            keys = ((blocks + 1) << BLOCK) | index
            self.highest[cells] = np.maximum(self.highest.take(cells), keys)
            back = cells[::-1]
            mirrored = np.broadcast_to(-keys, cells.shape)[::-1]
            self.lowest[back] = np.maximum(self.lowest.take(back), mirrored)
            if constant:
                self.constant[cells] = index + 1
        self.log.clear()


class GlobalShadow:
    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.granule = 4
        self._cells: dict[int, _Cells] = {}
        # Blocks ordered through atomics: what each atomic cell has been handed, what blocks know.
        self.fenced: set[int] = set()
        self.released: dict[int, set[int]] = {}
        self.known: dict[int, set[int]] = {}

    def of(self, buffer: Buffer) -> _Cells:
        found = self._cells.get(buffer.base)
        if found is None:
            found = self._cells[buffer.base] = _Cells(buffer, self.granule)
        return found

    def read(self, lanes: Lanes, buffer: Buffer, cells: Array, index: int, constant: bool) -> None:
        own = self.of(buffer)
        if own.written is not None:
            keys = own.written.take(cells)
            blocks = lanes.block_key
            mine = (blocks + 1) << BLOCK
            written = keys != 0
            if np.count_nonzero(written):
                if constant:
                    self._constant(lanes, own, cells, keys, np.flatnonzero(written), index)
                other = written & ((keys >> BLOCK) << BLOCK != mine)
                if np.count_nonzero(other):
                    self._race(lanes, own, cells, keys, other, index, "reads", "wrote")
        own.log.append((cells, lanes.block_key, index, constant))
        if len(own.log) > _LOG:
            own.fold()

    def write(
        self,
        lanes: Lanes,
        buffer: Buffer,
        cells: Array,
        index: int,
        atomic: bool = False,
        same: Callable[[], Array] | None = None,
    ) -> None:
        """`same`: as in `races.SharedShadow.write`."""
        own = self.of(buffer)
        blocks = lanes.block_key
        mine = (blocks + 1) << BLOCK
        if self.launch.checks.races:
            if own.log:
                own.fold()
            if own.highest is not None and own.lowest is not None and own.constant is not None:
                for keys in (own.highest.take(cells), -own.lowest.take(cells)):
                    other = (
                        (keys >= 1 << BLOCK) & (keys < 1 << 61) & ((keys >> BLOCK) << BLOCK != mine)
                    )
                    if np.count_nonzero(other):
                        self._race(lanes, own, cells, keys, other, index, "writes", "read")
                if own.constant.any():
                    constant = own.constant.take(cells)
                    hit = np.flatnonzero(constant)
                    if hit.size:
                        self._constant(lanes, own, cells, constant - 1, hit, index)
        if own.written is None:
            own.written = np.zeros(own.count, np.int64)
        elif self.launch.checks.races:
            keys = own.written.take(cells)
            other = (keys != 0) & ((keys >> BLOCK) << BLOCK != mine)
            if atomic:
                other &= (keys & ATOMIC) == 0
            if same is not None and np.count_nonzero(other):
                other = other & ~same()
            if np.count_nonzero(other):
                self._race(lanes, own, cells, keys, other, index, "writes", "wrote")
        own.written[cells] = mine | (index | (ATOMIC if atomic else 0))
        if lanes.chunk.count > 1 and not atomic and self.launch.checks.races:
            lost = own.written.take(cells) >> BLOCK != blocks + 1
            if np.count_nonzero(lost):
                keys = own.written.take(cells)
                self._race(lanes, own, cells, keys, lost, index, "writes", "wrote")

    # Order through atomics: a fence, then an atomic; an atomic on the same cell, then accesses.

    def fence(self, lanes: Lanes) -> None:
        self.fenced.update(int(b) for b in np.unique(lanes.block_key))

    def atomic(self, lanes: Lanes, addresses: Array) -> None:
        """Each block hands over what it and those it knows have written, and learns the same."""
        pairs = np.unique(
            np.stack([lanes.block_key, np.broadcast_to(addresses, (lanes.n,))]), axis=1
        )
        for b, address in pairs.T:
            block, cell = int(b), int(address)
            given = self.released.setdefault(cell, set())
            known = self.known.setdefault(block, set())
            known |= given
            if block in self.fenced:
                given |= known | {block}

    # Findings

    def _race(
        self,
        lanes: Lanes,
        own: _Cells,
        cells: Array,
        keys: Array,
        which: Array,
        index: int,
        verb: str,
        other_verb: str,
    ) -> None:
        if not self.launch.checks.races:
            return
        hits = np.flatnonzero(which)
        if self.known:
            blocks = lanes.block_key
            hits = np.array(
                [
                    i
                    for i in hits
                    if int(keys[i] >> BLOCK) - 1 not in self.known.get(int(blocks[i]), ())
                ],
                np.int64,
            )
            if not hits.size:
                return
        i = int(hits[0])
        key = int(keys[i])
        address = own.buffer.base + int(cells[i]) * own.granule
        lanes.report(
            "global race",
            f"{verb} byte {address - own.buffer.base} of '{own.buffer.name}' "
            f"that another block {other_verb}",
            index,
            i,
            count=hits.size,
            address=address,
            other=self.launch.where(key & _INDEX),
            other_block=self.launch.block_of((key >> BLOCK) - 1),
        )

    def _constant(
        self, lanes: Lanes, own: _Cells, cells: Array, keys: Array, hits: Array, index: int
    ) -> None:
        if not self.launch.checks.races:
            return
        i = int(hits[0])
        address = own.buffer.base + int(cells[i]) * own.granule
        lanes.report(
            "read-only load",
            f"byte {address - own.buffer.base} of '{own.buffer.name}' is read through ld.global.nc "
            "(const __restrict__) and written in the same launch",
            index,
            i,
            count=hits.size,
            address=address,
            other=self.launch.where(int(keys[i]) & _INDEX),
        )

    def unwritten(self, buffer: Buffer, low: int, high: int) -> tuple[int, int]:
        """(count, first byte) of the cells of a range of a buffer that nothing wrote."""
        own = self._cells.get(buffer.base)
        if own is None or own.written is None:
            return -(-(high - low) // (own.granule if own else self.granule)), low
        part = own.written[
            low >> own.shift : -(-high >> own.shift) if False else (high - 1 >> own.shift) + 1
        ]
        missing = np.flatnonzero(part == 0)
        return missing.size, (low + int(missing[0]) * own.granule) if missing.size else low

    def granules(self, granule: int) -> None:
        """The width of the smallest global access of the kernel."""
        self.granule = granule


__all__: list[Any] = ["GlobalShadow"]
