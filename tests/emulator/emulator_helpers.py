"""Compile CUDA text with either NVRTC, run it on the emulator, look at the findings."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from gpucnn.backends.gpu import nvrtc
from gpucnn.emulator import Finding, Module, Report

MAJORS = sorted(nvrtc.compilers())

PTX = """
.version 8.0
.target sm_80
.address_size 64
{variables}
.visible .entry test({parameters})
{{
{body}
    ret;
}}
"""


@cache
def compile_cuda(source: str, major: int) -> str:
    """PTX of a source file named test.cu."""
    code = nvrtc.compilers()[major].compile(source, "test.cu", "compute_80", ["-lineinfo"]).code
    return code.rstrip(b"\0").decode()


def module(source: str, major: int) -> Module:
    return Module(compile_cuda(source, major))


def run(
    source: str, major: int, grid: Any, block: Any, arguments: Any, entry: str = "test", **more: Any
) -> Report:
    """Launch the entry of a CUDA source; sizes may be plain integers."""
    sizes = [(s,) if isinstance(s, int) else tuple(s) for s in (grid, block)]
    return module(source, major).launch(entry, *sizes, arguments, **more)


def run_ptx(
    body: str, threads: int, arguments: list[Any], variables: str = "", **more: Any
) -> Report:
    """Launch hand-written PTX whose parameters are p0, p1, ... (64-bit addresses)."""
    parameters = ", ".join(f".param .u64 p{i}" for i in range(len(arguments)))
    text = PTX.format(variables=variables, parameters=parameters, body=body)
    return Module(text).launch("test", (1,), (threads,), arguments, **more)


def line_of(source: str, mark: str) -> int:
    """The number of the line that holds a mark such as `// here`."""
    lines = [n for n, line in enumerate(source.splitlines(), 1) if mark in line]
    assert len(lines) == 1, mark
    return lines[0]


def kinds(report: Report) -> set[str]:
    return {finding.kind for finding in report.findings}


def only(report: Report, kind: str) -> Finding:
    """The one kind of finding a launch has."""
    assert kinds(report) == {kind}, [str(f) for f in report.findings]
    return report.findings[0]


def clean(report: Report) -> None:
    assert not report.findings, [str(f) for f in report.findings]


def nans(*shape: int, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return np.full(shape, np.nan, dtype)
