from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import reference
from cpu_helpers import CHWN, FLOATS, NHWC, close, in_order, layouts, run

from gpucnn.backends.cpu import algorithms, batch_last
from gpucnn.ops.geometry import Conv2dGeometry

WEIGHT_ORDER = (0, 2, 3, 1)


def forward(g, x, w, b=None, addend=None, order=NHWC, relu=False, precision="fp32"):
    spec = [(g.y_shape, x.dtype, order)]
    how = {"geometry": g, "relu": relu, "precision": precision}
    return run("conv2d", [x, w, b, addend], spec, **how)


def backward_input(g, dy, w, addend=None, mask=None, order=NHWC, precision="fp32"):
    spec = [(g.x_shape, dy.dtype, order)]
    how = {"geometry": g, "precision": precision}
    return run("conv2d_backward_input", [dy, w, addend, mask], spec, **how)


def backward_weight(g, x, dy, precision="fp32"):
    """dw and db."""
    spec = [(g.w_shape, x.dtype, WEIGHT_ORDER), ((g.k,), x.dtype)]
    return run("conv2d_backward_weight", [x, dy], spec, geometry=g, precision=precision)


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
            close(forward(g, x_view, w_view, b, order=order), y, dtype, 2)
            close(backward_input(g, dy_view, w_view, order=order), dx, dtype, 2)
        weights, sums = backward_weight(g, x_view, dy_view)
        close(weights, dw, dtype, 2)
        close(sums, dy.sum((0, 2, 3), dtype=np.float64), dtype, 4)
    close(forward(g, x, w), y - b[:, None, None].astype(np.float64), dtype, 4)


@pytest.mark.parametrize("order", [None, NHWC, CHWN])
@pytest.mark.parametrize("case", ["3x3", "strided", "1x1", "groups", "depthwise", "few channels"])
def test_what_follows_the_convolution(case, order):
    """Bias, addend and ReLU; addend and mask, whose NaN and 0 count as its sign says."""
    few = ((17, 2, 5, 6), (3, 2, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1)
    x_shape, w_shape, *rest = few if case == "few channels" else CASES[case]
    g = geometry(x_shape, w_shape, *rest)
    rng = np.random.default_rng(2)

    def drawn(shape):
        return rng.standard_normal(shape).astype(np.float32)

    x, w, b, addend = drawn(x_shape), drawn(w_shape), drawn(w_shape[0]), drawn(g.y_shape)
    addend[0, 0, 0, 0] = np.nan
    y = reference.conv2d(x, w, b, *rest) + addend
    found = forward(g, x, w, b, in_order(addend, order), order=order, relu=True)
    close(found, np.maximum(y, 0), np.float32, 2)
    assert np.isnan(found[0, 0, 0, 0]) and np.isnan(found).sum() == 1
    dy, addend, mask = drawn(g.y_shape), drawn(x_shape), drawn(x_shape)
    mask[0, 0, 0, :2] = 0, -0.0
    dx = reference.conv2d_backward_input(dy, w, x_shape, *rest) + addend
    found = backward_input(g, dy, w, addend, in_order(mask, order), order=order)
    close(found, np.where(mask > 0, dx, 0), np.float32, 2)


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
    for order in (None, NHWC, CHWN):
        view, dy_view = in_order(x, order), in_order(dy, order)
        how = {"order": order, "precision": "auto"}
        close(forward(g, view, w, b, **how), y.detach().numpy(), np.float32, 5)
        close(backward_input(g, dy_view, w, **how), tensors[0].grad.numpy(), np.float32, 5)
        weights, sums = backward_weight(g, view, dy_view, precision="auto")
        close(weights, tensors[1].grad.numpy(), np.float32, 5)
        close(sums, tensors[2].grad.numpy(), np.float32, 5)


def test_empty_batch():
    g = Conv2dGeometry.of("conv2d", (0, 3, 5, 5), (4, 3, 3, 3), 1, 1, 1, 1)
    x, w, b = np.zeros(g.x_shape, "f4"), np.ones(g.w_shape, "f4"), np.ones(4, "f4")
    dy = np.zeros(g.y_shape, "f4")
    assert forward(g, x, w, b).shape == (0, 4, 5, 5)
    assert backward_input(g, dy, w).shape == (0, 3, 5, 5)
    for gradient in backward_weight(g, x, dy):
        assert not gradient.any()


def test_no_channels():
    g = Conv2dGeometry.of("conv2d", (2, 0, 5, 5), (4, 0, 3, 3), 1, 1, 1, 1)
    x, w, b = np.zeros(g.x_shape, "f4"), np.ones(g.w_shape, "f4"), np.arange(4, dtype="f4")
    y = forward(g, x, w, b - 2, np.ones(g.y_shape, "f4"), relu=True)
    np.testing.assert_array_equal(y, np.broadcast_to([[[0]], [[0]], [[1]], [[2]]], g.y_shape))
    weights, sums = backward_weight(g, x, np.ones(g.y_shape, "f4"))
    assert weights.shape == (4, 0, 3, 3) and (sums == 50).all()


def test_nan_spreads_only_to_windows_that_see_it():
    x = np.zeros((1, 1, 6, 6), np.float32)
    x[0, 0, 1, 1] = np.nan
    g = Conv2dGeometry.of("conv2d", x.shape, (1, 1, 3, 3), 1, 0, 1, 1)
    y = forward(g, x, np.ones((1, 1, 3, 3), np.float32))
    assert np.isnan(y).sum() == 4 and np.isnan(y[0, 0, :2, :2]).all()


@pytest.mark.parametrize("padding", [(4, 0), (5, 0), (0, 4), (4, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_few_channels_a_row_at_a_time(monkeypatch, padding, stride):
    """As of a large batch: rows that read nothing but padding, above and below the image."""
    monkeypatch.setattr(batch_last, "_PIECE", 1)
    g = Conv2dGeometry.of("test", (16, 2, 4, 6), (3, 2, 3, 3), stride, padding, 1, 1)
    assert algorithms.order(g) == CHWN
    rng = np.random.default_rng(0)
    x, w, b, dy = (rng.standard_normal(s) for s in (g.x_shape, g.w_shape, (g.k,), g.y_shape))
    options = (stride, stride), (*padding, *padding), (1, 1), 1
    y = reference.conv2d(x, w, b, *options)
    dx = reference.conv2d_backward_input(dy, w, g.x_shape, *options)
    dw, db = reference.conv2d_backward_weight(x, dy, g.w_shape, *options), dy.sum((0, 2, 3))
    x, dy = in_order(x, CHWN), in_order(dy, CHWN)
    close(forward(g, x, w, b, order=CHWN), y, np.float64)
    close(backward_input(g, dy, w, order=CHWN), dx, np.float64)
    for ours, expected in zip(backward_weight(g, x, dy), (dw, db)):
        close(ours, expected, np.float64)
