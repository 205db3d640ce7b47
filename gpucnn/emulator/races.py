"""Races in shared memory, by happens-before.

Shared memory is cut into cells, as wide as the smallest access of the kernel. Each block has a
clock that steps at every synchronisation in it. A cell remembers its last write (clock, thread,
instruction) and, while they matter, its readers. A barrier of all threads sets the block's floor:
what happened before it is ordered before all that comes after. Above the floor, accesses of two
threads are ordered only through `__syncwarp` and shuffles (known per thread of the warp) or named
barriers (known per warp).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn.emulator.isa import Array
from gpucnn.emulator.lanes import Lanes

if TYPE_CHECKING:
    from gpucnn.emulator.chunk import Chunk

UNWRITTEN, RED = -1, -2
CLOCK, SLOT = 32, 20
ATOMIC = 1 << 19
_INDEX = ATOMIC - 1
_SLOT_MASK = 0xFFF
_LOG = 256


class SharedShadow:
    """Cells of all blocks of a chunk.

    Keys are clock << 32 | thread << 20 | atomic | instruction.
    """

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = chunk
        launch = chunk.launch
        self.granule = launch.granule
        self.shift = self.granule.bit_length() - 1
        n = chunk.count
        layout = np.full(chunk.cells, RED, np.int64)
        for array in launch.shared_arrays:
            first = array.offset >> self.shift
            layout[first : first + -(-array.size // self.granule)] = UNWRITTEN
        self.layout = layout
        self.written = np.tile(layout, n)
        self.readers = np.zeros(n * chunk.cells, np.int64)  # largest thread of the latest clock
        self.others = np.zeros(n * chunk.cells, np.int64)  # smallest one, as 4095 - thread
        self.touched = np.zeros(n * chunk.cells, np.bool_)
        self.log: list[tuple[Array, Array, Array]] = []
        self.noted = 0
        self.folded = False  # whether `readers` may hold some of the present interval
        self.clock = np.ones(n, np.int64)
        self.floor = np.zeros(n, np.int64)  # clocks up to it lie before a barrier of all
        self.same = True  # clocks and floors of all blocks agree
        # What a thread knows of the lanes of its warp, a warp of the warps of its block.
        self.warp_known: Array | None = None
        self.block_known: Array | None = None
        self._stamp: tuple[Any, Array] | None = None

    # Keys

    def base(self, lanes: Lanes) -> Array:
        """clock << 32 | thread << 20 of each lane."""
        if self._stamp is None or self._stamp[0] is not lanes:
            clock = self.clock[0] if self.same else self.clock[lanes.block]
            self._stamp = (lanes, (clock << CLOCK) | (lanes.thread << SLOT))
        return self._stamp[1]

    def limit(self, lanes: Lanes) -> Any:
        """Keys from here on are not ordered by a barrier of all threads."""
        if self.same:
            return np.uint64((int(self.floor[0]) + 1) << CLOCK)
        return ((self.floor[lanes.block] + 1) << CLOCK).view(np.uint64)

    # Accesses. `cells` are numbers of cells, one a lane.

    def read(self, lanes: Lanes, cells: Array, index: int, atomic: bool = False) -> None:
        keys = self.written.take(cells)
        doubtful = keys.view(np.uint64) >= self.limit(lanes)
        if np.count_nonzero(doubtful):
            self._judge(lanes, cells, keys, doubtful, index, "reads", "wrote", atomic)
        if self.chunk.launch.checks.races and not atomic:
            self.log.append((cells, self.base(lanes), np.array([index])))
            if len(self.log) > _LOG:
                self._fold()

    def write(
        self,
        lanes: Lanes,
        cells: Array,
        index: int,
        atomic: bool = False,
        same: Callable[[], Array] | None = None,
    ) -> None:
        """`same`: lanes whose value is there already; to write one value twice does no harm."""
        keys = self.written.take(cells)
        limit = self.limit(lanes)
        doubtful = (keys.view(np.uint64) >= limit) & (keys != UNWRITTEN)
        if np.count_nonzero(doubtful):
            if same is not None:
                doubtful = doubtful & ~(same() & (keys >= 0))
            self._judge(lanes, cells, keys, doubtful, index, "writes", "wrote", atomic)
        if (self.log or self.folded) and self.chunk.launch.checks.races:
            self._against_readers(lanes, cells, index, limit)
        self.written[cells] = self.base(lanes) | (index | (ATOMIC if atomic else 0))

    def _against_readers(self, lanes: Lanes, cells: Array, index: int, limit: Any) -> None:
        for entry in self.log[self.noted :]:
            self.touched[entry[0]] = True
        self.noted = len(self.log)
        if self.folded:
            self._readers_of(lanes, cells, index, limit)
        if not np.count_nonzero(self.touched.take(cells)):
            return
        self._fold()
        self._readers_of(lanes, cells, index, limit)

    def _fold(self) -> None:
        """Enter the logged reads into the cells' readers."""
        for where, base, pc in self.log:
            keys = base | pc
            self.readers[where] = np.maximum(self.readers.take(where), keys)
            thread = (base >> SLOT) & _SLOT_MASK
            mirrored = (keys & ~(_SLOT_MASK << SLOT)) | ((_SLOT_MASK - thread) << SLOT)
            back = where[::-1]
            self.others[back] = np.maximum(self.others.take(back), mirrored[::-1])
            self.touched[where] = False
        self.log.clear()
        self.noted = 0
        self.folded = True

    def _readers_of(self, lanes: Lanes, cells: Array, index: int, limit: Any) -> None:
        for store, mirrored in ((self.readers, False), (self.others, True)):
            keys = store.take(cells)
            if mirrored:
                thread = _SLOT_MASK - ((keys >> SLOT) & _SLOT_MASK)
                keys = (keys & ~(_SLOT_MASK << SLOT)) | (thread << SLOT)
            doubtful = (keys >= np.asarray(limit).astype(np.int64)) & (keys > 0)
            if np.count_nonzero(doubtful):
                self._judge(lanes, cells, keys, doubtful, index, "writes", "read", False)

    def pending_readers(self, lanes: Lanes, cells: Array, index: int) -> None:
        """Look for unordered readers though nothing is written yet (an asynchronous copy)."""
        if self.log:
            self._against_readers(lanes, cells, index, self.limit(lanes))
        else:
            self._readers_of(lanes, cells, index, self.limit(lanes))

    # Judgement

    def _judge(
        self,
        lanes: Lanes,
        cells: Array,
        keys: Array,
        doubtful: Array,
        index: int,
        verb: str,
        other_verb: str,
        atomic: bool,
    ) -> None:
        which = np.flatnonzero(doubtful)
        keys, cells = keys[which], cells[which]
        launch = self.chunk.launch
        slots = lanes.slots[which]
        for marker, kind in ((RED, "red zone"), (UNWRITTEN, "uninitialised")):
            hit = np.flatnonzero(keys == marker)
            wanted = launch.checks.races if marker == RED else launch.checks.uninitialised
            if hit.size and wanted:
                first = hit[0]
                message = (
                    self._outside(int(cells[first]), verb)
                    if marker == RED
                    else (f"reads {self._name(int(cells[first]))} that no thread has written")
                )
                self._report(kind, message, index, int(slots[first]), int(cells[first]), hit.size)
        if not launch.checks.races:
            return
        mine = lanes.thread[which]
        theirs = (keys >> SLOT) & _SLOT_MASK
        bad = (keys >= 0) & (mine != theirs)
        if atomic:
            bad &= (keys & ATOMIC) == 0
        if not np.count_nonzero(bad):
            return
        clock = keys >> CLOCK
        same_warp = (mine >> 5) == (theirs >> 5)
        bad &= ~self._ordered(slots, theirs, clock, same_warp)
        for warp_level in (False, True):
            hit = np.flatnonzero(bad & (same_warp == warp_level))
            if not hit.size:
                continue
            first = hit[0]
            key = int(keys[first])
            name = self._name(int(cells[first]))
            text = f"{verb} {name} that another thread {other_verb} with no barrier between"
            if warp_level:
                text = f"{verb} {name} that a lane of its warp {other_verb}, without __syncwarp"
            block_slot = int(slots[first]) // self.chunk.width * self.chunk.width
            party = self.chunk.place(block_slot + int(theirs[first]))
            self._report(
                "syncwarp" if warp_level else "race",
                text,
                index,
                int(slots[first]),
                int(cells[first]),
                hit.size,
                other=launch.where(key & _INDEX),
                other_thread=party["thread"],
            )

    def _ordered(self, slots: Array, theirs: Array, clock: Array, same_warp: Array) -> Array:
        ordered = np.zeros(slots.shape, np.bool_)
        if self.warp_known is not None:
            ordered |= same_warp & (self.warp_known[slots, theirs & 31] >= clock)
        if self.block_known is not None:
            ordered |= ~same_warp & (self.block_known[slots >> 5, theirs >> 5] >= clock)
        return ordered

    def _report(
        self, kind: str, message: str, index: int, slot: int, cell: int, count: int, **more: Any
    ) -> None:
        more |= {"count": count, "address": cell % self.chunk.cells * self.granule}
        self.chunk.launch.report(kind, message, index, **self.chunk.place(slot), **more)

    def _name(self, cell: int) -> str:
        offset = cell % self.chunk.cells * self.granule
        for array in self.chunk.launch.shared_arrays:
            if array.offset <= offset < array.offset + array.size:
                return f"byte {offset - array.offset} of shared '{array.name}'"
        return f"byte {offset} of shared memory"

    def _outside(self, cell: int, verb: str) -> str:
        offset = cell % self.chunk.cells * self.granule
        before = [a for a in self.chunk.launch.shared_arrays if a.offset + a.size <= offset]
        if before:
            last = max(before, key=lambda a: a.offset)
            past = offset - last.offset - last.size
            return f"{verb} {past} bytes past the end of shared '{last.name}' ({last.size} bytes)"
        return f"{verb} before the first shared array"

    # Synchronisation

    def barrier(self, block: int, warps: Array | None) -> None:
        """All threads of a block have met (`warps` None), or those warps of it (chunk numbers)."""
        clock = int(self.clock[block])
        if warps is None:
            self.floor[block] = clock
        else:
            if self.block_known is None:
                self.block_known = np.zeros(
                    (self.chunk.warps, self.chunk.warps_per_block), np.int64
                )
            inside = warps - block * self.chunk.warps_per_block
            joined = self.block_known[warps].max(axis=0)
            joined[inside] = clock
            self.block_known[warps] = joined
            if self.warp_known is None:
                self.warp_known = np.zeros((self.chunk.count * self.chunk.width, 32), np.int64)
            for warp in warps:
                self.warp_known[warp * 32 : warp * 32 + 32] = clock
        self.clock[block] = clock + 1
        self._stamp = None

    def settle(self) -> None:
        """After barriers: see whether the blocks agree again, drop readers that are ordered."""
        self.same = not (np.ptp(self.clock) or np.ptp(self.floor))
        if self.same and self.floor[0] + 1 == self.clock[0]:
            for where, _, _ in self.log[: self.noted]:
                self.touched[where] = False
            self.log.clear()
            self.noted = 0
            self.folded = False

    def warp_sync(self, lanes: Lanes, masks: Array) -> None:
        """Lanes of a warp have met: each lane's `masks` names the lanes of its group."""
        if self.warp_known is None:
            self.warp_known = np.zeros((self.chunk.count * self.chunk.width, 32), np.int64)
        known = self.warp_known
        clock = self.clock[lanes.block]
        member = (masks[:, None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1)
        rows = known[lanes.slots]
        full = masks == np.uint32(0xFFFFFFFF)
        if np.count_nonzero(full) == full.size:
            rows[:] = clock[:, None]
        else:
            # Everything any member of the group knows, plus the members up to now.
            all_rows = known.reshape(-1, 32, 32)[lanes.warp]
            joined = np.where(member[:, :, None] != 0, all_rows, 0).max(axis=1)
            rows = np.where(member != 0, clock[:, None], np.maximum(rows, joined))
        known[lanes.slots] = rows
        np.add.at(self.clock, np.unique(lanes.block), 1)
        self._stamp = None
        self.same = not (np.ptp(self.clock) or np.ptp(self.floor))
