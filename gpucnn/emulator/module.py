"""PTX text as a module of kernels that can be launched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucnn.emulator.access import smallest
from gpucnn.emulator.carry import CARRY
from gpucnn.emulator.chunk import Chunk
from gpucnn.emulator.compile import Compiled, compile_block
from gpucnn.emulator.counters import Counters
from gpucnn.emulator.execute import Execution
from gpucnn.emulator.findings import ALL, Checks, Finding
from gpucnn.emulator.launch import STEPS, Launch, pack
from gpucnn.emulator.memory import Memory
from gpucnn.emulator.overflow import followed
from gpucnn.emulator.parse import parse
from gpucnn.emulator.program import Block, Program
from gpucnn.emulator.schedule import LOWEST_FIRST, Schedule

LANES = 8192
"""Threads of a chunk, about: enough to hide the cost of a NumPy call."""


@dataclass(frozen=True)
class Report:
    """What a launch did: `findings` of the checks, `counters` (zero when they were off)."""

    findings: tuple[Finding, ...]
    counters: Counters


class Kernel:
    """An entry of a module: its program, and its blocks as Python functions, made when reached."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.types = {r.index: r.type for r in [*program.all_registers(), CARRY]}
        self._compiled: dict[tuple[int, bool], Compiled] = {}
        self._followed: frozenset[int] | None = None
        self.overflow = False
        self.granule = smallest(program.instructions, "shared")
        self.global_granule = smallest(program.instructions, "global")

    def compiled(self, block: Block) -> Compiled:
        key = (block.index, self.overflow)
        found = self._compiled.get(key)
        if found is None:
            if self._followed is None:
                self._followed = followed(self.program)
            found = self._compiled[key] = compile_block(
                self.program, block, self._followed if self.overflow else frozenset()
            )
        return found


class Module:
    """Parsed PTX and the variables of its module.

    memory: where its buffers live; modules that share buffers share a Memory.
    Raises PtxError or UnknownInstruction, naming the line.
    """

    def __init__(self, ptx: str | bytes, memory: Memory | None = None) -> None:
        text = ptx.decode() if isinstance(ptx, bytes) else ptx
        self.memory = memory if memory is not None else Memory()
        self.text = parse(text)
        self.variables: dict[str, int] = {}
        self._kept: list[Any] = []
        for v in self.text.variables:
            if v.space in ("global", "const"):
                data = self.memory.empty(v.size, v.name)
                data[:] = 0
                if v.data is not None:
                    data[: len(v.data)] = np.frombuffer(v.data, np.uint8)
                self._kept.append(data)
                self.variables[v.name] = self.memory.register(data)
        self._kernels: dict[str, Kernel] = {}

    @property
    def entries(self) -> tuple[str, ...]:
        """Names of the kernels."""
        return tuple(f.name for f in self.text.functions.values() if f.entry)

    def kernel(self, entry: str) -> Kernel:
        """The entry, its instructions found in the table. Raises UnknownInstruction."""
        found = self._kernels.get(entry)
        if found is None:
            program = Program(self.text, entry, self.variables)
            found = self._kernels[entry] = Kernel(program)
        return found

    def launch(
        self,
        entry: str,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence[Any],
        shared: int = 0,
        *,
        checks: Checks = ALL,
        schedule: Schedule = LOWEST_FIRST,
        outputs: Sequence[Any] = (),
        counters: bool = True,
        lanes: int = LANES,
        steps: int = STEPS,
    ) -> Report:
        """Run a kernel.

        Args:
            grid, block: one to three sizes each.
            arguments: one for each parameter: arrays (their address in `memory`), None, integers
                (addresses too), floats, NumPy scalars, bytes or structured values for structs.
            shared: bytes of dynamic shared memory.
            outputs: arrays that the kernel should write in full; elements it did not are a finding.
            counters: whether to count.
            lanes: threads that are run together, about.
            steps: blocks of instructions after which a chunk is taken to run for ever.

        Raises EmulatorError when the launch cannot be carried out.
        """
        kernel = self.kernel(entry)
        kernel.overflow = checks.overflow
        x, y, z = (*(int(n) for n in grid), 1, 1)[:3]
        bx, by, bz = (*(int(n) for n in block), 1, 1)[:3]
        launch = Launch(
            kernel.program,
            self.memory,
            (x, y, z),
            (bx, by, bz),
            pack(kernel.program, arguments, self.memory),
            shared,
            checks,
            schedule,
            kernel.granule,
            counters,
        )
        if launch.globals is not None:
            launch.globals.granules(kernel.global_granule)
        launch.steps = steps
        each = max(lanes // max(launch.threads, 1), 1)
        order = schedule.blocks(launch.blocks)
        with np.errstate(all="ignore"):
            for start in range(0, launch.blocks, each):
                execution = Execution(kernel, Chunk(launch, order[start : start + each]))
                execution.run()
                if execution.stopped:
                    break
        if checks.unwritten and launch.globals is not None:
            self._unwritten(launch, outputs)
        own = sum(array.size for array in launch.shared_arrays)
        total = launch.tally.total(kernel, launch.blocks, launch.blocks * launch.threads, own)
        return Report(launch.findings.tuple(), total)

    def _unwritten(self, launch: Launch, outputs: Sequence[Any]) -> None:
        assert launch.globals is not None
        for output in outputs:
            low = self.memory.register(output) if isinstance(output, np.ndarray) else int(output)
            buffer = self.memory.find(low)
            if buffer is None:
                continue
            high = low + output.nbytes if isinstance(output, np.ndarray) else buffer.end
            count, first = launch.globals.unwritten(buffer, low - buffer.base, high - buffer.base)
            if count:
                launch.findings.add(
                    "unwritten",
                    f"{count} elements of '{buffer.name}' are never written, "
                    f"the first at byte {first}",
                    address=buffer.base + first,
                )
