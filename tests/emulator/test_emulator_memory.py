"""Atomics, order between blocks, memory spaces, calls, errors: kernels of both compilers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from emulator_helpers import clean, kinds, nans, only, run, run_ptx

from gpucnn.emulator import (
    Checks,
    EmulatorError,
    Memory,
    Module,
    PtxError,
    UnknownInstruction,
)

INT = np.int32


def ints(n: int) -> np.ndarray[Any, Any]:
    return np.full(n, -1, INT)


def test_atomics(major: int) -> None:
    source = """
    extern "C" __global__ void test(int* counts, float* sum, int* top, unsigned* order, int* lock) {
      __shared__ int local[4];
      const int t = blockIdx.x * blockDim.x + threadIdx.x;
      if (threadIdx.x < 4) local[threadIdx.x] = 0;
      __syncthreads();
      atomicAdd(&local[t % 4], 1);
      __syncthreads();
      if (threadIdx.x < 4) atomicAdd(&counts[threadIdx.x], local[threadIdx.x]);
      atomicAdd(sum, 0.5f);
      atomicMax(top, t * 7 % 101);
      order[t] = atomicInc((unsigned*)lock, 1000);
      int old = top[1], assumed;
      if (threadIdx.x == 0)
        do {
          assumed = old;
          old = atomicCAS(&top[1], assumed, assumed + 3);
        } while (old != assumed);
      atomicExch(&top[2], 9);
      atomicAnd(&top[3], ~(1 << t % 8));
      atomicXor(&top[4], 1 << t % 16);
      atomicMin(&top[5], -t);
    }"""
    counts, total, lock = np.zeros(4, INT), np.zeros(1, np.float32), np.zeros(1, INT)
    top, order = np.array([0, 5, 0, 255, 0, 0], INT), np.zeros(200, np.uint32)
    report = run(
        source, major, 2, 100, [counts, total, top, order, lock], checks=Checks(races=False)
    )
    clean(report)
    assert counts.tolist() == [50] * 4 and total[0] == 100
    assert top.tolist() == [max(t * 7 % 101 for t in range(200)), 5 + 6, 9, 0, _xor(), -199]
    assert sorted(order.tolist()) == list(range(200)) and lock[0] == 200


def _xor() -> int:
    value = 0
    for t in range(200):
        value ^= 1 << t % 16
    return value


LAST_BLOCK = """
__device__ unsigned done = 0;
extern "C" __global__ void test(const float* x, float* partial, float* y) {{
  __shared__ bool last;
  if (threadIdx.x == 0) {{
    partial[blockIdx.x] = x[blockIdx.x] * 2;
    {fence}
    last = atomicAdd(&done, 1) == gridDim.x - 1;
  }}
  __syncthreads();
  if (last && threadIdx.x == 0) {{
    float sum = 0;
    for (int i = 0; i < gridDim.x; i++) sum += ((volatile float*)partial)[i];
    *y = sum;
  }}
}}
"""


def test_order_between_blocks_through_a_fence(major: int) -> None:
    x, partial, y = np.arange(9, dtype=np.float32), nans(9), nans(1)
    clean(run(LAST_BLOCK.format(fence="__threadfence();"), major, 9, 32, [x, partial, y]))
    assert y[0] == 72
    report = run(LAST_BLOCK.format(fence=""), major, 9, 32, [x, nans(9), nans(1)])
    assert kinds(report) == {"global race"}


def test_races_between_blocks(major: int) -> None:
    source = """
    extern "C" __global__ void test(float* y, int step) {
      const int t = blockIdx.x * step + threadIdx.x;
      y[t] = t + blockIdx.x;
    }"""
    clean(run(source, major, 4, 32, [nans(128), 32]))
    finding = only(run(source, major, 4, 32, [nans(128), 31]), "global race")
    assert finding.block is not None and finding.other_block is not None
    finding = only(run(source, major, 4, 32, [nans(128), 31], lanes=32), "global race")
    reads = """
    extern "C" __global__ void test(float* y) {
      const int t = blockIdx.x * 32 + threadIdx.x;
      y[t] = y[(t + {0}) % 128];
    }"""
    clean(run(reads.replace("{0}", "0"), major, 4, 32, [np.ones(128, np.float32)]))
    report = run(reads.replace("{0}", "32"), major, 4, 32, [np.ones(128, np.float32)])
    assert kinds(report) == {"global race"}


def test_read_only_loads_of_written_data(major: int) -> None:
    source = """
    extern "C" __global__ void test(const float* __restrict__ x, float* __restrict__ y) {
      y[threadIdx.x] = x[threadIdx.x ^ 1];
    }"""
    x = np.arange(64, dtype=np.float32)
    clean(run(source, major, 1, 64, [x, nans(64)]))
    assert kinds(run(source, major, 1, 64, [x, x])) == {"read-only load"}


def test_outputs_never_written(major: int) -> None:
    source = (
        'extern "C" __global__ void test(float* y) { if (threadIdx.x != 7) y[threadIdx.x] = 1; }'
    )
    y = nans(32)
    finding = only(run(source, major, 1, 32, [y], outputs=[y]), "unwritten")
    assert "byte 28" in finding.message
    clean(run(source, major, 1, 32, [y], outputs=[y], checks=Checks(unwritten=False)))


def test_index_arithmetic_that_overflows(major: int) -> None:
    source = """
    extern "C" __global__ void test(float* y, int rows, int columns) {
      const int i = threadIdx.x * rows * columns;
      y[i % 64 < 0 ? 0 : i] = 1;
    }"""
    report = run(source, major, 1, 2, [nans(64), 3, 11])
    clean(report)
    big = """
    extern "C" __global__ void test(float* y, int rows) {
      const int t = threadIdx.x;
      y[t * rows] = 1;
    }"""
    clean(run(big, major, 1, 2, [nans(64), 63]))
    assert "overflow" in kinds(run(big, major, 1, 4, [nans(64), 1 << 30]))


def test_local_memory_and_function_calls(major: int) -> None:
    source = """
    __device__ __noinline__ float twice(float a, int n) { return n > 1 ? 2 * a : a; }
    struct Pair { double a; int b; };
    __device__ __noinline__ Pair both(Pair p, float b) { p.a += twice(b, p.b); p.b *= 3; return p; }
    extern "C" __global__ void test(const float* x, double* y, int n) {
      float keep[16];
      const int t = threadIdx.x;
      for (int i = 0; i < 16; i++) keep[i] = x[(t + i) % 32];
      float sum = 0;
      for (int i = 0; i < n; i++) sum += keep[(i * t) % 16];
      Pair p = {sum, t % 3};
      if (t % 2) p = both(p, keep[t % 16]);
      y[t] = p.a + p.b;
    }"""
    x, y = np.arange(32, dtype=np.float32), np.full(32, np.nan)
    clean(run(source, major, 1, 32, [x, y, 5]))
    for t in range(32):
        keep = [x[(t + i) % 32] for i in range(16)]
        a, b = float(sum(keep[i * t % 16] for i in range(5))), t % 3
        if t % 2:
            a, b = a + float(keep[t % 16]) * (2 if b > 1 else 1), b * 3
        assert y[t] == a + b


def test_constant_memory_dynamic_shared_and_module_variables(major: int) -> None:
    source = """
    __constant__ float table[4] = {1, 2, 3, 4};
    struct S { int a; double b; };
    extern "C" __global__ void test(float* y, float scale, bool flip, S s) {
      extern __shared__ float dynamic[];
      __shared__ float fixed[8];
      const int t = threadIdx.x;
      dynamic[t] = table[t % 4] * scale;
      if (t < 8) fixed[t] = s.b;
      __syncthreads();
      y[t] = dynamic[flip ? blockDim.x - 1 - t : t] + s.a + fixed[t % 8];
    }"""
    s = np.zeros((), np.dtype([("a", "i4"), ("b", "f8")], align=True))
    s["a"], s["b"] = 100, 0.25
    y = nans(64)
    clean(run(source, major, 1, 64, [y, 0.5, True, s], shared=256))
    assert np.array_equal(y, np.tile([4, 3, 2, 1], 16) * 0.5 + 100.25)
    report = run(source, major, 1, 64, [nans(64), 0.5, True, s], shared=252)
    assert kinds(report) & {"red zone", "bounds"}


def test_assert_and_trap(major: int) -> None:
    body = "{ if (threadIdx.x == 5) __trap(); y[threadIdx.x] = 1; }"
    source = 'extern "C" __global__ void test(int* y) ' + body
    finding = only(run(source, major, 1, 32, [ints(32)]), "trap")
    assert finding.thread == (5, 0, 0)


def test_float_functions(major: int) -> None:
    """What the compiler makes of the library's functions: powf, sinf with its table, and more."""
    source = """
    extern "C" __global__ void test(const float* x, float* y, double* z) {
      const int t = threadIdx.x;
      const float a = x[t];
      y[t] = expf(a) + logf(fabsf(a) + 1) + sqrtf(fabsf(a)) + tanhf(a);
      y[t] += powf(fabsf(a), 1.3f) + sinf(a * 1e6f) + erff(a);
      const double b = a;
      z[t] = exp(b) + log(fabs(b) + 1) + pow(fabs(b), 1.3) + cos(b * 1e6) + tanh(b) + 1.0 / (a + 3);
    }"""
    x = np.random.default_rng(2).standard_normal(64).astype(np.float32)
    y, z = nans(64), np.full(64, np.nan)
    clean(run(source, major, 1, 64, [x, y, z]))
    from math import erf

    a = x.astype(np.float64)
    big = (x * np.float32(1e6)).astype(np.float64)
    e = (
        np.exp(a)
        + np.log(np.abs(a) + 1)
        + np.sqrt(np.abs(a))
        + np.tanh(a)
        + np.abs(a) ** 1.3
        + np.sin(big)
    )
    assert np.abs(y - (e + [erf(v) for v in a])).max() < 4e-6
    f = np.exp(a) + np.log(np.abs(a) + 1) + np.abs(a) ** 1.3 + np.cos(a * 1e6) + np.tanh(a)
    f += 1 / (x + np.float32(3)).astype(np.float64)
    assert np.abs(z - f).max() < 1e-13


