"""One row after the other: build, verify, time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gpucnn.backends.cpu.threads import blas_single
from gpucnn.benchmarks import layers, ops, train
from gpucnn.benchmarks.measure import Clock, measure
from gpucnn.benchmarks.peaks import Peaks
from gpucnn.benchmarks.result import Result
from gpucnn.benchmarks.row import Row
from gpucnn.benchmarks.verify import verify
from gpucnn.core.device import Device

if TYPE_CHECKING:
    from gpucnn.benchmarks.compare_torch import Opponent

SUITES = {"ops": ops.rows, "layers": layers.rows, "train": train.rows}


def select(suite: str, only: str = "") -> list[Row]:
    """The rows of a suite, or of all, whose name contains `only`.

    Raises:
        ValueError: there is none.
    """
    names = list(SUITES) if suite == "all" else [suite]
    rows = [row for name in names for row in SUITES[name]()]
    chosen = [row for row in rows if only.lower() in row.title.lower()]
    if not chosen:
        raise ValueError(f"no row of the suite {suite} contains {only!r}")
    return chosen


def run(
    rows: Sequence[Row],
    device: Device,
    clock: Clock,
    peaks: Peaks,
    seconds: float,
    windows: int,
    opponent: Opponent | None = None,
) -> Iterator[Result]:
    """The rows' results, each as soon as it is measured.

    Args:
        seconds: that a row is timed for, and as long again for the opponent.
        windows: into which that time is cut, alternating with the opponent's.

    Raises:
        WrongResult: a row gives something else than the reference; it is not timed.
    """
    for row in rows:
        yield _result(row, device, clock, peaks, seconds, windows, opponent)


def _result(
    row: Row,
    device: Device,
    clock: Clock,
    peaks: Peaks,
    seconds: float,
    windows: int,
    opponent: Opponent | None,
) -> Result:
    with blas_single():  # its many small products are slower on several threads
        expected = row.expected()
    ours = row.call(device)
    error = verify(f"gpucnn on {device}", row, ours, expected)
    contestants = [ours.run]
    if opponent is not None:
        theirs = opponent.call(row)
        if opponent.comparable(row):
            verify("PyTorch", row, theirs, expected)
        contestants.append(theirs.run)
    timings = measure(contestants, clock, seconds, windows, row.cold)
    return Result(row, error, timings[0], peaks, timings[1] if opponent else None)
