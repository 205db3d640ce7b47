"""Whether the emulated device exposes a mutant: by a finding, a wrong number, or a counter."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from mutant_launches import Array, Kept, Launch, Target
from mutant_targets import TARGETS
from mutation import Mutant, mutants

from gpucnn import emulator
from gpucnn.backends.gpu import nvrtc
from gpucnn.backends.gpu.kernel import Module

STEPS = (125, 250, 500, 1000, 2000, 4000, 8000)
"""Limits for the originals' launches, of which one is found that they keep to. A mutant that takes
twice as many steps counts as endless."""
TOLERANCE = 1e-5
"""Of a number, relative to the largest of its array: an equivalent sum may be rounded otherwise."""


@dataclass(frozen=True)
class Ran:
    """What a launch left: its arrays and its counters; and the limit of its steps."""

    arrays: list[Array]
    counters: emulator.Counters
    steps: int


@dataclass(frozen=True)
class Verdict:
    """`how` a mutant was exposed, "" for a survivor; None where it is no mutant: it does not
    compile, or compiles to the same instructions.
    """

    target: str
    mutant: Mutant
    how: str | None


class Bench:
    """The originals of a target, and what to hold its mutants against."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.compiler = next(iter(nvrtc.compilers().values()))
        self.launches = target.launches()
        self.code = {module: self._compile(module.source, module) for module in self.launches}
        self.instructions = {module: _instructions(code) for module, code in self.code.items()}
        self.mutants = generated(target, self.launches)
        self.ran: dict[Module, list[Ran]] = {}

    def judge(self, mutant: Mutant) -> Verdict:
        how: str | None = None
        for module in self.launches:
            body = _body(module)
            head = module.source[: len(module.source) - len(body)]
            try:
                code = self._compile(head + mutant.apply(body), module)
            except nvrtc.CompileError:
                continue
            if _instructions(code) == self.instructions[module]:
                continue
            how = self._exposed(module, code)
            if how:
                break
        return Verdict(self.target.file, mutant, how)

    def originals(self, module: Module) -> list[Ran]:
        """Runs them once; they must be right."""
        if module not in self.ran:
            self.ran[module] = []
            compiled, memory = _load(self.code[module])
            for launch in self.launches[module]:
                for steps in STEPS:
                    ran, found = _run(compiled, memory, launch, True, steps)
                    if not found:
                        break
                assert not found, f"{launch.kernel.entry}: {found}"
                self.ran[module].append(ran)
        return self.ran[module]

    def _exposed(self, module: Module, code: str) -> str:
        originals = self.originals(module)
        for counters in (False, True):
            compiled, memory = _load(code)
            for launch, original in zip(self.launches[module], originals):
                try:
                    ran, found = _run(compiled, memory, launch, counters, 2 * original.steps)
                except emulator.EmulatorError as error:
                    return f"error: {error}"
                if found:
                    return f"finding: {found}"
                if not all(map(_same, ran.arrays, original.arrays)):
                    return "wrong number"
                if counters:
                    risen = _risen(ran.counters, original.counters)
                    if risen:
                        return f"counter: {risen}"
        return ""

    def _compile(self, source: str, module: Module) -> str:
        options = ["-lineinfo"]
        return self.compiler.compile(source, module.file, "compute_80", options).code.decode()


def generated(target: Target, launches: Iterable[Module]) -> list[Mutant]:
    """Mutants of the text behind the defines, which all specialisations share."""
    body = _body(next(iter(launches)))
    return [m for m in mutants(body) if m.place.partition(":")[0] in target.files]


def _body(module: Module) -> str:
    return module.source[module.source.index("#line 1 ") :]


def _instructions(ptx: str) -> str:
    """PTX without what only tells of the source."""
    text = re.sub(r"^\s*(?:\.loc|\.file|//)[^\n]*\n|\.section.*", "", ptx, flags=re.M | re.S)
    return re.sub(r"//[^\n]*", "", text)


def _load(code: str) -> tuple[emulator.Module, emulator.Memory]:
    memory = emulator.Memory()
    return emulator.Module(code, memory), memory


def _run(
    module: emulator.Module, memory: emulator.Memory, launch: Launch, counters: bool, steps: int
) -> tuple[Ran, str]:
    """On copies of its arrays; the first finding, if there is one."""
    arrays: list[Array] = []
    values = []
    for value in launch.arguments:
        if isinstance(value, Kept):
            arrays.append(value.put(memory))
            values.append(memory.register(arrays[-1]))
        else:
            values.append(value)
    report = module.launch(
        launch.kernel.entry, launch.grid, launch.block, values, launch.shared,
        counters=counters, steps=steps,
    )  # fmt: skip
    found = str(report.findings[0]) if report.findings else ""
    return Ran(arrays, report.counters, steps), found


def _same(a: Array, b: Array) -> bool:
    if a.dtype.kind != "f":
        return np.array_equal(a, b)
    finite = np.isfinite(b)
    if not np.array_equal(np.isnan(a), np.isnan(b)) or not np.array_equal(
        a[np.isinf(b)], b[np.isinf(b)]
    ):
        return False
    scale = float(np.abs(b[finite]).max(initial=0.0))
    with np.errstate(invalid="ignore", over="ignore"):
        worst = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    return worst <= TOLERANCE * scale


def _risen(mutant: emulator.Counters, original: emulator.Counters) -> str:
    """What costs more than in the original: bytes moved, or passes beyond the ideal."""
    for kind in ("load_sectors", "store_sectors"):
        if getattr(mutant, kind) > getattr(original, kind):
            return f"{kind} {getattr(mutant, kind)}, not {getattr(original, kind)}"
    for kind in ("shared_load_wavefronts", "shared_store_wavefronts"):
        worse, before = (getattr(c, kind) - getattr(c, f"{kind}_ideal") for c in (mutant, original))
        if worse > before:
            return f"{kind} beyond the ideal {worse}, not {before}"
    return ""


def judge(file: str, numbers: list[int]) -> list[Verdict]:
    """The verdicts on some of a target's mutants, by their number; those that are none left out."""
    bench = bench_of(file)
    verdicts = [bench.judge(bench.mutants[number]) for number in numbers]
    return [verdict for verdict in verdicts if verdict.how is not None]


@cache
def bench_of(file: str) -> Bench:
    """That of the target of this file."""
    return Bench(next(target for target in TARGETS if target.file == file))
