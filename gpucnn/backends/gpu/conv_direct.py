"""Direct convolution: few channels or filters, where the tiles of a matrix product stay empty.

Everything is float32; images, filters and results may have any strides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucnn.backends.gpu import conv_direct_tiles, conv_direct_weight, kernel, select
from gpucnn.backends.gpu.conv_direct_tiles import THREADS, Shape, Sizes, Tiling
from gpucnn.backends.gpu.instances import Instance, Plan, Problem
from gpucnn.backends.gpu.kernel import strided
from gpucnn.backends.gpu.operands import (
    CHANNELS_LAST,
    aligned,
    in_order,
    steps,
    struct,
)
from gpucnn.backends.gpu.runtime import Array, DeviceProperties, Runtime

if TYPE_CHECKING:
    from gpucnn.ops.geometry import Conv2dGeometry, Pool2dGeometry


_SHAPES = (
    *(Shape(3, 1, *how) for how in ((2, 3), (2, 4), (4, 3), (4, 4), (4, 8), (8, 8))),
    *(Shape(5, 1, *how) for how in ((2, 3), (4, 4), (4, 8))),
    Shape(3, 2, 8, 4),
    Shape(3, 2, 8, 8),
    Shape(7, 2, 8, 8),
    Shape(11, 4, 8, 8),
)
_PIPE = {(3, 1, 8): 0.94, (5, 1, 8): 0.95, (11, 4, 8): 0.88}
"""Share of multiply-adds in the main loop by (filter, stride, filters); 0.91 for the others."""


def _instance(direction: str, entry: str, shape: Shape, statistics: bool = False) -> Instance:
    defines = [(n, str(v)) for n, v in zip(("FILTER", "STRIDE", "LANES", "FILTERS"), shape)]
    if statistics:
        defines.append(("STATISTICS", "true"))
    rows, columns = shape.patch
    return Instance(
        "direct", direction, f"{entry}.cu", entry, tuple(defines),
        THREADS // shape.lanes * rows * columns, shape.block_filters, shape.filter**2, THREADS,
        2 if shape.filters == 8 or shape.filter > 3 else 3,
        "fp32", _PIPE.get((shape.filter, shape.stride, shape.filters), 0.91), 1,
        statistics=statistics,
    )  # fmt: skip


INSTANCES = (
    *(_instance("forward", "conv2d_direct_forward", shape) for shape in _SHAPES),
    # Before batch norm: the stems of residual networks.
    *(
        _instance("forward", "conv2d_direct_forward", Shape(*shape), statistics=True)
        for shape in ((3, 1, 8, 8), (7, 2, 8, 8))
    ),
    *(
        _instance("backward_input", "conv2d_direct_forward", shape)
        for shape in _SHAPES
        if shape.stride == 1
    ),
    *(
        _instance("forward_max_pool", "conv2d_direct_max_pool", shape)
        for shape in _SHAPES
        if shape.stride == 1
    ),
    *conv_direct_weight.INSTANCES,
)


def _sizes(direction: str, g: Conv2dGeometry) -> Sizes:
    if direction == "backward_input":
        return Sizes(
            g.n, g.k, g.p, g.q, g.c, g.h, g.w, g.r - 1 - g.pad_top, g.s - 1 - g.pad_left
        )  # fmt: skip
    return Sizes(g.n, g.c, g.h, g.w, g.k, g.p, g.q, g.pad_top, g.pad_left)


def _shape(instance: Instance) -> Shape:
    return Shape(*(int(value) for _, value in instance.defines[:4]))


def _planned(
    instance: Instance, sizes: Sizes, properties: DeviceProperties
) -> tuple[Tiling, float] | None:
    """The tiles and their useful share, or None where the instance cannot make any."""
    count = properties.multiprocessors
    return conv_direct_tiles.plan(_shape(instance), sizes, count, instance.statistics)


def supports(instance: Instance, problem: Problem, properties: DeviceProperties) -> bool:
    """float32, one group, no dilation, the instance's filter and stride; statistics: full tiles."""
    g = problem.geometry
    if problem.dtype != "float32" or g.groups != 1 or (g.dilation_h, g.dilation_w) != (1, 1):
        return False
    if instance.direction == "backward_weight":
        return conv_direct_weight.supports(instance, g)
    shape, sizes = _shape(instance), _sizes(problem.direction, g)
    return (
        (g.r, g.s) == (shape.filter,) * 2
        and (g.stride_h, g.stride_w) == (shape.stride,) * 2
        and _planned(instance, sizes, properties) is not None
    )


def in_any_order(
    runtime: Runtime,
    direction: str,
    geometry: Conv2dGeometry,
    precision: str,
    operands: tuple[Array, ...],
    results: tuple[Array | None, ...],
    statistics: bool = False,
) -> Instance | None:
    """The instance chosen for arrays that do not all lie channels-last, if it is one of these.

    It takes them as they lie, where others need copies. `results`: the result, and operands that
    have to lie as it does. `statistics` as of `select.choose`.
    """
    given = [array for array in results if array is not None]
    if all(in_order(array, CHANNELS_LAST) for array in (*operands, *given)):
        return None
    if any(array.strides != given[0].strides for array in given):
        return None
    instance = select.choose(
        direction, geometry, precision, runtime.properties(), dtype=given[0].dtype.name,
        statistics=statistics,
    )  # fmt: skip
    return instance if instance.algorithm == "direct" else None


