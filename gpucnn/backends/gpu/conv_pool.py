"""A convolution and the max pool behind it as one primitive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucnn.backends.gpu import conv, conv_direct, select
from gpucnn.backends.gpu.instances import Instance
from gpucnn.backends.gpu.operands import CHANNELS_LAST, dense_or_none
from gpucnn.backends.gpu.pool import max_pool2d
from gpucnn.backends.gpu.runtime import Array, Runtime

if TYPE_CHECKING:
    from gpucnn.ops.geometry import Conv2dGeometry, Pool2dGeometry

GAIN = 1.5
"""How much slower than the best convolution the fused kernel may be: it saves a launch, and writing
and reading what it pools."""


def conv2d_max_pool(
    runtime: Runtime,
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
    """y (N, K, P', Q') = maxima of the pool's windows of [relu](x convolved with w, + b).

    argmax (N, K, P', Q') holds r*S + s of each maximum; where y is 0 because of the ReLU, any
    position of the window. One launch where a direct kernel pays, in any memory order of x, w, y
    and argmax; else the convolution and the pool.
    """
    if argmax is None:
        argmax = runtime.empty(y.shape, pool.argmax_dtype, CHANNELS_LAST)
    instance = _fused(runtime, geometry, pool, precision, y.dtype.name)
    if instance is not None:
        b = dense_or_none(runtime, b)
        conv_direct.forward_max_pool(
            runtime, instance, geometry, pool, x, w, b, y, argmax, relu=relu
        )
        return
    before = runtime.empty(geometry.y_shape, y.dtype, CHANNELS_LAST)
    conv.conv2d(runtime, x, w, b, None, before, geometry=geometry, relu=relu, precision=precision)
    max_pool2d(runtime, before, y, argmax, geometry=pool)


def _fused(
    runtime: Runtime, geometry: Conv2dGeometry, pool: Pool2dGeometry, precision: str, dtype: str
) -> Instance | None:
    """The direct instance that convolves and pools, where there is one and it pays."""
    if not conv_direct.pools(geometry, pool, dtype):
        return None
    properties = runtime.properties()
    fused = select.explain("forward_max_pool", geometry, precision, properties)[0]
    if select.is_forced(fused.instance):
        return fused.instance
    plain = select.explain("forward", geometry, precision, properties)[0]
    return fused.instance if GAIN * fused.score >= plain.score else None
