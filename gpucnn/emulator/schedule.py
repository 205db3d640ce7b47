"""Which lanes run next, in which order the blocks of the grid, and when asynchronous copies land.

A right kernel gives the same bits under every schedule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpucnn.emulator.isa import Array

if TYPE_CHECKING:
    from gpucnn.emulator.execute import Execution, Group

_LONGEST = 12
"""A turn is of 1, 2, 4, ... steps, and these are the powers; a step is a block of instructions."""


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
    """Some random warps that are at one place go on for a while, then others; blocks in random
    order.

    Priorities that change at random times find what depends on the order in far fewer steps than a
    new choice at each (Burckhardt et al., "A randomized scheduler with probabilistic guarantees of
    finding bugs", ASPLOS 2010). Lanes of a warp run its lowest place first, so that they meet
    again. Copies land early or late by chance of the seed.
    """

    def __init__(self, seed: int, truncating: bool = True) -> None:
        self._random = np.random.default_rng(seed)
        super().__init__(bool(self._random.integers(2)), truncating)
        self._turn: _Turn | None = None

    def blocks(self, count: int) -> Array:
        return self._random.permutation(count)

    def pick(self, execution: Execution) -> tuple[int, Group]:
        turn = self._turn
        if turn is not None and turn.execution is execution and turn.steps:
            turn.steps -= 1
            for key in sorted(execution.ready):
                found = _take(execution, key, turn.warps)
                if found is not None:
                    return key, found
        self._turn = self._draw(execution)
        return self.pick(execution)

    def _draw(self, execution: Execution) -> _Turn:
        """Some of the warps whose lowest place is the same."""
        random = self._random
        lowest = np.full(execution.chunk.warps, np.iinfo(np.int64).max)
        keys = sorted(execution.ready)
        for key in reversed(keys):
            for group in execution.ready[key]:
                lowest[group.lanes.warp] = key
        places = np.unique(lowest)
        chosen = places[int(random.integers(np.count_nonzero(places <= keys[-1])))]
        warps = np.flatnonzero(lowest == chosen)
        count = warps.size if random.integers(2) else int(random.integers(1, warps.size + 1))
        some = np.zeros(execution.chunk.warps, np.bool_)
        some[random.permutation(warps)[:count]] = True
        return _Turn(execution, some, 1 << int(random.integers(_LONGEST)))


class _Turn:
    """The warps that go on, and for how many steps."""

    def __init__(self, execution: Execution, warps: Array, steps: int) -> None:
        self.execution, self.warps, self.steps = execution, warps, steps


def _take(execution: Execution, key: int, warps: Array) -> Group | None:
    """The lanes that are ready at a key and belong to some warps, if there are any."""
    if not any(warps[group.lanes.warp].any() for group in execution.ready[key]):
        return None
    group = execution.take(key)
    mask = warps[group.lanes.warp]
    if mask.all():
        return group
    execution.put(key, execution.part(group, ~mask))
    return execution.part(group, mask)


LOWEST_FIRST = Schedule()
"""The default."""
