"""Winograd's filtering against loops in float64, and its bounds."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from cpu_helpers import CHWN, NHWC, in_order, layouts
from test_cpu_conv import backward_input, backward_weight, forward, geometry

from gpucnn.backends.cpu import algorithms
from gpucnn.backends.cpu.winograd_transforms import tiling, turned
from gpucnn.ops.geometry import Conv2dGeometry

BOUND = 2e-5
DIRECTIONS = ("forward", "backward_input", "backward_weight")


def error(found, expected):
    """The largest difference, relative to the largest expected value."""
    assert found.shape == expected.shape and found.dtype == np.float32
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(("m", "r"), [(4, 3), (2, 3), (2, 5), (4, 2)])
def test_matrices(m, r):
    """y = A^T [(G w) * (B^T x)] is the correlation of m + r - 1 numbers with r taps."""
    t = tiling(m, r)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(t.n), rng.standard_normal(r)
    # The filters' matrix is for two dimensions: constant filters along the other leave a factor.
    spread = (t.filters @ np.outer(w, np.eye(r)[0]).reshape(-1)).reshape(t.n, t.n)[:, 0]
    scale = (t.filters @ np.outer(np.eye(r)[0], np.eye(r)[0]).reshape(-1)).reshape(t.n, t.n)[0, 0]
    y = t.output @ (spread / scale * (t.image @ x))
    expected = np.array([x[i : i + r] @ w for i in range(m)])
    np.testing.assert_allclose(y, expected, atol=2e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(t.gradient, t.output.T)
    back = turned(t)
    y = back.output @ (spread / scale * (back.image @ x))
    expected = np.array([x[i : i + r] @ w[::-1] for i in range(m)])
    np.testing.assert_allclose(y, expected, atol=2e-6 * np.abs(expected).max())


# x, w, stride, padding (top, left, bottom, right)
CASES = {
    "whole tiles": ((2, 3, 8, 8), (5, 3, 3, 3), 1, (1, 1, 1, 1)),
    "odd sizes": ((3, 5, 7, 9), (3, 5, 3, 3), 1, (1, 1, 1, 1)),
    "no padding": ((2, 1, 9, 6), (7, 1, 3, 3), 1, (0, 0, 0, 0)),
    "padding 2": ((1, 4, 5, 6), (3, 4, 3, 3), 1, (2, 2, 2, 2)),
    "lopsided padding": ((2, 3, 6, 5), (4, 3, 3, 3), 1, (0, 2, 1, 0)),
    "smaller than a tile": ((3, 2, 1, 2), (3, 2, 3, 3), 1, (1, 1, 1, 1)),
    "only one output": ((2, 3, 3, 3), (2, 3, 3, 3), 1, (0, 0, 0, 0)),
    "many channels": ((1, 33, 5, 4), (37, 33, 3, 3), 1, (1, 1, 1, 1)),
    "5x5": ((2, 3, 7, 6), (5, 3, 5, 5), 1, (2, 2, 2, 2)),
    "5x5 no padding": ((1, 4, 9, 8), (3, 4, 5, 5), 1, (0, 0, 0, 0)),
    "5x5 padding 4": ((2, 1, 3, 5), (2, 1, 5, 5), 1, (4, 3, 4, 3)),
    "stride 2": ((2, 3, 8, 8), (5, 3, 3, 3), 2, (1, 1, 1, 1)),
    "stride 2 odd sizes": ((3, 5, 9, 7), (3, 5, 3, 3), 2, (1, 1, 1, 1)),
    "stride 2 leaves a rest": ((2, 2, 10, 11), (4, 2, 3, 3), 2, (1, 1, 0, 0)),
    "stride 2 one output": ((2, 3, 2, 1), (3, 3, 3, 3), 2, (1, 1, 1, 1)),
}


def run_all(case, m, order=NHWC, batch=1):
    """(found, expected) of the three directions, each with what follows it, by tiles of m."""
    (n, *chw), w_shape, stride, padding = CASES[case]
    rest = ((stride, stride), padding, (1, 1), 1)
    x_shape = (n * batch, *chw)
    g = geometry(x_shape, w_shape, *rest)
    name = f"winograd{m}"
    rng = np.random.default_rng(1)

    def drawn(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    x, w, b, dy = drawn(*x_shape), drawn(*w_shape), drawn(g.k), drawn(*g.y_shape)
    addend, back, mask = drawn(*g.y_shape), drawn(*x_shape), drawn(*x_shape)
    how = {"order": order, "precision": "auto"}
    for direction in DIRECTIONS:
        assert name in [c.name for c in algorithms.explain(g, direction, images=NHWC)]
    with algorithms.forced(name):
        y = forward(g, x, w, b, in_order(addend, order), relu=True, **how)
        dx = backward_input(g, dy, w, back, in_order(mask, order), **how)
        dw, db = backward_weight(g, x, dy, precision="auto")
    yield y, np.maximum(reference.conv2d(x, w, b, *rest) + addend, 0)
    full = reference.conv2d_backward_input(dy, w, x_shape, *rest) + back
    yield dx, np.where(mask > 0, full, 0)
    yield dw, reference.conv2d_backward_weight(x, dy, w_shape, *rest)
    yield db, dy.sum((0, 2, 3), dtype=np.float64)


def tiles_of(case):
    (_, w_shape, stride, _) = CASES[case]
    return {(3, 1): (4, 2), (5, 1): (2,), (3, 2): (4,)}[w_shape[2], stride]


@pytest.mark.parametrize("order", [None, NHWC, CHWN])
@pytest.mark.parametrize(("case", "m"), [(case, m) for case in CASES for m in tiles_of(case)])
def test_winograd(case, m, order):
    for found, expected in run_all(case, m, order):
        assert error(found, expected) < BOUND


@pytest.mark.parametrize("case", ["odd sizes", "5x5", "stride 2 odd sizes", "lopsided padding"])
def test_blocks_of_images(case, monkeypatch):
    """Small blocks, chunks and shares: many of each, and rests."""
    from gpucnn.backends.cpu import winograd_plan, winograd_weight

    m = tiles_of(case)[0]
    monkeypatch.setattr(winograd_plan, "_BLOCK", 16)
    monkeypatch.setattr(winograd_plan, "_LEAST", 3)
    monkeypatch.setattr(winograd_plan, "_FEWEST", 2)
    monkeypatch.setattr(winograd_plan, "_PAIRS", 8)
    monkeypatch.setattr(winograd_weight, "_CHUNK", 8)
    monkeypatch.setattr(winograd_weight, "_SHORTEST", 5)
    monkeypatch.setattr(winograd_weight, "_TILES", 4)
    monkeypatch.setattr(winograd_weight, "_LEAST", 1)
    for found, expected in run_all(case, m, batch=3):
        assert error(found, expected) < BOUND


# x, w, padding
DEPTHWISE = {
    "3x3": ((3, 5, 7, 9), (5, 1, 3, 3), (1, 1, 1, 1)),
    "3x3 no padding": ((2, 3, 8, 6), (3, 1, 3, 3), (0, 0, 0, 0)),
    "5x5": ((2, 4, 6, 7), (4, 1, 5, 5), (2, 2, 2, 2)),
    "lopsided": ((2, 3, 5, 5), (3, 1, 3, 3), (0, 2, 2, 1)),
}


@pytest.mark.parametrize("order", [None, NHWC, CHWN])
@pytest.mark.parametrize("case", DEPTHWISE)
def test_depthwise(case, order, monkeypatch):
    from gpucnn.backends.cpu import winograd_depthwise

    monkeypatch.setattr(winograd_depthwise, "_BLOCK", 16)
    x_shape, w_shape, padding = DEPTHWISE[case]
    groups = x_shape[1]
    rest = ((1, 1), padding, (1, 1), groups)
    g = geometry(x_shape, w_shape, *rest)
    rng = np.random.default_rng(6)

    def drawn(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    x, w, b, dy = drawn(*x_shape), drawn(*w_shape), drawn(groups), drawn(*g.y_shape)
    addend, mask = drawn(*g.y_shape), drawn(*x_shape)
    how = {"order": order, "precision": "auto"}
    with algorithms.forced("depthwise_winograd"):
        assert algorithms.explain(g, "forward")[0].name == "depthwise_winograd"
        y = forward(g, x, w, b, in_order(addend, order), relu=True, **how)
        dx = backward_input(g, dy, w, None, in_order(mask, order), **how)
    expected = np.maximum(reference.conv2d(x, w, b, *rest) + addend, 0)
    assert error(y, expected) < BOUND
    expected = reference.conv2d_backward_input(dy, w, x_shape, *rest)
    assert error(dx, np.where(mask > 0, expected, 0)) < BOUND


@pytest.mark.parametrize("case", ["odd sizes", "stride 2"])
def test_any_strides(case):
    x_shape, w_shape, stride, padding = CASES[case]
    rest = ((stride, stride), padding, (1, 1), 1)
    g = geometry(x_shape, w_shape, *rest)
    rng = np.random.default_rng(3)
    x, w, dy = (rng.standard_normal(s).astype(np.float32) for s in (x_shape, w_shape, g.y_shape))
    expected = (
        reference.conv2d(x, w, None, *rest),
        reference.conv2d_backward_input(dy, w, x_shape, *rest),
        reference.conv2d_backward_weight(x, dy, w_shape, *rest),
    )
    for x_view, w_view, dy_view in zip(layouts(x), layouts(w), reversed(list(layouts(dy)))):
        with algorithms.forced("winograd4"):
            found = (
                forward(g, x_view, w_view, precision="auto"),
                backward_input(g, dy_view, w_view, precision="auto"),
                backward_weight(g, x_view, dy_view, precision="auto")[0],
            )
        for a, b in zip(found, expected):
            assert error(a, b) < BOUND


# n, c, size, k, filter, stride, padding, tile
LARGE = [
    (8, 512, 9, 40, 3, 1, 1, 4),
    (8, 512, 9, 40, 3, 1, 1, 2),
    (40, 32, 32, 24, 3, 1, 1, 4),
    (8, 200, 12, 40, 5, 1, 2, 2),
    (16, 256, 16, 48, 3, 2, 1, 4),
]


@pytest.mark.parametrize("mean", [0.0, 3.0])
@pytest.mark.parametrize(("n", "c", "size", "k", "r", "stride", "padding", "m"), LARGE)
def test_error_is_bounded(n, c, size, k, r, stride, padding, m, mean):
    """Many channels, and images as after a ReLU or far from 0; patch matrices in float64 tell."""
    g = Conv2dGeometry.of("t", (n, c, size, size), (k, c, r, r), stride, padding, 1, 1)
    rng = np.random.default_rng(4)
    x = np.maximum(rng.standard_normal(g.x_shape) + mean, 0)
    w = rng.standard_normal(g.w_shape) / (c * r * r) ** 0.5
    dy = rng.standard_normal(g.y_shape)
    single = [in_order(v.astype(np.float32), NHWC) for v in (x, w, dy)]
    double = [v.astype(np.float64) for v in single]
    with algorithms.forced(f"winograd{m}"):
        for function, operands in (
            (forward, (0, 1)),
            (backward_input, (2, 1)),
            (lambda *a, **how: backward_weight(*a, **how)[0], (0, 2)),
        ):
            found = function(g, *(single[i] for i in operands), precision="auto")
            expected = function(g, *(double[i] for i in operands), precision="auto")
            assert error(found, expected) < 1e-5


def test_precision_fp32_is_a_float32_sum():
    """Within the bound of such sums, which Winograd with this mean is not, and so with other
    algorithms."""
    g = Conv2dGeometry.of("t", (4, 64, 16, 16), (32, 64, 3, 3), 1, 1, 1, 1)
    assert algorithms.explain(g, "forward", "auto")[0].name == "winograd4"
    assert all("winograd" not in c.name for c in algorithms.explain(g, "forward", "fp32"))
    rng = np.random.default_rng(5)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in (g.x_shape, g.w_shape))
    with algorithms.forced("patches"):
        expected = forward(g, x, w, precision="auto")
    with algorithms.forced("winograd4"):
        assert forward(g, x, w, precision="fp32").tobytes() == expected.tobytes()
    assert forward(g, x, w, precision="auto").tobytes() != expected.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_stay_in_the_tiles_that_read_them(value):
    x = np.ones((2, 3, 12, 12), np.float32)
    x[0, 1, 6, 6] = value
    g = Conv2dGeometry.of("t", x.shape, (4, 3, 3, 3), 1, 1, 1, 1)
    with algorithms.forced("winograd4"):
        y = forward(g, x, np.ones(g.w_shape, np.float32), precision="auto")
    seen = np.zeros((12, 12), bool)
    seen[5:8, 5:8] = True
    assert not np.isfinite(y[0][:, seen]).any()
    tile = np.zeros((12, 12), bool)
    tile[4:8, 4:8] = True
    assert np.isfinite(y[0][:, ~tile]).all() and np.isfinite(y[1]).all()


def test_gradient_infinity_reaches_the_weights():
    g = Conv2dGeometry.of("t", (2, 3, 8, 8), (4, 3, 3, 3), 1, 1, 1, 1)
    x, dy = np.ones(g.x_shape, np.float32), np.ones(g.y_shape, np.float32)
    dy[1, 2, 3, 3] = np.inf
    with algorithms.forced("winograd4"):
        dw, db = backward_weight(g, x, dy, precision="auto")
    assert not np.isfinite(dw[2]).any() and np.isfinite(dw[[0, 1, 3]]).all()
    assert np.isinf(db[2])
