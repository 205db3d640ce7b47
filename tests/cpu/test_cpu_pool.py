from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import reference
from cpu_helpers import CHWN, FLOATS, NHWC, close, in_order, layouts, run

from gpucnn.ops.geometry import Pool2dGeometry

ORDERS = (None, NHWC, CHWN)

# x, kernel, stride, padding, dilation, ceil_mode
CASES = {
    "2x2": ((2, 3, 6, 8), (2, 2), (2, 2), (0, 0), (1, 1), False),
    "2x2 odd input": ((2, 3, 7, 5), (2, 2), (2, 2), (0, 0), (1, 1), False),
    "2x2 ceil": ((2, 3, 7, 5), (2, 2), (2, 2), (0, 0), (1, 1), True),
    "3x3 stride 2": ((2, 3, 9, 8), (3, 3), (2, 2), (1, 1), (1, 1), False),
    "3x3 stride 2 ceil": ((2, 3, 8, 6), (3, 3), (2, 2), (1, 1), (1, 1), True),
    "3x3 stride 1": ((1, 2, 5, 6), (3, 3), (1, 1), (1, 1), (1, 1), False),
    "gaps": ((2, 2, 11, 9), (2, 3), (4, 5), (0, 1), (1, 1), False),
    "lopsided": ((1, 3, 9, 10), (3, 2), (1, 3), (1, 0), (1, 1), True),
    "last window in the pad": ((1, 1, 5, 5), (2, 2), (3, 3), (1, 1), (1, 1), True),
    "dilated": ((2, 2, 9, 11), (3, 2), (2, 1), (1, 1), (2, 3), False),
    "dilated ceil": ((1, 2, 10, 9), (2, 2), (3, 3), (1, 1), (2, 2), True),
    "whole plane": ((2, 3, 4, 5), (4, 5), (1, 1), (0, 0), (1, 1), False),
    "1x1": ((2, 3, 4, 5), (1, 1), (1, 1), (0, 0), (1, 1), False),
    "large window": ((1, 1, 12, 13), (17, 18), (3, 4), (8, 8), (1, 1), False),
}


def geometry(case, **attributes):
    shape, kernel, stride, padding, dilation, ceil_mode = CASES[case]
    return Pool2dGeometry.of("pool", shape, kernel, stride, padding, dilation, ceil_mode,
                             **attributes)  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_max_pool2d(case, ties, dtype):
    shape, *rest = CASES[case]
    rng = np.random.default_rng(0)
    x = (rng.integers(-2, 2, shape) if ties else rng.standard_normal(shape)).astype(dtype)
    y, window, plane = reference.max_pool2d(x, *rest)
    dy = rng.standard_normal(y.shape).astype(dtype)
    dx = reference.max_pool2d_backward(dy, plane, shape)
    g = geometry(case)
    small = np.uint8 if rest[0][0] * rest[0][1] <= 256 else np.int32
    for view, dy_view in zip(layouts(x), reversed(list(layouts(dy)))):
        for order in ORDERS:
            spec = [(y.shape, dtype, order), (y.shape, small, order)]
            out, argmax = run("max_pool2d", [view], spec, geometry=g)
            np.testing.assert_array_equal(out, y)
            np.testing.assert_array_equal(argmax, window)
            spec = [(y.shape, np.int64, order)]
            indices = run("max_pool2d_indices", [argmax], spec, geometry=g)
            np.testing.assert_array_equal(indices, plane)
            spec = [(shape, dtype, order)]
            close(run("max_pool2d_backward", [dy_view, argmax, None], spec, geometry=g), dx, dtype)


@pytest.mark.parametrize("case", ["2x2", "3x3 stride 2", "dilated", "2x2 ceil", "large window"])
def test_max_pool2d_of_nan_and_infinity_as_torch(case):
    torch = pytest.importorskip("torch")
    shape, kernel, stride, padding, dilation, ceil_mode = CASES[case]
    rng = np.random.default_rng(1)
    values = np.array([math.nan, -math.inf, math.inf, 0.0, -0.0, 1.0], np.float32)
    for probabilities in ([0.1, 0.5, 0.1, 0.1, 0.1, 0.1], [0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]):
        x = rng.choice(values, shape, p=probabilities)
        y, indices = torch.nn.functional.max_pool2d(
            torch.tensor(x), kernel, stride, padding, dilation, ceil_mode, return_indices=True
        )
        for order in ORDERS:
            spec = [(tuple(y.shape), np.float32, order), (tuple(y.shape), np.uint8, order)]
            spec[1] = (spec[1][0], geometry(case).argmax_dtype, order)
            out, argmax = run("max_pool2d", [in_order(x, order)], spec, geometry=geometry(case))
            np.testing.assert_array_equal(out, y.numpy())
            ours = run("max_pool2d_indices", [argmax], [(tuple(y.shape), np.int64)],
                       geometry=geometry(case))  # fmt: skip
            np.testing.assert_array_equal(ours, indices.numpy())


