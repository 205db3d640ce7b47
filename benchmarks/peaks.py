"""What this machine reaches: one large matrix product, and copies of three sizes.

A row's figures are given as shares of these. They are measured first in each run, because they
depend on the machine, its clock, its neighbours and the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import gpucnn
from gpucnn.backends.cpu.threads import parallel_for
from gpucnn.benchmarks.measure import Clock, Contestant, Function, measure
from gpucnn.core import memory
from gpucnn.core.device import Device

GEMM_SIZES = {"cpu": 1536, "cuda": 4096}
"""Rows, columns and inner length of the matrix product: 7.2 and 137 GFLOP."""

COPY_SIZES = (1 << 18, 8 << 20, 256 << 20)
"""Bytes read and written together: within a core's own cache, the shared cache, and memory."""

_PASSES = 1 << 24
"""A small copy is repeated within one piece of work until about this many bytes have moved."""


@dataclass(frozen=True)
class Peaks:
    """The best found, and by whom.

    Attributes:
        gemm: floating point operations a second of a float32 matrix product.
        gemm_by: whose product that was.
        copy: bytes a second, read and written together, by the bytes of a copy.
    """

    gemm: float
    gemm_by: str
    copy: Mapping[int, float]

    def copy_for(self, size: int) -> float:
        """The peak for a row that moves `size` bytes: of the copy nearest in size, by ratio."""
        return self.copy[min(self.copy, key=lambda at: abs(math.log(at / max(size, 1))))]

    def __str__(self) -> str:
        copies = ", ".join(
            f"{speed / 1e9:.0f} GB/s at {_size(at)}" for at, speed in sorted(self.copy.items())
        )
        return f"peaks: GEMM {self.gemm / 1e9:.0f} GFLOP/s ({self.gemm_by}), copy {copies}"


def measure_peaks(
    device: Device,
    threads: int,
    clock: Clock,
    seconds: float,
    others: Mapping[str, Function] | None = None,
) -> Peaks:
    """The device's peaks; each figure is that of the quickest call.

    Args:
        others: matrix products of `GEMM_SIZES` by other libraries, in float32 proper: the peak is
            the machine's, not that of one library.
    """
    size = GEMM_SIZES[device.type]
    products = {**_products(device, size), **(others or {})}
    contestants = [Contestant(product) for product in products.values()]
    with threadpool_limits(threads, user_api="blas"):
        timings = measure(contestants, clock, seconds, runs=3, cold=True)
    fastest = min(zip(timings, products), key=lambda pair: pair[0].minimum)
    speeds = {}
    for moving, (copy, moved) in _copies(device, threads):
        (timing,) = measure([Contestant(copy)], clock, seconds, runs=3, cold=True)
        speeds[moving] = moved / timing.minimum
    return Peaks(2 * size**3 / fastest[0].minimum, fastest[1], speeds)


def _products(device: Device, size: int) -> dict[str, Function]:
    if device.type == "cpu":
        a, b = (np.full((size, size), value, np.float32) for value in (0.5, 2.0))
        out = np.empty_like(a)
        return {"NumPy": lambda: np.matmul(a, b, out=out)}
    x = memory.full((size, size), 0.5, memory.float32, device)

    def product() -> None:
        with gpucnn.precision("fp32"):
            gpucnn.matmul(x, x)

    return {"gpucnn": product}


def _copies(device: Device, threads: int) -> Iterator[tuple[int, tuple[Function, int]]]:
    """(bytes of a copy, (the function, bytes that one call of it moves))."""
    if device.type != "cpu":
        # Before each copy the L2 cache is flushed, so there is one speed: the memory's.
        source = memory.full((COPY_SIZES[-1] // 8,), 1.0, memory.float32, device)
        target = memory.empty(source.shape, source.dtype, device)
        yield COPY_SIZES[-1], (lambda: memory.copy(source, out=target), COPY_SIZES[-1])
        return
    for size in COPY_SIZES:
        yield size, _host_copy(size, threads)


def _host_copy(size: int, threads: int) -> tuple[Function, int]:
    """Each thread copies its share of the arrays, again and again when that is short."""
    share = size // 8 // threads
    source, target = np.ones((2, threads, share), np.float32)
    passes = max(1, _PASSES // size)

    def work(start: int, stop: int) -> None:
        mine: Any = source[start:stop], target[start:stop]
        for _ in range(passes):
            np.copyto(mine[1], mine[0])

    run: Callable[[], None] = lambda: parallel_for(threads, 1, work, blas=False)  # noqa: E731
    return run, 8 * share * threads * passes


def _size(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
