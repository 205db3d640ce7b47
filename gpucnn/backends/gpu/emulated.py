"""The runtime of the device `emulated`: the same CUDA text, executed on the host.

NVRTC compiles each module to the PTX that a GPU would get; `gpucnn.emulator` executes it, checks
every access, and looks for races. What it finds is an error of the launch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpucnn import emulator
from gpucnn.backends.gpu.host import HostRuntime
from gpucnn.backends.gpu.kernel import Kernel, Module
from gpucnn.backends.gpu.nvrtc import CompileError, Compiler, compilers
from gpucnn.backends.gpu.runtime import Array, LaunchError, launch_shape

ARCHITECTURE = "compute_80"
"""What modules are compiled for: the first architecture with asynchronous copies and TF32."""

_MEMORY = emulator.Memory()
"""One address space for all runtimes, so that a compiled module serves each of them."""


class EmulatedLaunch(NamedTuple):
    """A launch with `shared` bytes of dynamic shared memory, and what the emulator reports."""

    kernel: Kernel
    grid: tuple[int, ...]
    block: tuple[int, ...]
    report: emulator.Report
    shared: int = 0


def why_not() -> str | None:
    """Why nothing can be emulated here, or None."""
    if compilers():
        return None
    return "no NVRTC is installed to make PTX (pip install 'gpucnn[emulated]')"


@cache
def _emulated(compiler: Compiler, module: Module) -> emulator.Module:
    compiled = compiler.compile(module.source, module.file, ARCHITECTURE, ["-lineinfo"])
    return emulator.Module(compiled.code, _MEMORY)


def _by_line(findings: Sequence[emulator.Finding]) -> list[emulator.Finding]:
    """One finding a kind and source line: an unrolled loop has the line many times."""
    found: dict[tuple[str, ...], emulator.Finding] = {}
    for finding in findings:
        place = finding.where or f"PTX line {finding.ptx_line}"
        key = (finding.kind, place, finding.other, "" if finding.where else finding.message)
        first = found.get(key)
        found[key] = finding if first is None else replace(first, count=first.count + finding.count)
    return list(found.values())


class EmulatedRuntime(HostRuntime):
    """Executes launches on the host (see `runtime.Runtime` for the methods).

    Args:
        compiler: which NVRTC makes the PTX; the oldest installed by default.
        checks: what the emulator looks for; everything by default, or only what memory safety
            needs where `GPUCNN_EMULATED_CHECKS=0` is in the environment.
        schedule: in which order warps and blocks run.
        counters: whether launches are counted.

    Attributes:
        launches: kept here where it is a list; None (the default) keeps none.

    Raises:
        RuntimeError: no NVRTC is installed.
    """

    synchronous = True

    def __init__(
        self,
        compiler: Compiler | None = None,
        checks: emulator.Checks | None = None,
        schedule: emulator.Schedule = emulator.LOWEST_FIRST,
        counters: bool = False,
    ) -> None:
        reason = why_not()
        if reason is not None:
            raise RuntimeError(f"emulated: {reason}")
        self.compiler = next(iter(compilers().values())) if compiler is None else compiler
        if checks is None:
            on = os.environ.get("GPUCNN_EMULATED_CHECKS", "1") != "0"
            checks = emulator.ALL if on else emulator.NONE
        self.checks, self.schedule, self.counters = checks, schedule, counters
        self.launches: list[EmulatedLaunch] | None = None

    def _allocate(self, size: int) -> npt.NDArray[np.uint8]:
        return _MEMORY.empty(size)

    def address(self, array: Array) -> int:
        return _MEMORY.register(array)

    def launch(
        self,
        kernel: Kernel,
        grid: Sequence[int],
        block: Sequence[int],
        *arguments: Any,
        shared: int = 0,
    ) -> None:
        """Raises LaunchError with every finding of the checks, and what `Kernel.bind` raises."""
        if self._captured is not None and 0 not in grid:
            captured, self._captured = self._captured, None
            try:
                self.launch(kernel, grid, block, *arguments, shared=shared)
            finally:
                self._captured = captured
            captured.append(partial(self.launch, kernel, grid, block, *arguments, shared=shared))
            return
        report = self.report(kernel, grid, block, *arguments, shared=shared)
        if report is not None and report.findings:
            found = _by_line(report.findings)
            listed = "\n  ".join(str(finding) for finding in found)
            where = f"{kernel.entry} ({kernel.module}), grid {tuple(grid)}, block {tuple(block)}"
            number = f"{len(found)} finding{'s' if len(found) > 1 else ''}"
            raise LaunchError(f"{where}: {number}\n  {listed}")

    def report(
        self,
        kernel: Kernel,
        grid: Sequence[int],
        block: Sequence[int],
        *arguments: Any,
        shared: int = 0,
        counters: bool | None = None,
    ) -> emulator.Report | None:
        """Launch and say what the emulator found and counted; None where the grid is empty.

        Findings name a buffer by the kernel's parameter. Raises LaunchError when the launch cannot
        be carried out, and what `Kernel.bind` raises.
        """
        bound = kernel.bind(arguments, self.owns)
        shape = launch_shape(kernel, grid, block)
        if shape is None:
            return None
        values = [
            _MEMORY.register(value, parameter.name)
            if parameter.pointer and value is not None
            else value
            for parameter, value in zip(kernel.signature, bound)
        ]
        try:
            report = _emulated(self.compiler, kernel.module).launch(
                kernel.entry,
                *shape,
                values,
                shared,
                checks=self.checks,
                schedule=self.schedule,
                counters=self.counters if counters is None else counters,
            )
        except (emulator.EmulatorError, CompileError) as error:
            where = f"{kernel.entry} ({kernel.module}), grid {shape[0]}, block {shape[1]}"
            raise LaunchError(f"{where}: {error}") from error
        if self.launches is not None:
            self.launches.append(EmulatedLaunch(kernel, *shape, report, shared))
        return report

    def program(self, module: Module) -> emulator.Module:
        """The module as this runtime executes it."""
        return _emulated(self.compiler, module)
