"""mma.sync and ldmatrix against NumPy; how sums are cut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from emulator_helpers import clean, nans, run

from gpucnn.emulator import Schedule
from gpucnn.emulator.matrix import accumulate
from gpucnn.emulator.rounding import from_bfloat16, to_bfloat16, to_tf32

RNG = np.random.default_rng(3)

# A is 16 x K and B is 8 x K (so that B's columns lie along K), C 16 x 8; words of 32 bits.
MMA = """
extern "C" __global__ void test(const unsigned* a, const unsigned* b, const float* c, float* d) {{
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  unsigned x[{na}], y[{nb}];
  for (int i = 0; i < {na}; i++) x[i] = a[(g + i % 2 * 8) * {words} + i / 2 * 4 + t];
  for (int i = 0; i < {nb}; i++) y[i] = b[g * {words} + i * 4 + t];
  float s[4];
  for (int i = 0; i < 4; i++) s[i] = c[(g + i / 2 * 8) * 8 + t * 2 + i % 2];
  asm volatile("mma.sync.aligned.m16n8k{k}.row.col.f32.{kind}.{kind}.f32 "
      "{{%0,%1,%2,%3}}, {{{places_a}}}, {{{places_b}}}, {{%0,%1,%2,%3}};"
      : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3]) : {inputs});
  for (int i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = s[i];
}}
"""


def source(kind: str, k: int) -> str:
    words = k if kind == "tf32" else k // 2
    na, nb = words // 2, words // 4
    return MMA.format(
        kind=kind,
        k=k,
        words=words,
        na=na,
        nb=nb,
        places_a=",".join(f"%{4 + i}" for i in range(na)),
        places_b=",".join(f"%{4 + na + i}" for i in range(nb)),
        inputs=", ".join([f'"r"(x[{i}])' for i in range(na)] + [f'"r"(y[{i}])' for i in range(nb)]),
    )


def encoded(values: Any, kind: str) -> tuple[Any, Any]:
    """The words of a matrix, and the numbers a tensor core sees."""
    if kind == "tf32":
        return values.view(np.uint32), to_tf32(values, "rz").view(np.float32)
    if kind == "bf16":
        bits = to_bfloat16(values)
        return bits.view(np.uint32), from_bfloat16(bits)
    half = values.astype(np.float16)
    return half.view(np.uint32), half.astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "k"),
    [("tf32", 4), ("tf32", 8), ("bf16", 8), ("bf16", 16), ("f16", 8), ("f16", 16)],
)
def test_products(kind: str, k: int, major: int) -> None:
    a, b = (RNG.standard_normal((n, k)).astype(np.float32) for n in (16, 8))
    c = RNG.standard_normal((16, 8)).astype(np.float32)
    (aw, av), (bw, bv) = encoded(a, kind), encoded(b, kind)
    exact = av.astype(np.float64) @ bv.T.astype(np.float64) + c
    for truncating in (True, False):
        d = nans(16, 8)
        schedule = Schedule(truncating=truncating)
        report = run(source(kind, k), major, 1, 32, [aw, bw, c, d], schedule=schedule)
        clean(report)
        assert np.abs(d - exact).max() < 1e-5
        assert sum(report.counters.flops.values()) >= 2 * 16 * 8 * k


def test_sums_are_cut_towards_zero() -> None:
    ones, c = np.ones((1, 4)), np.array([0.0])
    assert accumulate(ones, c, 4)[0] == 4
    small = np.array([[1.0, 2.0**-24, 2.0**-24, 2.0**-24]])
    assert accumulate(small, c, 4)[0] == 1.0 + 2.0**-23
    assert accumulate(-small, c, 4)[0] == -1.0 - 2.0**-23
    assert accumulate(small, c, 4, truncating=False)[0] == np.float32(1 + 3 * 2.0**-24)
    tiny = np.array([[1.0, 2.0**-26, 2.0**-26, 2.0**-26]])
    assert accumulate(tiny, c, 4)[0] == 1.0
    with np.errstate(invalid="ignore"):
        assert np.isnan(accumulate(np.array([[np.inf, -np.inf]]), c, 4)[0])


LDMATRIX = """
extern "C" __global__ void test(const uint4* x, unsigned* y) {{
  __shared__ uint4 tile[32];
  const int lane = threadIdx.x;
  tile[lane] = x[lane];
  __syncwarp();
  unsigned r[4], at = (unsigned)__cvta_generic_to_shared(&tile[lane]);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%0,%1,%2,%3}}, [%4];"
      : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
  for (int i = 0; i < 4; i++) y[i * 32 + lane] = r[i];
}}
"""


@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(transposed: bool, major: int) -> None:
    x = np.arange(4 * 8 * 8, dtype=np.uint16)
    y = np.zeros(4 * 32, np.uint32)
    clean(run(LDMATRIX.format(trans=".trans" if transposed else ""), major, 1, 32, [x, y]))
    matrices = x.reshape(4, 8, 8)
    expected = matrices.transpose(0, 2, 1) if transposed else matrices
    assert np.array_equal(y.view(np.uint16), np.ascontiguousarray(expected).reshape(-1))
