"""Clocks, runs and the figures of a timing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gpucnn.benchmarks import columns, measure, peaks
from gpucnn.benchmarks.measure import Contestant, Timing
from gpucnn.benchmarks.result import Entry, Result
from gpucnn.benchmarks.row import CAPTURED, EAGER, Variant
from gpucnn.benchmarks.run import select


class _Steady:
    """A clock on which every call takes a second."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, int, int]] = []

    def shortest(self, cold: bool) -> float:
        return 0.0 if cold else 4.0

    def samples(self, function: Any, calls: int, count: int, cold: bool) -> list[float]:
        self.log.append((function, calls, count))
        for _ in range(calls * count):
            function()
        return [1.0] * count


def test_windows_alternate() -> None:
    order: list[str] = []
    clock = _Steady()
    a, b = (Contestant(lambda name=name: order.append(name)) for name in "ab")  # type: ignore[misc]
    timings = measure.measure([a, b], clock, seconds=24, runs=3, cold=True)
    # Trial runs first (one call to warm, two samples), then in each run a window of 8 samples.
    assert [(f is a.run, calls, count) for f, calls, count in clock.log[2:]] == [
        (True, 1, 8), (False, 1, 8), (False, 1, 8), (True, 1, 8), (True, 1, 8), (False, 1, 8),
    ]  # fmt: skip
    assert [[len(run) for run in t.runs] for t in timings] == [[8] * 3] * 2
    # Each window begins with an untimed call.
    assert "".join(order[6:]) == "a" * 9 + "b" * 18 + "a" * 18 + "b" * 9


def test_a_long_call_is_a_window() -> None:
    clock = _Steady()
    calls: list[int] = []
    (timing,) = measure.measure([Contestant(lambda: calls.append(1))], clock, 9, runs=3, long=True)
    assert len(calls) == 3 and timing.samples == 3


def test_a_window_lies_within_its_setting() -> None:
    log: list[str] = []

    @contextmanager
    def setting() -> Iterator[None]:
        log.append("(")
        yield
        log.append(")")

    measure.measure([Contestant(lambda: log.append("."), setting)], _Steady(), 2, 2, cold=True)
    assert "".join(log) == "(...)" + "(..)" * 2


def test_quick_calls_are_timed_several_at_a_time() -> None:
    clock = _Steady()
    measure.measure([Contestant(lambda: None)], clock, seconds=16, runs=2)
    assert [calls for _, calls, _ in clock.log] == [1, 2, 4, 4, 4]
    assert clock.log[-1][2] == 2


def test_timing_figures() -> None:
    timing = Timing(((3.0, 1.0, 2.0), (5.0, 4.0), (9.0,)))
    assert timing.medians == (2.0, 4.5, 9.0)
    assert (timing.median, timing.minimum, timing.spread) == (4.5, 1.0, (2.0, 9.0))
    assert timing.samples == 6


def result(*times: tuple[Variant, float | None]) -> Result:
    entries = [
        Entry(v, None if t is None else Timing(((t,),)), 0.0, "" if t else "broken")
        for v, t in times
    ]
    (row,) = select("ops", "sigmoid of 128 x 32 x 16 x 16, forward")
    return Result(row, peaks.Peaks(1e9, "NumPy", {1: 1.0}), tuple(entries))


def torch(mode: str, precision: str) -> Variant:
    return Variant("PyTorch", mode, precision)


def test_the_ratio_is_to_the_quickest_of_like_accuracy() -> None:
    found = result(
        (EAGER, 4.0), (CAPTURED, 2.0), (Variant(precision="tf32"), 1.0),
        (Variant(precision="bf16"), 1.0), (Variant(precision="3xtf32"), None),
        (torch("eager", "fp32"), 8.0), (torch("graph", "fp32"), 5.0),
        (torch("compile", "fp32"), None), (torch("eager", "tf32"), 2.0),
    )  # fmt: skip
    ratios = [found.ratio(entry) for entry in found.entries]
    assert ratios == [0.8, 0.4, 0.5, None, None, None, None, None, None]
    lines = found.as_dicts()
    assert lines[0]["ratio_to"] == "PyTorch graph fp32" and lines[2]["ratio"] == 0.5
    assert "ratio" not in lines[3] and "ratio" not in lines[5]
    assert lines[4]["failure"] == lines[7]["failure"] == "broken"
    assert [str(e.variant) for e in found.failed()] == ["gpucnn eager 3xtf32"]


def test_a_cell_has_the_median_and_the_runs_around_it() -> None:
    timing = Timing(((0.9e-3,), (1e-3,), (1.25e-3,)))
    assert columns.spread(Entry(EAGER, timing)) == "1.00 ms -10+25%"
    assert columns.spread(None) == ""


def test_events_flush_before_each_cold_call() -> None:
    log: list[str] = []

    class Runtime:
        now = 0.0

        def record_event(self) -> float:
            log.append("event")
            self.now += 5.0
            return self.now

        def elapsed_ms(self, start: float, end: float) -> float:
            log.append("wait")
            return end - start

    clock = measure.EventClock(Runtime(), lambda: log.append("flush"))
    assert clock.samples(lambda: log.append("call"), 1, 2, cold=True) == [0.005, 0.005]
    one = ["flush", "event", "call", "event"]
    assert log == [*one, *one, "wait", "wait"]  # nothing waits before all is queued
    log.clear()
    assert clock.samples(lambda: log.append("call"), 2, 1, cold=False) == [0.0025]
    assert log == ["event", "call", "call", "event", "wait"]


def test_the_nearest_copy_is_the_peak() -> None:
    found = peaks.Peaks(1e9, "NumPy", {1 << 10: 3.0, 1 << 20: 2.0, 1 << 28: 1.0})
    assert [found.copy_for(size) for size in (1, 1 << 12, 1 << 17, 1 << 23, 1 << 30)] == [
        3.0, 3.0, 2.0, 2.0, 1.0,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.234e-6, "1.23 us"), (9.99e-4, "999 us"), (0.0123, "12.3 ms"), (0.99999, "1.00 s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert columns.duration(seconds) == text
