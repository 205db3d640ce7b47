"""Which kernels, and which lines of them, a run on the emulated device has executed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from gpucnn.backends.gpu.emulated import EmulatedLaunch, EmulatedRuntime
from gpucnn.backends.gpu.kernel import KERNELS, Module, module

Name = tuple[str, str]  # file, entry


@dataclass(frozen=True)
class Coverage:
    """What was executed.

    Attributes:
        executed: the kernels that were launched.
        existing: all entries of `kernels/*.cu`.
        lines: file -> lines with code that was executed; empty where nothing was counted.
        missed: file -> lines with code, in the modules that were compiled, that no thread reached.
    """

    executed: frozenset[Name]
    existing: frozenset[Name]
    lines: dict[str, list[int]]
    missed: dict[str, list[int]]

    @property
    def left(self) -> list[Name]:
        """The kernels that nothing launched, in order."""
        return sorted(self.existing - self.executed)

    def __str__(self) -> str:
        return f"kernels executed: {len(self.executed)} of {len(self.existing)}"

    def report(self) -> str:
        """Several lines: kernels, those left, and the lines never reached where they are known."""
        parts = [str(self)]
        if self.left:
            parts.append("never launched: " + ", ".join(f"{f}:{entry}" for f, entry in self.left))
        if self.lines:
            reached = sum(map(len, self.lines.values()))
            missed = sum(map(len, self.missed.values()))
            parts.append(f"lines executed: {reached} of {reached + missed}")
            parts += [
                f"never reached: {file} {', '.join(map(str, numbers))}"
                for file, numbers in sorted(self.missed.items())
            ]
        return "\n".join(parts)


def coverage(launches: Iterable[EmulatedLaunch], runtime: EmulatedRuntime) -> Coverage:
    """What the launches kept by `runtime.launches` have executed.

    Lines are known where the runtime counts (`EmulatedRuntime(counters=True)`).
    """
    launched = list(launches)
    modules = {launch.kernel.module for launch in launched}
    executed = {(launch.kernel.module.file, launch.kernel.entry) for launch in launched}
    existing = {(m.file, entry) for m in modules for entry in m.entries}
    used = {m.file for m in modules}
    for path in KERNELS.glob("*.cu"):
        if path.name not in used:
            existing |= {(path.name, entry) for entry in _entries(path.name)}
    reached: set[tuple[str, int]] = set()
    for launch in launched:
        reached |= launch.report.counters.lines
    code: set[tuple[str, int]] = set()
    if reached:
        for kernel in {launch.kernel for launch in launched}:
            program = runtime.program(kernel.module).kernel(kernel.entry).program
            # Without jumps and returns, whose lines are often just a closing brace.
            for block in program.blocks:
                marks = (program.instructions[number].loc for number in block.instructions)
                code |= {(mark.file, mark.line) for mark in marks if mark is not None}
    own = {path.name for path in KERNELS.glob("*.cu*")}
    return Coverage(
        frozenset(executed), frozenset(existing), _by_file(reached, own),
        _by_file(code - reached, own),
    )  # fmt: skip


def _entries(file: str) -> tuple[str, ...]:
    """The kernels of a file that was not compiled: any type will do for the names."""
    types = ("element", "source", "target", "integer", "word")
    found: Module = module(file, **{name: "int" for name in types})
    return found.entries


def _by_file(places: Iterable[tuple[str, int]], files: set[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for file, line in sorted(places):
        name = re.split(r"[\\/]", file)[-1]
        if name in files:
            found.setdefault(name, []).append(line)
    return found
