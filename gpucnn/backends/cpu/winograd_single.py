"""Winograd's filtering of few tiles, transformed by one thread, as in the inference of one image.

NumPy's calls are then so short that it takes as long to make the views they work on: a thread
makes memory and views once for each geometry, and keeps them. Others help with long products.
"""

from __future__ import annotations

from gpucnn.backends.cpu.blocks import Array
from gpucnn.backends.cpu.epilogue import WHOLE, Epilogue
from gpucnn.backends.cpu.products import multiply
from gpucnn.backends.cpu.threads import parallel_for
from gpucnn.backends.cpu.winograd_plan import Plan, Tiles
from gpucnn.backends.cpu.workspace import Kept

BOUND = 1 << 21
"""Elements of memory that a thread keeps."""
_SHARED = 1 << 22
"""Multiplications of the products from which threads share them, and lines of frequencies that
one of them takes then."""
_LINES = 2

_kept: Kept[Tiles] = Kept(BOUND)


def convolve(plan: Plan, x: Array, spectrum: Array, finish: Epilogue) -> None:
    """y (N, P, Q, K) from x (N, H, W, C) and the filters' frequencies (n, n, I, O)."""
    grid = plan.grid
    tiles = _kept.of(
        (plan, x.dtype), lambda: Tiles(plan, grid.images, 0, grid.high, x.dtype, own=True)
    )
    tiles.read(x)
    _multiply(plan, tiles.images, spectrum, tiles.product)
    out = finish.target(WHOLE)
    tiles.write(out)
    finish(WHOLE, out)


def _multiply(plan: Plan, images: Array, spectrum: Array, product: Array) -> None:
    """The products of all frequencies; several lines of them a thread if there are many."""
    if plan.phases != (1, 1) or images.size * plan.outputs < _SHARED:
        plan.multiply(images, spectrum, product)
        return

    def work(start: int, stop: int) -> None:
        multiply(images[start:stop], spectrum[start:stop], product[start:stop])

    parallel_for(plan.t.n, _LINES, work, blas=False)
