"""Depthwise convolution of 3 x 3 by quads of channels: the instances of `conv_depthwise` that move
every byte about once. float32, one filter a channel, channels a multiple of 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gpucnn.backends.gpu import kernel
from gpucnn.backends.gpu.instances import Instance, Plan, Problem
from gpucnn.backends.gpu.operands import ceil_div, power_of_two, struct
from gpucnn.backends.gpu.runtime import Array, Runtime
from gpucnn.backends.gpu.split_k import BLOCKS
from gpucnn.backends.gpu.weight_shares import written_in_shares

if TYPE_CHECKING:
    from gpucnn.ops.geometry import Conv2dGeometry

THREADS = 128  # of kernels/conv2d_depthwise_quads.cuh
WARPS = THREADS // 32
FEW = 432
"""Warps that are too few for a large device."""


def _instance(direction: str, file: str, stride: int, *defines: tuple[str, str]) -> Instance:
    # Bound by memory: the share of the pipe says nothing, there is no other choice.
    return Instance(
        "depthwise", direction, f"conv2d_depthwise_quads_{file}.cu",
        f"conv2d_depthwise_quads_{file}", defines,
        32 if stride == 1 else 16, 32, 9, THREADS, 3, "fp32", 0.6, 1,
    )  # fmt: skip


INSTANCES = (
    _instance("forward", "forward", 1, ("STRIDE", "1")),
    _instance("forward", "forward", 2, ("STRIDE", "2")),
    _instance("backward_input", "forward", 1, ("STRIDE", "1")),
    _instance("backward_input", "backward_input", 2),
    _instance("backward_weight", "backward_weight", 1, ("STRIDE", "1")),
    _instance("backward_weight", "backward_weight", 2, ("STRIDE", "2")),
)


class Walk(NamedTuple):
    """struct Walk of the kernels."""

    band: int
    bands: int
    across: int
    lanes: int
    groups: int
    items: int

    @property
    def warps(self) -> int:
        """Of one group of channels."""
        return ceil_div(self.items, 32 // self.lanes)


def _stride(instance: Instance) -> int:
    return int(dict(instance.defines).get("STRIDE", "2"))


def supports(instance: Instance, problem: Problem) -> bool:
    """3 x 3 of the instance's stride, without dilation, one filter a channel, whole quads."""
    g = problem.geometry
    return (
        instance.direction == problem.direction
        and problem.dtype == "float32"
        and problem.aligned
        and g.groups == g.c == g.k
        and g.c % 4 == 0
        and (g.r, g.s, g.dilation_h, g.dilation_w) == (3, 3, 1, 1)
        and (g.stride_h, g.stride_w) == (_stride(instance),) * 2
    )


def _walk(direction: str, g: Conv2dGeometry) -> Walk:
    """Rows and columns of outputs (of dy, in pairs of dx, for backward_input of a stride of 2)."""
    rows, columns = g.p, g.q
    if direction == "backward_input":
        padded = g.h + g.pad_top, g.w + g.pad_left
        rows, columns = (g.h, g.w) if g.stride_h == 1 else (ceil_div(n, 2) for n in padded)
    # Two quads fill a sector; the more threads of a row lie in a warp, the more columns come by
    # shuffles. The longer the bands, the fewer rows are read twice.
    lanes = power_of_two(g.c // 4, 2)
    groups, across = ceil_div(g.c // 4, lanes), ceil_div(columns, 4 if g.stride_h == 1 else 2)
    bands = max(ceil_div(rows, 56), 1)
    while bands < rows // 8 and g.n * bands * across * groups * lanes < 32 * FEW:
        bands += 1
    band = ceil_div(rows, bands)
    bands = ceil_div(rows, max(band, 1))
    return Walk(band, bands, across, lanes, groups, g.n * bands * across)


def plan(instance: Instance, problem: Problem) -> Plan:
    """Blocks of warps; of backward_weight they share the pixels of a group of channels."""
    g = problem.geometry
    walk = _walk(problem.direction, g)
    if problem.direction != "backward_weight":
        return Plan((ceil_div(walk.warps * walk.groups, WARPS), 1, 1))
    each = ceil_div(ceil_div(walk.warps, WARPS), max(BLOCKS // walk.groups, 1))
    splits = max(ceil_div(walk.warps, WARPS * max(each, 1)), 1)
    size = 4 * splits * g.c * 10
    return Plan(
        (splits, walk.groups, 1), splits, each, size if splits > 1 else 0, 1 + (splits > 1)
    )  # fmt: skip


def forward(
    runtime: Runtime,
    instance: Instance,
    geometry: Conv2dGeometry,
    x: Array,
    w: Array,
    b: Array | None,
    addend: Array | None,
    y: Array,
    relu: bool,
) -> None:
    """y = [relu](x convolved with w, + b + addend)."""
    pads = geometry.pad_top, geometry.pad_left
    _forward(runtime, instance, "forward", geometry, (x, w, b, addend, None, y), pads, relu)


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
    """dx = (gradient + addend) where mask > 0, else 0."""
    g = geometry
    if g.stride_h == 1:
        pads = 2 - g.pad_top, 2 - g.pad_left
        arrays = (dy, w, None, addend, mask, dx)
        _forward(runtime, instance, "backward_input", g, arrays, pads, False)
        return
    walk = _walk("backward_input", g)
    function = kernel.get(instance.file, instance.entry)
    runtime.launch(
        function, plan(instance, Problem("backward_input", g)).grid, (THREADS,),
        dy, w, addend, mask, dx, struct(function, "Conv2d", g), struct(function, "Walk", walk),
    )  # fmt: skip


def _forward(
    runtime: Runtime,
    instance: Instance,
    direction: str,
    g: Conv2dGeometry,
    arrays: tuple[Array | None, ...],
    pads: tuple[int, int],
    relu: bool,
) -> None:
    function = kernel.get(instance.file, instance.entry, **dict(instance.defines))
    turned = direction == "backward_input"
    sizes = {"h": g.p, "w": g.q, "p": g.h, "q": g.w} if turned else {}
    runtime.launch(
        function, plan(instance, Problem(direction, g)).grid, (THREADS,),
        *arrays,
        struct(function, "Conv2d", g, **sizes, pad_top=pads[0], pad_left=pads[1]),
        struct(function, "Walk", _walk(direction, g)),
        struct(function, "Epilogue", None, turned=turned, relu=relu),
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
    """dw (C, 1, 3, 3), and db (C,)."""
    g = geometry
    found = plan(instance, Problem("backward_weight", g))
    function = kernel.get(instance.file, instance.entry, **dict(instance.defines))
    with written_in_shares(runtime, dw, db, found.splits) as (target, bias_target, share):
        runtime.launch(
            function, found.grid, (THREADS,),
            x, dy, target, bias_target, struct(function, "Conv2d", g),
            struct(function, "Walk", _walk("backward_weight", g)), share,
        )  # fmt: skip
