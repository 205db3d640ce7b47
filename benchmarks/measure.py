"""Timers, and how samples are taken: in runs, each a window of every contestant in turn.

Whatever disturbs a machine for a while (another process, a clock that drops) then meets all
contestants alike. Each window begins with one call that is not counted: it brings the caches to
this contestant's data and lets the other one's threads go to sleep.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from gpucnn import backends
from gpucnn.backends.gpu import GpuBackend
from gpucnn.core import memory
from gpucnn.core.device import Device

Function = Callable[[], Any]

_FLUSH_BYTES = 256 << 20
"""At least this much is written between two calls on a GPU: well beyond any L2, and long enough
for the host to queue the next call, so that its launch time is not measured."""

_MOST_SAMPLES = 2000
"""Of one window: enough for a median, few enough events for a GPU's queue."""


class Contestant(NamedTuple):
    """A call to time, and the setting that it is made in."""

    run: Function
    setting: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the samples of each run, in the order in which they were taken."""

    runs: tuple[tuple[float, ...], ...]

    @property
    def samples(self) -> int:
        return sum(map(len, self.runs))

    @property
    def medians(self) -> tuple[float, ...]:
        """Of each run."""
        return tuple(statistics.median(run) for run in self.runs)

    @property
    def median(self) -> float:
        """Of the medians of the runs."""
        return statistics.median(self.medians)

    @property
    def minimum(self) -> float:
        return min(map(min, self.runs))

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest median of a run."""
        return min(self.medians), max(self.medians)


class Clock(Protocol):
    """Takes samples on one kind of device."""

    def shortest(self, cold: bool) -> float:
        """Seconds that a sample must last to be trusted; quicker calls are timed several at a
        time."""
        ...

    def samples(self, function: Function, calls: int, count: int, cold: bool) -> list[float]:
        """`count` samples, each the mean seconds of `calls` calls (1 where `cold`)."""
        ...


class HostClock:
    """time.perf_counter; caches are as the call before left them."""

    def shortest(self, cold: bool) -> float:
        return 50e-6

    def samples(self, function: Function, calls: int, count: int, cold: bool) -> list[float]:
        taken = []
        for _ in range(count):
            start = time.perf_counter()
            for _ in range(calls):
                function()
            taken.append((time.perf_counter() - start) / calls)
        return taken


class EventClock:
    """CUDA events on the current stream; `flush` empties the L2 cache before each cold call.

    All samples of a window are queued before the first is waited for.
    """

    def __init__(self, runtime: Any, flush: Callable[[], object]) -> None:
        self._runtime = runtime
        self._flush = flush

    def shortest(self, cold: bool) -> float:
        return 0.0 if cold else 1e-3

    def samples(self, function: Function, calls: int, count: int, cold: bool) -> list[float]:
        marks = []
        for _ in range(count):
            if cold:
                self._flush()
            start = self._runtime.record_event()
            for _ in range(calls):
                function()
            marks.append((start, self._runtime.record_event()))
        return [self._runtime.elapsed_ms(start, end) / 1e3 / calls for start, end in marks]


def gpu_runtime(device: Device) -> Any:
    """The runtime of a device that launches kernels.

    Raises:
        ValueError: the device is the cpu.
    """
    backend = backends.get(device)
    if not isinstance(backend, GpuBackend):
        raise ValueError(f"gpu_runtime: {device} launches no kernels")
    return backend.runtime


def clock(device: Device) -> Clock:
    """The clock of a device that is not emulated."""
    if device.type != "cuda":
        return HostClock()
    runtime = gpu_runtime(device)
    size = max(_FLUSH_BYTES, 4 * runtime.properties().l2_cache)
    written = memory.empty((size // 4,), memory.float32, device)
    return EventClock(runtime, lambda: memory.fill(written, 0.0))


def refuse_emulated(device: Device) -> None:
    """See that a device's timings mean something.

    Raises:
        ValueError: the device is emulated.
    """
    if device.type == "emulated":
        raise ValueError(
            "bench: device emulated executes CUDA kernels on the host to check them; "
            "nothing emulated is ever a timing (choose cpu or cuda)"
        )


def measure(
    contestants: Sequence[Contestant],
    clock: Clock,
    seconds: float,
    runs: int = 5,
    cold: bool = False,
    long: bool = False,
) -> list[Timing]:
    """Time the contestants in alternating windows, one of each a run.

    Every other run goes through them backwards: none has always the same one before it.

    Args:
        seconds: for each contestant, all its windows together; a window has one sample at least.
        cold: one call a sample, on a GPU with a flushed L2 cache.
        long: one sample a window, and no call before it.
    """
    plans = [(1, 1)] * len(contestants)
    if not long:
        plans = [_plan(each, clock, seconds / runs, cold) for each in contestants]
    taken: list[list[tuple[float, ...]]] = [[] for _ in contestants]
    for run in range(runs):
        turn = list(zip(contestants, plans, taken))
        for (function, setting), (calls, count), samples in turn[:: -1 if run % 2 else 1]:
            with setting():
                if not long:
                    function()
                samples.append(tuple(clock.samples(function, calls, count, cold)))
    return [Timing(tuple(samples)) for samples in taken]


def _plan(contestant: Contestant, clock: Clock, window: float, cold: bool) -> tuple[int, int]:
    """(calls a sample, samples a window), from trial runs that double until they can be trusted."""
    function, calls = contestant.run, 1
    with contestant.setting():
        function()
        while True:
            mean = min(clock.samples(function, calls, 2, cold))
            if mean * calls >= clock.shortest(cold):
                break
            calls *= 2
    return calls, max(1, min(_MOST_SAMPLES, round(window / max(mean * calls, 1e-9))))
