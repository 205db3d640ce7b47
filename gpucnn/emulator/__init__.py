"""PTX executed on NumPy: a SIMT emulator that runs, checks and counts CUDA kernels without a GPU.

    memory = Memory()
    module = Module(ptx_text, memory)
    report = module.launch("kernel", grid, block, arguments)
    report.findings, report.counters

It knows nothing of what the kernels compute. What it proves: the results, and the absence of the
defects its checks look for in the blocks that ran. What it does not: speed, memory latency, the
weak order of a GPU's memory beyond happens-before, the timing of blocks.
"""

from __future__ import annotations

from gpucnn.emulator.counters import Counters
from gpucnn.emulator.errors import EmulatorError, PtxError, UnknownInstruction
from gpucnn.emulator.findings import ALL, NONE, Checks, Finding
from gpucnn.emulator.gpus import GPUS, Estimate, Gpu, estimate
from gpucnn.emulator.memory import Buffer, Memory
from gpucnn.emulator.module import Module, Report
from gpucnn.emulator.schedule import LOWEST_FIRST, RandomSchedule, Schedule

__all__ = [
    "ALL",
    "GPUS",
    "LOWEST_FIRST",
    "NONE",
    "Buffer",
    "Checks",
    "Counters",
    "EmulatorError",
    "Estimate",
    "Finding",
    "Gpu",
    "Memory",
    "Module",
    "PtxError",
    "RandomSchedule",
    "Report",
    "Schedule",
    "UnknownInstruction",
    "estimate",
]
