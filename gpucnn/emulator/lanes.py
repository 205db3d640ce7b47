"""The threads of a chunk of the grid, and those an instruction runs for.

A chunk is some blocks of a launch executed together. Its threads have *slots*: block in the chunk
times threads of a block rounded up to whole warps, plus the thread's number; a warp is 32
neighbouring slots. Registers hold only threads that exist and have not returned.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn.emulator.isa import Array

if TYPE_CHECKING:
    from gpucnn.emulator.chunk import Chunk


class Lanes:
    """The active threads: `slots` ascending, n of them."""

    def __init__(self, chunk: Chunk, slots: Array) -> None:
        self.chunk = chunk
        self.slots = slots
        self.n = slots.size
        self.launch = chunk.launch

    @cached_property
    def block(self) -> Array:
        """Number of each lane's block within the chunk."""
        return self.slots // self.chunk.width

    @cached_property
    def one_block(self) -> bool:
        return self.chunk.count == 1

    @cached_property
    def thread(self) -> Array:
        """Number of each lane within its block."""
        return self.slots % self.chunk.width

    @cached_property
    def warp(self) -> Array:
        """Number of each lane's warp within the chunk."""
        return self.slots >> 5

    @cached_property
    def lane(self) -> Array:
        """Place of each lane in its warp."""
        return self.slots & 31

    @cached_property
    def shared_base(self) -> Array:
        return self.block * self.chunk.shared_pitch

    @cached_property
    def cell_base(self) -> Array:
        return self.block * self.chunk.cells

    @cached_property
    def local_base(self) -> Array:
        return self.slots * self.chunk.local_pitch

    @cached_property
    def block_key(self) -> Array:
        """Number of each lane's block within the grid."""
        return self.chunk.blocks[self.block]

    @cached_property
    def warps(self) -> int:
        """How many warps take part."""
        return int(np.count_nonzero(np.diff(self.warp))) + 1 if self.n else 0

    @cached_property
    def warp_starts(self) -> Array:
        """Where each warp's lanes begin in `slots`."""
        return np.concatenate(([0], np.flatnonzero(np.diff(self.warp)) + 1))

    @cached_property
    def present(self) -> Array:
        """Bit mask of the active lanes of each lane's warp."""
        bits = np.left_shift(np.uint32(1), self.lane.astype(np.uint32))
        masks = np.zeros(self.chunk.warps, np.uint32)
        masks[self.warp[self.warp_starts]] = np.add.reduceat(bits, self.warp_starts)
        return masks[self.warp]

    def active_mask(self) -> Array:
        return self.present

    def spread(self, values: Array) -> Array:
        """An array of one lane or of all, as one of all."""
        return values if values.size == self.n else np.broadcast_to(values, (self.n,))

    def subset(self, mask: Array) -> Lanes:
        return Lanes(self.chunk, self.slots[mask])

    def place(self, i: int) -> dict[str, Any]:
        """Block and thread of lane i, for a finding."""
        return self.chunk.place(int(self.slots[i]))

    def report(self, kind: str, message: str, index: int, i: int = 0, **more: Any) -> None:
        """A finding of lane i at an instruction."""
        self.launch.report(kind, message, index, **{**self.place(i), **more})
