from __future__ import annotations

import math

import numpy as np
import pytest
import reference
from cpu_helpers import CHWN, FLOATS, NHWC, close, layouts, run


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("shape", [(3, 4, 5, 2), (1, 7, 1, 3), (2, 1, 3, 1)])
def test_softmax_and_gradient(shape, axis, log, dtype):
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal(shape).astype(dtype) for _ in "12")
    y = (reference.log_softmax if log else reference.softmax)(x, axis)
    back = reference.log_softmax_backward if log else reference.softmax_backward
    out = y.astype(dtype)
    dx = back(dy, out, axis)
    for view in layouts(x):
        for order in (None, NHWC, CHWN):
            close(run("softmax", [view], [(shape, dtype, order)], axis=axis, log=log), y, dtype)
    for view in layouts(out):
        spec = [(shape, dtype, NHWC)]
        close(run("softmax_backward", [dy, view], spec, axis=axis, log=log), dx, dtype)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    ("shape", "axis"), [((300, 1000), 1), ((1000, 300), 0), ((7, 40, 31, 33), 1)]
)
def test_large_softmax(shape, axis, log):
    rng = np.random.default_rng(1)
    x, dy = (rng.standard_normal(shape).astype(np.float32) for _ in "12")
    wide = x.astype(np.float64)
    shifted = wide - wide.max(axis=axis, keepdims=True)
    y = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
    p = np.exp(y)
    y = y if log else p
    for order in (None, NHWC, CHWN) if len(shape) == 4 else (None,):
        spec = [(shape, np.float32, order)]
        close(run("softmax", [x], spec, axis=axis, log=log), y, np.float32)
        dx = run("softmax_backward", [dy, y.astype(np.float32)], spec, axis=axis, log=log)
        total = (dy if log else dy * p).sum(axis=axis, keepdims=True, dtype=np.float64)
        close(dx, dy - p * total if log else p * (dy - total), np.float32, 2)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("log", [False, True])
def test_extreme_logits(log, dtype):
    x = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4]], dtype)
    y = run("softmax", [x], [(x.shape, dtype)], axis=1, log=log)
    third, half = (math.log(1 / 3), math.log(1 / 2)) if log else (1 / 3, 1 / 2)
    low = -2e4 if log else 0
    last = low + half if log else 0
    expected = [[0 if log else 1, low, -1e4 if log else 0], [third] * 3, [half, half, last]]
    np.testing.assert_allclose(y, expected, rtol=1e-6)


@pytest.mark.parametrize("repeat", [1, 20_000])
@pytest.mark.parametrize("log", [False, True])
def test_infinite_logits_as_torch(log, repeat):
    torch = pytest.importorskip("torch")
    inf, nan = math.inf, math.nan
    rows = [[0, -inf, 1], [-inf, -inf, -inf], [inf, 0, 1], [nan, 0, 1], [inf, inf, -inf]]
    x = np.array(rows * repeat, np.float32)
    y = run("softmax", [x], [(x.shape, np.float32)], axis=1, log=log)
    function = torch.log_softmax if log else torch.softmax
    np.testing.assert_allclose(y, function(torch.tensor(x), 1).numpy(), rtol=1e-6)


def test_empty_softmax():
    for shape in ((0, 3), (2, 0)):
        x = np.zeros(shape, np.float32)
        assert run("softmax", [x], [(shape, np.float32)], axis=1, log=False).shape == shape
        assert run("softmax_backward", [x, x], [(shape, np.float32)], axis=1, log=True).size == 0


def test_softmax_in_place():
    x = np.random.default_rng(2).standard_normal((50, 60)).astype(np.float32)
    from gpucnn.backends.cpu import CpuBackend

    for log in (False, True):
        expected = run("softmax", [x], [(x.shape, np.float32)], axis=1, log=log)
        same = x.copy()
        CpuBackend().primitives["softmax"](same, same, axis=1, log=log)
        np.testing.assert_array_equal(same, expected)