def test_upstream_infinity_and_nan_reach_only_the_chosen_input():
    x = np.array([[3.0, 1.0], [2.0, 0.0]], np.float32).reshape(1, 1, 2, 2)
    g = Pool2dGeometry.of("pool", x.shape, 2, 2, 0)
    spec = [((1, 1, 1, 1), np.float32), ((1, 1, 1, 1), np.uint8)]
    _, argmax = run("max_pool2d", [x], spec, geometry=g)
    for value in (math.inf, math.nan):
        dy = np.full((1, 1, 1, 1), value, np.float32)
        dx = run("max_pool2d_backward", [dy, argmax, None], [(x.shape, np.float32)], geometry=g)
        np.testing.assert_array_equal(dx.ravel(), [value, 0, 0, 0])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("count_include_pad", "divisor_override"), [(True, None), (False, None), (True, 5)]
)
@pytest.mark.parametrize("case", [c for c in CASES if "dilated" not in c])
def test_avg_pool2d(case, count_include_pad, divisor_override, dtype):
    shape, kernel, stride, padding, _, ceil_mode = CASES[case]
    rng = np.random.default_rng(2)
    x = rng.standard_normal(shape).astype(dtype)
    options = {"count_include_pad": count_include_pad, "divisor_override": divisor_override}
    y = reference.avg_pool2d(x, kernel, stride, padding, ceil_mode, **options)
    dy = rng.standard_normal(y.shape).astype(dtype)
    dx = reference.avg_pool2d_backward(dy, shape, kernel, stride, padding, **options)
    g = geometry(case, **options)
    for view, dy_view in zip(layouts(x), reversed(list(layouts(dy)))):
        for order in ORDERS:
            close(run("avg_pool2d", [view], [(y.shape, dtype, order)], geometry=g), y, dtype)
            spec = [(shape, dtype, order)]
            close(run("avg_pool2d_backward", [dy_view], spec, geometry=g), dx, dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 6), (9, 11), (3, 1)])
def test_adaptive_avg_pool2d(size, dtype):
    shape = (2, 3, 7, 6)
    rng = np.random.default_rng(3)
    x, dy = (rng.standard_normal(s).astype(dtype) for s in (shape, shape[:2] + size))
    y = reference.adaptive_avg_pool2d(x, size)
    dx = reference.adaptive_avg_pool2d_backward(dy, shape)
    for view, dy_view in zip(layouts(x), reversed(list(layouts(dy)))):
        for order in ORDERS:
            close(run("adaptive_avg_pool2d", [view], [(y.shape, dtype, order)]), y, dtype)
            spec = [(shape, dtype, order)]
            close(run("adaptive_avg_pool2d_backward", [dy_view], spec), dx, dtype)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "padding"),
    [((9, 24, 33, 31), 2, 2, 0), ((5, 16, 40, 41), 3, 2, 1), ((3, 40, 29, 30), 3, 1, 1),
     ((2, 3, 120, 121), 5, 3, 2)],
)  # fmt: skip
def test_large_pools_against_torch(shape, kernel, stride, padding, order):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    x = rng.standard_normal(shape).astype(np.float32)
    g = Pool2dGeometry.of("pool", shape, kernel, stride, padding)
    for kind in ("max", "avg"):
        tensor = torch.tensor(x, requires_grad=True)
        function = getattr(torch.nn.functional, f"{kind}_pool2d")
        y = function(tensor, kernel, stride, padding)
        dy = rng.standard_normal(y.shape).astype(np.float32)
        y.backward(torch.tensor(dy))
        spec = [(tuple(y.shape), np.float32, order)]
        view, dy_view = in_order(x, order), in_order(dy, order)
        if kind == "max":
            out, argmax = run("max_pool2d", [view], [*spec, (y.shape, np.uint8, order)], geometry=g)
            inputs = [dy_view, argmax, None]
        else:
            out, inputs = run("avg_pool2d", [view], spec, geometry=g), [dy_view]
        close(out, y.detach().numpy(), np.float32)
        dx = run(f"{kind}_pool2d_backward", inputs, [(shape, np.float32, order)], geometry=g)
        close(dx, tensor.grad.numpy(), np.float32)


def test_empty_batch():
    shape, out = (0, 3, 6, 6), (0, 3, 3, 3)
    g = Pool2dGeometry.of("pool", shape, 2, 2, 0)
    x, dy = np.zeros(shape, np.float32), np.zeros(out, np.float32)
    for order in (None, NHWC):
        y, argmax = run("max_pool2d", [x], [(out, np.float32, order), (out, np.uint8, order)],
                        geometry=g)  # fmt: skip
        spec = [(shape, np.float32, order)]
        assert run("max_pool2d_backward", [dy, argmax, None], spec, geometry=g).shape == shape
        assert run("avg_pool2d", [x], [(out, np.float32, order)], geometry=g).shape == out
        assert run("avg_pool2d_backward", [dy], spec, geometry=g).shape == shape
        assert run("adaptive_avg_pool2d", [x], [(out, np.float32, order)]).shape == out
        assert run("adaptive_avg_pool2d_backward", [dy], spec).shape == shape


def test_every_small_geometry():
    """Sizes on both sides of every edge, max and average, forward and backward."""
    rng = np.random.default_rng(5)
    for size, kernel, stride, pad, ceil in itertools.product(
        range(1, 7), (1, 2, 3), (1, 2, 3), (0, 1), (False, True)
    ):
        if pad > kernel // 2 or size + 2 * pad < kernel:
            continue
        shape = (1, 2, size, 4)
        x = rng.standard_normal(shape).astype(np.float32)
        options = (kernel, 1), (stride, 1), (pad, 0)
        g = Pool2dGeometry.of("pool", shape, *options, 1, ceil)
        y, window, plane = reference.max_pool2d(x, *options, (1, 1), ceil)
        assert y.shape == g.y_shape
        spec = [(y.shape, np.float32, NHWC), (y.shape, np.uint8, NHWC)]
        out, argmax = run("max_pool2d", [x], spec, geometry=g)
        np.testing.assert_array_equal(out, y)
        np.testing.assert_array_equal(argmax, window)
        spec = [(shape, np.float32, NHWC)]
        dx = run("max_pool2d_backward", [out, argmax, None], spec, geometry=g)
        close(dx, reference.max_pool2d_backward(y, plane, shape), np.float32)
        y = reference.avg_pool2d(x, *options, ceil)
        close(run("avg_pool2d", [x], [(y.shape, np.float32, NHWC)], geometry=g), y, np.float32)
