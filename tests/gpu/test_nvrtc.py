"""Every kernel compiles with both compilers, for every target, within its registers."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import pytest
from specialisations import of_all_types, of_the_cases

from gpucnn.backends.gpu import nvrtc
from gpucnn.backends.gpu.kernel import KERNELS, Module

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("cupy") is None, reason="needs CuPy, whose arrays plan the launches"
)

TARGETS = (75, 80, 86, 89, 90, 100, 120)
NO_SPILLS = (80, 90)
# NVRTC 12.9 knows the newer targets as well, but 13 is the one that ships for them.
NEWEST = max(nvrtc.compilers(), default=0)


class Report(NamedTuple):
    """What one compilation of one module said."""

    warnings: list[str]
    resources: dict[str, nvrtc.Resources]
    code: bytes


@pytest.fixture(scope="module")
def modules() -> dict[Module, set[str]]:
    return of_the_cases()


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    # spawn: the compilers keep threads and locks of their own, which a fork would copy.
    with ProcessPoolExecutor(os.cpu_count() or 1, get_context("spawn")) as executor:
        yield executor


def compile_one(source: str, name: str, major: int, arch: str) -> Report:
    compiled = nvrtc.compilers()[major].compile(source, name, arch)
    return Report(compiled.warnings, compiled.resources, compiled.code[:4])


def compile_all(
    pool: ProcessPoolExecutor, modules: dict[Module, set[str]], major: int, arch: str
) -> dict[Module, Report]:
    jobs = [pool.submit(compile_one, m.source, str(m), major, arch) for m in modules]
    return {module: job.result() for module, job in zip(modules, jobs, strict=True)}


def spills(reports: dict[Module, Report]) -> list[str]:
    return [
        f"{module}: {entry} {resources}"
        for module, report in reports.items()
        for entry, resources in report.resources.items()
        if resources.spill_stores or resources.spill_loads
    ]


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
        f"launches {len(launched)} of them, in {len(modules)} modules with "
        f"{sum(len(module.entries) for module in modules)} compiled specialisations"
    )
    assert {m.file for m in modules} == {path.name for path in KERNELS.glob("*.cu")}
    assert sorted(everything - reached) == []


@pytest.mark.parametrize("major", [12, 13])
def test_ptx(pool: ProcessPoolExecutor, modules: dict[Module, set[str]], major: int) -> None:
    """compute_80, without a warning."""
    reports = compile_all(pool, modules, major, "compute_80")
    assert {str(m): r.warnings for m, r in reports.items() if r.warnings} == {}


@pytest.mark.parametrize("major", [12, 13])
def test_ptx_of_all_types(
    pool: ProcessPoolExecutor, monkeypatch: pytest.MonkeyPatch, major: int
) -> None:
    reports = compile_all(pool, of_all_types(monkeypatch), major, "compute_80")
    assert {str(m): r.warnings for m, r in reports.items() if r.warnings} == {}


@pytest.mark.parametrize("target", TARGETS)
def test_cubin(pool: ProcessPoolExecutor, modules: dict[Module, set[str]], target: int) -> None:
    """Machine code for each target; on 80 and 90 nothing spills, with 64-bit offsets neither."""
    reports = compile_all(pool, modules, NEWEST, f"sm_{target}")
    assert all(report.code == b"\x7fELF" for report in reports.values())
    assert {str(m): r.warnings for m, r in reports.items() if r.warnings} == {}
    assert all(set(report.resources) == set(m.entries) for m, report in reports.items())
    if target in NO_SPILLS:
        assert spills(reports) == []


@pytest.mark.parametrize("target", NO_SPILLS)
def test_no_spills_with_64_bit_offsets(
    pool: ProcessPoolExecutor, monkeypatch: pytest.MonkeyPatch, target: int
) -> None:
    wide = {
        module: entries
        for module, entries in of_all_types(monkeypatch).items()
        if ("index_t", "long long") in module.defines
    }
    assert wide and spills(compile_all(pool, wide, NEWEST, f"sm_{target}")) == []


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
