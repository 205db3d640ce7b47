"""Dropout by the random words of numpy.random.Philox."""

from __future__ import annotations

import numpy as np

from gpucnn.backends.cpu.blocks import BLOCK, Array, Kernel, apply, scratch
from gpucnn.backends.cpu.threads import parallel_for

_WORDS = 8  # 32-bit words of one Philox counter: four words of 64 bits


def dropout(x: Array, key: Array, y: Array, *, p: float) -> None:
    """y = x * keep / (1 - p) with 0 <= p < 1; with dy for x and the same key, the gradient.

    Element i in logical C order is kept when the i-th 32-bit word of numpy.random.Philox, low
    halves first, is at least round(p * 2**32); `key` (2,) holds the bits of its key as int64.
    """
    keep = np.empty(y.shape, np.bool_)
    _draw(keep.reshape(-1), round(p * 2**32), key.view(np.uint64))
    apply(_MASK, x, keep, y.dtype.type(1 / (1 - p)), y)


def _draw(keep: Array, threshold: int, words: Array) -> None:
    if threshold > 0xFFFFFFFF:
        keep.fill(False)
        return
    least = np.uint32(threshold)

    def work(start: int, stop: int) -> None:
        # NumPy counts up before its first block, so counter b begins with block b.
        generator = np.random.Philox(key=words, counter=start // _WORDS)
        drawn = generator.random_raw((stop - start + 1) // 2).view("<u4")
        np.greater_equal(drawn[: stop - start], least, out=keep[start:stop])

    parallel_for(keep.size, BLOCK, work, blas=False)


def _mask(x: Array, keep: Array, scale: np.generic, y: Array) -> None:
    factor = scratch(0, y.shape, y.dtype)
    np.multiply(keep, scale, out=factor)
    np.multiply(x, factor, out=y)


_MASK = Kernel(_mask, 4 * BLOCK, BLOCK)
