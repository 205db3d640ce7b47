"""The eleven seeded defects, each exposed; and the same kernels without them, found right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from emulator_helpers import clean, kinds, line_of, nans, only, run

from gpucnn.emulator import Schedule

# A staged reversal: each thread writes its element and reads another's.
STAGED = """
extern "C" __global__ void test(const float* x, float* y, int rounds) {{
  __shared__ float tile[{buffers}][128];
  const int t = threadIdx.x;
  for (int k = 0; k < rounds; k++) {{
    tile[k % {buffers}][t] = x[k * 128 + t];  // write
    {barrier}
    y[k * 128 + t] = tile[k % {buffers}][127 - t];  // read
  }}
}}
"""


def staged(major: int, barrier: str, buffers: int, rounds: int = 3) -> tuple[Any, Any, Any, str]:
    source = STAGED.format(barrier=barrier, buffers=buffers)
    x = np.arange(rounds * 128, dtype=np.float32)
    y = nans(rounds * 128)
    report = run(source, major, 1, 128, [x, y, rounds], outputs=[y])
    return report, y, x.reshape(rounds, 128)[:, ::-1].reshape(-1), source


def test_the_right_one(major: int) -> None:
    report, y, expected, _ = staged(major, "__syncthreads();", 2)
    clean(report)
    assert np.array_equal(y, expected)


def test_missing_barrier(major: int) -> None:
    report, _, _, source = staged(major, "", 2)
    assert "race" in kinds(report) and kinds(report) <= {"race", "syncwarp", "uninitialised"}
    race = next(f for f in report.findings if f.kind == "race")
    assert race.where.startswith("test.cu:") and race.thread is not None
    lines = {line_of(source, "// write"), line_of(source, "// read")}
    assert int(race.where.split(":")[1]) in lines and int(race.other.split(":")[1]) in lines
    assert race.block == (0, 0, 0) and race.other_thread is not None and race.address is not None


def test_single_instead_of_double_buffer(major: int) -> None:
    report, *_ = staged(major, "__syncthreads();", 1)
    assert kinds(report) <= {"race", "syncwarp"} and "race" in kinds(report)


BRANCH = """
extern "C" __global__ void test(float* y) {{
  __shared__ float tile[128];
  const int t = threadIdx.x;
  tile[t] = t;
  if ({condition}) __syncthreads();  // barrier
  y[t] = tile[t];
}}
"""


@pytest.mark.parametrize("condition", ["t < 64", "t % 2", "t < 40"])
def test_barrier_in_a_divergent_branch(major: int, condition: str) -> None:
    report = run(BRANCH.format(condition=condition), major, 1, 128, [nans(128)])
    assert "barrier" in kinds(report)


def test_barrier_in_a_uniform_branch(major: int) -> None:
    clean(run(BRANCH.format(condition="blockDim.x == 128"), major, 1, 128, [nans(128)]))


PIPELINE = """
__device__ __forceinline__ void copy16(float* to, const float* from) {{
  unsigned a = (unsigned)__cvta_generic_to_shared(to);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(a), "l"(from) : "memory");
}}
extern "C" __global__ void test(const float* x, float* y, int rounds) {{
  __shared__ __align__(16) float tile[3][512];
  const int t = threadIdx.x;
  float sum = 0;
  for (int k = 0; k < 2; k++) {{
    if (k < rounds) copy16(&tile[k][t * 4], x + k * 512 + t * 4);
    asm volatile("cp.async.commit_group;" ::: "memory");
  }}
  for (int k = 0; k < rounds; k++) {{
    asm volatile("cp.async.wait_group {pending};" ::: "memory");
    {barrier}
    if (k + 2 < rounds) copy16(&tile[(k + {ahead}) % 3][t * 4], x + (k + 2) * 512 + t * 4);
    asm volatile("cp.async.commit_group;" ::: "memory");
    sum += tile[k % 3][511 - t];  // read
  }}
  y[t] = sum;
}}
"""


def pipeline(major: int, late: bool = True, **parts: Any) -> tuple[Any, bool]:
    source = PIPELINE.format(**{"pending": 1, "barrier": "__syncthreads();", "ahead": 2, **parts})
    rounds = 5
    x = np.random.default_rng(0).standard_normal((rounds, 512)).astype(np.float32)
    y = nans(128)
    report = run(source, major, 1, 128, [x, y, rounds], schedule=Schedule(late_copies=late))
    expected = np.zeros(128, np.float32)
    for row in x:
        expected += row[::-1][:128]
    return report, bool(np.array_equal(y, expected))


@pytest.mark.parametrize("late", [False, True])
def test_the_right_pipeline(major: int, late: bool) -> None:
    report, right = pipeline(major, late)
    clean(report)
    assert right


def test_cp_async_without_barrier(major: int) -> None:
    report, _ = pipeline(major, barrier="")
    assert "race" in kinds(report) or "async copy" in kinds(report)


def test_wait_one_too_weak(major: int) -> None:
    report, right = pipeline(major, pending=2)
    assert "async copy" in kinds(report)
    assert not right
    finding = next(f for f in report.findings if f.kind == "async copy")
    assert finding.where and finding.other and finding.other_thread is not None


def test_buffer_reused_too_early(major: int) -> None:
    report, right = pipeline(major, ahead=3, late=False)
    assert kinds(report) & {"race", "async copy"}
    assert not right


PADDED = """
extern "C" __global__ void test(const float* x, float* y, int n) {{
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float sum = 0;
  for (int k = -1; k <= 1; k++)
    if ({mask}) sum += x[i + k];  // read
  y[i] = sum;
}}
"""


def test_padding_mask_off(major: int) -> None:
    n = 300
    x, y = np.ones(n, np.float32), nans(n)
    clean(run(PADDED.format(mask="i + k >= 0 && i + k < n"), major, 3, 128, [x, y, n], outputs=[y]))
    assert y[0] == 2 and y[1] == 3
    source = PADDED.format(mask="i + k >= 0 && i + k <= n")
    finding = only(run(source, major, 3, 128, [x, y, n]), "bounds")
    assert finding.where == f"test.cu:{line_of(source, '// read')}"
    assert finding.block == (2, 0, 0) and finding.thread == (43, 0, 0)
    finding = only(run(PADDED.format(mask="i + k < n"), major, 3, 128, [x, y, n]), "bounds")
    assert (
        finding.block == (0, 0, 0) and finding.thread == (0, 0, 0) and "before" in finding.message
    )


VECTOR = """
extern "C" __global__ void test(const float* x, float* y) {{
  const float4 v = *reinterpret_cast<const float4*>(x + 4 * threadIdx.x + {shift});
  y[threadIdx.x] = v.x + v.y + v.z + v.w;
}}
"""


def test_pointer_off_under_a_vector_load(major: int) -> None:
    x, y = np.arange(129 * 4, dtype=np.float32), nans(128)
    clean(run(VECTOR.format(shift=0), major, 1, 128, [x, y]))
    only(run(VECTOR.format(shift=1), major, 1, 128, [x, y]), "alignment")


UNINITIALISED = """
extern "C" __global__ void test(float* y) {{
  __shared__ float tile[128];
  if (threadIdx.x < {written}) tile[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x];
}}
"""


def test_uninitialised_shared_memory(major: int) -> None:
    clean(run(UNINITIALISED.format(written=128), major, 2, 128, [nans(128)],
              checks=_without_races()))  # fmt: skip
    y = nans(128)
    finding = only(run(UNINITIALISED.format(written=100), major, 1, 128, [y]), "uninitialised")
    assert finding.thread == (100, 0, 0) and np.isnan(y[100:]).all()


def _without_races() -> Any:
    from gpucnn.emulator import Checks

    return Checks(races=False)


OVERFLOW = """
extern "C" __global__ void test(float* y, int n) {
  __shared__ float first[64];
  __shared__ float second[64];
  second[threadIdx.x] = 2;
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += 64) first[i] = 1;  // write
  __syncthreads();
  y[threadIdx.x] = first[threadIdx.x] + second[threadIdx.x];
}
"""


def test_shared_array_overflow_into_its_neighbour(major: int) -> None:
    clean(run(OVERFLOW, major, 1, 64, [nans(64), 64]))
    finding = only(run(OVERFLOW, major, 1, 64, [nans(64), 65]), "red zone")
    assert finding.where == f"test.cu:{line_of(OVERFLOW, '// write')}"


TRANSPOSE = """
extern "C" __global__ void test(const float* x, float* y) {{
  __shared__ float tile[32][{pitch}];
  const int a = threadIdx.x, b = threadIdx.y;
  tile[b][{column}] = x[b * 32 + a];
  __syncthreads();
  y[b * 32 + a] = tile[a][{other}];
}}
"""


@pytest.mark.parametrize(
    ("pitch", "column", "other", "conflicts"),
    [(33, "a", "b", False), (32, "a", "b", True), (32, "a ^ b", "b ^ a", False)],
    ids=["padded", "plain", "swizzled"],
)
def test_missing_padding_or_swizzle(
    major: int, pitch: int, column: str, other: str, conflicts: bool
) -> None:
    source = TRANSPOSE.format(pitch=pitch, column=column, other=other)
    x, y = np.arange(1024, dtype=np.float32), nans(1024)
    report = run(source, major, 1, (32, 32), [x, y])
    clean(report)
    assert np.array_equal(y.reshape(32, 32), x.reshape(32, 32).T)
    c = report.counters
    assert c.shared_load_wavefronts == (32 * 32 if conflicts else 32)
    assert c.shared_load_wavefronts_ideal == 32
