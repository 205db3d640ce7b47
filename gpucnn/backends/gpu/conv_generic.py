"""Convolution of any float type, grouping, dilation and alignment, 4 x 4 results a thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucnn.backends.gpu import kernel, reduce, split_k
from gpucnn.backends.gpu.instances import DIRECTIONS, Instance, Plan, Problem
from gpucnn.backends.gpu.operands import aligned, boolean, ceil_div, real, struct
from gpucnn.backends.gpu.runtime import Array, DeviceProperties, Runtime
from gpucnn.backends.gpu.select import tile_share

if TYPE_CHECKING:
    from gpucnn.ops.geometry import Conv2dGeometry

TILE, DEPTH, THREADS = 64, 16, 256  # of kernels/gemm_tile.cuh

INSTANCES = tuple(
    Instance(
        "generic", direction, f"conv2d_{direction}.cu", f"conv2d_implicit_gemm_{direction}", (),
        TILE, TILE, DEPTH, THREADS, 3, "fp32", 0.45,
    )
    for direction in DIRECTIONS
)  # fmt: skip


def supports(instance: Instance, problem: Problem, properties: DeviceProperties) -> bool:
    """Everything but depthwise filters, which fill no tile."""
    return not (problem.geometry.groups == problem.geometry.c > 1)


def plan(instance: Instance, problem: Problem, properties: DeviceProperties) -> Plan:
    """Tiles, times groups, times splits of backward_weight's depth."""
    g = problem.geometry
    m, n, k = problem.product
    tiles = ceil_div(m, TILE), ceil_div(n, TILE)
    if problem.direction != "backward_weight":
        useful = tile_share(instance, problem.product)
        return Plan((*tiles, g.groups), 1, k, 0, 1, useful)
    itemsize = 8 if problem.dtype == "float64" else 4
    size = g.k * n
    splits, each = split_k.split(
        k, tiles[0] * tiles[1] * g.groups, 16 * DEPTH, DEPTH, size * itemsize
    )
    return Plan(
        (tiles[1], tiles[0], g.groups * splits),
        splits,
        each,
        splits * size * itemsize if splits > 1 else 0,
        2 if splits > 1 else 1,
        tile_share(instance, problem.product, splits),
    )


def forward(
    runtime: Runtime,
    instance: Instance,
    geometry: Conv2dGeometry,
    x: Array,
    w: Array,
    b: Array | None,
    addend: Array | None,
    y: Array,
    partial: Array | None,
    *,
    relu: bool,
) -> None:
    """y (N, K, P, Q) = [relu](x convolved with w, + b + addend)."""
    g = geometry
    channels, filters = g.c // g.groups, g.k // g.groups
    function = kernel.get(
        instance.file,
        instance.entry,
        real=real(y),
        VECTOR=boolean(channels % 4 == 0 and aligned(runtime, x, w)),
    )
    runtime.launch(
        function,
        plan(instance, Problem("forward", g, y.dtype.name), runtime.properties()).grid,
        (THREADS,),
        x, w, b, addend, y, struct(function, "Conv2d", g), relu,
        filters % 4 == 0 and aligned(runtime, y),
    )  # fmt: skip


def backward_input(
    runtime: Runtime,
    instance: Instance,
    geometry: Conv2dGeometry,
    dy: Array,
    w: Array,
    addend: Array | None,
    mask: Array | None,
    dx: Array,
) -> None:
    """dx (N, C, H, W) = (gradient + addend) where mask > 0, else 0."""
    g = geometry
    channels, filters = g.c // g.groups, g.k // g.groups
    function = kernel.get(
        instance.file,
        instance.entry,
        real=real(dx),
        VECTOR=boolean(channels % 4 == filters % 4 == 0 and aligned(runtime, dy, w)),
    )
    runtime.launch(
        function,
        plan(instance, Problem("backward_input", g, dx.dtype.name), runtime.properties()).grid,
        (THREADS,),
        dy, w, addend, mask, dx, struct(function, "Conv2d", g),
        channels % 4 == 0 and aligned(runtime, dx),
    )  # fmt: skip


def backward_weight(
    runtime: Runtime,
    instance: Instance,
    geometry: Conv2dGeometry,
    x: Array,
    dy: Array,
    dw: Array,
    db: Array | None,
) -> None:
    """dw (K, C/groups, R, S), and db (K,)."""
    g = geometry
    channels, filters = g.c // g.groups, g.k // g.groups
    found = plan(instance, Problem("backward_weight", g, dw.dtype.name), runtime.properties())
    target = dw if found.splits == 1 else runtime.empty((found.splits, dw.size), dw.dtype)
    function = kernel.get(
        instance.file,
        instance.entry,
        real=real(dw),
        VECTOR=boolean(channels % 4 == filters % 4 == 0 and aligned(runtime, x, dy)),
    )
    runtime.launch(
        function, found.grid, (THREADS,),
        x, dy, target, struct(function, "Conv2d", g), found.each,
        channels % 4 == 0 and aligned(runtime, target),
    )  # fmt: skip
    if found.splits > 1:
        split_k.sum_shares(runtime, target, dw)
    if db is not None:
        reduce.reduce(runtime, dy, db, op="sum", axes=(0, 2, 3), keepdims=False)
