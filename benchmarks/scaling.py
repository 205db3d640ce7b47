"""The suite `scaling`: training steps of growing batches, and on one thread and on several.

Beside the threads' rows stand products of matrices, which need nothing of each other: what the
machine gives a second thread in these minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import gpucnn
from gpucnn.backends.cpu.threads import parallel_for
from gpucnn.benchmarks.net_row import NETS, NetRow, using_threads
from gpucnn.benchmarks.result import Result
from gpucnn.benchmarks.row import EAGER, Array, Call, Row, Setup, Variant
from gpucnn.benchmarks.train import net_row
from gpucnn.core.device import Device

BATCHES = (16, 32, 64, 128, 256)
_THREADS_BATCH = 128
_PRODUCTS, _SIDE = 64, 256


@dataclass(frozen=True, kw_only=True)
class ProductsRow(Row):
    """Independent products of square matrices, shared by `threads` threads."""

    threads: int

    def _operands(self) -> tuple[Array, Array]:
        rng = np.random.default_rng(1)
        shape = _PRODUCTS, _SIDE, _SIDE
        a, b = (rng.standard_normal(shape, dtype=np.float32) for _ in range(2))
        return a, b

    def call(self, device: Device, variant: Variant = EAGER) -> Call:
        a, b = self._operands()
        y = np.empty_like(a)

        def multiply(start: int, stop: int) -> None:
            np.matmul(a[start:stop], b[start:stop], out=y[start:stop])

        def run() -> Array:
            parallel_for(_PRODUCTS, _PRODUCTS // 8, multiply)
            return y

        return Call(run, lambda found: [found], lambda: using_threads(self.threads))

    def expected(self) -> list[Array]:
        a, b = self._operands()
        return [a.astype(np.float64) @ b]


def rows(setup: Setup) -> list[Row]:
    """The rows of a net are timed in turn: their ratios are of the same minutes."""
    found: list[Row] = []
    for net in ("lenet5", "convnet"):
        found += [
            net_row("scaling", net, batch, training=True, together=f"{net}, batches")
            for batch in BATCHES
        ]
    if setup.device.type == "cpu":
        together = "convnet, threads"
        counts = {
            n: f"{n} thread{'s' if n > 1 else ''}" for n in sorted({1, gpucnn.get_num_threads()})
        }
        found += [
            net_row(
                "scaling",
                "convnet",
                _THREADS_BATCH,
                training=True,
                together=together,
                threads=count,
                label=f"training step, {label}",
            )
            for count, label in counts.items()
        ]
        found += [
            ProductsRow(
                suite="scaling",
                group=f"{_PRODUCTS} products of {_SIDE} x {_SIDE} matrices",
                name=label,
                flops=2 * _PRODUCTS * _SIDE**3,
                bytes=3 * 4 * _PRODUCTS * _SIDE**2,
                together=together,
                threads=count,
            )
            for count, label in counts.items()
        ]
    return found


def conclusions(results: Sequence[Result]) -> list[str]:
    """What the rows of the suite say together: of doubled batches, and of threads."""
    found = []
    lots: dict[tuple[str, type[Row]], list[Result]] = {}
    for result in results:
        if result.row.together:
            lots.setdefault((result.row.together, type(result.row)), []).append(result)
    for lot in lots.values():
        row = lot[0].row
        threads = [r.row.threads for r in lot if isinstance(r.row, (NetRow, ProductsRow))]
        for mode in ("eager", "captured"):
            entries = [r.find("gpucnn", mode) for r in lot]
            times = [e.timing.median for e in entries if e is not None and e.timing is not None]
            if len(times) < len(lot) or len(times) < 2:
                continue
            what = f"{NETS[row.net]}, {mode}" if isinstance(row, NetRow) else row.group
            if threads[0]:
                counts = f"{threads[-1]} threads against {threads[0]}"
                found.append(f"{what}: {counts}: {times[0] / times[-1]:.2f}x")
                continue
            steps = [later / before for before, later in zip(times, times[1:])]
            found.append(
                f"{what}: twice the batch takes {min(steps):.2f} to {max(steps):.2f} times as long"
            )
    return found
