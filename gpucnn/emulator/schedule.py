"""Which lanes run next, in which order the blocks of the grid, and when asynchronous copies land.

A right kernel gives the same bits under every schedule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn.emulator.isa import Array

if TYPE_CHECKING:
    from gpucnn.emulator.execute import Execution, Group


class Schedule:
    """Lowest program counter first; blocks in order. `late_copies`: `cp.async` data arrives only
    when it is waited for (else at once). `truncating`: tensor cores cut while they add (else they
    round to nearest).
    """

    def __init__(self, late_copies: bool = True, truncating: bool = True) -> None:
        self.late_copies = late_copies
        self.truncating = truncating

    def blocks(self, count: int) -> Array:
        return np.arange(count)

    def pick(self, execution: Execution) -> tuple[int, Group]:
        key = min(execution.ready)
        return key, execution.take(key)


class RandomSchedule(Schedule):
    """At each step some random warps that are at one place go on; blocks in random order.

    Lanes of a warp run its lowest place first, so that they meet again. Copies land early or late
    by chance of the seed.
    """

    def __init__(self, seed: int, truncating: bool = True) -> None:
        self._random = np.random.default_rng(seed)
        super().__init__(bool(self._random.integers(2)), truncating)

    def blocks(self, count: int) -> Array:
        return self._random.permutation(count)

    def pick(self, execution: Execution) -> tuple[int, Group]:
        random = self._random
        keys = sorted(execution.ready)
        lowest = np.full(execution.chunk.warps, np.iinfo(np.int64).max)
        groups: dict[int, Any] = {}
        for key in reversed(keys):
            groups[key] = execution.take(key)
            lowest[groups[key].lanes.warp] = key
        candidates = [k for k in keys if (lowest == k).any()]
        chosen = candidates[int(random.integers(len(candidates)))]
        warps = np.flatnonzero(lowest == chosen)
        some = np.zeros(execution.chunk.warps, np.bool_)
        some[random.permutation(warps)[: int(random.integers(1, warps.size + 1))]] = True
        for key, group in groups.items():
            if key != chosen:
                execution.put(key, group)
        group = groups[chosen]
        mask = some[group.lanes.warp]
        if mask.all():
            return chosen, group
        execution.put(chosen, execution.part(group, ~mask))
        return chosen, execution.part(group, mask)


LOWEST_FIRST = Schedule()
"""The default."""
