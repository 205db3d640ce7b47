"""Divergence, barriers and warps: small kernels of both compilers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from emulator_helpers import clean, kinds, line_of, nans, only, run

from gpucnn.emulator import (
    RandomSchedule,
)

INT = np.int32


def ints(n: int) -> np.ndarray[Any, Any]:
    return np.full(n, -1, INT)


def test_divergent_loops_meet_again(major: int) -> None:
    source = """
    extern "C" __global__ void test(int* y) {
      const int t = blockIdx.x * blockDim.x + threadIdx.x;
      int sum = 0;
      for (int i = 0; i < t % 7; i++) sum += (i % 2) ? i : -2 * i;
      if (t % 3 == 0) return;
      while (sum > -40) { sum -= t % 5 + 1; if (sum % 11 == 0) break; }
      switch (t % 6) { case 0: sum += 1; break; case 2: sum *= 2; break; case 3: sum -= 7; break;
                       case 4: sum ^= 5; break; default: sum = -sum; }
      y[t] = sum;
    }"""
    y = ints(150)
    clean(run(source, major, 3, 50, [y]))
    expected = ints(150)
    for t in range(150):
        total = sum(i if i % 2 else -2 * i for i in range(t % 7))
        if t % 3 == 0:
            continue
        while total > -40:
            total -= t % 5 + 1
            if int(np.fmod(total, 11)) == 0:
                break
        k = t % 6
        total = (
            total + 1
            if k == 0
            else total * 2
            if k == 2
            else total - 7
            if k == 3
            else total ^ 5
            if k == 4
            else -total
        )
        expected[t] = total
    assert np.array_equal(y, expected)


def test_named_barriers_between_producer_and_consumer(major: int) -> None:
    source = """
    extern "C" __global__ void test(const int* x, int* y, int rounds) {
      __shared__ int box[32];
      const int lane = threadIdx.x % 32;
      for (int k = 0; k < rounds; k++) {
        if (threadIdx.x < 32) {
          box[lane] = x[k * 32 + lane];
          asm volatile("bar.arrive 1, 64;" ::: "memory");
          asm volatile("bar.sync 2, 64;" ::: "memory");
        } else {
          asm volatile("bar.sync 1, 64;" ::: "memory");
          y[k * 32 + lane] = box[31 - lane];
          asm volatile("bar.arrive 2, 64;" ::: "memory");
        }
      }
    }"""
    x, y = np.arange(96, dtype=INT), ints(96)
    clean(run(source, major, 2 - 1, 64, [x, y, 3]))
    assert np.array_equal(y.reshape(3, 32), x.reshape(3, 32)[:, ::-1])
    broken = source.replace('asm volatile("bar.sync 1, 64;" ::: "memory");', "", 1)
    assert kinds(run(broken, major, 1, 64, [x, y, 3])) & {"race", "uninitialised", "deadlock"}


def test_threads_that_return_before_a_barrier(major: int) -> None:
    source = """
    extern "C" __global__ void test(float* y, int n) {
      __shared__ float tile[64];
      if (threadIdx.x >= n) return;
      tile[threadIdx.x] = 1;
      __syncthreads();
      y[threadIdx.x] = tile[n - 1 - threadIdx.x];
    }"""
    finding = only(run(source, major, 1, 64, [nans(64), 40]), "barrier")
    assert "24 threads" in finding.message
    clean(run(source, major, 1, 64, [nans(64), 64]))


def test_barrier_reductions(major: int) -> None:
    source = """
    extern "C" __global__ void test(int* y) {
      const int t = threadIdx.x;
      const int count = __syncthreads_count(t % 3 == 0), all = __syncthreads_and(t < 96);
      y[t] = count * 4 + all * 2 + __syncthreads_or(t == 95);
    }"""
    y = ints(96)
    clean(run(source, major, 1, 96, [y]))
    assert (y == 32 * 4 + 2 + 1).all()


LANE = np.arange(32)


def mask(bits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The bits of a warp as one word in every lane."""
    word = sum(int(b) << i for i, b in enumerate(bits))
    return np.full(32, word, np.uint32).view(INT)


