"""Matrix products and dropout."""

from __future__ import annotations

import math

import numpy as np


def matmul(a, b, bias=None):
    """(..., M, K) @ (..., K, N) + (N,); leading axes broadcast."""
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a = np.broadcast_to(a, batch + a.shape[-2:])
    b = np.broadcast_to(b, batch + b.shape[-2:])
    y = np.zeros(batch + (a.shape[-2], b.shape[-1]))
    for *i, m, n in np.ndindex(*y.shape):
        i = tuple(i)
        y[i + (m, n)] = math.fsum(
            float(a[i + (m, k)]) * float(b[i + (k, n)]) for k in range(a.shape[-1])
        )
        if bias is not None:
            y[i + (m, n)] += float(bias[n])
    return y


def dropout_mask(shape, p, key):
    """True where an element is kept: element i by word i of Philox, low halves first."""
    count = math.prod(shape)
    raw = np.random.Philox(key=np.array(key, np.uint64)).random_raw(count // 2 + 1)
    words = []
    for value in raw:
        words += [int(value) % 2**32, int(value) // 2**32]
    threshold = round(p * 2**32)
    return np.array([word >= threshold for word in words[:count]], bool).reshape(shape)
