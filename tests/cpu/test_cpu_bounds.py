"""Convolution and pooling where a thread may keep little memory, or none: the same bits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gpucnn.backends.cpu import CpuBackend, algorithms, workspace
from gpucnn.ops.geometry import Conv2dGeometry, Pool2dGeometry

PRIMITIVES = CpuBackend.primitives

# x, w, stride, padding; kernel, stride and padding of the pool
CASES = {
    "patches": ((20, 3, 32, 32), (16, 3, 3, 3), 1, 1, 2, 2, 0),
    "patches, pooled to more rows": ((4, 3, 32, 32), (16, 3, 3, 3), 1, 1, 2, 1, 1),
    "winograd": ((20, 32, 16, 16), (48, 32, 3, 3), 1, 1, 2, 2, 0),
    "winograd, pooled to more rows": ((40, 64, 16, 16), (64, 64, 3, 3), 1, 1, 2, 1, 1),
    "winograd, stride 2": ((16, 32, 16, 16), (64, 32, 3, 3), 2, 1, 3, 2, 1),
    "many sums": ((16, 128, 16, 16), (128, 128, 3, 3), 1, 1, 2, 2, 0),
    "more sums than tiles": ((4, 64, 8, 8), (256, 64, 3, 3), 1, 1, 2, 2, 0),
    "one image": ((1, 64, 21, 21), (7, 64, 7, 7), 1, 3, 2, 2, 0),
}


def in_order(shape, order, dtype=np.float32):
    array = np.empty([shape[axis] for axis in order], dtype)
    return array.transpose(np.argsort(order))


def results(case):
    """Of every direction, and of convolution and pool one by one and in one."""
    x_shape, w_shape, stride, padding, kernel, apart, around = CASES[case]
    g = Conv2dGeometry.of("test", x_shape, w_shape, stride, padding, 1, 1)
    pool = Pool2dGeometry.of("test", g.y_shape, kernel, apart, around, 1, False)
    rng, order = np.random.default_rng(0), algorithms.order(g)
    x, w, b, dy = (
        rng.standard_normal(s).astype(np.float32) for s in (x_shape, w_shape, g.k, g.y_shape)
    )
    y, dx = in_order(g.y_shape, order), in_order(x_shape, order)
    dw, db = np.empty_like(w), np.empty_like(b)
    how = {"geometry": g, "precision": "auto"}
    PRIMITIVES["conv2d"](x, w, b, None, y, relu=False, **how)
    PRIMITIVES["conv2d_backward_input"](dy, w, None, None, dx, **how)
    PRIMITIVES["conv2d_backward_weight"](x, dy, dw, db, **how)
    pooled = []
    for fused in (False, True):
        maxima = in_order(pool.y_shape, order)
        positions = in_order(pool.y_shape, order, pool.argmax_dtype)
        if fused:
            PRIMITIVES["conv2d_max_pool"](x, w, b, maxima, positions, pool=pool, relu=False, **how)
        else:
            PRIMITIVES["max_pool2d"](y, maxima, positions, geometry=pool)
        pooled.append((maxima.tobytes(), positions.tobytes()))
    assert pooled[0] == pooled[1]
    return [array.tobytes() for array in (y, dx, dw, db)] + list(pooled[0])


@pytest.mark.parametrize("case", CASES)
def test_the_same_bits_whatever_may_be_kept(case, monkeypatch):
    wanted = results(case)
    for bound in (0, 1 << 16, 1 << 20, 1 << 22):
        monkeypatch.setattr(workspace, "BOUND", bound)
        # A thread of its own begins with nothing; the second time it has what it kept.
        with ThreadPoolExecutor(1) as thread:
            assert list(thread.map(results, [case, case])) == [wanted, wanted]
