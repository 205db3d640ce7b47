"""Counters of small kernels counted by hand, and the estimate made of them."""

from __future__ import annotations

import numpy as np
import pytest
from emulator_helpers import clean, line_of, nans, run

from gpucnn.emulator import GPUS, NONE, Counters, estimate

COPY = """
extern "C" __global__ void test(const float* x, float* y, int stride) {
  const int t = blockIdx.x * blockDim.x + threadIdx.x;
  y[t] = x[t * stride] * 2 + 1;  // all
  if (threadIdx.x % 2) y[256 + t] = 1;  // odd
}
"""


@pytest.mark.parametrize(("stride", "sectors"), [(1, 4), (2, 8), (8, 32), (0, 1)])
def test_sectors_of_a_request(major: int, stride: int, sectors: int) -> None:
    x, y = np.ones(32 * 8 * 8, np.float32), nans(512)
    report = run(COPY, major, 2, 128, [x, y, stride])
    clean(report)
    c = report.counters
    assert (c.blocks, c.threads) == (2, 256)
    assert c.load_requests == 8
    assert c.load_sectors == 8 * sectors
    assert c.load_sectors_ideal == 8 * min(sectors, 4)
    assert c.unique_bytes >= 32 * c.store_sectors
    assert c.store_requests == 16 and c.store_sectors == 64
    assert c.bytes_written == 32 * 64
    assert c.flops["float32"] == 256 * 2
    assert c.divergent_branches == 8
    assert 0.5 < c.active_lanes < 1
    lines = {line for file, line in c.lines if file == "test.cu"}
    assert {line_of(COPY, "// all"), line_of(COPY, "// odd")} <= lines


def test_counters_can_be_off(major: int) -> None:
    x, y = np.ones(256, np.float32), nans(512)
    report = run(COPY, major, 2, 128, [x, y, 1], counters=False, checks=NONE)
    assert report.counters.warp_instructions == 0 and (y[257::2] == 1).all()


def test_lines_never_reached(major: int) -> None:
    x, y = np.ones(256, np.float32), nans(512)
    source = COPY.replace("threadIdx.x % 2", "stride > 1000")
    lines = {line for _, line in run(source, major, 2, 128, [x, y, 1]).counters.lines}
    assert line_of(source, "// all") in lines


@pytest.mark.parametrize("name", GPUS)
def test_estimate(name: str) -> None:
    gpu = GPUS[name]
    blocks = gpu.multiprocessors * 8
    memory = Counters(blocks, blocks * 256, {"float32": 100}, unique_bytes=10**9)
    found = estimate(memory, gpu)
    assert found.limit == "global memory"
    assert found.microseconds == pytest.approx(1e6 / gpu.bandwidth)
    compute = Counters(blocks, blocks * 256, {"float32": 10**9}, flops={"float32": 64 * 10**9})
    found = estimate(compute, gpu.name)
    assert found.limit in ("float32 units", "issue slots")
    assert found.microseconds == pytest.approx(64e9 / (gpu.peak_float32 * 1e6), rel=0.01)
    text = str(found)
    assert text.startswith(f"estimate for {gpu.name}") and "not a measurement" in text
    assert found.limit in text


def test_public_peaks() -> None:
    peaks = {"t4": 8.1, "rtx3090": 35.6, "rtx4090": 82.6, "a100": 19.5, "h100": 66.9, "b200": 74.4}
    for name, value in peaks.items():
        assert GPUS[name].peak_float32 == pytest.approx(value, rel=0.02)
    with pytest.raises(LookupError, match="no GPU 'V100', the table has T4"):
        estimate(Counters(), "V100")
