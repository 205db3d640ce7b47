"""What a launch did, in numbers that decide its speed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gpucnn.emulator.isa import Array
from gpucnn.emulator.lanes import Lanes
from gpucnn.emulator.memory import Buffer

if TYPE_CHECKING:
    from gpucnn.emulator.module import Kernel

SECTOR = 32
BANKS = 32


@dataclass(frozen=True)
class Counters:
    """Totals of a launch.

    instructions: warp instructions by class; thread_instructions: lanes that ran them.
    flops: floating-point operations of all lanes (an fma counts two, a matrix instruction all).
    *_requests: warp instructions that access global memory; *_sectors: 32-byte sectors they touch,
        *_sectors_ideal: as many as the bytes need at least.
    *_wavefronts: passes over the 32 banks of shared memory, *_wavefronts_ideal without conflicts.
    bytes_read, bytes_written: of global memory, in sectors; unique_bytes: bytes touched at least
        once.
    barriers: warps that passed one; divergent_branches: warps that split.
    """

    blocks: int = 0
    threads: int = 0
    instructions: dict[str, int] = field(default_factory=dict)
    thread_instructions: int = 0
    flops: dict[str, int] = field(default_factory=dict)
    load_requests: int = 0
    load_sectors: int = 0
    load_sectors_ideal: int = 0
    store_requests: int = 0
    store_sectors: int = 0
    store_sectors_ideal: int = 0
    shared_load_wavefronts: int = 0
    shared_load_wavefronts_ideal: int = 0
    shared_store_wavefronts: int = 0
    shared_store_wavefronts_ideal: int = 0
    barriers: int = 0
    divergent_branches: int = 0
    unique_bytes: int = 0
    shared_bytes: int = 0
    lines: frozenset[tuple[str, int]] = frozenset()

    @property
    def warp_instructions(self) -> int:
        return sum(self.instructions.values())

    @property
    def bytes_read(self) -> int:
        return SECTOR * self.load_sectors

    @property
    def bytes_written(self) -> int:
        return SECTOR * self.store_sectors

    @property
    def active_lanes(self) -> float:
        """Share of the lanes of the executed warp instructions that were active."""
        return self.thread_instructions / max(32 * self.warp_instructions, 1)


class Tally:
    """Counts while a launch runs; `on` says whether it does."""

    def __init__(self, on: bool) -> None:
        self.on = on
        self.visits: dict[int, list[int]] = {}
        self.barriers = 0
        self.divergent = 0
        self.memory: dict[str, list[int]] = {}
        self.extra_flops: dict[str, int] = {}
        self.touched: dict[int, Array] = {}

    def block(self, number: int, lanes: Lanes) -> None:
        entry = self.visits.setdefault(number, [0, 0])
        entry[0] += lanes.warps
        entry[1] += lanes.n

    def diverged(self, lanes: Lanes, taken: Array) -> None:
        starts = lanes.warp_starts
        sums = np.add.reduceat(taken.astype(np.int64), starts)
        sizes = np.diff(np.append(starts, lanes.n))
        self.divergent += int(np.count_nonzero((sums != 0) & (sums != sizes)))

    def flop(self, kind: str, count: int) -> None:
        self.extra_flops[kind] = self.extra_flops.get(kind, 0) + count

    def touch(self, buffer: Buffer, offset: Array, size: int) -> None:
        """Note the sectors of a buffer that are used at all."""
        found = self.touched.get(buffer.base)
        if found is None:
            found = self.touched[buffer.base] = np.zeros(buffer.size // SECTOR + 1, np.bool_)
        found[offset >> 5] = True

    @property
    def unique(self) -> int:
        """Bytes of the sectors used at least once."""
        return SECTOR * sum(int(np.count_nonzero(t)) for t in self.touched.values())

    def access(self, verb: str, lanes: Lanes, address: Array, size: int, offset: int) -> None:
        """Sectors that each warp's request touches, against the distinct bytes it needs."""
        entry = self.memory.setdefault(verb, [0, 0, 0])
        warps = lanes.warps
        entry[0] += warps
        if address.size == 1 or lanes.n == 1:
            entry[1] += warps * (1 + (size - 1) // SECTOR)
            entry[2] += warps
            return
        place = address + offset
        first = place >> 5
        order = (lanes.warp << 48) ^ (first & 0xFFFF_FFFF_FFFF)
        units = (lanes.warp << 48) ^ (place & 0xFFFF_FFFF_FFFF)
        if np.count_nonzero(np.diff(order) < 0):
            order = np.sort(order)
            units = np.sort(units)
        sectors = 1 + np.count_nonzero(np.diff(order))
        distinct = np.ones(units.size, np.bool_)
        distinct[1:] = np.diff(units) != 0
        # An ideal request packs its distinct bytes into whole sectors.
        warp = units >> 48
        starts = np.concatenate(([0], np.flatnonzero(np.diff(warp)) + 1))
        needed = np.add.reduceat(distinct.astype(np.int64), starts) * size
        entry[1] += int(sectors)
        entry[2] += int((-(-needed // SECTOR)).sum())

    def shared(self, verb: str, lanes: Lanes, offset: Array, size: int) -> None:
        """Wavefronts: within a warp, the most different words that one bank has to give.

        64-bit accesses go by half warps, 128-bit ones by quarters (as profilers count them).
        """
        entry = self.memory.setdefault("shared " + verb, [0, 0, 0])
        share = max(32 * 4 // max(size, 4), 1)  # lanes served at once
        lane = lanes.lane
        part = lanes.warp * (32 // share) + lane // share
        changes = np.diff(part)
        parts = 1 + np.count_nonzero(changes)
        entry[0] += lanes.warps
        entry[2] += int(parts)
        if offset.size == 1:
            entry[1] += int(parts)
            return
        words = max(size // 4, 1)
        word = offset >> 2
        # Words of a lane lie in neighbouring banks: the first stands for all.
        key = np.unique((part << 32) | word)
        bank = ((key >> 32) << 5) | ((key & 0xFFFFFFFF) // words % (BANKS // words))
        bank = np.sort(bank)
        edges = np.flatnonzero(np.diff(bank)) + 1
        starts = np.concatenate(([0], edges))
        counts = np.diff(np.append(starts, bank.size))
        worst = np.maximum.reduceat(
            counts, np.concatenate(([0], np.flatnonzero(np.diff(bank[starts] >> 5)) + 1))
        )
        entry[1] += int(worst.sum())

    def total(self, kernel: Kernel, blocks: int, threads: int, shared: int) -> Counters:
        kinds: dict[str, int] = {}
        flops: dict[str, int] = dict(self.extra_flops)
        lane_count = 0
        lines: set[tuple[str, int]] = set()
        for number, (warps, lanes) in self.visits.items():
            block = kernel.program.blocks[number]
            compiled = kernel.compiled(block)
            for kind, count in compiled.kinds.items():
                kinds[kind] = kinds.get(kind, 0) + count * warps
                lane_count += count * lanes
            for kind, count in compiled.flops.items():
                flops[kind] = flops.get(kind, 0) + count * lanes
            lines |= compiled.lines
        load, store = (self.memory.get(v, [0, 0, 0]) for v in ("load", "store"))
        sl, ss = (self.memory.get("shared " + v, [0, 0, 0]) for v in ("load", "store"))
        return Counters(
            blocks,
            threads,
            kinds,
            lane_count,
            flops,
            load[0],
            load[1],
            load[2],
            store[0],
            store[1],
            store[2],
            sl[1],
            sl[2],
            ss[1],
            ss[2],
            self.barriers,
            self.divergent,
            self.unique,
            shared,
            frozenset(lines),
        )
