"""One launch: its arguments, its shape, what it is checked for, and how it is carried out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn.emulator.counters import Tally
from gpucnn.emulator.errors import EmulatorError
from gpucnn.emulator.findings import Checks, Dimensions, Findings
from gpucnn.emulator.flatten import SharedArray
from gpucnn.emulator.globals import GlobalShadow
from gpucnn.emulator.isa import Array
from gpucnn.emulator.memory import Memory
from gpucnn.emulator.program import Program

if TYPE_CHECKING:
    from gpucnn.emulator.schedule import Schedule

MAX_SHARED = 232448
STEPS = 20_000_000


class Launch:
    """State that all chunks of a launch share."""

    def __init__(
        self,
        program: Program,
        memory: Memory,
        grid: Dimensions,
        block: Dimensions,
        params: bytes,
        dynamic_size: int,
        checks: Checks,
        schedule: Schedule,
        granule: int,
        counting: bool,
    ) -> None:
        self.program, self.memory = program, memory
        self.grid, self.block = grid, block
        self.threads = block[0] * block[1] * block[2]
        self.blocks = grid[0] * grid[1] * grid[2]
        if not 1 <= self.threads <= 1024:
            raise EmulatorError(f"{program.name}: a block of {self.threads} threads")
        self.params = np.frombuffer(params + bytes(-len(params) % 8), np.uint8)
        self.checks, self.schedule = checks, schedule
        self.findings = Findings(program.name)
        self.granule = granule
        self.dynamic_size = dynamic_size
        self.shared_arrays: list[SharedArray] = list(program.shared_arrays)
        self.shared_size = program.shared_size
        if program.dynamic is not None:
            self.shared_size = program.dynamic + dynamic_size
            self.shared_arrays.append(SharedArray("dynamic", program.dynamic, dynamic_size))
        own = sum(a.size for a in self.shared_arrays)
        if own > MAX_SHARED:
            raise EmulatorError(
                f"{program.name}: {own} bytes of shared memory, at most {MAX_SHARED}"
            )
        self.tracks_shared = checks.races or checks.uninitialised
        self.globals = GlobalShadow(self) if checks.races or checks.unwritten else None
        self.tally = Tally(counting)
        self.steps = STEPS

    def param(self, offset: int, dtype: np.dtype[Any]) -> Array:
        return self.params[offset : offset + dtype.itemsize].view(dtype)

    def block_of(self, linear: int) -> Dimensions:
        x, y, _ = self.grid
        return linear % x, linear // x % y, linear // (x * y)

    def thread_of(self, linear: int) -> Dimensions:
        x, y, _ = self.block
        return linear % x, linear // x % y, linear // (x * y)

    def where(self, index: int) -> str:
        """The source line of an instruction."""
        if not 0 <= index < len(self.program.instructions):
            return "?"
        instruction = self.program.instructions[index]
        return str(instruction.loc) if instruction.loc else f"PTX line {instruction.line}"

    def report(self, kind: str, message: str, index: int, **more: Any) -> None:
        instruction = self.program.instructions[index]
        self.findings.add(
            kind, message, where=str(instruction.loc or ""), ptx_line=instruction.line, **more
        )


def pack(program: Program, arguments: Sequence[Any], memory: Memory) -> bytes:
    """The parameter space of a launch: each argument where the entry expects it.

    Arrays become the address of their buffer, None a null pointer, Python ints and floats what the
    parameter's size asks for, bytes and structured NumPy values their bytes.
    """
    params = program.function.params
    if len(arguments) != len(params):
        raise EmulatorError(f"{program.name}: takes {len(params)} arguments, got {len(arguments)}")
    out = bytearray(program.param_size)
    for i, (param, value) in enumerate(zip(params, arguments, strict=True)):
        raw = _bytes(value, param.size, memory)
        if len(raw) != param.size:
            raise EmulatorError(
                f"{program.name}: argument {i} has {len(raw)} bytes, the kernel takes {param.size}"
            )
        offset = program.param_offsets[param.name][0]
        out[offset : offset + len(raw)] = raw
    return bytes(out)


def _bytes(value: Any, size: int, memory: Memory) -> bytes:
    if value is None:
        return bytes(size)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, np.ndarray) and (value.dtype.names is None and value.ndim > 0):
        return memory.register(value).to_bytes(8, "little")
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tobytes()
    if isinstance(value, bool):
        return int(value).to_bytes(size, "little")
    if isinstance(value, int):
        return (value % (1 << 8 * size)).to_bytes(size, "little")
    if isinstance(value, float):
        return np.array(value, f"f{size}").tobytes()
    raise EmulatorError(f"an argument of type {type(value).__qualname__} cannot be passed")
