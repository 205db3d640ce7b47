"""What a named GPU needs at least for a launch, from the counters of the emulated device.

A roofline (Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009) with a line for each
resource, and whole blocks on whole multiprocessors. It knows nothing of latency, of caches beyond
compulsory traffic, or of what ptxas schedules: it ranks, it does not predict. An estimate is never
a measurement, and says so wherever it is printed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from gpucnn.backends.gpu.kernel import Kernel, Module
from gpucnn.backends.gpu.nvrtc import Compiled, compilers
from gpucnn.backends.gpu.occupancy import LIMITS, blocks_per_multiprocessor
from gpucnn.emulator import Counters


class Gpu(NamedTuple):
    """Public specifications: multiprocessors, boost clock in MHz, FP32 TFLOP/s, memory GB/s, L2 in
    MB, and the tensor cores' dense bf16/fp16 TFLOP/s.
    """

    name: str
    arch: int
    multiprocessors: int
    clock: int
    tflops: float
    bandwidth: int
    l2: int
    tensor: float


# NVIDIA's data sheets and architecture white papers; the clock is the one that gives the TFLOP/s.
GPUS = {
    "t4": Gpu("T4", 75, 40, 1590, 8.1, 320, 4, 65),
    "rtx3090": Gpu("RTX 3090", 86, 82, 1695, 35.6, 936, 6, 71),
    "rtx4090": Gpu("RTX 4090", 89, 128, 2520, 82.6, 1008, 72, 165),
    "a100": Gpu("A100", 80, 108, 1410, 19.5, 1555, 40, 312),
    "h100": Gpu("H100", 90, 132, 1980, 66.9, 3350, 50, 989),
    "b200": Gpu("B200", 100, 148, 1965, 74.4, 8000, 126, 2250),
}
_FP64_LANES = {75: 2, 80: 32, 86: 2, 89: 2, 90: 64, 100: 64}  # of a multiprocessor
_SPECIAL_LANES = 16
_SCHEDULERS = 4  # each issues one warp instruction a clock
_L2_BYTES = 64  # between a multiprocessor and the L2 cache, a clock


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


def find(name: str) -> Gpu:
    """The GPU of a name such as "a100" or "RTX 4090". Raises ValueError, listing the names."""
    key = "".join(letter for letter in name.lower() if letter.isalnum())
    gpu = GPUS.get(key) or GPUS.get(f"rtx{key}")
    if gpu is None:
        raise ValueError(f"gpu: {name!r} is not one of {', '.join(GPUS)}")
    return gpu


def estimate(
    name: str,
    kernel: Kernel,
    threads: int,
    counters: Counters,
    shared: int = 0,
    footprint: int | None = None,
) -> Estimate:
    """Estimate one launch.

    Args:
        name: of the GPU.
        kernel: what was launched, compiled here for the GPU's registers.
        threads: of a block.
        counters: of the launch.
        shared: bytes of dynamic shared memory of a block.
        footprint: bytes of the arrays that the launch was given; traffic with memory is taken to be
            no more, what repeats being served by the L2 cache. None: every sector counts.

    Raises:
        ValueError: there is no such GPU.
    """
    gpu = find(name)
    resources = _times(gpu, counters, footprint)
    limit = max(resources, key=lambda key: resources[key])
    registers = occupancy = waves = taken = None
    compiled = binary(kernel.module, gpu.arch)
    if compiled is not None:
        uses = compiled.resources[kernel.entry]
        registers = uses.registers
        taken = uses.shared + shared
        resident = blocks_per_multiprocessor(gpu.arch, registers, taken, threads)
        occupancy = resident * -(-threads // 32) / LIMITS[gpu.arch].warps
        waves = counters.blocks / (resident * gpu.multiprocessors) if resident else None
    busiest = -(-counters.blocks // gpu.multiprocessors)
    idle = 1 - counters.blocks / max(busiest * gpu.multiprocessors, 1)
    return Estimate(
        gpu.name, resources[limit], limit, resources, registers, taken, occupancy, waves, idle
    )


def _times(gpu: Gpu, counters: Counters, footprint: int | None) -> dict[str, float]:
    """Microseconds of each resource, were it the only one."""
    # A block stays on one multiprocessor: the busiest has ceil(blocks / multiprocessors) of them.
    share = -(-counters.blocks // gpu.multiprocessors) / max(counters.blocks, 1)
    fp32_lanes = round(gpu.tflops * 1e6 / (2 * gpu.clock * gpu.multiprocessors))
    work = counters.instructions
    sectors = counters.bytes_read + counters.bytes_written
    wavefronts = counters.shared_load_wavefronts + counters.shared_store_wavefronts
    cycles = {
        "instruction issue": counters.warp_instructions / _SCHEDULERS,
        "FP32 units": work.get("float32", 0) * 32 / fp32_lanes,
        "FP64 units": work.get("float64", 0) * 32 / _FP64_LANES[gpu.arch],
        "special functions": work.get("special", 0) * 32 / _SPECIAL_LANES,
        "shared memory": wavefronts,
        "L2 cache": sectors / _L2_BYTES,
    }
    times = {name: count * share / gpu.clock for name, count in cycles.items()}
    matrix = counters.flops.get("tensor", 0)
    times["tensor cores"] = matrix * share * gpu.multiprocessors / gpu.tensor / 1e6
    traffic = sectors if footprint is None else min(sectors, footprint)
    times["memory bandwidth"] = (counters.unique_bytes or traffic) / gpu.bandwidth / 1e3
    return times


@cache
def binary(module: Module, arch: int) -> Compiled | None:
    """Machine code for an architecture, from the oldest installed NVRTC that knows it."""
    for compiler in compilers().values():
        if arch in compiler.architectures():
            return compiler.compile(module.source, module.file, f"sm_{arch}")
    return None
