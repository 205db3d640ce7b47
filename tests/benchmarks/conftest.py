"""`gpucnn bench` run quickly, and on a GPU that only pretends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_command import Bench, run

import gpucnn
from gpucnn.benchmarks import measure, peaks

sys.path.append(str(Path(__file__).parents[1] / "gpu"))  # fake_cuda, fake_streams


@pytest.fixture
def tiny_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "GEMM_SIZES", {"cpu": 32, "cuda": 32})
    monkeypatch.setattr(peaks, "COPY_SIZES", (1 << 10, 1 << 14))
    monkeypatch.setattr(peaks, "_PASSES", 1 << 14)
    monkeypatch.setattr(measure, "_FLUSH_BYTES", 1 << 10)


@pytest.fixture
def bench(tiny_peaks: None) -> Iterator[Bench]:
    """Runs the command with peaks of tiny arrays; settings of the process are put back."""
    threads, device = gpucnn.get_num_threads(), gpucnn.default_device()
    yield run
    gpucnn.set_num_threads(threads)
    gpucnn.set_default_device(device)


@pytest.fixture
def pretended(tiny_peaks: None) -> Iterator[Any]:
    """The runtime of a device cuda:0 whose kernels do not run and whose clock invents times.

    They are good for the way through the command and for nothing else: no test prints them.
    """
    pytest.importorskip("cupy", reason="needs CuPy (not a GPU)")
    from pretended_gpu import TimedCuda

    from gpucnn import backends
    from gpucnn.backends.gpu import GpuBackend

    runtime = TimedCuda()
    with backends.serving(gpucnn.device("cuda:0"), GpuBackend(runtime)):
        yield runtime
