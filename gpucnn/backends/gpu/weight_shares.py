"""Gradients of filters and bias in shares: of each block's pixels, summed in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gpucnn.backends.gpu import split_k
from gpucnn.backends.gpu.runtime import Array, Runtime


@contextmanager
def written_in_shares(
    runtime: Runtime, dw: Array, db: Array | None, splits: int
) -> Iterator[tuple[Array, Array | None, int]]:
    """Where blocks write: their dw, their db, and the elements from one share to the next.

    The arrays themselves where there is one share; else those of the first share in a workspace,
    which is summed into them after.
    """
    weights, biases = dw.size, 0 if db is None else db.size
    each = weights + biases
    if splits == 1:
        yield dw, db, each
        return
    shares = runtime.empty((splits * each,), dw.dtype)
    yield shares, None if db is None else shares[weights:], each
    split_k.sum_shares(runtime, shares, dw, db)
