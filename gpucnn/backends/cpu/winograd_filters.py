"""Filters' frequencies, kept from one call of a convolution to the next.

With few tiles Winograd's filtering spends much of its time on the filters, which are the same in
every call of an inference. Whether they still are is seen by comparing all their bits with a copy,
in a tenth of the time of a transform: no way of changing an array goes unnoticed.
"""

from __future__ import annotations

import numpy as np

from gpucnn.backends.cpu.blocks import Array, dense_order
from gpucnn.backends.cpu.winograd_plan import Plan
from gpucnn.backends.cpu.workspace import Kept

BOUND = 1 << 22
"""Elements of frequencies that a thread keeps, besides the copies of their filters; what was not
used for longest goes first."""


class _Filters:
    """A copy of some filters, and their frequencies once they were met unchanged.

    Attributes:
        order: of the axes in memory.
        words: the filters' bits.
        size: of the frequencies.
    """

    def __init__(self, w: Array, order: tuple[int, ...], size: int) -> None:
        self.order, self.size = order, size
        self.words = self.words_of(w).copy()
        self.frequencies: Array | None = None

    def words_of(self, w: Array) -> Array:
        words: Array = w.transpose(self.order).reshape(-1).view(np.uint64)
        return words


_kept: Kept[_Filters] = Kept(BOUND)


def frequencies(plan: Plan, w: Array) -> Array:
    """The frequencies (n, n, I, O) of filters w (R, S, C, K), as `plan.spectrum` gives them.

    They are computed anew for filters that were not met before, that have changed since, or whose
    memory is not dense.
    """
    key = (w.__array_interface__["data"][0], w.shape, w.strides, plan.t.m, plan.phases)
    found = _kept.get(key)
    if found is None:
        order = dense_order(w)
        if order is not None and w.nbytes % 8 == 0:
            _kept.put(key, _Filters(w, order, plan.transformed))
        return plan.spectrum(w)
    words = found.words_of(w)
    if not (found.words == words).all():
        np.copyto(found.words, words)
        found.frequencies = None
        return plan.spectrum(w)
    if found.frequencies is None:
        found.frequencies = plan.spectrum(w).copy()
    return found.frequencies
