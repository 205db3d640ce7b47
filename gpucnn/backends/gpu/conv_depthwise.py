"""Depthwise convolution: each channel has its own filters, and there is no matrix product."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucnn.backends.gpu import depthwise_quads, kernel, reduce, split_k
from gpucnn.backends.gpu.instances import DIRECTIONS, Instance, Plan, Problem
from gpucnn.backends.gpu.operands import ceil_div, power_of_two, real, struct
from gpucnn.backends.gpu.runtime import Array, DeviceProperties, Runtime

if TYPE_CHECKING:
    from gpucnn.ops.geometry import Conv2dGeometry

THREADS = 256

_SINGLE = tuple(
    Instance(
        "depthwise", direction, "conv2d_depthwise.cu", f"conv2d_depthwise_{direction}", (),
        8, 32, 1, THREADS, 4, "fp32", 0.2, 1,
    )
    for direction in DIRECTIONS
)  # fmt: skip

INSTANCES = (*_SINGLE, *depthwise_quads.INSTANCES)


def supports(instance: Instance, problem: Problem, properties: DeviceProperties) -> bool:
    """One channel a group: whole quads of them where `depthwise_quads` can, else single ones."""
    if problem.geometry.groups != problem.geometry.c or problem.geometry.c == 1:
        return False
    quads = [one for one in depthwise_quads.INSTANCES if depthwise_quads.supports(one, problem)]
    return instance in quads or (instance in _SINGLE and not quads)


def plan(instance: Instance, problem: Problem, properties: DeviceProperties) -> Plan:
    """Threads over (pixels, channels); backward_weight: over filters, taps and splits."""
    if instance not in _SINGLE:
        return depthwise_quads.plan(instance, problem)
    g = problem.geometry
    channels = g.c if problem.direction == "backward_input" else g.k
    lanes = power_of_two(channels, 32)
    rows, columns = THREADS // lanes, ceil_div(channels, lanes)
    if problem.direction == "forward":
        return Plan((ceil_div(g.n * g.p * g.q, rows), columns, 1))
    if problem.direction == "backward_input":
        return Plan((ceil_div(g.n * g.h * g.w, rows), columns, 1))
    nbytes = g.k * g.r * g.s * (8 if problem.dtype == "float64" else 4)
    splits, each = split_k.split(g.n * g.p * g.q, columns * g.r * g.s, 16 * rows, rows, nbytes)
    shared = splits > 1
    return Plan(
        (columns, g.r * g.s, splits), splits, each, splits * nbytes * shared, 2 if shared else 1
    )


def _shape(
    direction: str, geometry: Conv2dGeometry, dtype: str, instance: Instance, runtime: Runtime
) -> tuple[Plan, tuple[int, int]]:
    """The launch, and its block with channels on x: neighbours in memory are neighbours there."""
    found = plan(instance, Problem(direction, geometry, dtype), runtime.properties())
    lanes = power_of_two(geometry.c if direction == "backward_input" else geometry.k, 32)
    return found, (lanes, THREADS // lanes)


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
    """y (N, K, P, Q) = [relu](x convolved with w (K, 1, R, S), + b + addend)."""
    if instance not in _SINGLE:
        depthwise_quads.forward(runtime, instance, geometry, x, w, b, addend, y, relu)
        return
    found, block = _shape("forward", geometry, y.dtype.name, instance, runtime)
    function = kernel.get(instance.file, instance.entry, real=real(y))
    runtime.launch(
        function, found.grid, block,
        x, w, b, addend, y, struct(function, "Conv2d", geometry), relu,
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
    if instance not in _SINGLE:
        depthwise_quads.backward_input(runtime, instance, geometry, dy, w, addend, mask, dx)
        return
    found, block = _shape("backward_input", geometry, dx.dtype.name, instance, runtime)
    function = kernel.get(instance.file, instance.entry, real=real(dx))
    runtime.launch(
        function, found.grid, block,
        dy, w, addend, mask, dx, struct(function, "Conv2d", geometry),
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
    """dw (K, 1, R, S), and db (K,)."""
    if instance not in _SINGLE:
        depthwise_quads.backward_weight(runtime, instance, geometry, x, dy, dw, db)
        return
    found, block = _shape("backward_weight", geometry, dw.dtype.name, instance, runtime)
    target = dw if found.splits == 1 else runtime.empty((found.splits, dw.size), dw.dtype)
    function = kernel.get(instance.file, instance.entry, real=real(dw))
    runtime.launch(
        function, found.grid, block,
        x, dy, target, struct(function, "Conv2d", geometry), found.each,
    )  # fmt: skip
    if found.splits > 1:
        split_k.sum_shares(runtime, target, dw)
    if db is not None:
        reduce.reduce(runtime, dy, db, op="sum", axes=(0, 2, 3), keepdims=False)
