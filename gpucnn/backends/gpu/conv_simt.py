"""Float convolution as implicit matrix products on the ordinary lanes, with 8 x 8 results a thread.

C/groups and K/groups are multiples of 4. backward_input with a stride is one product for each class
of input pixels that share their taps; backward_weight is split over the pixels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from gpucnn.backends.gpu import kernel, split_k
from gpucnn.backends.gpu.instances import Instance, Plan, Problem
from gpucnn.backends.gpu.kernel import Kernel
from gpucnn.backends.gpu.operands import ceil_div, struct
from gpucnn.backends.gpu.runtime import MAX_GRID, Array, DeviceProperties, Runtime
from gpucnn.backends.gpu.select import FLOPS_PER_BYTE, tile_share, wave_share

if TYPE_CHECKING:
    from gpucnn.ops.geometry import Conv2dGeometry

MAX_TAPS = 128  # of kernels/conv2d_simt.cuh


def _instance(direction: str, tile: tuple[int, int, int], blocks: int, pipe_cap: float) -> Instance:
    m, n, k = tile
    if direction == "backward_weight":  # few filters, many columns
        m, n = min(m, n), max(m, n)
    defines = {"TILE_M": m, "TILE_N": n, "TILE_K": k, "BLOCKS": blocks}
    return Instance(
        "simt",
        direction,
        f"conv2d_simt_{direction}.cu",
        f"conv2d_implicit_gemm_simt_{direction}",
        tuple((name, str(value)) for name, value in defines.items()),
        m, n, k, m * n // 64, blocks, "fp32", pipe_cap,
        statistics=direction == "forward",
    )  # fmt: skip


# The share of multiply-adds in the machine code of the main loop, less what the traffic of a
# smaller tile costs (a model: 4 bytes x (1/M + 1/N) for each multiply-add).
INSTANCES = tuple(
    _instance(direction, tile, blocks, pipe_cap)
    for direction in ("forward", "backward_input", "backward_weight")
    for tile, blocks, pipe_cap in (
        ((128, 128, 16), 2, 0.88),
        ((128, 64, 16), 3, 0.83),
        ((128, 64, 8), 3, 0.80),
        ((64, 64, 16), 6, 0.77),
        ((64, 64, 8), 6, 0.74),
    )
)


def supports(instance: Instance, problem: Problem, properties: DeviceProperties) -> bool:
    """Floats in whole aligned quads, and sizes whose steps the kernels count in 32 bits."""
    g = problem.geometry
    channels, filters = g.c // g.groups, g.k // g.groups
    return (
        problem.dtype == "float32"
        and problem.aligned
        and channels > 0
        and channels % 4 == filters % 4 == 0
        and g.r * g.s <= MAX_TAPS
        and g.groups * g.stride_h * g.stride_w <= MAX_GRID[2]
        and g.k * g.r * g.s * channels < 2**31
        and (g.h + g.pad_top + g.pad_bottom) * (g.w + g.pad_left + g.pad_right) * g.c < 2**29
        and g.p * g.q * g.k < 2**29
        and g.n * g.p * g.q < 2**27
    )


@lru_cache(maxsize=4096)
def plan(instance: Instance, problem: Problem, properties: DeviceProperties) -> Plan:
    """Tiles on grid.x; groups, and classes or splits, on grid.z."""
    g = problem.geometry
    m, n, k = problem.product
    columns = ceil_div(n, instance.tile_n)
    if problem.direction == "forward":
        grid = (ceil_div(m, instance.tile_m) * columns, 1, g.groups)
        return Plan(grid, each=k, useful=_share(instance, m, n, g.r * g.s, g.c // g.groups))
    if problem.direction == "backward_input":
        return _plan_classes(instance, g, columns)
    return _plan_splits(instance, problem, properties)


def _share(instance: Instance, m: int, n: int, taps: int, channels: int) -> float:
    """Share of useful multiply-adds where each tap's channels are padded to whole steps."""
    padded = ceil_div(channels, instance.tile_k) * instance.tile_k
    return tile_share(instance, (m, n, taps * padded)) * channels / max(padded, 1)


