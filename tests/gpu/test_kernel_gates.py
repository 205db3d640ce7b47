"""Every kernel as machine code: registers, spills, shared memory, and its main loop.

The matrix of compilers and architectures is `kernel_gates.WHOLE`, `CHOSEN`, `FLOAT32` and `MAIN`;
all of it with GPUCNN_ALL_ARCHES=1. What was compiled once is kept in the cache folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import kernel_gates as gates
import pytest

from gpucnn.backends.gpu import nvrtc, sass
from gpucnn.backends.gpu.estimate import planned_for
from gpucnn.backends.gpu.figures import Figures, Use
from gpucnn.backends.gpu.instances import Instance, instances
from gpucnn.backends.gpu.kernel import from_source
from gpucnn.backends.gpu.occupancy import LIMITS
from gpucnn.cases.specialisations import instance_uses, is_of

if sorted(nvrtc.compilers()) != [12, 13] or sass.nvdisasm() is None:
    pytest.skip(f"needs both NVRTC wheels and nvdisasm ({sass.INSTALL})", allow_module_level=True)

WHOLE = gates.ALL if os.environ.get("GPUCNN_ALL_ARCHES") else gates.WHOLE
CHOSEN = [one for one in gates.CHOSEN if one not in WHOLE]
PARTS = [
    (*one, which)
    for part, which in ((gates.FLOAT32, gates.is_float32), (gates.MAIN, gates.is_main))
    for one in part
    if one not in WHOLE
]


def broken(found: list[Figures]) -> str:
    """What is wrong, a line a kernel."""
    wrong = {
        gates.title(each.kernel): [*gates.broken_by_all(each), *gates.broken_floors(each)]
        for each in found
    }
    return "\n".join(f"{name}: {'; '.join(why)}" for name, why in wrong.items() if why)


@pytest.mark.parametrize(("major", "arch"), WHOLE)
def test_every_kernel(major: int, arch: int, say: Callable[[str], None]) -> None:
    found = gates.measured(major, arch, gates.everything(arch))
    say(f"gates: {len(found)} kernels with CUDA {major} for sm_{arch}")
    assert all(each.kernel.module.entries for each in found)
    assert broken(found) == ""


@pytest.mark.parametrize(("major", "arch"), CHOSEN)
def test_the_kernels_of_the_nets(major: int, arch: int, say: Callable[[str], None]) -> None:
    found = gates.measured(major, arch, gates.of_nets(arch))
    say(f"gates: {len(found)} kernels of nets with CUDA {major} for sm_{arch}")
    assert broken(found) == ""


@pytest.mark.parametrize(("major", "arch", "which"), PARTS)
def test_instances(major: int, arch: int, which: Callable[[Instance], bool]) -> None:
    found = gates.measured(major, arch, gates.of_instances(arch, which))
    assert len(found) >= 3
    assert broken(found) == ""


@pytest.mark.parametrize(("major", "arch"), gates.WHOLE)
def test_shares_are_held(major: int, arch: int) -> None:
    kernels = {k: u for k, u in gates.everything(arch).items() if gates.is_held(k)}
    lost = {}
    for each in gates.measured(major, arch, kernels):
        title, target = gates.title(each.kernel), gates.target(major, arch)
        least = gates.held().get(title, {}).get(target)
        if least is None:
            lost[title] = "held_shares.json has no line: run tests/gpu/kernel_gates.py"
        elif gates.share(each) < least:
            lost[title] = f"{gates.share(each):.3f} of the main loop < {least} that are held"
    assert lost == {}


def test_no_line_of_the_held_shares_is_left_over() -> None:
    kernels = {k for _, arch in gates.WHOLE for k in gates.everything(arch)}
    assert set(gates.held()) <= {gates.title(kernel) for kernel in kernels}


@pytest.mark.parametrize("instance", instances(), ids=lambda instance: instance.name)
def test_an_instance_launches_what_it_says(instance: Instance) -> None:
    """On some architecture; its own entry, no more than its threads, its dynamic shared memory."""
    uses = [instance_uses(instance, planned_for(arch)) for arch in LIMITS]
    own = {k: u for use in uses for k, u in use.items() if is_of(instance, k)}
    assert own, "no size of gpucnn.cases.specialisations suits it on any architecture"
    assert max(use.threads for use in own.values()) <= instance.threads
    if instance.shared:
        assert {use.shared for use in own.values()} == {instance.shared}


# ---- the gates themselves
BAD = """
extern "C" __global__ void __launch_bounds__(1024, 2) bad(double* x) {
  __shared__ double tile[6000];
  double a[48];
  for (int i = 0; i < 48; i++) a[i] = x[i * 64];
  for (int i = 0; i < 48; i++)
    for (int j = 0; j < 48; j++) a[i] = a[i] * a[j] + x[j];
  for (int i = 0; i < 48; i++) tile[threadIdx.x + i] = a[i];
  __syncthreads();
  x[threadIdx.x] = tile[5999 - threadIdx.x];
}
"""
LOOP = """
extern "C" __global__ void __launch_bounds__(64) loop(const float* x, float* y, int n) {
  __shared__ float tile[64];
  float s = 0;
#pragma unroll 1
  for (int i = 0; i < n; i++) {
    tile[threadIdx.x] = x[i]; __syncthreads();
    s = __fmaf_rn(s, s, tile[(threadIdx.x + i) & 63]); __syncthreads();
  }
  y[threadIdx.x] = s;
}
"""


def only(source: str, entry: str, use: Use) -> Figures:
    (found,) = gates.measured(12, 75, {from_source(source, "test.cu", entry): use})
    return found


def test_the_gates_catch_a_bad_kernel() -> None:
    text = "; ".join(gates.broken_by_all(only(BAD, "bad", Use(1024, 20_000, 3))))
    for part in (
        "bytes spilled", "accesses to local memory", "x 1024 threads x 3 planned blocks are more",
        "68000 bytes of shared memory, more than a block of sm_75 has",
    ):  # fmt: skip
        assert part in text, text
    assert list(gates.broken_by_all(only(LOOP, "loop", Use(64, 0, 4)))) == []


def test_the_floors_catch_a_poor_loop() -> None:
    found = only(LOOP, "loop", Use(64))
    poor = gates.Floor("any", "FFMA", 0.5, (("LDS",), ("LDSM",)))
    share, narrow, absent = poor.broken(found)
    assert share.startswith("FFMA ") and share.endswith(" of the main loop < 50%")
    assert narrow == "LDS: {32: 32} by width, too little by 128"
    assert absent == "LDSM: {} by width, too little by 4"
    assert list(gates.Floor("any", "FFMA", 0.01, ()).broken(found)) == []


def test_the_floors_are_those_of_instances() -> None:
    covered = [[i for i in instances() if floor.covers(i)] for floor in gates.FLOORS]
    assert all(covered)
    assert {i.direction for i in covered[0]} == {"forward", "backward_input", "backward_weight"}
