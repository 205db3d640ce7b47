from __future__ import annotations

import math

import numpy as np
import pytest
from cpu_helpers import NHWC, bits, in_order, layouts, run


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8, np.bool_])
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_take(axis, dtype):
    x = np.random.default_rng(0).integers(0, 2, (5, 4, 3, 6)).astype(dtype)
    index = np.array([2, 0, -1, 2, -3, 1, 1])
    shape = x.shape[:axis] + (7,) + x.shape[axis + 1 :]
    expected = np.zeros(shape, dtype)
    for m, i in enumerate(index):
        np.moveaxis(expected, axis, 0)[m] = np.moveaxis(x, axis, 0)[i]
    for view in layouts(x):
        for order in (None, NHWC):
            y = run("take", [view, index], [(shape, dtype, order)], axis=axis)
            np.testing.assert_array_equal(y, expected)


def test_take_nothing():
    x = np.zeros((3, 2), np.float32)
    none = np.zeros(0, np.int64)
    assert run("take", [x, none], [((0, 2), np.float32)], axis=0).shape == (0, 2)
    assert run("take", [x[:0], none], [((0, 2), np.float32)], axis=0).size == 0
    dx = run("take_backward", [np.zeros((0, 2), np.float32), none], [((3, 2), np.float32)], axis=0)
    assert not dx.any()


@pytest.mark.parametrize("wrong", [3, -4, 1000])
def test_take_refuses_what_lies_outside(wrong):
    x = np.zeros((3, 2), np.float32)
    index = np.array([0, wrong])
    with pytest.raises(IndexError, match=rf"take: index must lie in axis 0 of size 3, got {wrong}"):
        run("take", [x, index], [((2, 2), np.float32)], axis=0)
    with pytest.raises(IndexError, match="take_backward: index must lie in axis 0 of size 3"):
        run("take_backward", [np.zeros((2, 2), np.float32), index], [((3, 2), np.float32)], axis=0)


@pytest.mark.parametrize("shape", [(5, 4, 3, 6), (5, 2, 1, 1), (6, 17, 9, 8)])
@pytest.mark.parametrize("axis", [0, 1, 3])
@pytest.mark.parametrize("repeated", [False, True])
def test_take_backward(axis, repeated, shape):
    """The same bits as adding one after the other, for repeated indices too."""
    rng = np.random.default_rng(1)
    length = shape[axis]
    index = rng.integers(-length, length, 3 * length) if repeated else rng.permutation(length)
    dy = rng.standard_normal(shape[:axis] + (index.size,) + shape[axis + 1 :]).astype(np.float32)
    expected = np.zeros(shape, np.float32)
    for m, i in enumerate(index):
        np.moveaxis(expected, axis, 0)[i] += np.moveaxis(dy, axis, 0)[m]
    for view in layouts(dy):
        for order in (None, NHWC):
            dx = run("take_backward", [view, index], [(shape, np.float32, order)], axis=axis)
            assert bits(dx) == bits(expected)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("order", [None, NHWC])
def test_concatenate(axis, order):
    rng = np.random.default_rng(2)
    parts, shape = [], [3, 4, 5, 6]
    for length in (2, 0, 1, 3):
        shape[axis] = length
        parts.append(rng.standard_normal(shape).astype(np.float32))
    shape[axis] = 6
    mixed = [parts[0], in_order(parts[1], NHWC), np.asfortranarray(parts[2]), parts[3][..., ::-1]]
    y = run("concatenate", mixed, [(tuple(shape), np.float32, order)], axis=axis)
    start = 0
    for part in mixed:
        piece = np.moveaxis(y, axis, 0)[start : start + part.shape[axis]]
        np.testing.assert_array_equal(np.moveaxis(piece, 0, axis), part)
        start += part.shape[axis]


@pytest.mark.parametrize("order", [None, NHWC])
@pytest.mark.parametrize(
    "padding",
    [
        ((0, 0), (0, 0), (0, 0), (0, 0)),
        ((0, 0), (0, 0), (1, 2), (3, 0)),
        ((1, 0), (0, 2), (0, 0), (1, 1)),
        ((2, 2), (2, 2), (2, 2), (2, 2)),
    ],
)
@pytest.mark.parametrize("value", [0.0, -1.5, math.nan])
def test_pad(padding, value, order):
    x = np.random.default_rng(3).standard_normal((2, 3, 4, 5)).astype(np.float32)
    shape = tuple(n + a + b for n, (a, b) in zip(x.shape, padding))
    expected = np.full(shape, value, np.float32)
    expected[tuple(slice(a, a + n) for n, (a, _) in zip(x.shape, padding))] = x
    for view in layouts(x):
        y = run("pad", [view], [(shape, np.float32, order)], padding=padding, value=value)
        np.testing.assert_array_equal(y, expected)


def test_pad_of_nothing():
    y = run("pad", [np.zeros((0, 2))], [((3, 2), np.float64)], padding=((1, 2), (0, 0)), value=7)
    assert (y == 7).all()
