"""Orders and random streams that depend on their key alone.

Every random choice of a data pipeline is keyed by (seed, purpose, epoch, batch), never drawn from
a shared stream, so that it does not depend on threads, on what was drawn before, or on where a
run was resumed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ORDER, TRANSFORM, SPLIT = 0, 1, 2


def _bits(seed: int, key: tuple[int, ...]) -> np.random.PCG64:
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key))


def generator(seed: int, *key: int) -> np.random.Generator:
    """An independent generator for this seed and key."""
    return np.random.Generator(_bits(seed, key))


def shuffled(count: int, seed: int, *key: int) -> NDArray[np.int64]:
    """A permutation of 0..count-1 for this seed and key.

    Sorts raw words of the bit generator: NumPy promises that stream for all versions, which it
    does not for `Generator.permutation`.
    """
    words = _bits(seed, key).random_raw(count)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)


def stratified(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Ascending indices of `count` items, each class in proportion (by largest remainders).

    Args:
        labels: (N,) class numbers.
        count: how many of the N to choose.
        seed: the choice within each class.
    """
    sizes = np.bincount(labels)
    exact = sizes * (count / max(len(labels), 1))
    quota = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(quota - exact, kind="stable")
    quota[by_remainder[: count - int(quota.sum())]] += 1
    order = shuffled(len(labels), seed, SPLIT)
    shuffled_labels = labels[order]
    chosen = [order[shuffled_labels == c][:take] for c, take in enumerate(quota)]
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)
