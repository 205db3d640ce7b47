"""What the rows must give: float64, in formulas that share no code with the engine.

Each function takes float64 arrays and returns `(y, pull)`; `pull(dy)` gives the gradients of its
array arguments in their order. Plain loops over filter taps and window positions, whole arrays
inside: obviously right first, quick enough second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpucnn.benchmarks.row import Array
from gpucnn.ops.geometry import Conv2dGeometry, Pool2dGeometry

Pull = Callable[[Array], tuple[Array | None, ...]]
Result = tuple[Array, Pull]


def conv2d(x: Array, w: Array, b: Array | None = None, **attributes: Any) -> Result:
    """y = M W^T + b, a few images at a time: row (n, p, q) of M holds what the filter sees there.

    Of M one block of columns (all channels) is copied a filter tap. No groups.
    """
    options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **attributes}
    g = Conv2dGeometry.of("reference", x.shape, w.shape, **options)
    pads = ((0, 0), (g.pad_top, g.pad_bottom), (g.pad_left, g.pad_right), (0, 0))
    images = np.pad(x.transpose(0, 2, 3, 1), pads)
    filters = w.transpose(2, 3, 1, 0).reshape(-1, g.k)
    few = max(1, 1024 // (g.p * g.q))
    parts = [slice(start, start + few) for start in range(0, g.n, few)]
    matrix = np.empty((few, g.p, g.q, g.r * g.s, g.c))

    def taps(images: Array) -> Iterator[tuple[int, Array]]:
        """For each tap its number and the view (n, P, Q, C) of the elements that it meets."""
        for r in range(g.r):
            rows = slice(r * g.dilation_h, r * g.dilation_h + (g.p - 1) * g.stride_h + 1)
            for s in range(g.s):
                columns = slice(s * g.dilation_w, s * g.dilation_w + (g.q - 1) * g.stride_w + 1)
                yield r * g.s + s, images[:, rows, columns][:, :: g.stride_h, :: g.stride_w]

    def seen(images: Array) -> Array:
        block = matrix[: len(images)]
        for number, view in taps(images):
            block[:, :, :, number] = view
        return block.reshape(-1, len(filters))

    y = np.empty((g.n, g.p, g.q, g.k))
    for part in parts:
        y[part] = (seen(images[part]) @ filters).reshape(-1, g.p, g.q, g.k)
    if b is not None:
        y += b

    def pull(dy: Array) -> tuple[Array, ...]:
        dx, dw = np.zeros_like(images), np.zeros_like(filters)
        for part in parts:
            rows = dy[part].transpose(0, 2, 3, 1).reshape(-1, g.k)
            dw += seen(images[part]).T @ rows
            shares = (rows @ filters.T).reshape(-1, *matrix.shape[1:])
            for number, view in taps(dx[part]):
                view += shares[:, :, :, number]
        dx = dx[:, g.pad_top : g.pad_top + g.h, g.pad_left : g.pad_left + g.w]
        dw = dw.reshape(g.r, g.s, g.c, g.k).transpose(3, 2, 0, 1)
        return dx.transpose(0, 3, 1, 2), dw, dy.sum((0, 2, 3))

    return y.transpose(0, 3, 1, 2), pull


def linear(x: Array, w: Array, b: Array) -> Result:
    return x @ w.T + b, lambda dy: (dy @ w, dy.T @ x, dy.sum(0))


def relu(x: Array) -> Result:
    return np.where(x > 0, x, 0.0), lambda dy: (np.where(x > 0, dy, 0.0),)


def sigmoid(x: Array) -> Result:
    y = 1 / (1 + np.exp(-x))
    return y, lambda dy: (dy * y * (1 - y),)


def add(x: Array, other: Array) -> Result:
    return x + other, lambda dy: (dy, dy)


def multiply(x: Array, other: Array) -> Result:
    return x * other, lambda dy: (dy * other, dy * x)


def flatten(x: Array, start_dim: int = 1) -> Result:
    return x.reshape(x.shape[0], -1), lambda dy: (dy.reshape(x.shape),)


def _windows(x: Array, g: Pool2dGeometry, fill: float) -> tuple[Array, list[Array]]:
    """A padded copy of x, and for each window position the view (N, C, P, Q) of its elements."""
    padded = np.pad(x, ((0, 0), (0, 0), (g.pad_h, g.pad_h), (g.pad_w, g.pad_w)),
                    constant_values=fill)  # fmt: skip
    views = [
        padded[:, :, r : r + (g.p - 1) * g.stride_h + 1 : g.stride_h,
               s : s + (g.q - 1) * g.stride_w + 1 : g.stride_w]
        for r in range(g.r) for s in range(g.s)
    ]  # fmt: skip
    return padded, views


def max_pool2d(x: Array, kernel_size: Any, stride: Any = None, padding: Any = 0) -> Result:
    """The first of the largest elements of a window gets its gradient."""
    g = Pool2dGeometry.of("reference", x.shape, kernel_size, stride, padding)
    _, views = _windows(x, g, -np.inf)
    stacked = np.stack(views)
    chosen = stacked.argmax(0)

    def pull(dy: Array) -> tuple[Array]:
        dx, targets = _windows(np.zeros_like(x), g, 0.0)
        for position, target in enumerate(targets):
            target += np.where(chosen == position, dy, 0.0)
        return (dx[:, :, g.pad_h : g.pad_h + g.h, g.pad_w : g.pad_w + g.w],)

    return stacked.max(0), pull


def avg_pool2d(x: Array, kernel_size: Any, stride: Any = None) -> Result:
    g = Pool2dGeometry.of("reference", x.shape, kernel_size, stride, 0)
    _, views = _windows(x, g, 0.0)

    def pull(dy: Array) -> tuple[Array]:
        dx, targets = _windows(np.zeros_like(x), g, 0.0)
        for target in targets:
            target += dy / (g.r * g.s)
        return (dx,)

    return np.mean(views, axis=0), pull


def global_avg_pool2d(x: Array) -> Result:
    """The mean of each channel of each image, (N, C, 1, 1)."""
    pixels = x.shape[2] * x.shape[3]
    return x.mean((2, 3), keepdims=True), lambda dy: (np.broadcast_to(dy / pixels, x.shape),)


def batch_norm(
    x: Array, mean: Array, var: Array, w: Array, b: Array, *, training: bool, eps: float = 1e-5
) -> Result:
    """Ioffe and Szegedy 2015, algorithm 1; with `training` the statistics are the batch's."""
    axes, column = (0, 2, 3), (slice(None), None, None)
    if training:
        mean, var = x.mean(axes), x.var(axes)
    inverse = 1 / np.sqrt(var + eps)
    xhat = (x - mean[column]) * inverse[column]

    def pull(dy: Array) -> tuple[Array | None, ...]:
        dw, db = (dy * xhat).sum(axes), dy.sum(axes)
        centred = dy
        if training:
            count = x.size // x.shape[1]
            centred = dy - db[column] / count - xhat * dw[column] / count
        return centred * (w * inverse)[column], None, None, dw, db

    return xhat * w[column] + b[column], pull


def cross_entropy(logits: Array, target: Array) -> Result:
    """The mean of -log softmax(logits)[target] over rows whose target is not -100."""
    shifted = logits - logits.max(1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    rows = np.flatnonzero(target != -100)
    loss = -log_probabilities[rows, target[rows]].mean()

    def pull(dy: Array) -> tuple[Array | None, ...]:
        gradient = np.zeros_like(logits)
        gradient[rows] = np.exp(log_probabilities[rows])
        gradient[rows, target[rows]] -= 1
        return gradient * (dy / len(rows)), None

    return np.asarray(loss), pull


def dropout(x: Array, p: float, key: tuple[int, int]) -> Result:
    """Element i stays where the i-th 32-bit word of the Philox stream reaches p 2^32."""
    stream = np.random.Philox(key=np.array(key, np.uint64))
    words = stream.random_raw(-(-x.size // 2)).astype("<u8").view("<u4")[: x.size]
    factor = (words >= round(p * 2**32)).reshape(x.shape) / (1 - p)
    return x * factor, lambda dy: (dy * factor,)