WARP = """
extern "C" __global__ void test(const int* x, int* y) {{
  const int t = threadIdx.x, lane = t & 31;
  const int v = x[t];
  int r = 0;
  {body}
  y[t] = r;
}}
"""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("r = __shfl_xor_sync(~0u, v, 5);", lambda v: v[LANE ^ 5]),
        ("r = __shfl_down_sync(~0u, v, 3);", lambda v: np.where(LANE < 29, v[(LANE + 3) % 32], v)),
        (
            "r = __shfl_up_sync(~0u, v, 2, 8);",
            lambda v: np.where(LANE % 8 >= 2, v[LANE - 2], v),
        ),
        (
            "r = __shfl_sync(~0u, v, lane * 3, 16);",
            lambda v: v[LANE // 16 * 16 + LANE * 3 % 16],
        ),
        ("r = __ballot_sync(~0u, v & 1);", lambda v: mask(v % 2 == 1)),
        (
            "r = __any_sync(~0u, v == 17) + 2 * __all_sync(~0u, v >= 0);",
            lambda v: np.full(32, int((v == 17).any()) + 2 * int((v >= 0).all())),
        ),
        (
            "r = __match_any_sync(~0u, v % 4);",
            lambda v: np.array([mask(v % 4 == a % 4)[0] for a in v]),
        ),
        ("r = __reduce_add_sync(~0u, v);", lambda v: np.full(32, v.sum())),
        ("r = __reduce_max_sync(~0u, v);", lambda v: np.full(32, v.max())),
        ("r = __activemask() == ~0u;", lambda v: np.ones(32)),
        (
            "if (lane < 20) r = __shfl_sync(0xfffff, v, 19 - lane);",
            lambda v: np.where(LANE < 20, v[(19 - LANE) % 32], 0),
        ),
    ],
)  # fmt: skip
def test_exchanges_in_a_warp(major: int, body: str, expected: Any) -> None:
    x, y = np.random.default_rng(0).integers(0, 100, 96).astype(INT), ints(96)
    for more in ({}, {"schedule": RandomSchedule(4)}):
        clean(run(WARP.format(body=body), major, 1, 96, [x, y], **more))
        for w in range(3):
            assert np.array_equal(
                y[32 * w : 32 * w + 32], expected(x[32 * w : 32 * w + 32]).astype(INT)
            )


SYNCWARP = """
extern "C" __global__ void test(int* y) {{
  __shared__ int box[32];
  box[threadIdx.x] = threadIdx.x;  // write
  {sync}
  y[threadIdx.x] = box[31 - threadIdx.x];  // read
}}
"""


def test_sharing_in_a_warp_needs_syncwarp(major: int) -> None:
    clean(run(SYNCWARP.format(sync="__syncwarp();"), major, 1, 32, [ints(32)]))
    source = SYNCWARP.format(sync='asm volatile("" ::: "memory");')
    finding = only(run(source, major, 1, 32, [ints(32)]), "syncwarp")
    assert finding.where == f"test.cu:{line_of(source, '// read')}"
    assert finding.other == f"test.cu:{line_of(source, '// write')}"
    partial = SYNCWARP.format(sync="__syncwarp(threadIdx.x < 16 ? 0xffff : 0xffff0000);")
    only(run(partial, major, 1, 32, [ints(32)]), "syncwarp")


def test_syncwarp_in_both_branches(major: int) -> None:
    source = """
    extern "C" __global__ void test(int* y) {
      __shared__ int box[32];
      const int t = threadIdx.x;
      if (t < 16) { box[t] = t; __syncwarp(); } else { box[t] = -t; __syncwarp(); }
      y[t] = box[t ^ 16];
    }"""
    y = ints(32)
    clean(run(source, major, 1, 32, [y]))
    t = np.arange(32) ^ 16
    assert np.array_equal(y, np.where(t < 16, t, -t))
