from __future__ import annotations

import math

import numpy as np
import pytest
import reference
from cpu_helpers import FLOATS, close, run, strided


def multiply(inputs, outputs):
    return run("matmul", inputs, outputs, relu=False, precision="auto")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((1, 1), (1, 1)),
        ((3, 5), (5, 7)),
        ((1, 13), (13, 1)),
        ((17, 1), (1, 19)),
        ((2, 3, 4), (4, 5)),
        ((2, 3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (5, 4, 2)),
        ((3, 4), (2, 4, 5)),
    ],
)
@pytest.mark.parametrize("with_bias", [False, True])
def test_matmul(a, b, with_bias, dtype):
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal(a).astype(dtype), rng.standard_normal(b).astype(dtype)
    bias = rng.standard_normal(b[-1]).astype(dtype) if with_bias else None
    expected = reference.matmul(left, right, bias)
    swapped = [np.ascontiguousarray(m.swapaxes(-1, -2)).swapaxes(-1, -2) for m in (left, right)]
    for x in (left, swapped[0], strided(left), left[..., ::-1][..., ::-1]):
        for w in (right, swapped[1], strided(right)):
            close(multiply([x, w, bias, None], [(expected.shape, dtype)]), expected, dtype)


@pytest.mark.parametrize(
    ("rows", "inner", "columns"),
    [(700, 300, 400), (129, 600, 700), (2000, 100, 130), (64, 1000, 2001), (4096, 64, 64)],
)
@pytest.mark.parametrize("transposed", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_large_matmul(rows, inner, columns, transposed):
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((rows, inner)), rng.standard_normal((inner, columns))
    bias = rng.standard_normal(columns).astype(np.float32)
    a, b = a.astype(np.float32), b.astype(np.float32)
    left, right = (np.ascontiguousarray(m.T).T if t else m for m, t in zip((a, b), transposed))
    y = multiply([left, right, bias, None], [((rows, columns), np.float32)])
    close(y, a.astype(np.float64) @ b.astype(np.float64) + bias, np.float32, 2)


def test_large_batched_matmul():
    rng = np.random.default_rng(2)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((40, 60, 70), (1, 70, 80)))
    for x, w in ((a, b), (np.asfortranarray(a), b), (a, b[0])):
        y = multiply([x, w, None, None], [((40, 60, 80), np.float32)])
        close(y, a.astype(np.float64) @ b.astype(np.float64), np.float32, 2)


@pytest.mark.parametrize("broadcast", [(0, 0), (0, 1)])
def test_matmul_of_broadcast_operands(broadcast):
    """Expanded gradients have zero strides."""
    a = np.broadcast_to(np.float32([[3.0]]), (4, 5))
    b = np.random.default_rng(3).standard_normal((5, 6)).astype(np.float32)
    close(multiply([a, b, None, None], [((4, 6), np.float32)]), 3 * b.sum(0) * np.ones((4, 1)),
          np.float32)  # fmt: skip
    row = np.broadcast_to(b[:1], (5, 6)) if broadcast[1] else b
    close(multiply([a, row, None, None], [((4, 6), np.float32)]), reference.matmul(a, row),
          np.float32)  # fmt: skip


def test_matmul_of_empty_matrices():
    f = np.float32
    bias = np.array([1.0, -2.0], f)
    y = multiply([np.zeros((3, 0), f), np.zeros((0, 2), f), bias, None], [((3, 2), f)])
    assert y.tolist() == [[1, -2]] * 3
    y = multiply([np.zeros((3, 0), f), np.zeros((0, 2), f), None, None], [((3, 2), f)])
    assert not y.any()
    assert multiply([np.zeros((0, 4), f), np.zeros((4, 2), f), bias, None], [((0, 2), f)]).size == 0
    batch = multiply([np.zeros((0, 3, 4), f), np.zeros((4, 2), f), bias, None], [((0, 3, 2), f)])
    assert batch.shape == (0, 3, 2)
    y = multiply([np.zeros((2, 3, 0), f), np.zeros((0, 2), f), bias, None], [((2, 3, 2), f)])
    assert y.tolist() == [[[1, -2]] * 3] * 2


def test_matmul_propagates_nan_and_infinity():
    a = np.array([[1.0, math.inf], [math.nan, 0.0]], np.float32)
    y = multiply([a, np.eye(2, dtype=np.float32), None, None], [((2, 2), np.float32)])
    assert math.isnan(y[0, 0]) and y[0, 1] == math.inf and np.isnan(y[1]).all()
