"""Kernels as others write them, right ones: no finding, whatever the schedule; and broken twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from emulator_helpers import clean, kinds, module, nans

from gpucnn.emulator import LOWEST_FIRST, RandomSchedule

SOURCE = """
__device__ float warp_sum(float v) {
  for (int o = 16; o; o >>= 1) v += __shfl_down_sync(~0u, v, o);
  return v;
}
extern "C" __global__ void block_sum(const float* x, float* y, int n) {
  __shared__ float s[32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  float v = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += x[i];
  v = warp_sum(v);
  if (lane == 0) s[warp] = v;
  __syncthreads();
  if (warp == 0) {
    v = warp_sum(lane < (blockDim.x >> 5) ? s[lane] : 0.f);
    if (lane == 0) y[blockIdx.x] = v;
  }
}
extern "C" __global__ void histogram(const unsigned char* x, int* h, int n) {
  __shared__ int s[256];
  for (int i = threadIdx.x; i < 256; i += blockDim.x) s[i] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
    atomicAdd(&s[x[i]], 1);
  __syncthreads();
  for (int i = threadIdx.x; i < 256; i += blockDim.x)
    if (s[i]) atomicAdd(&h[i], s[i]);
}
extern "C" __global__ void scan(const int* x, int* y) {
  __shared__ int s[2][256];
  int t = threadIdx.x, p = 0;
  s[0][t] = x[blockIdx.x * 256 + t];
  __syncthreads();
  for (int o = 1; o < 256; o <<= 1) {
    s[p ^ 1][t] = t >= o ? s[p][t] + s[p][t - o] : s[p][t];
    p ^= 1;
    BARRIER
  }
  y[blockIdx.x * 256 + t] = s[p][t];
}
extern "C" __global__ void flag(const int* x, int* y) {
  __shared__ int any;
  if (threadIdx.x == 0) any = 0;
  __syncthreads();
  if (x[threadIdx.x] > 5) any = 1;
  __syncthreads();
  y[threadIdx.x] = any;
}
extern "C" __global__ void sort(int* x) {
  __shared__ int s[256];
  const int t = threadIdx.x;
  s[t] = x[t];
  __syncthreads();
  for (int k = 2; k <= 256; k <<= 1)
    for (int j = k >> 1; j > 0; j >>= 1) {
      const int other = t ^ j;
      if (other > t) {
        const int a = s[t], b = s[other];
        if ((a > b) == ((t & k) == 0)) { s[t] = b; s[other] = a; }
      }
      BARRIER
    }
  x[t] = s[t];
}
extern "C" __global__ void last_warp(const float* x, float* y) {
  __shared__ float s[128];
  const int t = threadIdx.x;
  s[t] = x[t];
  __syncthreads();
  if (t < 64) s[t] += s[t + 64];
  __syncthreads();
  if (t < 32) {
    float v = s[t];
    for (int o = 32; o; o >>= 1) {
      v += s[t + o];
      SYNCWARP
      s[t] = v;
      SYNCWARP
    }
    if (t == 0) *y = v;
  }
}
"""
RIGHT = SOURCE.replace("BARRIER", "__syncthreads();").replace("SYNCWARP", "__syncwarp();")
BROKEN = SOURCE.replace("BARRIER", "").replace("SYNCWARP", 'asm volatile("" ::: "memory");')
RNG = np.random.default_rng(0)


def cases() -> dict[str, tuple[int, int, list[Any], Any]]:
    x, y = RNG.standard_normal(5000).astype(np.float32), nans(6)
    u, h = RNG.integers(0, 256, 9000).astype(np.uint8), np.zeros(256, np.int32)
    i, o = RNG.integers(0, 9, 512).astype(np.int32), np.zeros(512, np.int32)
    p = RNG.permutation(256).astype(np.int32)
    total = nans(1)
    return {
        "block_sum": (6, 256, [x, y, 5000], lambda: abs(y.sum() - x.sum()) < 1e-3),
        "histogram": (4, 128, [u, h, 9000], lambda: (h == np.bincount(u, minlength=256)).all()),
        "scan": (2, 256, [i, o], lambda: (o[256:] == np.cumsum(i[256:])).all()),
        "flag": (1, 256, [i, o], lambda: (o[:256] == 1).all()),
        "sort": (1, 256, [p], lambda: (p == np.arange(256)).all()),
        "last_warp": (1, 128, [x, total], lambda: abs(total[0] - x[:128].sum()) < 1e-4),
    }


@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize("seed", [None, 5])
def test_right(name: str, seed: int | None, major: int) -> None:
    grid, block, arguments, right = cases()[name]
    schedule = LOWEST_FIRST if seed is None else RandomSchedule(seed)
    clean(module(RIGHT, major).launch(name, (grid,), (block,), arguments, schedule=schedule))
    assert right()


@pytest.mark.parametrize(
    ("name", "kind"), [("scan", "race"), ("sort", "race"), ("last_warp", "syncwarp")]
)
def test_broken(name: str, kind: str, major: int) -> None:
    grid, block, arguments, _ = cases()[name]
    assert kind in kinds(module(BROKEN, major).launch(name, (grid,), (block,), arguments))
