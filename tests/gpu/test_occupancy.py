"""Resident blocks against figures worked out by hand from the published limits."""

from __future__ import annotations

import pytest

from gpucnn.backends.gpu.occupancy import LIMITS, blocks_per_multiprocessor, occupancy


@pytest.mark.parametrize(
    ("arch", "registers", "shared", "threads", "blocks"),
    [
        (80, 32, 0, 256, 8),  # 64 warps
        (80, 128, 0, 256, 2),  # 65536 / (128 x 256)
        (80, 80, 17408, 256, 3),  # 25 warps' registers, of which three whole blocks
        (80, 32, 49152, 128, 3),  # 167936 / (49152 + 1024)
        (75, 32, 49152, 128, 1),  # 65536 / 49152, nothing reserved
        (75, 16, 0, 32, 16),  # no more blocks than 16
        (86, 16, 0, 1024, 1),  # 48 warps hold one block of 32
        (90, 16, 0, 1024, 2),
        (80, 255, 0, 1024, 0),  # does not fit at all
    ],
)
def test_blocks(arch: int, registers: int, shared: int, threads: int, blocks: int) -> None:
    assert blocks_per_multiprocessor(arch, registers, shared, threads) == blocks


def test_occupancy_is_the_share_of_warps() -> None:
    assert occupancy(80, 80, 17408, 256) == 24 / 64
    assert occupancy(86, 32, 0, 1024) == 32 / 48
    assert all(occupancy(arch, 16, 0, 256) > 0 for arch in LIMITS)


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="sm_70 is not one of sm_75, sm_80"):
        occupancy(70, 32, 0, 128)
