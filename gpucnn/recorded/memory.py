"""A plan of memory: buffers whose lifetimes do not meet share the same bytes."""

from __future__ import annotations

from collections.abc import Mapping

from gpucnn.recorded.node import Buffer

_ALIGNMENT = 256


def plan(lifetimes: Mapping[Buffer, tuple[int, int]]) -> tuple[dict[Buffer, int], int]:
    """Where each buffer begins in one arena, and the arena's size in bytes.

    The largest are placed first, each at the lowest place that is free while it lives (Pisarchyk
    and Lee, "Efficient memory management for deep neural net inference", 2020, greedy by size).

    Args:
        lifetimes: for each buffer the numbers of the first and the last call that use it.
    """
    offsets: dict[Buffer, int] = {}
    placed: list[tuple[int, int, int, int]] = []  # begin, end, first use, last use
    by_size = sorted(lifetimes, key=lambda b: (b.start - b.stop, lifetimes[b]))
    for buffer in by_size:
        first, last = lifetimes[buffer]
        size = -(-(buffer.stop - buffer.start) // _ALIGNMENT) * _ALIGNMENT
        begin = 0
        for low, high, born, died in placed:  # in rising order of their begin
            if died < first or last < born:
                continue
            if low - begin >= size:
                break
            begin = max(begin, high)
        offsets[buffer] = begin
        placed.append((begin, begin + size, first, last))
        placed.sort()
    return offsets, max((entry[1] for entry in placed), default=0)
