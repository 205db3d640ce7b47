from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from cpu_helpers import CHWN, FLOATS, NHWC, close, in_order, layouts, run


def reduced_shape(shape, axes, keepdims):
    if keepdims:
        return tuple(1 if i in axes else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in axes)


def all_axes(ndim):
    return [c for k in range(ndim + 1) for c in itertools.combinations(range(ndim), k)]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("axes", all_axes(4))
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (3, 5, 17, 19), (1, 6, 1, 300)])
def test_sum(shape, axes, dtype):
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    for keepdims in (False, True):
        out = reduced_shape(shape, axes, keepdims)
        expected = np.zeros(reduced_shape(shape, axes, True))
        for index in np.ndindex(*shape):
            expected[tuple(0 if i in axes else j for i, j in enumerate(index))] += float(x[index])
        for view in layouts(x):
            y = run("reduce", [view], [(out, dtype)], op="sum", axes=axes, keepdims=keepdims)
            close(y, expected.reshape(out), dtype)


@pytest.mark.parametrize("order", [None, NHWC, CHWN])
@pytest.mark.parametrize("axes", [(0, 2, 3), (2, 3), (1,), (0,), (0, 1, 2, 3), (3,), (1, 3)])
@pytest.mark.parametrize("shape", [(16, 24, 31, 33), (2, 3, 401, 407), (257, 3, 17, 29)])
def test_large_sum_is_accurate(shape, axes, order):
    x = (np.random.default_rng(1).random(shape) + 10).astype(np.float32)
    out = reduced_shape(shape, axes, False)
    view = in_order(x, order)
    y = run("reduce", [view], [(out, np.float32)], op="sum", axes=axes, keepdims=False)
    expected = x.astype(np.float64).sum(axis=axes)
    assert np.abs(y / expected - 1).max() < 1e-6


@pytest.mark.parametrize("order", [None, NHWC])
def test_bias_gradient_of_a_million_elements(order):
    x = np.full((64, 2, 100, 80), 0.1, np.float32)
    spec = [((2,), np.float32)]
    y = run("reduce", [in_order(x, order)], spec, op="sum", axes=(0, 2, 3), keepdims=False)
    assert np.abs(y / (float(np.float32(0.1)) * 64 * 8000) - 1).max() < 2e-6


def test_sum_in_any_output_order():
    x = np.random.default_rng(2).standard_normal((3, 4, 5, 6)).astype(np.float32)
    shape = (3, 4, 1, 6)
    y = run("reduce", [x], [(shape, np.float32, NHWC)], op="sum", axes=(2,), keepdims=True)
    close(y, x.sum(axis=2, keepdims=True, dtype=np.float64), np.float32)


