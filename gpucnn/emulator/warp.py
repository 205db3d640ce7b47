"""Barriers as instructions, and exchanges between the lanes of a warp.

Who waits for whom is settled before the step runs (`barriers.py`): here all lanes of a meeting are
present, unless they have returned.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.emulator.isa import CODES, Array
from gpucnn.emulator.lanes import Lanes
from gpucnn.emulator.lower import Service, Step, registers, service
from gpucnn.emulator.syntax import Group, Imm, Operand

FULL = Imm(0xFFFFFFFF)


@service("bar", "barrier")
def _barrier(s: Service) -> Step:
    opcode = s.instruction.opcode
    if ".warp" in opcode:
        return Step(_met, [(s.instruction.operands[-1], "u4")], [], "barrier", lanes=True)
    if "arrive" in s.mods:
        return _arrive(s)
    if "red" in s.mods:
        return _reduction(s)
    if "sync" in s.mods:
        reads: list[tuple[Operand, str]] = [(o, "u4") for o in s.instruction.operands]
        return Step(lambda *v: None, reads, [], "barrier")
    raise s.unknown()


def _met(x: Lanes, masks: Array) -> None:
    """__syncwarp: the lanes of the mask have met."""
    if x.chunk.shadow is not None:
        x.chunk.shadow.warp_sync(x, x.spread(masks))


def _arrive(s: Service) -> Step:
    def arrive(x: Lanes, number: Array, count: Array) -> None:
        waiting = x.chunk.waiting
        ids = x.spread(number)
        for block, i in sorted({(int(b), int(n)) for b, n in zip(x.block, ids)}):
            here = (x.block == block) & (ids == i)
            warps = np.unique(x.warp[here])
            waiting.arrived[block, i] = waiting.arrived.get((block, i), 0) + 32 * warps.size
            waiting.arrived_warps.setdefault((block, i), []).extend(int(w) for w in warps)

    return Step(arrive, [(o, "u4") for o in s.instruction.operands], [], "barrier", lanes=True)


def _reduction(s: Service) -> Step:
    """bar.red: popc, and, or of a predicate over the threads that met."""
    result, *others = s.instruction.operands
    predicate = others[-1]
    name = next(m for m in s.mods if m in ("popc", "and", "or"))
    kind = "u32" if name == "popc" else "pred"

    def reduce(x: Lanes, p: Array) -> Array:
        votes = np.zeros(x.chunk.count, np.int64)
        np.add.at(votes, x.block, x.spread(p).astype(np.int64))
        total = np.zeros(x.chunk.count, np.int64)
        np.add.at(total, x.block, 1)
        found = {"popc": votes, "or": votes > 0, "and": votes == total}[name]
        return found[x.block].astype(CODES[kind])

    return Step(reduce, [(predicate, "?")], [(registers(result)[0], kind)], "barrier", lanes=True)


def _table(x: Lanes, values: Array) -> Array:
    """Values by slot of the chunk; lanes that are not there give 0."""
    out = np.zeros(x.chunk.count * x.chunk.width, values.dtype)
    out[x.slots] = values
    return out


@service("shfl")
def _shuffle(s: Service) -> Step:
    to, source, offset, clamp, *mask = s.instruction.operands
    mode = next(m for m in s.mods if m in ("up", "down", "bfly", "idx"))
    index = s.index

    def shuffle(x: Lanes, a: Array, b: Array, c: Array, masks: Array) -> Any:
        _met(x, masks)
        lane = x.lane
        step = x.spread(b & np.uint32(31)).astype(np.int64)
        c = x.spread(c).astype(np.int64)
        clamp, segment = c & 31, c >> 8 & 31
        highest = (lane & segment) | (clamp & ~segment)
        lowest = lane & segment
        if mode == "up":
            j = lane - step
            inside = j >= highest
        elif mode == "down":
            j = lane + step
            inside = j <= highest
        elif mode == "bfly":
            j = lane ^ step
            inside = j <= highest
        else:
            j = lowest | (step & ~segment)
            inside = j <= highest
        j = np.where(inside, j, lane)
        present = (x.present >> j.astype(np.uint32)) & np.uint32(1)
        absent = (present == 0) & inside
        if np.count_nonzero(absent):
            i = int(np.flatnonzero(absent)[0])
            x.report(
                "warp mask", f"reads the value of lane {int(j[i])}, which takes no part", index, i
            )
        value = _table(x, x.spread(a))[(x.warp << 5) + j]
        return (value, inside) if pair else value

    targets = registers(to)
    pair = isinstance(to, Group)
    kinds = ["b32", "pred"][: len(targets)]
    return Step(
        shuffle,
        [(source, "u4"), (offset, "u4"), (clamp, "u4"), (mask[0] if mask else FULL, "u4")],
        list(zip(targets, kinds, strict=True)),
        "warp",
        lanes=True,
    )


def _ballot(x: Lanes, bits: Array) -> Array:
    """For each lane the mask of lanes of its warp whose bit is set."""
    masks = np.zeros(x.chunk.warps, np.uint32)
    values = np.left_shift(x.spread(bits).astype(np.uint32), x.lane.astype(np.uint32))
    masks[x.warp[x.warp_starts]] = np.add.reduceat(values, x.warp_starts).astype(np.uint32)
    return masks[x.warp]


@service("vote")
def _vote(s: Service) -> Step:
    to, source, *mask = s.instruction.operands
    mode = next(m for m in s.mods if m in ("all", "any", "uni", "ballot"))

    def vote(x: Lanes, p: Array, masks: Array) -> Array:
        _met(x, masks)
        members = x.spread(masks) & x.present
        yes = _ballot(x, p) & members
        if mode == "ballot":
            return yes
        if mode == "any":
            return yes != 0
        return (yes == members) if mode == "all" else (yes == members) | (yes == 0)

    kind = "b32" if mode == "ballot" else "pred"
    return Step(
        vote,
        [(source, "?"), (mask[0] if mask else FULL, "u4")],
        [(registers(to)[0], kind)],
        "warp",
        lanes=True,
    )


@service("match")
def _match(s: Service) -> Step:
    to, source, mask = s.instruction.operands
    kind = s.type()
    every = "all" in s.mods
    pair = isinstance(to, Group)

    def match(x: Lanes, a: Array, masks: Array) -> Any:
        _met(x, masks)
        values = _table(x, x.spread(a)).reshape(-1, 32)
        member = (x.spread(masks) & x.present)[:, None] >> np.arange(
            32, dtype=np.uint32
        ) & np.uint32(1)
        equal = (values[x.warp] == x.spread(a)[:, None]) & (member != 0)
        found = (
            (equal.astype(np.uint64) << np.arange(32, dtype=np.uint64))
            .sum(axis=1)
            .astype(np.uint32)
        )
        if not every:
            return found
        same = found == (x.spread(masks) & x.present)
        result = np.where(same, found, np.uint32(0))
        return (result, same) if pair else result

    targets = registers(to)
    return Step(
        match,
        [(source, CODES[kind]), (mask, "u4")],
        list(zip(targets, ["b32", "pred"][: len(targets)], strict=True)),
        "warp",
        lanes=True,
    )


@service("redux")
def _redux(s: Service) -> Step:
    to, source, mask = s.instruction.operands
    mode = next(m for m in s.mods if m in ("add", "min", "max", "and", "or", "xor"))
    kind = s.type()
    dtype = np.dtype(CODES[kind])
    ufunc = {
        "add": np.add,
        "min": np.minimum,
        "max": np.maximum,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }[mode]
    if kind == "b32":
        neutral: Any = 0xFFFFFFFF if mode == "and" else 0
    else:
        info = np.iinfo(dtype)
        neutral = {"min": info.max, "max": info.min}.get(mode, 0)

    def reduce(x: Lanes, a: Array, masks: Array) -> Array:
        _met(x, masks)
        values = _table(x, x.spread(a)).reshape(-1, 32)
        member = (x.spread(masks) & x.present)[:, None] >> np.arange(
            32, dtype=np.uint32
        ) & np.uint32(1)
        rows = np.where(member != 0, values[x.warp], dtype.type(neutral))
        return ufunc.reduce(rows, axis=1).astype(dtype)

    return Step(
        reduce,
        [(source, CODES[kind]), (mask, "u4")],
        [(registers(to)[0], kind)],
        "warp",
        lanes=True,
    )


@service("elect")
def _elect(s: Service) -> Step:
    to, mask = s.instruction.operands

    def elect(x: Lanes, masks: Array) -> Any:
        members = x.spread(masks) & x.present
        lowest = members & (~members + np.uint32(1))
        leader = np.log2(lowest.astype(np.float64)).astype(np.uint32)
        return leader, x.lane == leader

    targets = registers(to)
    if len(targets) != 2:
        raise s.unknown()
    return Step(
        elect, [(mask, "u4")], list(zip(targets, ["b32", "pred"], strict=True)), "warp", lanes=True
    )
