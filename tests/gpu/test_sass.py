"""Machine code read back: of kernels whose loops are known, and as nvdisasm itself prints it."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from gpucnn.backends.gpu import kernel, nvrtc, sass
from gpucnn.backends.gpu.kernel import Module

if not nvrtc.compilers() or sass.nvdisasm() is None:
    pytest.skip(f"needs NVRTC and nvdisasm ({sass.INSTALL})", allow_module_level=True)

COMPILERS = sorted(nvrtc.compilers())

# 16 multiply-adds a step from shared memory, filled by 128-bit loads; then a loop without any.
LOOPS = """
extern "C" __global__ void __launch_bounds__(128) loops(const float4* x, float* y, int n) {
  __shared__ float4 tile[128];
  float sum[4] = {0, 0, 0, 0};
#pragma unroll 1
  for (int i = 0; i < n; i++) {
    tile[threadIdx.x] = x[i * 128 + threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const float4 a = tile[(threadIdx.x + j * 5) & 127];
      sum[0] = __fmaf_rn(a.x, sum[1], sum[0]); sum[1] = __fmaf_rn(a.y, sum[2], sum[1]);
      sum[2] = __fmaf_rn(a.z, sum[3], sum[2]); sum[3] = __fmaf_rn(a.w, sum[0], sum[3]);
    }
    __syncthreads();
  }
#pragma unroll 1
  for (int i = 0; i < n; i++) y[i * 128 + threadIdx.x] = sum[i & 1] + sum[2];
}
"""
MMA = """
extern "C" __global__ void __launch_bounds__(32) products(const unsigned* x, float* y, int n) {
  __shared__ __align__(16) unsigned tile[256];
  float d[4] = {0, 0, 0, 0};
#pragma unroll 1
  for (int i = 0; i < n; i++) {
    unsigned to = (unsigned)__cvta_generic_to_shared(tile + 4 * threadIdx.x);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(to), "l"(x + i * 128));
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncwarp();
    unsigned a[4];
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(to) : "memory");
#pragma unroll
    for (int j = 0; j < 3; j++)
      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                   "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                   : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(a[0]), "r"(a[1]));
    __syncwarp();
  }
  y[threadIdx.x] = d[0] + d[1] + d[2] + d[3];
}
"""
SPILLING = """
extern "C" __global__ void __launch_bounds__(1024, 2) spilling(double* x) {
  double a[48];
  for (int i = 0; i < 48; i++) a[i] = x[i * 64];
  for (int i = 0; i < 48; i++)
    for (int j = 0; j < 48; j++) a[i] = a[i] * a[j] + x[j];
  for (int i = 0; i < 48; i++) x[i] = a[i];
}
"""


def function(source: str, major: int, arch: int = 80) -> sass.Function:
    cubin = nvrtc.compilers()[major].compile(source, "test.cu", f"sm_{arch}").code
    (found,) = sass.read([cubin], arch)
    (only,) = found.values()
    return only


def module(file: str, **defines: str) -> Module:
    return kernel.module(file, **defines)


@pytest.mark.parametrize("major", COMPILERS)
@pytest.mark.parametrize("arch", [75, 80, 86, 89, 90])
def test_the_main_loop_of_a_known_kernel(major: int, arch: int) -> None:
    found = function(LOOPS, major, arch)
    assert found.name == "loops"
    loop = found.main_loop
    assert loop is not None and found.main_loops == (loop,)
    mix = loop.mix
    assert mix.number("FFMA") == 16 and mix.number("HMMA") == 0 and mix.number("BAR") == 2
    assert mix.widths("LDS") == {128: 4} and mix.widths("LDG") == {128: 1}
    assert mix.widths("STS") == {128: 1} and mix.widths("STG") == {}
    assert mix.share("FFMA") == 16 / mix.total and 0.2 < mix.share("FFMA") < 0.7
    assert found.mix.local == 0 and mix.total < found.mix.total
    # The second loop is there too, and stores.
    assert any(other.mix.widths("STG") for other in found.loops if other != loop)


@pytest.mark.parametrize("major", COMPILERS)
def test_tensor_cores_and_asynchronous_copies(major: int) -> None:
    loop = function(MMA, major).main_loop
    assert loop is not None
    assert loop.mix.number("HMMA") == 3 and loop.mix.widths("LDGSTS") == {128: 1}
    assert loop.mix.widths("LDSM") == {4: 1} and loop.mix.share("HMMA") == 3 / loop.mix.total


@pytest.mark.parametrize("arch", [80, 100, 120])
def test_local_memory_is_seen(arch: int) -> None:
    compiler = nvrtc.compilers()[max(COMPILERS)]
    compiled = compiler.compile(SPILLING, "test.cu", f"sm_{arch}")
    (found,) = sass.read([compiled.code], arch)
    assert compiled.resources["spilling"].spill_stores > 0
    assert found["spilling"].mix.number("LDL") > 0 and found["spilling"].mix.number("STL") > 0


def test_a_kernel_without_loops() -> None:
    source = 'extern "C" __global__ void f(float* x) { x[threadIdx.x] = 1; }'
    found = function(source, COMPILERS[0])
    assert found.loops == () and found.main_loop is None
    assert found.mix.widths("STG") == {32: 1} and found.mix.number("EXIT") == 1


def test_the_loop_around_the_main_loop_is_not_it() -> None:
    source = """
    extern "C" __global__ void f(const float* x, float* y, int n) {
      float s = 0;
    #pragma unroll 1
      for (int i = 0; i < n; i++) {
        float t = x[i];
    #pragma unroll 1
        for (int j = 0; j < n; j++) {
          t = __fmaf_rn(t, t, x[j]); s = __fmaf_rn(s, t, t); t = __fmaf_rn(s, s, t);
        }
        s = __fmaf_rn(s, s, t);
      }
      *y = s;
    }
    """
    found = function(source, COMPILERS[0])
    loop = found.main_loop
    assert loop is not None and loop.mix.number("FFMA") == 3
    around = [other for other in found.loops if other.contains(loop)]
    assert [other.mix.number("FFMA") for other in around] == [4]


def test_many_cubins_at_once_are_read_as_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUCNN_CACHE_DIR", str(tmp_path))
    compiler = nvrtc.compilers()[COMPILERS[0]]
    modules = [module("softmax.cu", real="float"), module("split_k.cu", real="float")]
    cubins = [compiler.compile(m.source, m.file, "sm_80").code for m in modules]
    cubins.append(compiler.compile(LOOPS, "loops.cu", "sm_80").code)
    together = sass.read(cubins, 80)
    kept = sass.read(cubins, 80)  # from the folder now
    monkeypatch.setenv("GPUCNN_CACHE_DIR", str(tmp_path / "other"))
    assert together == kept == [sass.read([cubin], 80)[0] for cubin in cubins]
    assert [set(found) for found in together[:2]] == [set(m.entries) for m in modules]


@pytest.mark.parametrize("arch", [80, 90])
def test_counts_are_those_of_nvdisasm_on_the_cubin(tmp_path: Path, arch: int) -> None:
    """The whole file disassembled by itself: headers, labels and all."""
    compiled = nvrtc.compilers()[max(COMPILERS)].compile(LOOPS, "loops.cu", f"sm_{arch}")
    path = tmp_path / "loops.cubin"
    path.write_bytes(compiled.code)
    text = subprocess.run(
        [str(sass.nvdisasm()), "-c", str(path)], capture_output=True, text=True, check=True
    ).stdout
    names = re.findall(r"/\*[0-9a-f]{4}\*/\s+(?:@!?U?P\w+ )?\s*([A-Z]\w*)", text)
    while names[-1] == "NOP":
        names.pop()
    (found,) = sass.read([compiled.code], arch)
    counted: Counter[str] = Counter()
    for kind, number in found["loops"].mix.counts.items():
        counted[kind.partition(".")[0]] += number
    assert counted == Counter(names)


def test_what_is_no_cubin_is_refused() -> None:
    for data in (b"", b"text", b"\x7fELF\x02" + bytes(80), b"\x7fELF\x01" + bytes(80)):
        with pytest.raises(ValueError, match=f"takes a cubin, got {len(data)} bytes"):
            list(sass.sections(data))


def test_without_the_disassembler_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sass, "nvdisasm", lambda: None)
    with pytest.raises(RuntimeError, match="pip install nvidia-cuda-nvdisasm"):
        sass.read([b""], 80)
