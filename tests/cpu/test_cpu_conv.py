from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import reference
from cpu_helpers import CHWN, FLOATS, NHWC, close, in_order, layouts, run

from gpucnn.ops.geometry import Conv2dGeometry

WEIGHT_ORDER = (0, 2, 3, 1)

# x, w, stride, padding (top, left, bottom, right), dilation, groups
CASES = {
    "3x3": ((2, 3, 7, 5), (4, 3, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    "no padding": ((1, 2, 5, 6), (3, 2, 3, 2), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "1x1": ((3, 5, 4, 3), (7, 5, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "1x1 strided": ((2, 5, 7, 5), (3, 5, 1, 1), (2, 2), (0, 0, 0, 0), (1, 1), 1),
    "1x1 padded": ((2, 3, 4, 3), (3, 3, 1, 1), (1, 1), (1, 2, 1, 2), (1, 1), 1),
    "strided": ((2, 3, 9, 8), (5, 3, 3, 3), (2, 3), (1, 1, 1, 1), (1, 1), 1),
    "stride leaves a rest": ((1, 2, 8, 10), (2, 2, 3, 3), (3, 4), (0, 0, 0, 0), (1, 1), 1),
    "stride beyond kernel": ((2, 2, 9, 7), (3, 2, 2, 1), (3, 2), (0, 0, 0, 0), (1, 1), 1),
    "dilated": ((2, 3, 9, 11), (4, 3, 3, 2), (1, 2), (2, 1, 2, 1), (2, 3), 1),
    "lopsided padding": ((2, 3, 5, 6), (4, 3, 4, 3), (1, 1), (1, 0, 2, 3), (1, 1), 1),
    "wide padding": ((1, 2, 3, 3), (2, 2, 3, 3), (1, 1), (4, 3, 4, 3), (1, 1), 1),
    "groups": ((2, 6, 5, 7), (9, 2, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 3),
    "depthwise": ((2, 4, 6, 5), (4, 1, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 4),
    "depthwise strided": ((2, 3, 7, 8), (3, 1, 3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 3),
    "depthwise times two": ((2, 3, 7, 6), (6, 1, 3, 2), (1, 1), (1, 0, 1, 0), (2, 1), 3),
    "5x5": ((3, 1, 9, 9), (6, 1, 5, 5), (1, 1), (2, 2, 2, 2), (1, 1), 1),
    "whole image": ((3, 4, 5, 6), (2, 4, 5, 6), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "one of each": ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "many channels": ((1, 33, 4, 4), (37, 33, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
}


def geometry(x, w, stride, padding, dilation, groups):
    top, left, bottom, right = padding
    _, _, p, q = reference.conv2d_shape(x, w, stride, padding, dilation)
    base = Conv2dGeometry.of("conv2d", (*x[:2], 99, 99), w, stride, 0, dilation, groups)
    return dataclasses.replace(
        base, h=x[2], w=x[3], p=p, q=q, pad_top=top, pad_left=left, pad_bottom=bottom,
        pad_right=right,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("case", CASES)
def test_conv2d(case, dtype):
    x_shape, w_shape, *rest = CASES[case]
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(x_shape).astype(dtype), rng.standard_normal(w_shape).astype(dtype)
    b = rng.standard_normal(w_shape[0]).astype(dtype)
    y = reference.conv2d(x, w, b, *rest)
    dy = rng.standard_normal(y.shape).astype(dtype)
    dx = reference.conv2d_backward_input(dy, w, x_shape, *rest)
    dw = reference.conv2d_backward_weight(x, dy, w_shape, *rest)
    g = geometry(x_shape, w_shape, *rest)
    for x_view, w_view, dy_view in zip(layouts(x), layouts(w), reversed(list(layouts(dy)))):
        for order in (None, NHWC, CHWN):
            spec = [(y.shape, dtype, order)]
            close(run("conv2d", [x_view, w_view, b], spec, geometry=g), y, dtype, 2)
            spec = [(x_shape, dtype, order)]
            close(run("conv2d_backward_input", [dy_view, w_view], spec, geometry=g), dx, dtype, 2)
        spec = [(w_shape, dtype, WEIGHT_ORDER)]
        close(run("conv2d_backward_weight", [x_view, dy_view], spec, geometry=g), dw, dtype, 2)
    bare = run("conv2d", [x, w, None], [(y.shape, dtype, NHWC)], geometry=g)
    close(bare, y - b[:, None, None].astype(np.float64), dtype, 4)


LARGE = {
    "3x3 few channels": ((16, 3, 33, 31), (16, 3, 3, 3), 1, 1, 1, 1),
    "3x3": ((9, 32, 32, 32), (24, 32, 3, 3), 1, 1, 1, 1),
    "3x3 small images": ((67, 64, 5, 4), (48, 64, 3, 3), 1, 1, 1, 1),
    "1x1": ((8, 64, 28, 28), (96, 64, 1, 1), 1, 0, 1, 1),
    "strided": ((8, 24, 41, 43), (40, 24, 3, 3), 2, 1, 1, 1),
    "7x7": ((2, 3, 112, 112), (32, 3, 7, 7), 2, 3, 1, 1),
    "depthwise": ((8, 48, 33, 31), (48, 1, 3, 3), 1, 1, 1, 48),
    "groups": ((8, 48, 29, 31), (64, 12, 3, 3), 1, 1, 1, 4),
    "dilated": ((4, 16, 41, 39), (24, 16, 3, 3), 1, 2, 2, 1),
    "batch of one": ((1, 16, 120, 130), (24, 16, 3, 3), 1, 1, 1, 1),
}


@pytest.mark.parametrize("case", LARGE)
def test_large_conv2d_against_torch(case):
    torch = pytest.importorskip("torch")
    x_shape, w_shape, stride, padding, dilation, groups = LARGE[case]
    rng = np.random.default_rng(1)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in (x_shape, w_shape))
    b = rng.standard_normal(w_shape[0]).astype(np.float32)
    tensors = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (x, w, b)]
    y = torch.nn.functional.conv2d(*tensors, stride, padding, dilation, groups)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    y.backward(torch.tensor(dy, dtype=torch.float64))
    g = Conv2dGeometry.of("conv2d", x_shape, w_shape, stride, padding, dilation, groups)
    w = in_order(w, WEIGHT_ORDER)
    shape = tuple(y.shape)
    for order in (None, NHWC, CHWN):
        view, dy_view = in_order(x, order), in_order(dy, order)
        out = run("conv2d", [view, w, b], [(shape, np.float32, order)], geometry=g)
        close(out, y.detach().numpy(), np.float32, 3)
        spec = [(x_shape, np.float32, order)]
        dx = run("conv2d_backward_input", [dy_view, w], spec, geometry=g)
        close(dx, tensors[0].grad.numpy(), np.float32, 3)
        spec = [(w_shape, np.float32, WEIGHT_ORDER)]
        dw = run("conv2d_backward_weight", [view, dy_view], spec, geometry=g)
        close(dw, tensors[1].grad.numpy(), np.float32, 3)


def test_empty_batch():
    g = Conv2dGeometry.of("conv2d", (0, 3, 5, 5), (4, 3, 3, 3), 1, 1, 1, 1)
    f = np.float32
    x, w, b = np.zeros((0, 3, 5, 5), f), np.ones((4, 3, 3, 3), f), np.ones(4, f)
    assert run("conv2d", [x, w, b], [((0, 4, 5, 5), f, NHWC)], geometry=g).size == 0
    dy = np.zeros((0, 4, 5, 5), f)
    assert run("conv2d_backward_input", [dy, w], [(x.shape, f, NHWC)], geometry=g).size == 0
    dw = run("conv2d_backward_weight", [x, dy], [(w.shape, f, WEIGHT_ORDER)], geometry=g)
    assert not dw.any()


def test_nan_spreads_only_to_windows_that_see_it():
    x = np.zeros((1, 1, 6, 6), np.float32)
    x[0, 0, 1, 1] = np.nan
    g = Conv2dGeometry.of("conv2d", x.shape, (1, 1, 3, 3), 1, 0, 1, 1)
    w = np.ones((1, 1, 3, 3), np.float32)
    y = run("conv2d", [x, w, None], [((1, 1, 4, 4), np.float32, NHWC)], geometry=g)
    assert np.isnan(y).sum() == 4 and np.isnan(y[0, 0, :2, :2]).all()
