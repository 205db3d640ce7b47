"""Every kernel compiles with both compilers, without a warning; what the compilers report is read.

Machine code is the business of test_kernel_gates.py. What was compiled once is kept in the cache
folder (see test_store.py).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable

import pytest
from specialisations import of_all_types, of_the_cases, of_the_instances

from gpucnn.backends.gpu import nvrtc
from gpucnn.backends.gpu.kernel import KERNELS, Module
from gpucnn.backends.gpu.nvrtc import Compiled
from gpucnn.backends.gpu.precompile import Job, compile_all

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("cupy") is None, reason="needs CuPy, whose arrays plan the launches"
)

NO_SPILLS = (80, 90)
NEWEST = max(nvrtc.compilers(), default=0)


@pytest.fixture(scope="module")
def modules() -> dict[Module, set[str]]:
    found = of_the_cases()
    for module, entries in of_the_instances().items():
        found.setdefault(module, set()).update(entries)
    return found


def compiled(modules: Iterable[Module], major: int, arch: str) -> dict[Module, Compiled]:
    modules = list(modules)
    jobs = [Job(major, module.source, module.file, arch) for module in modules]
    return dict(zip(modules, compile_all(jobs), strict=True))


def warnings(reports: dict[Module, Compiled]) -> dict[str, list[str]]:
    return {str(m): report.warnings for m, report in reports.items() if report.warnings}


def test_both_compilers_are_here() -> None:
    assert sorted(nvrtc.compilers()) == [12, 13]


def test_the_cases_reach_every_kernel(
    modules: dict[Module, set[str]],
    monkeypatch: pytest.MonkeyPatch,
    say: Callable[[str], None],
) -> None:
    """No kernel is left that nothing launches; and the numbers, printed."""
    launched = {(m.file, entry) for m, entries in modules.items() for entry in entries}
    others = of_all_types(monkeypatch)
    everything = {(m.file, e) for m in (*modules, *others) for e in m.entries}
    reached = launched | {(m.file, e) for m, entries in others.items() for e in entries}
    say(
        f"{len(everything)} kernels in {len(list(KERNELS.glob('*.cu')))} files; the table of cases "
        f"and the instances launch {len(launched)} of them, in {len(modules)} modules with "
        f"{sum(len(module.entries) for module in modules)} compiled specialisations"
    )
    assert {m.file for m in modules} == {path.name for path in KERNELS.glob("*.cu")}
    assert sorted(everything - reached) == []


@pytest.mark.parametrize("major", [12, 13])
def test_ptx(modules: dict[Module, set[str]], major: int) -> None:
    """compute_80: what the emulated device executes."""
    reports = compiled(modules, major, "compute_80")
    assert warnings(reports) == {}
    assert all(b".visible .entry" in report.code for report in reports.values())


@pytest.mark.parametrize("major", [12, 13])
def test_ptx_of_all_types(monkeypatch: pytest.MonkeyPatch, major: int) -> None:
    assert warnings(compiled(of_all_types(monkeypatch), major, "compute_80")) == {}


@pytest.mark.parametrize("target", NO_SPILLS)
def test_no_spills_with_64_bit_offsets(monkeypatch: pytest.MonkeyPatch, target: int) -> None:
    wide = [m for m in of_all_types(monkeypatch) if ("index_t", "long long") in m.defines]
    reports = compiled(wide, NEWEST, f"sm_{target}")
    assert wide and warnings(reports) == {}
    for module, report in reports.items():
        assert report.code[:4] == b"\x7fELF" and set(report.resources) == set(module.entries)
        for entry, resources in report.resources.items():
            assert resources.spill_stores == resources.spill_loads == 0, f"{module}: {entry}"


def test_errors_show_the_line_of_the_file() -> None:
    source = '#define real float\n#line 7 "broken.cu"\n__device__ real f() { return nothing; }\n'
    with pytest.raises(nvrtc.CompileError, match=r'broken\.cu\(7\).*"nothing" is undefined'):
        nvrtc.compilers()[NEWEST].compile(source, "broken.cu", "compute_80")


def test_warnings_are_found() -> None:
    source = "__device__ int f() { int unused; return 1; }\n"
    compiled = nvrtc.compilers()[NEWEST].compile(source, "unused.cu", "sm_80")
    assert any("unused" in line for line in compiled.warnings)


def test_resources_are_read() -> None:
    source = """
    extern "C" __global__ void __launch_bounds__(64) f(float* x) {
      __shared__ float tile[64];
      tile[threadIdx.x] = x[threadIdx.x];
      __syncthreads();
      x[threadIdx.x] = tile[63 - threadIdx.x];
    }
    extern "C" __global__ void __launch_bounds__(1024, 2) spilling(double* x) {
      double a[48];
      for (int i = 0; i < 48; i++) a[i] = x[i * 64];
      for (int i = 0; i < 48; i++)
        for (int j = 0; j < 48; j++) a[i] = a[i] * a[j] + x[j];
      for (int i = 0; i < 48; i++) x[i] = a[i];
    }
    """
    resources = nvrtc.compilers()[NEWEST].compile(source, "f.cu", "sm_80").resources
    assert list(resources) and resources["f"].shared == 256
    assert 0 < resources["f"].registers < 64 and resources["f"].spill_stores == 0
    assert resources["spilling"].registers == 32 and resources["spilling"].spill_stores > 0
