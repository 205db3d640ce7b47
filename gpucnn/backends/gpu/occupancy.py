"""How many blocks of a kernel fit a multiprocessor at a time.

Limits by compute capability from the CUDA C++ Programming Guide, "Technical Specifications per
Compute Capability", and the allocation units of the CUDA Occupancy Calculator.
"""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """What one multiprocessor holds: warps, blocks, bytes of shared memory, 32-bit registers."""

    warps: int
    blocks: int
    shared: int
    registers: int = 65536


LIMITS = {
    75: Limits(32, 16, 64 * 1024),
    80: Limits(64, 32, 164 * 1024),
    86: Limits(48, 16, 100 * 1024),
    89: Limits(48, 24, 100 * 1024),
    90: Limits(64, 32, 228 * 1024),
    100: Limits(64, 32, 228 * 1024),
    120: Limits(48, 24, 100 * 1024),
}

_REGISTER_UNIT = 256  # registers are given to a warp in units of this
_SHARED_UNIT = 128  # bytes
_SYSTEM_SHARED = {75: 0}  # from sm_80 on each block has 1 KB of its own


def blocks_per_multiprocessor(arch: int, registers: int, shared: int, threads: int) -> int:
    """Blocks of `threads` threads that are resident together.

    Args:
        arch: such as 80 for sm_80.
        registers: of a thread.
        shared: bytes of a block.

    Raises:
        ValueError: the architecture is not one of `LIMITS`.
    """
    if arch not in LIMITS:
        known = ", ".join(f"sm_{a}" for a in LIMITS)
        raise ValueError(f"occupancy: sm_{arch} is not one of {known}")
    limits = LIMITS[arch]
    warps = -(-threads // 32)
    of_warp = -(-registers * 32 // _REGISTER_UNIT) * _REGISTER_UNIT
    # A quarter of the registers belongs to each of the four schedulers: whole warps in each.
    by_registers = 4 * (limits.registers // 4 // of_warp) // warps if of_warp else limits.blocks
    of_block = -(-(shared + _SYSTEM_SHARED.get(arch, 1024)) // _SHARED_UNIT) * _SHARED_UNIT
    by_shared = limits.shared // of_block if of_block else limits.blocks
    return min(limits.blocks, limits.warps // warps, by_registers, by_shared)


def occupancy(arch: int, registers: int, shared: int, threads: int) -> float:
    """Resident warps as a share of those that fit: 0 to 1. Arguments as above."""
    warps = -(-threads // 32)
    resident = blocks_per_multiprocessor(arch, registers, shared, threads) * warps
    return resident / LIMITS[arch].warps