def _plan_classes(instance: Instance, g: Conv2dGeometry, columns: int) -> Plan:
    """One product for each remainder of rows and columns by the stride."""
    needed = done = 0.0
    largest = 0
    for rows, row_taps in _classes(g.h, g.r, g.stride_h, g.pad_top, g.dilation_h):
        for places, column_taps in _classes(g.w, g.s, g.stride_w, g.pad_left, g.dilation_w):
            pixels, taps = g.n * rows * places, row_taps * column_taps
            largest = max(largest, pixels)
            work = pixels * taps
            if work:
                needed += work
                channels, filters = g.c // g.groups, g.k // g.groups
                done += work / _share(instance, pixels, channels, taps, filters)
    grid = (
        ceil_div(largest, instance.tile_m) * columns,
        1,
        g.groups * g.stride_h * g.stride_w,
    )
    return Plan(grid, useful=needed / done if done else 1.0)


def _classes(
    size: int, filter: int, stride: int, padding: int, dilation: int
) -> list[tuple[int, int]]:
    """(pixels, taps) of each class, as in kernels/conv2d_simt_backward_input.cu."""
    found = []
    for remainder in range(stride):
        first = (remainder - padding) % stride
        taps = sum(tap * dilation % stride == remainder for tap in range(filter))
        found.append((ceil_div(size - first, stride), taps))
    return found


def _plan_splits(instance: Instance, problem: Problem, properties: DeviceProperties) -> Plan:
    """As many splits as pay: they fill the device, but their sums are written and read again."""
    g = problem.geometry
    m, n, k = problem.product
    tiles = ceil_div(m, instance.tile_m) * ceil_div(n, instance.tile_n)
    size = g.k * n + g.k  # with the bias' gradient
    flops = max(2 * m * n * k * g.groups, 1)
    resident = properties.multiprocessors * instance.blocks_per_sm
    most = max(min(
        4 * resident // max(tiles * g.groups, 1),
        ceil_div(k, 8 * instance.tile_k),
        split_k.WORKSPACE // (4 * size),
        MAX_GRID[2] // g.groups,
    ), 1)  # fmt: skip
    best: tuple[float, Plan] | None = None
    for splits in range(1, most + 1):
        each = ceil_div(ceil_div(k, splits), instance.tile_k) * instance.tile_k
        if splits > 1 and ceil_div(k, each) < splits:
            continue
        moved = 8 * splits * size if splits > 1 else 0
        useful = tile_share(instance, (m, n, k), splits)
        useful = flops / (flops / useful + FLOPS_PER_BYTE * moved)
        found = Plan(
            (tiles, 1, g.groups * splits),
            splits,
            each,
            4 * splits * size if splits > 1 else 0,
            2 if splits > 1 else 1,
            useful,
        )
        score = useful * wave_share(found.blocks, instance, properties.multiprocessors)
        if best is None or score > best[0]:
            best = score, found
    assert best is not None
    return best[1]


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
    """y (N, K, P, Q) = [relu](x convolved with w, + b + addend); partial sums of its statistics."""
    function, found = _prepare(runtime, instance, geometry)
    runtime.launch(
        function, found.grid, (instance.threads,),
        x, w, b, addend, y, partial, *_sizes(function, geometry), relu,
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
    function, found = _prepare(runtime, instance, geometry)
    runtime.launch(
        function, found.grid, (instance.threads,),
        dy, w, addend, mask, dx, *_sizes(function, g), g.r * g.s * g.c // g.groups,
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
    function, found = _prepare(runtime, instance, geometry)
    shares, dw_target, db_target, share = None, dw, db, 0
    if found.splits > 1:
        share = dw.size + (0 if db is None else db.size)
        shares = runtime.empty((found.splits, share), dw.dtype)
        dw_target, db_target = shares, None if db is None else shares[:, dw.size :]
    runtime.launch(
        function, found.grid, (instance.threads,),
        x, dy, dw_target, None if db_target is None else kernel.strided(db_target),
        *_sizes(function, geometry), found.each, share,
    )  # fmt: skip
    if shares is not None:
        split_k.sum_shares_in_quads(runtime, shares, dw, db)


def _prepare(runtime: Runtime, instance: Instance, geometry: Conv2dGeometry) -> tuple[Kernel, Plan]:
    function = kernel.get(instance.file, instance.entry, **dict(instance.defines))
    return function, plan(instance, Problem(instance.direction, geometry), runtime.properties())


def _sizes(function: Kernel, g: Conv2dGeometry) -> tuple[object, int, int]:
    """The struct, and channels and filters of one group."""
    return struct(function, "Conv2d", g), g.c // g.groups, g.k // g.groups