def pools(geometry: Conv2dGeometry, pool: Pool2dGeometry, dtype: str) -> bool:
    """Whether there is an instance of `forward_max_pool`: windows of 2 x 2 side by side."""
    windows = (pool.r, pool.s, pool.stride_h, pool.stride_w) == (2, 2, 2, 2)
    if not windows or pool.pad_h or pool.pad_w or (pool.dilation_h, pool.dilation_w) != (1, 1):
        return False
    g = geometry
    plain = g.groups == g.dilation_h == g.dilation_w == g.stride_h == g.stride_w == 1
    shapes = {(shape.filter, shape.filter) for shape in _SHAPES if shape.stride == 1}
    return dtype == "float32" and plain and (g.r, g.s) in shapes


def plan(instance: Instance, problem: Problem, properties: DeviceProperties) -> Plan:
    """One launch; of backward_weight a second one where the shares are summed."""
    if instance.direction == "backward_weight":
        return conv_direct_weight.plan(instance, problem.geometry)
    shape, sizes = _shape(instance), _sizes(problem.direction, problem.geometry)
    found = _planned(instance, sizes, properties)
    if found is None:
        raise ValueError(f"{instance.name}: no tile fits {problem}")
    # An epilogue that is not wanted counts against an instance, a little.
    useful = found[1] * (1 if problem.statistics or not instance.statistics else 0.98)
    return Plan(found[0].grid(sizes, shape), 1, 0, 0, 1, useful)


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
    """y (N, K, P, Q) = [relu](x convolved with w, + b + addend).

    x, w and y may have any strides, addend those of y. With partial (see `Algorithm`) the
    statistics of y, by the instances that have them: without relu and addend.
    """
    sizes = _sizes("forward", geometry)
    _launch(runtime, instance, sizes, x, w, (b, addend, None), (y,), relu, partial=partial)


def forward_max_pool(
    runtime: Runtime,
    instance: Instance,
    geometry: Conv2dGeometry,
    pool: Pool2dGeometry,
    x: Array,
    w: Array,
    b: Array | None,
    y: Array,
    argmax: Array,
    *,
    relu: bool,
) -> None:
    """y (N, K, P', Q') = max pool of [relu](x convolved with w, + b), argmax its places (uint8).

    All may have any strides.
    """
    sizes = _sizes("forward", geometry)
    _launch(runtime, instance, sizes, x, w, (b,), (y, argmax), relu, (pool.p, pool.q))


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
    """dx (N, C, H, W) = (gradient + addend) where mask > 0, else 0.

    It is the convolution of dy with the filters turned and transposed, by their strides.
    """
    turned = w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    sizes = _sizes("backward_input", geometry)
    _launch(runtime, instance, sizes, dy, turned, (None, addend, mask), (dx,), False)


backward_weight = conv_direct_weight.backward_weight


def _launch(
    runtime: Runtime,
    instance: Instance,
    sizes: Sizes,
    x: Array,
    w: Array,
    optional: tuple[Array | None, ...],
    outputs: tuple[Array, ...],
    relu: bool,
    pooled: tuple[int, int] | None = None,
    partial: Array | None = None,
) -> None:
    function = kernel.get(instance.file, instance.entry, **dict(instance.defines))
    shape = _shape(instance)
    found = _planned(instance, sizes, runtime.properties())
    if found is None:
        raise ValueError(f"{instance.name}: no tile fits {sizes}")
    tiling = found[0]
    y_steps = [steps(output) for output in outputs]
    x_steps, w_steps = steps(x), steps(w)
    quads = sizes.channels % 4 == tiling.chunk % 4 == 0
    together = [array for array in (*optional[1:], *outputs[:1]) if array is not None]
    fastest = min(range(3), key=lambda axis: abs((w_steps[0], w_steps[1], w_steps[3])[axis]))
    layout = struct(
        function, "Layout", None,
        x_by_channel=abs(x_steps[1]) <= abs(x_steps[3]),
        x_vector=x_steps[1] == 1 and quads and _whole_quads(x_steps) and aligned(runtime, x),
        weight_fastest=fastest,
        weight_vector=w_steps[1] == 1 and quads and _whole_quads(w_steps) and aligned(runtime, w),
        y_by_channel=abs(y_steps[0][1]) <= abs(y_steps[0][3]),
        y_vector=y_steps[0][1] == 1 and sizes.filters % 4 == shape.filters % 4 == 0
        and _whole_quads(y_steps[0]) and aligned(runtime, *together),
        relu=relu,
    )  # fmt: skip
    planes = struct(
        function, "Planes", tiling, rows=tiling.input_rows, columns=tiling.input_columns
    )
    extent = []
    if pooled is not None:
        extent.append(struct(function, "Pooled", None, rows=pooled[0], columns=pooled[1]))
    more = [partial] if pooled is None else []
    strides = [
        struct(function, "Strides", None, **dict(zip("nchw", step, strict=True)))
        for step in (x_steps, w_steps, *y_steps)
    ]
    runtime.launch(
        function,
        tiling.grid(sizes, shape),
        (tiling.threads(shape),),
        strided(x), strided(w),
        *(None if array is None else strided(array) for array in optional),
        *(strided(output) for output in outputs), *more,
        struct(function, "Sizes", sizes), *extent, struct(function, "Tile", tiling),
        planes, *strides, layout,
        shared=tiling.shared(shape),
    )  # fmt: skip


def _whole_quads(step: tuple[int, ...]) -> bool:
    """Whether all strides but that of the channels keep 128-bit accesses aligned."""
    return step[0] % 4 == step[2] % 4 == step[3] % 4 == 0
