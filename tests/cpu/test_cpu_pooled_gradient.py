"""Gradients behind a max pool, made in parts: the bits of the primitives one after the other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cpu_helpers import using_threads

from gpucnn.backends.cpu import CpuBackend, algorithms, conv
from gpucnn.ops.geometry import Conv2dGeometry, Pool2dGeometry

PRIMITIVES = CpuBackend.primitives

# x, w, stride, padding, groups; kernel, stride and padding of the pool
CASES = {
    "few channels": ((40, 3, 32, 32), (32, 3, 3, 3), 1, 1, 1, 2, 2, 0),
    "odd sizes": ((5, 2, 19, 21), (7, 2, 3, 3), 1, 1, 1, 2, 2, 0),
    "windows that overlap": ((4, 3, 17, 17), (24, 3, 5, 5), 1, 2, 1, 3, 2, 1),
    "stride 2": ((6, 3, 32, 32), (16, 3, 3, 3), 2, 1, 1, 2, 2, 0),
    "many channels": ((4, 32, 16, 16), (32, 32, 3, 3), 1, 1, 1, 2, 2, 0),
    "batch innermost": ((64, 1, 28, 28), (6, 1, 5, 5), 1, 2, 1, 2, 2, 0),
    "groups": ((3, 6, 12, 12), (4, 3, 3, 3), 1, 1, 2, 2, 2, 0),
    "large images": ((2, 3, 160, 160), (8, 3, 3, 3), 1, 1, 1, 2, 2, 0),
    "empty batch": ((0, 3, 8, 8), (4, 3, 3, 3), 1, 1, 1, 2, 2, 0),
}


def ordered(array, order):
    """The array, its axes in memory as `order` says."""
    copied = np.ascontiguousarray(array.transpose(order))
    return copied.transpose(np.argsort(order))


def operands(case, dtype=np.float32):
    x_shape, w_shape, stride, padding, groups, kernel, apart, around = CASES[case]
    g = Conv2dGeometry.of("test", x_shape, w_shape, stride, padding, 1, groups)
    pool = Pool2dGeometry.of("test", g.y_shape, kernel, apart, around, 1, False)
    order = algorithms.order(g)  # in which the engine makes them all
    rng = np.random.default_rng(0)
    x = rng.standard_normal(x_shape).astype(dtype)
    images = np.maximum(rng.standard_normal(g.y_shape), -0.5).astype(dtype)
    y = np.empty(pool.y_shape, dtype)
    argmax = ordered(np.empty(pool.y_shape, pool.argmax_dtype), order)
    PRIMITIVES["max_pool2d"](ordered(images, order), y := ordered(y, order), argmax, geometry=pool)
    dy = rng.standard_normal(pool.y_shape).astype(dtype)
    return g, pool, x, ordered(dy, order), argmax, y


def apart(g, pool, x, dy, argmax, y, with_bias=True):
    gradient = ordered(np.empty(g.y_shape, x.dtype), algorithms.order(g))
    PRIMITIVES["max_pool2d_backward"](dy, argmax, y, gradient, geometry=pool)
    dw, db = np.empty(g.w_shape, x.dtype), np.empty(g.k, x.dtype) if with_bias else None
    how = {"geometry": g, "precision": "auto"}
    PRIMITIVES["conv2d_backward_weight"](x, gradient, dw, db, **how)
    return dw, db


def together(g, pool, x, dy, argmax, y, with_bias=True):
    dw, db = np.empty(g.w_shape, x.dtype), np.empty(g.k, x.dtype) if with_bias else None
    how = {"geometry": g, "pool": pool, "precision": "auto"}
    PRIMITIVES["conv2d_max_pool_backward_weight"](x, dy, argmax, y, dw, db, **how)
    return dw, db


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_the_bits_of_the_parts(case, dtype):
    g, pool, x, dy, argmax, y = operands(case, dtype)
    for maxima, with_bias in itertools.product((y, None), (True, False)):
        found = together(g, pool, x, dy, argmax, maxima, with_bias)
        wanted = apart(g, pool, x, dy, argmax, maxima, with_bias)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)


def test_which_cases_are_made_in_parts():
    in_parts = []
    for case in CASES:
        g, _, x, *_ = operands(case)
        in_parts += [case] * conv.reads_images(g, x.dtype, "auto")
    assert in_parts == ["few channels", "odd sizes", "windows that overlap", "stride 2"]


def test_the_maxima_s_gradient_in_any_order_of_memory():
    g, pool, x, dy, argmax, y = operands("few channels")
    wanted = together(g, pool, x, dy, argmax, y)
    planar = np.ascontiguousarray(dy), argmax, np.ascontiguousarray(y)
    for one, other in zip(together(g, pool, x, *planar), wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_same_bits_for_any_number_of_threads():
    arguments = operands("few channels")
    found = set()
    for count in (1, 2, 3):
        with using_threads(count):
            found.add(b"".join(array.tobytes() for array in together(*arguments)))
    assert len(found) == 1


def test_infinite_and_nan_gradients_reach_the_chosen_element_alone():
    g, pool, x, dy, argmax, y = operands("few channels")
    dy[0, 0, 0, 0], dy[1, 1, 2, 3] = np.inf, np.nan
    found, wanted = together(g, pool, x, dy, argmax, y), apart(g, pool, x, dy, argmax, y)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
