"""A chunk of the grid: its blocks, shared and local memory, and the state of the races check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn.emulator.isa import Array
from gpucnn.emulator.lanes import Lanes
from gpucnn.emulator.races import SharedShadow

if TYPE_CHECKING:
    from gpucnn.emulator.copies import Copies
    from gpucnn.emulator.launch import Launch

POISON = 0xFF


class Chunk:
    """`blocks` are linear block numbers of the grid."""

    def __init__(self, launch: Launch, blocks: Array) -> None:
        self.launch = launch
        self.blocks = blocks
        self.count = blocks.size
        threads = launch.threads
        self.warps_per_block = -(-threads // 32)
        self.width = 32 * self.warps_per_block
        self.warps = self.count * self.warps_per_block
        slots = np.arange(self.count * self.width, dtype=np.int64)
        if threads % 32:
            slots = slots[slots % self.width < threads]
        self.shared_size = launch.shared_size
        self.shared_pitch = -(-max(self.shared_size, 1) // 256) * 256
        self.shared = np.full(self.count * self.shared_pitch, POISON, np.uint8)
        self.local_pitch = -(-launch.program.local_size // 16) * 16
        self.local = np.full(self.count * self.width * self.local_pitch, POISON, np.uint8)
        self.local_written = np.zeros(
            self.local.size if launch.checks.uninitialised else 0, np.bool_
        )
        self.cells = self.shared_pitch // launch.granule
        self.shadow = SharedShadow(self) if self.shared_size and launch.tracks_shared else None
        self.waiting: Any = None  # set by the execution
        self.copies: Copies | None = None
        self._views: dict[Any, Array] = {}
        self.everyone = Lanes(self, slots)

    def shared_view(self, dtype: np.dtype[Any]) -> Array:
        found = self._views.get(dtype)
        if found is None:
            found = self._views[dtype] = self.shared.view(dtype)
        return found

    def local_view(self, dtype: np.dtype[Any]) -> Array:
        return self.local.view(dtype)

    def place(self, slot: int) -> dict[str, Any]:
        """Block and thread of a slot as dimensions."""
        launch = self.launch
        return {
            "block": launch.block_of(int(self.blocks[slot // self.width])),
            "thread": launch.thread_of(slot % self.width),
        }

    def special(self, name: str) -> Array:
        """The value of a read-only register for every slot of the chunk's threads."""
        launch, lanes = self.launch, self.everyone
        family, _, axis = name.partition(".")
        if axis:
            k = "xyz".index(axis)
            if family == "ntid":
                return np.array([launch.block[k]], np.uint32)
            if family == "nctaid":
                return np.array([launch.grid[k]], np.uint32)
            sizes = launch.block if family == "tid" else launch.grid
            if sizes[k] == 1:
                return np.zeros(1, np.uint32)
            linear = lanes.thread if family == "tid" else lanes.block_key
            below = (1, sizes[0], sizes[0] * sizes[1])[k]
            return (linear // below % sizes[k]).astype(np.uint32)
        lane = lanes.lane.astype(np.uint32)
        if family.startswith("lanemask"):
            one = np.left_shift(np.uint32(1), lane).astype(np.uint32)
            below_ = one - np.uint32(1)
            return {
                "eq": one, "lt": below_, "le": below_ | one, "gt": ~(below_ | one), "ge": ~below_,
            }[family[-2:]]  # fmt: skip
        values: dict[str, Any] = {
            "laneid": lane,
            "warpid": (lanes.thread // 32).astype(np.uint32),
            "nwarpid": np.array([self.warps_per_block], np.uint32),
            "smid": (lanes.block_key % 108).astype(np.uint32),
            "nsmid": np.array([108], np.uint32),
            "gridid": np.zeros(1, np.uint32),
            "clock": np.zeros(1, np.uint32),
            "clock_hi": np.zeros(1, np.uint32),
            "clock64": np.zeros(1, np.uint64),
            "globaltimer": np.zeros(1, np.uint64),
            "dynamic_smem_size": np.array([launch.dynamic_size], np.uint32),
            "total_smem_size": np.array([self.shared_size], np.uint32),
        }
        return values[family]
