"""2-D convolution and its gradients, by the algorithm that `algorithms` chooses."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from gpucnn.backends.cpu import (
    algorithms,
    batch_last,
    depthwise,
    patch_products,
    reduce,
    winograd,
    winograd_depthwise,
    winograd_weight,
)
from gpucnn.backends.cpu.algorithm_times import (
    BACKWARD_INPUT,
    BACKWARD_WEIGHT,
    FORWARD,
    depthwise_tile,
)
from gpucnn.backends.cpu.algorithms import CHWN, NHWC
from gpucnn.backends.cpu.blocks import Array
from gpucnn.backends.cpu.epilogue import WHOLE, Epilogue
from gpucnn.backends.cpu.patches import blocks, by_tap, turned
from gpucnn.ops.geometry import Conv2dGeometry

_TILE = {"winograd4": 4, "winograd2": 2}


def conv2d(
    x: Array,
    w: Array,
    b: Array | None,
    addend: Array | None,
    y: Array,
    *,
    geometry: Conv2dGeometry,
    relu: bool,
    precision: str,
) -> None:
    """y (N, K, P, Q) = x (N, C, H, W) convolved with w (K, C/groups, R, S), plus b (K,).

    Plus `addend`; then, with `relu`, its positive part.
    """
    if y.size == 0:
        return
    if geometry.groups == 1 and algorithms.order(geometry) == CHWN and _is_dense(y, CHWN):
        images, out, more = (_in_order(v, CHWN) for v in (x, y, addend))
        finish = Epilogue(out, 0, b, more, None, relu)
        batch_last.forward(images, krsc(w), geometry, finish)
        return
    images, out, more = (_in_order(v, NHWC) for v in (x, y, addend))
    finish = Epilogue(out, 3, b, more, None, relu)
    for channels, filters, g in _groups(geometry):
        part = finish if g is geometry else finish.for_channels(filters)
        forward(images[..., channels], w[filters], g, precision, part)


def forward(x: Array, w: Array, g: Conv2dGeometry, precision: str, finish: Epilogue) -> None:
    """x (N, H, W, C) convolved with w (K, C/groups, R, S), for `finish`, as one group."""
    if g.c == 0:
        out = finish.target(WHOLE)
        out.fill(0)
        finish(WHOLE, out)
        return
    name = _choose(g, FORWARD, x.dtype, precision)
    if name == "depthwise":
        depthwise.forward(x, _rsc(w), g, finish)
    elif name == "depthwise_winograd":
        winograd_depthwise.forward(x, _rsc(w), depthwise_tile(g), g, finish)
    elif name in _TILE:
        winograd.forward(x, _rsck(w), _TILE[name], g, finish)
    else:
        patch_products.forward(x, _rsck(w), g, finish)


def conv2d_backward_input(
    dy: Array,
    w: Array,
    addend: Array | None,
    mask: Array | None,
    dx: Array,
    *,
    geometry: Conv2dGeometry,
    precision: str,
) -> None:
    """dx (N, C, H, W) from dy (N, K, P, Q) and w (K, C/groups, R, S).

    Plus `addend`; then 0 where `mask` <= 0.
    """
    if dx.size == 0:
        return
    if geometry.groups == 1 and algorithms.order(geometry) == CHWN:
        gradients, out, more, positive = (_in_order(v, CHWN) for v in (dy, dx, addend, mask))
        finish = Epilogue(out, 0, None, more, positive)
        batch_last.backward_input(gradients, krsc(w), geometry, finish)
        return
    gradients, out, more, positive = (_in_order(v, NHWC) for v in (dy, dx, addend, mask))
    finish = Epilogue(out, 3, None, more, positive)
    for channels, filters, g in _groups(geometry):
        part = finish if g is geometry else finish.for_channels(channels)
        _backward_input(gradients[..., filters], w[filters], g, precision, part)


def _backward_input(
    dy: Array, w: Array, g: Conv2dGeometry, precision: str, finish: Epilogue
) -> None:
    name = _choose(g, BACKWARD_INPUT, dy.dtype, precision)
    if name == "depthwise":
        depthwise.backward_input(dy, _rsc(w), g, finish)
        return
    if name == "depthwise_winograd":
        winograd_depthwise.backward_input(dy, _rsc(w), depthwise_tile(g), g, finish)
        return
    if name == "scatter":
        patch_products.scatter(dy, krsc(w), g, finish)
        return
    filters = w.transpose(2, 3, 0, 1)
    if name in _TILE:
        winograd.backward_input(dy, filters, _TILE[name], g, finish)
        return
    of_dy = turned(g)
    assert of_dy is not None  # or only scattering would do
    patch_products.forward(dy, filters[::-1, ::-1], of_dy, finish)


def conv2d_backward_weight(
    x: Array,
    dy: Array,
    dw: Array,
    db: Array | None = None,
    *,
    geometry: Conv2dGeometry,
    precision: str,
) -> None:
    """dw (K, C/groups, R, S) from x (N, C, H, W) and dy (N, K, P, Q), db (K) = the sums of dy."""
    g = geometry
    if g.n == 0 or g.p * g.q == 0 or dw.size == 0:
        dw[...] = 0
        if db is not None:
            reduce.reduce(dy, db, op="sum", axes=(0, 2, 3), keepdims=False)
        return
    if g.groups == 1 and algorithms.order(g) == CHWN and _is_dense(dy, CHWN):
        batch_last.backward_weight(_in_order(x, CHWN), _in_order(dy, CHWN), krsc(dw), db, g)
        return
    images, gradients = _in_order(x, NHWC), _in_order(dy, NHWC)
    for channels, filters, part in _groups(g):
        sums = None if db is None else db[filters]
        _backward_weight(
            images[..., channels], gradients[..., filters], dw[filters], sums, part, precision
        )


def _backward_weight(
    x: Array, dy: Array, dw: Array, db: Array | None, g: Conv2dGeometry, precision: str
) -> None:
    name = _choose(g, BACKWARD_WEIGHT, x.dtype, precision)
    if name == "depthwise":
        depthwise.backward_weight(x, dy, _rsc(dw), g)
    elif name in _TILE:
        winograd_weight.backward_weight(x, dy, dw.transpose(2, 3, 0, 1), _TILE[name], g)
    else:
        patch_products.backward_weight(x, dy, krsc(dw), db, g)
        return
    if db is not None:
        reduce.reduce(dy, db, op="sum", axes=(0, 1, 2), keepdims=False)


def writes_images(g: Conv2dGeometry, dtype: np.dtype[Any], precision: str) -> bool:
    """Whether `forward` writes images of channels last, all rows and columns of one at once."""
    if not _is_channels_last(g):
        return False
    name = _choose(g, FORWARD, dtype, precision)
    if name in _TILE:
        return winograd.writes_images(_TILE[name], g)
    return name != "depthwise" and patch_products.writes_images(g)


def reads_images(g: Conv2dGeometry, dtype: np.dtype[Any], precision: str) -> bool:
    """Whether `conv2d_backward_weight` reads dy of channels last once, all rows and columns of an
    image at once, and sums it as well: patches that are made by taps."""
    if not _is_channels_last(g):
        return False
    name = _choose(g, BACKWARD_WEIGHT, dtype, precision)
    by_products = name not in _TILE and name != "depthwise"
    return by_products and by_tap(g, g.c) and blocks(g, g.c)[0].p1 == g.p


def _is_channels_last(g: Conv2dGeometry) -> bool:
    """Whether it is one group, of images that are channels last and not empty."""
    empty = 0 in (g.n, g.c, g.k, g.p, g.q)
    return g.groups == 1 and not empty and algorithms.order(g) == NHWC


def _choose(g: Conv2dGeometry, direction: str, dtype: np.dtype[Any], precision: str) -> str:
    exact = dtype != np.float32
    return algorithms.explain(g, direction, "fp32" if exact else precision, NHWC)[0].name


def _groups(g: Conv2dGeometry) -> list[tuple[slice, slice, Conv2dGeometry]]:
    """For each group its channels, its filters, and the geometry of the group alone.

    Depthwise filters are one convolution: their groups have an algorithm of their own.
    """
    if g.groups == 1 or g.groups == g.c == g.k:
        return [(slice(0, g.c), slice(0, g.k), g)]
    c, k = g.c // g.groups, g.k // g.groups
    part = dataclasses.replace(g, c=c, k=k, groups=1)
    return [(slice(i * c, (i + 1) * c), slice(i * k, (i + 1) * k), part) for i in range(g.groups)]


def _in_order(array: Array | None, order: tuple[int, ...]) -> Any:
    return None if array is None else array.transpose(order)


def _is_dense(array: Array, order: tuple[int, ...]) -> bool:
    return array.transpose(order).flags.c_contiguous


def krsc(w: Array) -> Array:
    """Filters (K, C, R, S) as (K, R, S, C), their order in memory."""
    return w.transpose(0, 2, 3, 1)


def _rsck(w: Array) -> Array:
    """Filters (K, C, R, S) as (R, S, C, K), the order of a product from the right."""
    return w.transpose(2, 3, 1, 0)


def _rsc(w: Array) -> Array:
    """Depthwise filters (C, 1, R, S) as (R, S, C)."""
    return w[:, 0].transpose(1, 2, 0)
