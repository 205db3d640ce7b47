"""Defects seeded automatically in the source of a kernel, and recorded launches to expose them.

An operator changes one place of the text: a barrier removed, a comparison off by one, a condition
dropped, a buffer's index off, padding removed. A mutant is exposed when a replayed launch gives
other bits, a finding, more shared wavefronts, or does not end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from emulated_runtime import MEMORY, EmulatedRuntime

from gpucnn.backends.gpu import nvrtc
from gpucnn.backends.gpu.kernel import Kernel
from gpucnn.backends.gpu.runtime import launch_shape
from gpucnn.emulator import EmulatorError, Module

Bytes = np.ndarray[Any, Any]

# Name, pattern, replacement.
OPERATORS = (
    ("barrier removed", r"__syncthreads\(\);", ";"),
    ("bound off by one", r"(?<=[\w\])]) < (?=[a-z(])", " <= "),
    ("bound off by one", r"(?<=[\w\])]) >= (?=[\w(])", " > "),
    ("mask dropped", r"(?<=\bif )\((?=[a-z](?:[^()\n]|\([^()\n]*\))*\))", "(true || "),
    ("buffer index off", r"\bnow \^ 1\b", "now"),
    ("buffer index off", r"\[now\]", "[now ^ 1]"),
    ("padding removed", r"PITCH = TILE \+ 4", "PITCH = TILE"),
    ("padding removed", r"\[TILE \+ 1\]", "[TILE]"),
    ("index off", r"(?<=shared\[)(?=to\])", "1 + "),
    ("index off", r"(?<=shared\[own)(?= \+)", " + 1"),
    ("step off", r"(?<=step > )0", "1"),
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    file: str
    operator: str
    line: int
    text: str
    source: str

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line}: {self.operator}: {self.text}"


@dataclass
class Recorded:
    """A launch with the bytes of its buffers before and after."""

    kernel: Kernel
    grid: tuple[int, ...]
    block: tuple[int, ...]
    values: list[Any]
    before: dict[int, Bytes]
    after: dict[int, Bytes]
    shared: int
    wavefronts: int

    def replay(self, module: Module) -> str:
        """Why the mutant is exposed, "" when it is not."""
        copies: dict[int, Bytes] = {}
        values = list(self.values)
        for i, value in enumerate(self.values):
            if isinstance(value, tuple):
                base, offset = value
                if base not in copies:
                    copies[base] = MEMORY.empty(self.before[base].size)
                    copies[base][:] = self.before[base]
                values[i] = MEMORY.register(copies[base]) + offset
        try:
            report = module.launch(
                self.kernel.entry, self.grid, self.block, values, self.shared, steps=20000
            )
        except EmulatorError as error:
            return f"error: {error}"
        if report.findings:
            return f"finding: {report.findings[0]}"
        for base, bytes_ in copies.items():
            if not np.array_equal(bytes_, self.after[base]):
                return "wrong numbers"
        c = report.counters
        if c.shared_load_wavefronts + c.shared_store_wavefronts > self.wavefronts:
            return "bank conflicts"
        return ""


class Recorder(EmulatedRuntime):
    """Runs and records the launches of some files."""

    def __init__(self, major: int, files: Sequence[str]) -> None:
        super().__init__(major)
        self.files = files
        self.recorded: list[Recorded] = []

    def launch(
        self,
        kernel: Kernel,
        grid: Sequence[int],
        block: Sequence[int],
        *arguments: Any,
        shared: int = 0,
    ) -> None:
        shape = launch_shape(kernel, grid, block)
        if kernel.module.file not in self.files or shape is None:
            super().launch(kernel, grid, block, *arguments, shared=shared)
            return
        bound = kernel.bind(arguments, self.owns)
        values: list[Any] = []
        before: dict[int, Bytes] = {}
        for parameter, value in zip(kernel.signature, bound, strict=True):
            if parameter.pointer and value is not None:
                buffer = MEMORY.find(self.address(value))
                if buffer is None:
                    values.append(self.address(value))
                    continue
                before[buffer.base] = buffer.data.copy()
                values.append((buffer.base, self.address(value) - buffer.base))
            else:
                values.append(value)
        self.counting = True
        super().launch(kernel, grid, block, *arguments, shared=shared)
        after = {base: MEMORY.buffer_of(base).data.copy() for base in before}
        c = self.reports[-1][1].counters
        wavefronts = c.shared_load_wavefronts + c.shared_store_wavefronts
        self.recorded.append(Recorded(kernel, *shape, values, before, after, shared, wavefronts))


def mutants(file: str, source: str) -> Iterator[Mutant]:
    """Every place of a spliced source at which an operator applies."""
    for operator, pattern, replacement in OPERATORS:
        for match in re.finditer(pattern, source):
            start = source.rfind("\n", 0, match.start()) + 1
            end = source.find("\n", match.end())
            text = source[start:end].strip()
            if text.startswith(("//", "#")) or "//" in source[start : match.start()]:
                continue
            marks = re.findall(r'#line (\d+) "([^"]+)"', source[:start])
            line = int(marks[-1][0]) + source[:start].rsplit("#line", 1)[1].count("\n") - 1
            changed = source[: match.start()] + replacement + source[match.end() :]
            yield Mutant(marks[-1][1], operator, line, text, changed)


def text_of(source: str, file: str, major: int) -> str:
    code = nvrtc.compilers()[major].compile(source, file, "compute_80", ["-lineinfo"]).code
    return code.rstrip(b"\0").decode()


def bodies(text: str) -> dict[str, str]:
    """The entries of a PTX text without line marks, to compare."""
    plain = re.sub(r"\t\.loc[^\n]*\n|//[^\n]*", "", text)
    parts = re.split(r"\.entry (\w+)", plain)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def build(mutant: Mutant, original: str, entries: set[str], major: int) -> Module | None:
    """The compiled mutant, None when it does not compile or leaves the entries as they were."""
    try:
        text = text_of(mutant.source, mutant.file, major)
    except nvrtc.CompileError:
        return None
    before, after = bodies(original), bodies(text)
    if all(before[entry] == after[entry] for entry in entries):
        return None
    return Module(text, MEMORY)
