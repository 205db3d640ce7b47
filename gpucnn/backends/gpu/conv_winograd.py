"""Winograd convolution F(2 x 2, 3 x 3): 2.25 times fewer multiplications, a little less accurate.

For GPUs whose fp32 lanes are their fastest way to fp32 sums (GeForce), where the precision is left
to gpucnn ("auto"): the error is within 2e-5 of the largest result, against about 1e-6 otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucnn.backends.gpu import kernel
from gpucnn.backends.gpu.instances import Instance, Plan, Problem
from gpucnn.backends.gpu.kernel import strided
from gpucnn.backends.gpu.operands import ceil_div, steps, struct
from gpucnn.backends.gpu.runtime import Array, DeviceProperties, Runtime

if TYPE_CHECKING:
    from gpucnn.ops.geometry import Conv2dGeometry

THREADS = 512
TILES, FILTERS, CHANNELS, FREQUENCIES = 32, 64, 4, 16  # of kernels/conv2d_winograd.cu

INSTANCES = tuple(
    Instance(
        "winograd", direction, "conv2d_winograd.cu", "conv2d_winograd", (),
        4 * TILES, FILTERS, 9 * CHANNELS, THREADS, 1, "winograd", 2.25 * 0.7,
    )
    for direction in ("forward", "backward_input")
)  # fmt: skip


def _sizes(direction: str, g: Conv2dGeometry) -> dict[str, int]:
    """struct Sizes of the kernel; the input and output of backward_input are dy and dx."""
    if direction == "forward":
        return {
            "images": g.n, "channels": g.c, "height": g.h, "width": g.w, "filters": g.k,
            "rows": g.p, "columns": g.q, "pad_top": g.pad_top, "pad_left": g.pad_left,
            "down": ceil_div(g.p, 2), "across": ceil_div(g.q, 2),
        }  # fmt: skip
    return {
        "images": g.n, "channels": g.k, "height": g.p, "width": g.q, "filters": g.c,
        "rows": g.h, "columns": g.w, "pad_top": 2 - g.pad_top, "pad_left": 2 - g.pad_left,
        "down": ceil_div(g.h, 2), "across": ceil_div(g.w, 2),
    }  # fmt: skip


def supports(instance: Instance, problem: Problem, properties: DeviceProperties) -> bool:
    """3 x 3 of stride 1; channels (of backward_input: filters) a multiple of 4."""
    g = problem.geometry
    sizes = _sizes(problem.direction, g)
    return (
        problem.dtype == "float32"
        and problem.aligned
        and (g.r, g.s, g.stride_h, g.stride_w, g.dilation_h, g.dilation_w) == (3, 3, 1, 1, 1, 1)
        and g.groups == 1
        and sizes["channels"] % CHANNELS == 0
        and g.n * max(g.c * g.h * g.w, g.k * g.p * g.q) < 2**32
    )


def plan(instance: Instance, problem: Problem, properties: DeviceProperties) -> Plan:
    """Tiles of 2 x 2 outputs and filters; before it the launch that transforms the filters."""
    sizes = _sizes(problem.direction, problem.geometry)
    tiles = sizes["images"] * sizes["down"] * sizes["across"]
    grid = ceil_div(tiles, TILES), ceil_div(sizes["filters"], FILTERS), 1
    outputs = sizes["images"] * sizes["rows"] * sizes["columns"] * sizes["filters"]
    # The first fetch and the transform of the results cost about three steps.
    share = sizes["channels"] / (sizes["channels"] + 3 * CHANNELS)
    useful = share * outputs / max(grid[0] * 4 * TILES * grid[1] * FILTERS, 1)
    workspace = 4 * grid[1] * FILTERS * FREQUENCIES * sizes["channels"]
    return Plan(grid, 1, sizes["channels"], workspace, 2, useful)


def transformed_filters(runtime: Runtime, w: Array) -> Array:
    """The filters w (outs, ins, 3, 3), of any strides, as the convolution wants them.

    The result holds for as long as the values of w do.
    """
    outs, ins = w.shape[:2]
    size = ceil_div(outs, FILTERS) * FILTERS * FREQUENCIES * ins
    result = runtime.empty((size,), w.dtype)
    function = kernel.get("conv2d_winograd_filter.cu", "conv2d_winograd_filter")
    step = steps(w)
    runtime.launch(
        function,
        (ceil_div(outs, FILTERS) * 2, ceil_div(ins, 8)),
        (256,),
        strided(w),
        result,
        struct(function, "Strides", None, **dict(zip("nchw", step, strict=True))),
        outs,
        ins,
        abs(step[1]) <= abs(step[0]),
    )
    return result


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
    u = transformed_filters(runtime, w)
    _launch(runtime, instance, "forward", geometry, (x, u, b, addend, None, y), relu)


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

    It is the convolution of dy with the filters turned and transposed.
    """
    u = transformed_filters(runtime, w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3))
    _launch(runtime, instance, "backward_input", geometry, (dy, u, None, addend, mask, dx), False)


def _launch(
    runtime: Runtime,
    instance: Instance,
    direction: str,
    geometry: Conv2dGeometry,
    arrays: tuple[Array | None, ...],
    relu: bool,
) -> None:
    function = kernel.get(instance.file, instance.entry)
    sizes = _sizes(direction, geometry)
    found = plan(instance, Problem(direction, geometry), runtime.properties())
    runtime.launch(
        function, found.grid, (THREADS,),
        *arrays, struct(function, "Sizes", None, **sizes), relu,
    )  # fmt: skip
