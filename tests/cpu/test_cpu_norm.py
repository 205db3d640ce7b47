from __future__ import annotations

import numpy as np
import pytest
import reference
from cpu_helpers import BACKEND, CHWN, FLOATS, NHWC, bits, close, in_order, layouts, run

SHAPES = [(3, 4), (5, 1), (2, 3, 7), (4, 3, 5, 7), (1, 5, 3, 1), (2, 3, 2, 3, 4)]
LARGE = [(16, 24, 31, 33), (2, 3, 211, 223), (67, 129, 7, 5), (40_000, 10)]


def orders(shape):
    return (None, NHWC, CHWN) if len(shape) == 4 else (None,)


def make(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    x, dy = (rng.standard_normal(shape).astype(dtype) for _ in "12")
    x = x * dtype(2) + dtype(3)
    weight, bias = (rng.standard_normal(shape[1]).astype(dtype) for _ in "12")
    return x, dy, weight, bias


def statistics(inputs, outputs):
    return run("batch_norm_statistics", [*inputs, None, None], outputs, momentum=0.1)


def apply(inputs, outputs, **options):
    return run("batch_norm", [*inputs, None], outputs, relu=False, **options)


def backward(inputs, outputs, **options):
    return run("batch_norm_backward", [*inputs, None], outputs, **options)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_statistics(shape, dtype):
    x, *_ = make(shape, dtype)
    expected = reference.batch_norm_statistics(x)
    spec = [(shape[1:2], dtype)] * 2
    for view in layouts(x):
        for actual, wanted in zip(statistics([view], spec), expected):
            close(actual, wanted, dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_forward(shape, affine, dtype):
    x, _, weight, bias = make(shape, dtype)
    weight, bias = (weight, bias) if affine else (None, None)
    mean, variance = (v.astype(dtype) for v in reference.batch_norm_statistics(x))
    expected = reference.batch_norm(x, mean, variance, weight, bias, eps=1e-3)
    for view in layouts(x):
        for order in orders(shape):
            inputs = [view, mean, variance, weight, bias]
            close(apply(inputs, [(shape, dtype, order)], eps=1e-3), expected, dtype, 2)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_backward(shape, affine, training, dtype):
    x, dy, weight, _ = make(shape, dtype)
    weight = weight if affine else None
    if training:
        mean, variance = (v.astype(dtype) for v in reference.batch_norm_statistics(x))
    else:
        mean, variance = np.full(shape[1], 0.5, dtype), np.full(shape[1], 2.0, dtype)
    expected = reference.batch_norm_backward(dy, x, mean, variance, weight, 1e-3, training)
    for x_view, dy_view in zip(layouts(x), reversed(list(layouts(dy)))):
        for order in orders(shape):
            spec = [(shape, dtype, order), (shape[1:2], dtype), (shape[1:2], dtype)]
            inputs = [dy_view, x_view, mean, variance, weight]
            outputs = backward(inputs, spec, eps=1e-3, training=training)
            for actual, wanted in zip(outputs, expected):
                close(actual, wanted, dtype, 4)


def axes_but_1(ndim):
    return tuple(i for i in range(ndim) if i != 1)


def spread(values, ndim):
    return np.reshape(values, (1, -1) + (1,) * (ndim - 2))


@pytest.mark.parametrize("shape", LARGE)
def test_large(shape):
    x, dy, weight, bias = make(shape, np.float32)
    axes, count = axes_but_1(len(shape)), x.size // shape[1]
    wide, up = x.astype(np.float64), dy.astype(np.float64)
    mean, variance = wide.mean(axis=axes), wide.var(axis=axes)
    deviation = np.sqrt(variance + 1e-5)
    xhat = (wide - spread(mean, x.ndim)) / spread(deviation, x.ndim)
    y = xhat * spread(weight, x.ndim) + spread(bias, x.ndim)
    dbias, dweight = up.sum(axis=axes), (up * xhat).sum(axis=axes)
    dx = up - spread(dbias / count, x.ndim) - xhat * spread(dweight / count, x.ndim)
    dx *= spread(weight / deviation, x.ndim)
    for order in orders(shape):
        x_view, dy_view = in_order(x, order), in_order(dy, order)
        channel, like = (shape[1:2], np.float32), (shape, np.float32, order)
        m, v = statistics([x_view], [channel] * 2)
        close(m, mean, np.float32)
        close(v, variance, np.float32)
        close(apply([x_view, m, v, weight, bias], [like], eps=1e-5), y, np.float32, 2)
        inputs = [dy_view, x_view, m, v, weight]
        outputs = backward(inputs, [like, channel, channel], eps=1e-5,
                      training=True)  # fmt: skip
        for actual, wanted in zip(outputs, (dx, dweight, dbias)):
            close(actual, wanted, np.float32, 3)


@pytest.mark.parametrize("order", [None, NHWC, CHWN])
@pytest.mark.parametrize("shape", [(16, 3, 40, 41), (8, 64, 16, 16)])
def test_variance_beside_a_large_mean(shape, order):
    """x = 1e4 + randn: E[x^2] - E[x]^2 in float32 would leave nothing of the variance."""
    rng = np.random.default_rng(7)
    x = (1e4 + rng.standard_normal(shape)).astype(np.float32)
    x[:, 0] = 1e4
    wide = x.astype(np.float64)
    spec = [(shape[1:2], np.float32)] * 2
    mean, variance = statistics([in_order(x, order)], spec)
    np.testing.assert_allclose(mean, wide.mean(axis=(0, 2, 3)), rtol=1e-7)
    np.testing.assert_allclose(variance, wide.var(axis=(0, 2, 3)), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("order", [None, NHWC])
def test_variance_when_the_first_guess_of_the_mean_is_bad(order):
    """Images of other means, and a border unlike the rest, must not spoil the shifted sums."""
    rng = np.random.default_rng(8)
    x = rng.standard_normal((64, 2, 32, 32)).astype(np.float32)
    x[:5] += 1000
    x[..., 0] = -5e3
    wide = x.astype(np.float64)
    mean, variance = statistics([in_order(x, order)], [((2,), np.float32)] * 2)
    np.testing.assert_allclose(mean, wide.mean(axis=(0, 2, 3)), rtol=3e-6)
    np.testing.assert_allclose(variance, wide.var(axis=(0, 2, 3)), rtol=3e-6)


def test_infinity_and_nan_stay_in_their_channel():
    x, dy, weight, bias = make((4, 5, 6, 7), np.float32)
    x[1, 2, 3, 4], x[0, 3, 0, 0] = np.inf, np.nan
    mean, variance = statistics([x], [((5,), np.float32)] * 2)
    assert np.isposinf(mean[2]) and np.isnan(variance[2])
    assert np.isnan(mean[3]) and np.isnan(variance[3])
    assert np.isfinite(mean[[0, 1, 4]]).all() and np.isfinite(variance[[0, 1, 4]]).all()
    y = apply([x, mean, variance, weight, bias], [(x.shape, np.float32)], eps=1e-5)
    assert np.isfinite(y[:, [0, 1, 4]]).all() and np.isnan(y[:, 2:4]).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_running_statistics(dtype):
    rng = np.random.default_rng(9)
    running_mean, running_variance = rng.random((2, 3)).astype(dtype)
    x = rng.standard_normal((4, 3, 5, 2)).astype(dtype)
    mean, variance = reference.batch_norm_statistics(x)
    expected = reference.batch_norm_update(
        running_mean, running_variance, mean, variance, momentum=0.3, count=40
    )
    BACKEND.primitives["batch_norm_statistics"](
        x, running_mean, running_variance, np.empty(3, dtype), np.empty(3, dtype), momentum=0.3
    )
    close(running_mean, expected[0], dtype)
    close(running_variance, expected[1], dtype)


@pytest.mark.parametrize("order", [None, NHWC, CHWN])
def test_fused_forms_have_the_bits_of_their_parts(order):
    x, dy, weight, bias = make((4, 3, 8, 9), np.float32)
    addend = in_order(make((4, 3, 8, 9), np.float32, 5)[0], order)
    x, dy = in_order(x, order), in_order(dy, order)
    mean, variance = statistics([x], [((3,), np.float32)] * 2)
    like, channel = (x.shape, np.float32, order), ((3,), np.float32)
    plain = apply([x, mean, variance, weight, bias], [like], eps=1e-5)
    parts = np.maximum(plain + addend, 0)
    inputs = [x, mean, variance, weight, bias, addend]
    y = run("batch_norm", inputs, [like], eps=1e-5, relu=True)
    assert bits(y) == bits(parts)
    masked = np.where(y <= 0, np.float32(0), dy)
    expected = backward([in_order(masked, order), x, mean, variance, weight],
                        [like, channel, channel], eps=1e-5, training=True)  # fmt: skip
    outputs = run("batch_norm_backward", [dy, x, mean, variance, weight, y],
                  [like, channel, channel, like], eps=1e-5, training=True)  # fmt: skip
    for actual, wanted in zip(outputs, [*expected, masked]):
        assert bits(actual) == bits(wanted)


def test_against_torch():
    torch = pytest.importorskip("torch")
    x, dy, weight, bias = make((4, 3, 8, 9), np.float32)
    tensors = [torch.tensor(v, requires_grad=True) for v in (x, weight, bias)]
    y = torch.nn.functional.batch_norm(tensors[0], None, None, *tensors[1:], training=True)
    y.backward(torch.tensor(dy))
    channel, like = ((3,), np.float32), (x.shape, np.float32)
    mean, variance = statistics([x], [channel] * 2)
    ours = apply([x, mean, variance, weight, bias], [like], eps=1e-5)
    np.testing.assert_allclose(ours, y.detach().numpy(), rtol=1e-5, atol=1e-5)
    inputs = [dy, x, mean, variance, weight]
    outputs = backward(inputs, [like, channel, channel], eps=1e-5, training=True)
    for actual, tensor in zip(outputs, tensors):
        np.testing.assert_allclose(actual, tensor.grad.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4), (2, 0, 3, 3)])
def test_empty(shape):
    x, channels = np.zeros(shape, np.float32), np.ones(shape[1], np.float32)
    like, channel = (shape, np.float32), (shape[1:2], np.float32)
    mean, variance = statistics([x], [channel] * 2)
    assert np.isnan(mean).all() and np.isnan(variance).all()
    inputs = [x, channels, channels, None, None]
    assert apply(inputs, [like], eps=1e-5).shape == shape
    _, dweight, dbias = backward(
        [x, x, channels, channels, None], [like, channel, channel],
        eps=1e-5, training=True,
    )  # fmt: skip
    assert not dweight.any() and not dbias.any()


@pytest.mark.parametrize("channels", [4096, 300_000])
def test_a_relu_behind_many_channels(channels):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, channels, 1, 1)).astype(np.float32)
    mean, bias = (rng.standard_normal(channels).astype(np.float32) for _ in range(2))
    variance, weight = (rng.random(channels).astype(np.float32) + 0.5 for _ in range(2))
    y = run(
        "batch_norm",
        (x, mean, variance, weight, bias, None),
        [(x.shape, np.float32)],
        eps=1e-5,
        relu=True,
    )
    columns = (v[None, :, None, None].astype(np.float64) for v in (mean, variance, weight, bias))
    m, v, w, b = columns
    close(y, np.maximum((x - m) / np.sqrt(v + 1e-5) * w + b, 0), np.float32)
