"""The tiles of matrix products, and which of them a product takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gpucnn.backends.gpu.operands import ceil_div

MULTIPROCESSORS, LANES = 108, 128
"""The device that products are planned for. Constants: the order of the sums depends on the shape
alone."""
FINISH, BYTES = 6000, 1024
"""What a second launch costs, in cycles, and how many bytes move in one."""
BLOCK = 300
"""Cycles that a block takes to begin; to end, one for each 128 sums that its warps hold."""
WORKSPACE = 1 << 26
"""Most bytes that the shares of a split depth may take together."""


@dataclass(frozen=True)
class Tile:
    """A kernel and its block.

    Attributes:
        file, entry: of the kernel.
        m, n: rows and columns of the result, a block.
        step: of the depth, that a block or warp takes at a time.
        threads: of a block.
        blocks: that must fit a multiprocessor.
        cap: share of the peak that the loop may reach (a model).
    """

    file: str
    entry: str
    m: int
    n: int
    step: int
    threads: int
    blocks: int
    cap: float

    def count(self, m: int, n: int) -> int:
        """Tiles of a result of m rows and n columns."""
        return ceil_div(m, self.m) * ceil_div(n, self.n)

    @property
    def is_simt(self) -> bool:
        """Whether it wants floats in aligned quads (gemm_simt.cu)."""
        return self.entry == "gemm_simt"

    def cycles(self, tiles: int, k: int, splits: int, nbytes: int) -> float:
        """Time of a product with this many tiles, depth, shares of it, and bytes of its result."""
        steps = ceil_div(ceil_div(k, splits), self.step)
        work = self.m * self.n * steps * self.step / self.cap
        lanes = min(self.threads, LANES)
        if not self.is_simt:  # a warp a step: few steps leave most warps idle
            lanes = min(32 * max(steps, 1), lanes)
        blocks = ceil_div(tiles * splits, MULTIPROCESSORS)
        begin = BLOCK + self.m * self.n * self.threads / 32 / LANES
        finish = FINISH + 2 * splits * nbytes / BYTES if splits > 1 else 0
        return max(work / lanes, blocks * work / LANES) + blocks * begin + finish


TILES = (
    Tile("gemm.cu", "gemm_sliced", 16, 16, 16, 256, 2, 0.35),
    Tile("gemm.cu", "gemm_sliced", 32, 32, 8, 256, 1, 0.5),
    Tile("gemm_simt.cu", "gemm_simt", 128, 128, 16, 256, 2, 0.88),
    Tile("gemm_simt.cu", "gemm_simt", 128, 64, 16, 128, 3, 0.83),
    Tile("gemm_simt.cu", "gemm_simt", 64, 64, 16, 64, 6, 0.77),
)
_forced: list[Tile] = []


@contextmanager
def forced(tile: Tile) -> Iterator[None]:
    """Within it, products that the tile can make are made with it."""
    _forced.append(tile)
    try:
        yield
    finally:
        _forced.pop()


def choose(m: int, n: int, k: int, batch: int, nbytes: int, quads: bool) -> tuple[Tile, int]:
    """The tile and the number of shares of the depth with the least time.

    Args:
        m, n, k: rows and columns of the result, and the depth.
        batch: products of this size.
        nbytes: of the whole result.
        quads: whether the operands are floats in aligned quads.
    """
    able = [tile for tile in TILES if quads or not tile.is_simt]
    able = [tile for tile in able if tile in _forced[-1:]] or able
    best: tuple[float, Tile, int] | None = None
    for tile in able:
        tiles = tile.count(m, n) * batch
        for splits in _splits(tile, tiles, k, nbytes):
            time = tile.cycles(tiles, k, splits, nbytes)
            if best is None or time < best[0]:
                best = time, tile, splits
    assert best is not None
    return best[1:]


def _splits(tile: Tile, tiles: int, k: int, nbytes: int) -> list[int]:
    """One, and the numbers of shares of at least 16 steps that make whole waves of blocks."""
    most = min(k // (16 * tile.step), WORKSPACE // max(nbytes, 1))
    counts = {min(MULTIPROCESSORS * waves // max(tiles, 1), most) for waves in (1, 2, 4)}
    # As few as their depth, a multiple of the step, needs.
    each = (ceil_div(ceil_div(k, n), tile.step) * tile.step for n in counts if n > 1)
    return [1, *sorted({ceil_div(k, depth) for depth in each})]
