"""Primitives that `gpucnn.capture` puts in the place of several; no user's function calls them."""

from __future__ import annotations

from gpucnn import backends
from gpucnn.core.dispatch import CHANNELS_LAST, Spec
from gpucnn.core.primitive import mutating, primitive
from gpucnn.core.tensor import Tensor
from gpucnn.ops.geometry import Conv2dGeometry, Pool2dGeometry


@mutating(3, 4)
def conv2d_statistics(
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    running_mean: Tensor | None,
    running_variance: Tensor | None,
    *,
    geometry: Conv2dGeometry,
    precision: str,
    momentum: float,
) -> list[Spec]:
    """y of `conv2d`, and mean and variance of y as by `batch_norm_statistics`."""
    order = backends.get(x.device).preferred_order(geometry)
    channel = Spec((geometry.k,), x.dtype)
    return [Spec(geometry.y_shape, x.dtype, order), channel, channel]


@primitive
def conv2d_max_pool(
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    *,
    geometry: Conv2dGeometry,
    pool: Pool2dGeometry,
    relu: bool,
    precision: str,
    with_argmax: bool,
) -> list[Spec]:
    """y of `max_pool2d` over `conv2d` (with its ReLU); argmax too, or not, as of `max_pool2d`.

    Where a ReLU makes y zero, any position of the window will do for argmax: the gradient is 0.
    """
    order = backends.get(x.device).preferred_order(geometry)
    y = Spec(pool.y_shape, x.dtype, order)
    return [y, y._replace(dtype=pool.argmax_dtype)] if with_argmax else [y]


@primitive
def conv2d_max_pool_backward_weight(
    x: Tensor,
    dy: Tensor,
    argmax: Tensor,
    y: Tensor | None,
    *,
    geometry: Conv2dGeometry,
    pool: Pool2dGeometry,
    precision: str,
    with_bias: bool,
) -> list[Spec]:
    """The gradients of filters and bias, as of `conv2d_backward_weight`, for that of a max pool's
    images, as of `max_pool2d_backward`. Of the cpu alone."""
    dw = Spec(geometry.w_shape, dy.dtype, CHANNELS_LAST)
    return [dw, Spec((geometry.k,), dy.dtype)] if with_bias else [dw]
