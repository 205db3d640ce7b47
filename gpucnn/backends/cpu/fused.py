"""Primitives that join several: the parts one after the other, so with their bits."""

from __future__ import annotations

from gpucnn.backends.cpu import algorithms, conv, elementwise, norm, patch_products
from gpucnn.backends.cpu.algorithms import NHWC
from gpucnn.backends.cpu.blocks import Array
from gpucnn.backends.cpu.epilogue import BEFORE_POOL, Epilogue, Pooling
from gpucnn.backends.cpu.max_pool import max_pool2d, max_pool2d_backward
from gpucnn.backends.cpu.pooled_gradient import PooledGradient
from gpucnn.backends.cpu.workspace import workspace
from gpucnn.ops.geometry import Conv2dGeometry, Pool2dGeometry


def conv2d_statistics(
    x: Array,
    w: Array,
    b: Array | None,
    running_mean: Array | None,
    running_variance: Array | None,
    y: Array,
    mean: Array,
    variance: Array,
    *,
    geometry: Conv2dGeometry,
    precision: str,
    momentum: float,
) -> None:
    """y of `conv2d`; mean, variance and running statistics of `batch_norm_statistics`."""
    conv.conv2d(x, w, b, None, y, geometry=geometry, relu=False, precision=precision)
    norm.batch_norm_statistics(y, running_mean, running_variance, mean, variance, momentum=momentum)


def conv2d_max_pool(
    x: Array,
    w: Array,
    b: Array | None,
    y: Array,
    argmax: Array | None = None,
    *,
    geometry: Conv2dGeometry,
    pool: Pool2dGeometry,
    relu: bool,
    precision: str,
) -> None:
    """y and, if wanted, argmax = max_pool2d of x * w + b; then, with `relu`, y's positive part.

    The ReLU works on the maxima, which are fewer: it never makes a smaller value the larger one.
    """
    if conv.writes_images(geometry, x.dtype, precision) and y.size:
        images, out = x.transpose(NHWC), y.transpose(NHWC)
        found = Pooling(out, None if argmax is None else argmax.transpose(NHWC), pool)
        finish = Epilogue(out, 3, b, relu=relu, pool=found)
        conv.forward(images, w, geometry, precision, finish)
        return
    whole = _before_pool(geometry, y)
    conv.conv2d(x, w, b, None, whole, geometry=geometry, relu=False, precision=precision)
    max_pool2d(whole, y, argmax, geometry=pool)
    if relu:
        elementwise.unary(y, y, op="relu")


def conv2d_max_pool_backward_weight(
    x: Array,
    dy: Array,
    argmax: Array,
    y: Array | None,
    dw: Array,
    db: Array | None = None,
    *,
    geometry: Conv2dGeometry,
    pool: Pool2dGeometry,
    precision: str,
) -> None:
    """dw and db of `conv2d_backward_weight` for the gradient that `max_pool2d_backward` gives."""
    g = geometry
    if conv.reads_images(g, x.dtype, precision) and dy.size:
        small, places = dy.transpose(NHWC), argmax.transpose(NHWC)
        gradient = PooledGradient(small, places, None if y is None else y.transpose(NHWC), pool)
        patch_products.backward_weight(x.transpose(NHWC), gradient, conv.krsc(dw), db, g)
        return
    whole = _before_pool(g, dy)
    max_pool2d_backward(dy, argmax, y, whole, geometry=pool)
    conv.conv2d_backward_weight(x, whole, dw, db, geometry=g, precision=precision)


def _before_pool(g: Conv2dGeometry, like: Array) -> Array:
    """Scratch memory (N, K, P, Q) for what is pooled, or its gradient."""
    order = algorithms.order(g)
    memory = workspace(BEFORE_POOL, tuple([g.y_shape[axis] for axis in order]), like.dtype)
    return memory.transpose(sorted(range(4), key=order.__getitem__))
