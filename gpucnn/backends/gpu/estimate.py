"""The emulator's estimate of a launch on a named GPU, with what ptxas says of the kernel there.

The roofline is `gpucnn.emulator.gpus`; registers, and so the true occupancy, are only known from
machine code. An estimate is never a measurement, and says so wherever it is printed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from gpucnn import emulator
from gpucnn.backends.gpu.kernel import Kernel, Module
from gpucnn.backends.gpu.nvrtc import Compiled, compilers
from gpucnn.backends.gpu.occupancy import LIMITS, blocks_per_multiprocessor
from gpucnn.backends.gpu.runtime import DeviceProperties
from gpucnn.emulator import gpus


@dataclass(frozen=True)
class Estimate:
    """A lower bound of a launch's time on one GPU, launch overhead excluded.

    Attributes:
        gpu: its name.
        microseconds: the time of the limiting resource.
        limit: that resource.
        resources: microseconds of each resource alone.
        registers: of a thread, as ptxas says for this GPU; None where no NVRTC knows it.
        shared: bytes of shared memory of a block; None likewise.
        occupancy: resident warps as a share of those that fit, 0 to 1; None likewise.
        waves: blocks over those that are resident at a time on the whole GPU; None likewise.
        idle: share of the multiprocessors' time that is lost because blocks do not divide evenly.
    """

    gpu: str
    microseconds: float
    limit: str
    resources: dict[str, float]
    registers: int | None
    shared: int | None
    occupancy: float | None
    waves: float | None
    idle: float

    def __str__(self) -> str:
        return (
            f"{self.gpu}: at least {self.microseconds:.2f} us, limited by {self.limit} "
            "(estimate, not a measurement)"
        )


def find(name: str) -> gpus.Gpu:
    """The GPU of a name such as "a100" or "RTX 4090". Raises ValueError, listing the names."""
    try:
        return gpus.find(name)
    except LookupError:
        raise ValueError(f"gpu: {name!r} is not one of {', '.join(gpus.GPUS)}") from None


def architecture(gpu: gpus.Gpu) -> int:
    """Such as 80 for sm_80."""
    major, minor = gpu.compute_capability
    return 10 * major + minor


# Of the data sheets: memory in GB, L2 cache in MB. A block may have all shared memory of a
# multiprocessor but 1 KB (none is kept back before sm_80).
_MEMORY = {
    "T4": (16, 4),
    "RTX 3090": (24, 6),
    "RTX 4090": (24, 72),
    "A100": (40, 40),
    "H100": (80, 50),
    "B200": (180, 126),
}


def properties(gpu: gpus.Gpu) -> DeviceProperties:
    """What such a GPU would tell the planners."""
    memory, cache = _MEMORY[gpu.name]
    kept_back = 1024 if gpu.compute_capability >= (8, 0) else 0
    return DeviceProperties(
        gpu.name,
        gpu.compute_capability,
        gpu.multiprocessors,
        memory * 2**30,
        gpu.shared_per_multiprocessor - kept_back,
        gpu.threads_per_multiprocessor,
        cache * 2**20,
    )


_EXAMPLES = {75: "T4", 80: "A100", 86: "RTX 3090", 89: "RTX 4090", 90: "H100", 100: "B200"}


def planned_for(arch: int) -> DeviceProperties:
    """A device of an architecture, for tools that compile without one.

    Of consumer Blackwell (sm_120) there are no figures here: it is planned for as for its
    predecessor. Raises ValueError for an architecture of which occupancy is not known.
    """
    if arch not in LIMITS:
        raise ValueError(f"sm_{arch} is not one of {', '.join(f'sm_{a}' for a in LIMITS)}")
    found = properties(find(_EXAMPLES.get(arch, "RTX 4090")))
    return replace(found, compute_capability=(arch // 10, arch % 10))


def estimate(
    name: str, kernel: Kernel, threads: int, counters: emulator.Counters, shared: int = 0
) -> Estimate:
    """Estimate one launch.

    Args:
        name: of the GPU.
        kernel: what was launched, compiled here for the GPU's registers.
        threads: of a block.
        counters: of the launch.
        shared: bytes of dynamic shared memory of a block.

    Raises:
        ValueError: there is no such GPU.
    """
    gpu = find(name)
    bound = gpus.estimate(counters, gpu)
    registers = occupancy = waves = taken = None
    arch = architecture(gpu)
    compiled = binary(kernel.module, arch)
    if compiled is not None:
        uses = compiled.resources[kernel.entry]
        registers = uses.registers
        taken = uses.shared + shared
        resident = blocks_per_multiprocessor(arch, registers, taken, threads)
        occupancy = resident * -(-threads // 32) / LIMITS[arch].warps
        waves = counters.blocks / (resident * gpu.multiprocessors) if resident else None
    busiest = -(-counters.blocks // gpu.multiprocessors)
    idle = 1 - counters.blocks / max(busiest * gpu.multiprocessors, 1)
    return Estimate(
        gpu.name, bound.microseconds, bound.limit, bound.resources,
        registers, taken, occupancy, waves, idle,
    )  # fmt: skip


@cache
def binary(module: Module, arch: int) -> Compiled | None:
    """Machine code for an architecture, from the oldest installed NVRTC that knows it."""
    for compiler in compilers().values():
        if arch in compiler.architectures():
            return compiler.compile(module.source, module.file, f"sm_{arch}")
    return None
