"""2-D convolution and its two gradients."""

from __future__ import annotations

import itertools

import numpy as np


def _conv_taps(x_shape, w_shape, y_shape, stride, padding, dilation, groups):
    """(n, k, p, q, c, cg, h, w, r, s) of every w[k, cg, r, s] x[n, c, h, w] in y[n, k, p, q].

    `padding` is (top, left) or (top, left, bottom, right); the last two only shape y.
    """
    n_, _, h_, w_ = x_shape
    k_, c_group, r_, s_ = w_shape
    _, _, p_, q_ = y_shape
    for n, k, p, q in itertools.product(range(n_), range(k_), range(p_), range(q_)):
        group = k // (k_ // groups)
        for cg, r, s in itertools.product(range(c_group), range(r_), range(s_)):
            h = p * stride[0] - padding[0] + r * dilation[0]
            w = q * stride[1] - padding[1] + s * dilation[1]
            if 0 <= h < h_ and 0 <= w < w_:
                yield n, k, p, q, group * c_group + cg, cg, h, w, r, s


def conv2d_shape(x_shape, w_shape, stride, padding, dilation):
    top, left, bottom, right = padding
    p = (x_shape[2] + top + bottom - dilation[0] * (w_shape[2] - 1) - 1) // stride[0] + 1
    q = (x_shape[3] + left + right - dilation[1] * (w_shape[3] - 1) - 1) // stride[1] + 1
    return x_shape[0], w_shape[0], p, q


def conv2d(x, w, b=None, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1):
    y = np.zeros(conv2d_shape(x.shape, w.shape, stride, padding, dilation))
    taps = _conv_taps(x.shape, w.shape, y.shape, stride, padding, dilation, groups)
    for n, k, p, q, c, cg, h, v, r, s in taps:
        y[n, k, p, q] += float(w[k, cg, r, s]) * float(x[n, c, h, v])
    if b is not None:
        for k in range(w.shape[0]):
            y[:, k] += float(b[k])
    return y


def conv2d_backward_input(
    dy, w, x_shape, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1
):
    dx = np.zeros(x_shape)
    taps = _conv_taps(x_shape, w.shape, dy.shape, stride, padding, dilation, groups)
    for n, k, p, q, c, cg, h, v, r, s in taps:
        dx[n, c, h, v] += float(w[k, cg, r, s]) * float(dy[n, k, p, q])
    return dx


def conv2d_backward_weight(
    x, dy, w_shape, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), groups=1
):
    dw = np.zeros(w_shape)
    taps = _conv_taps(x.shape, w_shape, dy.shape, stride, padding, dilation, groups)
    for n, k, p, q, c, cg, h, v, r, s in taps:
        dw[k, cg, r, s] += float(dy[n, k, p, q]) * float(x[n, c, h, v])
    return dw