def test_unknown_instruction_is_named() -> None:
    with pytest.raises(UnknownInstruction, match=r"line \d+.*wgmma\.fence\.sync\.aligned"):
        run_ptx("    wgmma.fence.sync.aligned;", 32, [])
    with pytest.raises(PtxError, match=r"line \d+: unknown register %nothing"):
        run_ptx("    mov.u32 %nothing, 1;", 32, [])


def test_predicates_and_32_bit_shared_addresses() -> None:
    y = ints(32)
    body = """
    .reg .pred p, q;
    .reg .b32 r<6>;
    .reg .b64 d<4>;
    ld.param.u64 d0, [p0];
    mov.u32 r0, %tid.x;
    mov.u32 r1, buffer;
    mad.lo.u32 r2, r0, 4, r1;
    mov.b32 r4, -5;
    setp.lt.u32 p|q, r0, 10;
    @p mov.b32 r4, 1;
    @!p add.s32 r4, r4, 7;
    st.shared.b32 [r2+-4+4], r4;
    bar.sync 0;
    xor.b32 r3, r2, 4;
    ld.shared.b32 r5, [r3];
    @q add.s32 r5, r5, 100;
    mul.wide.u32 d1, r0, 4;
    add.s64 d2, d0, d1;
    st.global.b32 [d2], r5;"""
    report = run_ptx(body.replace("+-4+4", ""), 32, [y], ".shared .align 64 .b8 buffer[128];")
    clean(report)
    t = np.arange(32)
    stored = np.where(t < 10, 1, 2)
    assert np.array_equal(y, stored[t ^ 1] + np.where(t < 10, 0, 100))


def test_launch_errors() -> None:
    with pytest.raises(EmulatorError, match="takes 1 arguments, got 0"):
        Module(_EMPTY).launch("test", (1,), (32,), [])
    with pytest.raises(EmulatorError, match="a block of 2048 threads"):
        Module(_EMPTY).launch("test", (1,), (2048,), [None])
    with pytest.raises(PtxError, match="no entry 'other', the module has test"):
        Module(_EMPTY).launch("other", (1,), (32,), [None])


_EMPTY = """
.version 8.0
.target sm_80
.address_size 64
.visible .entry test(.param .u64 p0) { ret; }
"""


def test_memory_addresses() -> None:
    memory = Memory()
    x = np.arange(100, dtype=np.float64)
    base = memory.register(x, "x")
    assert base % 256 == 0 and memory.register(x[7:]) == base + 56
    assert memory.register(x[::-1]) == base + 99 * 8
    assert memory.find(base + 799) is not None and memory.find(base + 800) is None
    assert "8 bytes past the end of buffer 'x'" in memory.describe(base + 808)
    used = memory.used
    y = memory.empty(64)
    assert memory.used == used + 64 and memory.address(y) is not None
    del y
    assert memory.used == used
