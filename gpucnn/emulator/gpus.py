"""GPUs by their public specifications, and what the counters of a launch would cost there.

An estimate is a roofline: the launch takes at least as long as the resource it keeps busiest. It
knows nothing of latency, caches beyond what the counters say, or how blocks overlap. It ranks
kernels; it is not a measurement, and always says so.

Sources: NVIDIA's architecture whitepapers and data sheets (Turing, GA102, AD102, A100, H100, B200),
CUDA C++ Programming Guide, tables of throughput and of technical specifications per compute
capability.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gpucnn.emulator.counters import Counters

SCHEDULERS = 4
"""Warp schedulers of a multiprocessor: warp instructions a clock, in all architectures below."""


@dataclass(frozen=True)
class Gpu:
    """A GPU's public figures.

    clock: boost, in GHz. bandwidth: of its memory, in GB/s. float32, float64, special: lanes of a
    multiprocessor a clock. tensor: dense TFLOP/s of its tensor cores with float16 operands and
    float32 sums; tf32 with tf32 operands (0: none).
    """

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    clock: float
    bandwidth: float
    float32: int
    float64: float
    special: int
    tensor: float
    tf32: float
    shared_per_multiprocessor: int
    threads_per_multiprocessor: int
    blocks_per_multiprocessor: int = 32

    @property
    def peak_float32(self) -> float:
        """TFLOP/s, an fma counted as two."""
        return 2e-3 * self.float32 * self.multiprocessors * self.clock


GPUS = {
    gpu.name.lower().replace(" ", ""): gpu
    for gpu in (
        Gpu("T4", (7, 5), 40, 1.59, 320, 64, 2, 16, 65, 0, 65536, 1024, 16),
        Gpu("RTX 3090", (8, 6), 82, 1.695, 936, 128, 2, 16, 71, 35.6, 102400, 1536, 16),
        Gpu("RTX 4090", (8, 9), 128, 2.52, 1008, 128, 2, 16, 165.2, 82.6, 102400, 1536, 24),
        Gpu("A100", (8, 0), 108, 1.41, 1555, 64, 32, 16, 312, 156, 167936, 2048),
        Gpu("H100", (9, 0), 132, 1.98, 3352, 128, 64, 16, 989, 495, 233472, 2048),
        Gpu("B200", (10, 0), 148, 1.965, 8000, 128, 64, 16, 2250, 1125, 233472, 2048),
    )
}


@dataclass(frozen=True)
class Estimate:
    """What a launch would take on a GPU, in microseconds, by resource; an estimate only.

    limit: the resource that is busiest. occupancy: share of a multiprocessor's threads that fit,
    by shared memory and threads (registers are not known from PTX). waves: blocks over what the GPU
    holds at once.
    """

    gpu: Gpu
    microseconds: float
    limit: str
    resources: dict[str, float]
    occupancy: float
    waves: float

    def __str__(self) -> str:
        return (
            f"estimate for {self.gpu.name}: {self.microseconds:.2f} us, limited by {self.limit} "
            f"(occupancy at most {self.occupancy:.0%}, {self.waves:.2f} waves); not a measurement"
        )


def find(name: str) -> Gpu:
    """A GPU by its name in any spelling ("a100", "RTX 4090"). Raises LookupError."""
    key = name.lower().replace(" ", "").replace("-", "").removeprefix("nvidia")
    found = GPUS.get(key) or GPUS.get("rtx" + key)
    if found is None:
        raise LookupError(
            f"no GPU '{name}', the table has {', '.join(g.name for g in GPUS.values())}"
        )
    return found


def estimate(counters: Counters, gpu: Gpu | str) -> Estimate:
    """The least time a launch with these counters takes on a GPU."""
    if isinstance(gpu, str):
        gpu = find(gpu)
    c = counters
    threads = max(c.threads // max(c.blocks, 1), 1)
    fit = min(gpu.threads_per_multiprocessor // threads, gpu.blocks_per_multiprocessor)
    if c.shared_bytes:
        fit = min(fit, gpu.shared_per_multiprocessor // c.shared_bytes)
    fit = max(fit, 1)
    waves = c.blocks / (fit * gpu.multiprocessors)
    # Blocks that do not fill the multiprocessors leave some idle to the end.
    busy = min(c.blocks, gpu.multiprocessors)
    rounds = -(-c.blocks // gpu.multiprocessors) * gpu.multiprocessors / max(c.blocks, 1)
    spread = rounds if c.blocks > gpu.multiprocessors else gpu.multiprocessors / max(busy, 1)
    clocks_per_us = gpu.clock * 1e3 * gpu.multiprocessors

    def pipe(kind: str, lanes: float) -> float:
        return 32 * c.instructions.get(kind, 0) / lanes / clocks_per_us * spread

    wavefronts = c.shared_load_wavefronts + c.shared_store_wavefronts
    tensor_rate = gpu.tf32 if c.flops.get("tensor tf32") and gpu.tf32 else gpu.tensor
    tensor = sum(v for k, v in c.flops.items() if k.startswith("tensor"))
    resources = {
        "issue slots": c.warp_instructions / SCHEDULERS / clocks_per_us * spread,
        "float32 units": pipe("float32", gpu.float32),
        "float64 units": pipe("float64", gpu.float64),
        "special function units": pipe("special", gpu.special) + pipe("convert", gpu.special),
        "tensor cores": tensor / (tensor_rate * 1e6) * spread,
        "shared memory": wavefronts / clocks_per_us * spread,
        "global memory": c.unique_bytes / (gpu.bandwidth * 1e3),
        "L1 sectors": (c.load_sectors + c.store_sectors) / 4 / clocks_per_us * spread,
    }
    key: Callable[[str], float] = resources.__getitem__
    limit = max(resources, key=key)
    return Estimate(
        gpu,
        resources[limit],
        limit,
        resources,
        min(fit * threads / gpu.threads_per_multiprocessor, 1.0),
        waves,
    )
