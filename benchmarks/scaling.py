"""The suite `scaling`: training steps of growing batches, and on one thread and on several."""

from __future__ import annotations

from collections.abc import Sequence

import gpucnn
from gpucnn.benchmarks.net_row import NETS, NetRow
from gpucnn.benchmarks.result import Result
from gpucnn.benchmarks.row import Row, Setup
from gpucnn.benchmarks.train import net_row

BATCHES = (16, 32, 64, 128, 256)
_THREADS_BATCH = 128


def rows(setup: Setup) -> list[Row]:
    """The rows of a net are timed in turn: their ratios are of the same minutes."""
    found: list[Row] = []
    for net in ("lenet5", "convnet"):
        found += [
            net_row("scaling", net, batch, training=True, together=f"{net}, batches")
            for batch in BATCHES
        ]
    if setup.device.type == "cpu":
        counts = sorted({1, gpucnn.get_num_threads()})
        found += [
            net_row(
                "scaling",
                "convnet",
                _THREADS_BATCH,
                training=True,
                together="convnet, threads",
                threads=count,
                label=f"training step, {count} thread{'s' if count > 1 else ''}",
            )
            for count in counts
        ]
    return found


def conclusions(results: Sequence[Result]) -> list[str]:
    """What the rows of the suite say together: of doubled batches, and of threads."""
    found = []
    for together in dict.fromkeys(r.row.together for r in results if r.row.together):
        lot = [r for r in results if r.row.together == together]
        rows = [r.row for r in lot if isinstance(r.row, NetRow)]
        for mode in ("eager", "captured"):
            entries = [r.find("gpucnn", mode) for r in lot]
            times = [e.timing.median for e in entries if e is not None and e.timing is not None]
            if len(times) < len(lot) or len(times) < 2:
                continue
            if rows[0].threads:
                counts = f"{rows[-1].threads} threads against {rows[0].threads}"
                found.append(f"{NETS[rows[0].net]}, {mode}: {counts}: {times[0] / times[-1]:.2f}x")
                continue
            steps = [later / before for before, later in zip(times, times[1:])]
            found.append(
                f"{NETS[rows[0].net]}, {mode}: twice the batch takes {min(steps):.2f} to "
                f"{max(steps):.2f} times as long"
            )
    return found
