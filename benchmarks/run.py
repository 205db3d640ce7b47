"""The rows of the suites; and one row built, verified, timed."""

from __future__ import annotations

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


def measured(
    row: Row,
    device: Device,
    clock: Clock,
    peaks: Peaks,
    seconds: float,
    windows: int,
    opponent: Opponent | None = None,
) -> Result:
    """A row built, verified and timed.

    Args:
        seconds: that it is timed for, and as long again for the opponent.
        windows: into which that time is cut, alternating with the opponent's.

    Raises:
        WrongResult: it gives something else than the reference; it is not timed.
    """
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
