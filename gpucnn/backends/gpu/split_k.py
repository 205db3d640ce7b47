"""Products with a long depth over a small result: the depth is split over blocks, and the shares
are summed in a fixed order.
"""

from __future__ import annotations

from gpucnn.backends.gpu import kernel
from gpucnn.backends.gpu.operands import aligned, ceil_div, real
from gpucnn.backends.gpu.runtime import Array, Runtime

BLOCKS = 432
"""Blocks that fill a large device (4 on each of 108 multiprocessors). A constant, so that the order
of the sum depends on the shape alone."""

WORKSPACE = 1 << 26
"""Most bytes that the shares may take together."""


def split(depth: int, tiles: int, shortest: int, step: int, nbytes: int) -> tuple[int, int]:
    """How often to split a depth, and the depth of each share.

    Args:
        tiles: blocks that work on the result without a split.
        shortest: least depth worth a block.
        step: each share but the last is a multiple of this.
        nbytes: size of the result, once for each share.
    """
    count = min(ceil_div(BLOCKS, max(tiles, 1)), depth // shortest, WORKSPACE // max(nbytes, 1))
    each = max(ceil_div(ceil_div(depth, max(count, 1)), step), 1) * step
    return max(ceil_div(depth, each), 1), each


def sum_shares(runtime: Runtime, shares: Array, y: Array, tail: Array | None = None) -> None:
    """y and tail = the sums of shares (splits, y.size + tail.size), all dense, in a fixed order."""
    more = 0 if tail is None else tail.size
    each = y.size + more
    runtime.launch(
        kernel.get("split_k.cu", "split_k_sum", real=real(y)),
        (ceil_div(each, 32),),
        (256,),
        shares, y, tail, shares.size // each, y.size, more,
    )  # fmt: skip


def sum_shares_in_quads(runtime: Runtime, shares: Array, y: Array, tail: Array | None) -> None:
    """y and tail = the sums of shares (splits, y.size + tail.size) in ascending order.

    Sizes are multiples of 4; shares and y lie on 16 bytes.
    """
    more = 0 if tail is None else tail.size
    runtime.launch(
        kernel.get("split_k.cu", "split_k_sum_quads", real=real(y)),
        (ceil_div(y.size + more, 4 * 64),),
        (64,),
        shares, y, tail, y.size, more, shares.shape[0],
        tail is not None and aligned(runtime, tail),
    )  # fmt: skip
