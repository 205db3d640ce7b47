"""cp.async: copies from global to shared memory that land later.

A copy belongs to the group its thread commits next. Until the thread has waited for the group, the
bytes in shared memory are in flight: to read or overwrite them is a finding. When they have landed
they count as written by the thread at that moment, so that other threads still need a barrier. The
schedule decides when data moves: at the copy, or as late as the wait.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.emulator.access import Access
from gpucnn.emulator.isa import Array
from gpucnn.emulator.lanes import Lanes
from gpucnn.emulator.lower import SHARED_WINDOW, Service, Step, service
from gpucnn.emulator.races import RED
from gpucnn.emulator.syntax import Imm, Mem, Operand

OPEN = 1 << 40


class Flight:
    """One copy instruction of some lanes, in flight.

    group: number of each lane's commit group, OPEN before the commit.
    """

    def __init__(self, copy: Copy, x: Lanes, target: Array, source: Array, size: Array) -> None:
        self.copy, self.slots = copy, x.slots
        self.target, self.source, self.size = target, source, size
        self.words = (target + x.shared_base) >> 2
        self.group = np.full(x.n, OPEN, np.int64)
        self.flying = np.ones(x.n, np.bool_)
        self.number = 0


class Copies:
    """All copies of a chunk that are in flight; `over` holds for each word of shared memory the
    number of the flight that will write it.
    """

    def __init__(self, chunk: Any) -> None:
        self.chunk = chunk
        self.over = np.zeros(chunk.count * chunk.shared_pitch // 4, np.int32)
        self.flights: dict[int, Flight] = {}
        self.groups = np.zeros(chunk.count * chunk.width, np.int64)  # closed so far, by slot
        self.started = 0

    def __bool__(self) -> bool:
        return bool(self.flights)

    def start(self, flight: Flight) -> None:
        self.started += 1
        flight.number = self.started
        self.flights[self.started] = flight
        for k in range(flight.copy.count):
            self.over[flight.words + k] = self.started

    def touch(self, x: Lanes, offset: Array, access: Access, verb: str) -> None:
        """An access to shared memory: is a copy to it in flight?"""
        at = (x.shared_base + offset) >> 2
        hit = self.over.take(at)
        for k in range(1, max(access.bytes // 4, 1)):
            hit = np.maximum(hit, self.over.take(at + k))
        if not np.count_nonzero(hit) or not x.launch.checks.races:
            return
        i = int(np.flatnonzero(hit)[0])
        flight = self.flights[int(hit[i])]
        word = int(at[i])
        reach = max(access.bytes // 4, 1)
        owners = np.flatnonzero(
            (flight.words < word + reach) & (word < flight.words + flight.copy.count)
        )
        other = {}
        if owners.size:
            other["other_thread"] = x.chunk.place(int(flight.slots[owners[0]]))["thread"]
        x.report(
            "async copy",
            f"{verb} shared memory that a cp.async still in flight writes",
            access.index,
            i,
            count=int(np.count_nonzero(hit)),
            address=int(x.spread(offset)[i]),
            other=x.launch.where(flight.copy.index),
            **other,
        )

    def commit(self, x: Lanes) -> None:
        for flight in self.flights.values():
            mine = flight.flying & (flight.group == OPEN)
            if mine.any():
                mine &= np.isin(flight.slots, x.slots)
                flight.group[mine] = self.groups[flight.slots[mine]]
        self.groups[x.slots] += 1

    def wait(self, x: Lanes, pending: Array | None) -> None:
        """Groups but the last `pending` of these lanes have landed; None: all their copies."""
        until = np.full(self.groups.size, -1, np.int64)
        until[x.slots] = (
            OPEN + 1 if pending is None else self.groups[x.slots] - pending.astype(np.int64)
        )
        for flight in list(self.flights.values()):
            here = flight.flying & (flight.group < until[flight.slots])
            if here.any():
                self._land(flight, here)

    def _land(self, flight: Flight, here: Array) -> None:
        copy, shadow = flight.copy, self.chunk.shadow
        lanes = Lanes(self.chunk, flight.slots[here])
        target = flight.target[here]
        if self.chunk.launch.schedule.late_copies:
            copy.move(lanes, target, flight.source[here], flight.size[here])
        if shadow is not None:
            for cells in copy.cells(lanes, target, shadow.granule):
                cells = lanes.cell_base + cells
                shadow.written[cells] = np.where(
                    shadow.written[cells] == RED, RED, shadow.base(lanes) | copy.index
                )
        for k in range(copy.count):
            at = flight.words[here] + k
            self.over[at] = np.where(self.over[at] == flight.number, 0, self.over[at])
        flight.flying &= ~here
        if not flight.flying.any():
            del self.flights[flight.number]


class Copy(Access):
    """cp.async of `bytes`; the rest beyond the source size is zero."""

    def __init__(self, s: Service, size: int, target: Mem, source: Mem) -> None:
        super().__init__(s, "u4", size // 4, source.offset, "copies")
        self.space = "global"
        self.target = Access(s, "u4", size // 4, target.offset, "copies")

    def __call__(self, x: Lanes, to: Array, source: Array, size: Array | None = None) -> None:
        to, source = x.spread(to), x.spread(source)
        if int(to.min()) >= SHARED_WINDOW:
            to = to - SHARED_WINDOW
        sizes = np.full(x.n, self.bytes) if size is None else x.spread(size).astype(np.int64)
        some, offset, mask = self.target.shared_place(x, to)
        if mask is not None:
            if mask.any():
                self(some, to[mask], source[mask], sizes[mask])
            return
        reads = sizes > 0
        if reads.any() and self.locate(x.subset(reads), source[reads]) is None:
            bad = np.zeros(x.n, np.bool_)
            for part, buffer in self.parts(x.subset(reads), source[reads]):
                if buffer is None:
                    bad[np.flatnonzero(reads)[part]] = True
            sizes = np.where(bad, 0, sizes)
        if reads.any():
            wrong = self.misaligned(x.subset(reads), source[reads] + self.offset)
            if wrong is not None:
                sizes = np.where(np.isin(np.arange(x.n), np.flatnonzero(reads)[wrong]), 0, sizes)
        copies, shadow = started(x), x.chunk.shadow
        if copies:
            copies.touch(x, offset, self, "writes")
        if shadow is not None:
            # As a write of this thread now: who used the place before must be done with it.
            for cells in self.cells(x, offset, shadow.granule):
                shadow.write(x, x.cell_base + cells, self.index)
        if x.launch.tally.on:
            if reads.any():
                some = x.subset(reads)
                x.launch.tally.access("load", some, source[reads], self.bytes, self.offset)
            x.launch.tally.shared("store", x, offset, self.bytes)
        copies.start(Flight(self, x, offset, source, sizes))
        if not x.launch.schedule.late_copies:
            self.move(x, offset, source, sizes)

    def move(self, x: Lanes, to: Array, source: Array, sizes: Array) -> None:
        data = x.chunk.shared_view(np.dtype("u4"))
        at = (x.shared_base + to) >> 2
        for k in range(self.count):
            wanted = sizes > 4 * k
            word = np.zeros(x.n, np.uint32)
            if wanted.any():
                some = x.subset(wanted)
                place = source[wanted] + self.offset + 4 * k
                word[wanted] = self._words(some, place)
            data[at + k] = word

    def _words(self, x: Lanes, address: Array) -> Array:
        out = np.full(x.n, 0xFFFFFFFF, np.uint32)
        left = np.ones(x.n, np.bool_)
        while left.any():
            buffer = x.launch.memory.find(int(address[left][0]))
            if buffer is None:
                break
            here = left & (address >= buffer.base) & (address + 4 <= buffer.end)
            offset = address[here] - buffer.base
            if x.launch.globals is not None:
                for cells in (offset // x.launch.globals.granule,):
                    x.launch.globals.read(x.subset(here), buffer, cells, self.index, False)
            out[here] = buffer.view(np.dtype("u4"))[offset >> 2]
            if not here.any():
                break
            left &= ~here
        return out


def started(x: Lanes) -> Copies:
    """The copies of the lanes' chunk."""
    if x.chunk.copies is None:
        x.chunk.copies = Copies(x.chunk)
    return x.chunk.copies


def _commit(x: Lanes) -> None:
    started(x).commit(x)


def _wait(x: Lanes, pending: Array | None) -> None:
    started(x).wait(x, pending)


@service("cp")
def _copy(s: Service) -> Step:
    mods, operands = s.mods, s.instruction.operands
    if mods[0] != "async" or "bulk" in mods or "mbarrier" in mods:
        raise s.unknown()
    if "commit_group" in mods:
        return Step(_commit, [], [], "async copy", lanes=True)
    if "wait_group" in mods:
        return Step(_wait, [(operands[0], "u4")], [], "async copy", lanes=True)
    if "wait_all" in mods:
        return Step(lambda x: _wait(x, None), [], [], "async copy", lanes=True)
    target, source, size, *rest = operands
    if not (isinstance(target, Mem) and isinstance(source, Mem) and isinstance(size, Imm)):
        raise s.unknown()
    copy = Copy(s, int(size.value), target, source)
    sources: list[tuple[Operand, str]] = [(target, "a8"), (source, "a8")]
    if rest and "L2__cache_hint" not in mods:
        sources.append((rest[0], "u4"))
    run: Any = copy
    return Step(run, sources, [], "async copy", lanes=True)