@pytest.mark.parametrize("shape", [(5, 7), (3000, 7)])
def test_sum_of_broadcast_and_integers(shape):
    x = np.broadcast_to(np.arange(7, dtype=np.float32), shape)
    y = run("reduce", [x], [((7,), np.float32)], op="sum", axes=(0,), keepdims=False)
    np.testing.assert_array_equal(y, np.arange(7) * shape[0])
    large = np.full(shape, 2**40 + 1)
    y = run("reduce", [large], [((), np.int64)], op="sum", axes=(0, 1), keepdims=False)
    assert y == (2**40 + 1) * shape[0] * 7


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [4, 100_000])
def test_sum_of_infinities_and_nan(dtype, size):
    for value in (math.inf, -math.inf, math.nan):
        x = np.ones((3, size), dtype)
        x[1, size // 2] = value
        y = run("reduce", [x], [((3,), dtype)], op="sum", axes=(1,), keepdims=False)
        np.testing.assert_array_equal(y, [size, value, size])
    x = np.ones(size, dtype)
    x[0], x[-1] = math.inf, -math.inf
    assert np.isnan(run("reduce", [x], [((), dtype)], op="sum", axes=(0,), keepdims=False))


def test_sum_of_nothing_is_zero():
    x = np.zeros((0, 3), np.float32)
    y = run("reduce", [x], [((3,), np.float32)], op="sum", axes=(0,), keepdims=False)
    assert y.tolist() == [0, 0, 0]
    y = run("reduce", [x], [((0,), np.float32)], op="sum", axes=(1,), keepdims=False)
    assert y.shape == (0,)
    y = run("reduce", [x], [((), np.float32)], op="sum", axes=(0, 1), keepdims=False)
    assert y == 0
    wide = np.zeros((50, 0, 60), np.float32)
    y = run("reduce", [wide], [((50, 60), np.float32)], op="sum", axes=(1,), keepdims=False)
    assert not y.any()


def test_sum_over_no_axis_copies():
    x = np.random.default_rng(3).standard_normal((40, 50)).astype(np.float32)
    y = run("reduce", [x.T], [((50, 40), np.float32)], op="sum", axes=(), keepdims=False)
    np.testing.assert_array_equal(y, x.T)


@pytest.mark.parametrize("op", ["max", "min"])
@pytest.mark.parametrize("axes", all_axes(4)[1:])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8])
def test_extrema(op, axes, dtype):
    x = np.random.default_rng(4).integers(0, 200, (3, 4, 5, 6)).astype(dtype)
    for keepdims in (False, True):
        out = reduced_shape(x.shape, axes, keepdims)
        best = {}
        for index in np.ndindex(*x.shape):
            at = tuple(0 if i in axes else j for i, j in enumerate(index))
            value = x[index].item()
            best[at] = {"max": max, "min": min}[op](value, best.get(at, value))
        expected = np.array([best[at] for at in sorted(best)], dtype).reshape(out)
        for view in layouts(x):
            y = run("reduce", [view], [(out, dtype)], op=op, axes=axes, keepdims=keepdims)
            np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("op", ["max", "min"])
def test_large_extrema_and_nan(op):
    x = np.random.default_rng(5).standard_normal((37, 91, 203)).astype(np.float32)
    x[3, 5, 7] = math.nan
    x[4, 5, 7] = math.inf
    for axes in ((0,), (1,), (2,), (0, 2), (0, 1, 2)):
        out = reduced_shape(x.shape, axes, False)
        y = run("reduce", [x], [(out, np.float32)], op=op, axes=axes, keepdims=False)
        np.testing.assert_array_equal(y, getattr(np, op)(x, axis=axes))
        assert np.isnan(y).sum() >= 1
    flags = x > 0
    y = run("reduce", [flags], [((37,), np.bool_)], op=op, axes=(1, 2), keepdims=False)
    np.testing.assert_array_equal(y, getattr(np, op)(flags, axis=(1, 2)))


@pytest.mark.parametrize("op", ["argmax", "argmin"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_arg_reduce_first_of_ties(op, axis):
    x = np.random.default_rng(6).integers(0, 3, (4, 5, 6)).astype(np.float32)
    for keepdims in (False, True):
        out = reduced_shape(x.shape, (axis,), keepdims)
        expected = np.zeros(reduced_shape(x.shape, (axis,), True), np.int64)
        for index in np.ndindex(*expected.shape):
            line = x[index[:axis] + (slice(None),) + index[axis + 1 :]].tolist()
            expected[index] = line.index((max if op == "argmax" else min)(line))
        for view in layouts(x):
            y = run("arg_reduce", [view], [(out, np.int64)], op=op, axis=axis, keepdims=keepdims)
            np.testing.assert_array_equal(y, expected.reshape(out))


@pytest.mark.parametrize("op", ["argmax", "argmin"])
def test_arg_reduce_first_nan_wins(op):
    x = np.array([[1, math.nan, 5, math.nan], [math.inf, -math.inf, 0, math.inf]], np.float32)
    y = run("arg_reduce", [x], [((2,), np.int64)], op=op, axis=1, keepdims=False)
    assert y.tolist() == [1, 0 if op == "argmax" else 1]
