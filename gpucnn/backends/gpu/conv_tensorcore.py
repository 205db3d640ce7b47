"""Convolution on tensor cores: implicit matrix products of tf32, bfloat16 and float16 operands.

Tensors stay float32. For "3xtf32" and "tf32" the kernels read them as they are; for "bf16" and
"fp16" a launch before rounds both operands to 16-bit words. Sums are float32 throughout.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gpucnn.backends.gpu import kernel, split_k
from gpucnn.backends.gpu.instances import DIRECTIONS, Instance, Plan, Problem
from gpucnn.backends.gpu.operands import INT_LIMIT, aligned, ceil_div, struct
from gpucnn.backends.gpu.runtime import Array, DeviceProperties, Runtime
from gpucnn.backends.gpu.weight_shares import written_in_shares

if TYPE_CHECKING:
    from gpucnn.ops.geometry import Conv2dGeometry

PRECISIONS = {"3xtf32": "TF32X3", "tf32": "TF32", "bf16": "BF16", "fp16": "FP16"}
"""Those computed here -> what the kernels call them."""

MINIMUM = (8, 0)
"""The least compute capability: asynchronous copies, tf32 and bfloat16."""

_AUTO_DEPTH = 256
"""Shallower sums it does not make as well as float32 multiply-adds do (docs/precision.md)."""

_MAX_TAPS, _TAP, _BEHIND, _CORNER = 32, 16, 4, 8
_CAST_THREADS = 256
_CAST_BLOCKS = 1024


class _Tile(NamedTuple):
    """A block's tile, its warps along both sides, and blocks that are to fit a multiprocessor."""

    m: int
    n: int
    warps_m: int
    warps_n: int
    blocks: int
    pipe_cap: float


# Warps own 64 x 64 of D where they can: the larger a patch, the fewer of its instructions are
# loads. 3xtf32 holds each patch twice, for the promotion of its sums, and so takes half of that.
# The smallest tiles are for small problems, whose blocks should be done early: four small warps.
# The share of the pipe: how busy tensor cores are on an A100 beside shared memory (a model).
_TILES = (
    _Tile(128, 128, 2, 2, 2, 0.9),
    _Tile(128, 64, 2, 1, 4, 0.85),
    _Tile(64, 64, 2, 2, 4, 0.6),
)
_PROMOTED_TILES = (
    _Tile(128, 128, 4, 2, 1, 0.9),
    _Tile(128, 64, 4, 1, 2, 0.85),
    _Tile(64, 64, 2, 2, 3, 0.7),
)


def _instance(direction: str, precision: str, tile: _Tile) -> Instance:
    wide, narrow = precision in ("3xtf32", "tf32"), precision in ("bf16", "fp16")
    if direction == "backward_weight" and precision != "3xtf32" and tile.n < tile.m:
        # Two warps would copy less of a line of 128 rows than its exchange of chunks repeats in.
        tile = tile._replace(warps_n=2, blocks=3)
    stages, words, rows = 3, 16, tile.m + tile.n
    if precision == "3xtf32":
        # Low halves beside: of B, and of A where two warps share its rows (SPLIT in the kernels).
        both = tile.warps_n == 2 and tile.n == 128
        stages, words, rows = 2, 32, rows + tile.n + (tile.m if both else 0)
    threads = 32 * tile.warps_m * tile.warps_n
    table = (
        2 * threads * _CORNER if direction == "backward_weight" else (_MAX_TAPS + _BEHIND) * _TAP
    )
    return Instance(
        algorithm="tensorcore",
        direction=direction,
        file=f"conv2d_tensorcore_{direction}.cu",
        entry=f"conv2d_tensorcore_{direction}",
        defines=(
            ("ARITHMETIC", PRECISIONS[precision]),
            ("BLOCKS", str(tile.blocks)),
            ("TILE_M", str(tile.m)),
            ("TILE_N", str(tile.n)),
            ("WARPS_M", str(tile.warps_m)),
            ("WARPS_N", str(tile.warps_n)),
            ("element", "float" if wide else "unsigned short"),
        ),
        tile_m=tile.m,
        tile_n=tile.n,
        tile_k=words * (2 if narrow else 1),
        threads=threads,
        blocks_per_sm=tile.blocks,
        precision=precision,
        pipe_cap=tile.pipe_cap,
        stages=stages,
        shared=stages * rows * words * 4 + table,
        statistics=direction == "forward",
        auto_depth=_AUTO_DEPTH if precision == "3xtf32" else 0,
    )


INSTANCES = tuple(
    _instance(direction, precision, tile)
    for direction in DIRECTIONS
    for precision in PRECISIONS
    for tile in (_PROMOTED_TILES if precision == "3xtf32" else _TILES)
)


def check(call: str, precision: str, properties: DeviceProperties) -> None:
    """Raises RuntimeError when the device has no tensor cores for the precision."""
    if precision in PRECISIONS and properties.compute_capability < MINIMUM:
        major, minor = properties.compute_capability
        raise RuntimeError(
            f"{call}: precision {precision!r} needs a GPU of compute capability 8.0 or later, "
            f"{properties.name} has {major}.{minor}; use 'auto' or 'fp32'"
        )


def supports(instance: Instance, problem: Problem, properties: DeviceProperties) -> bool:
    """Float32 of one group, channels in chunks of 16 bytes, at most 32 taps; from sm_80 on."""
    g = problem.geometry
    chunk = 8 if instance.precision in ("bf16", "fp16") else 4
    filters_too = problem.direction != "forward"
    return (
        problem.dtype == "float32"
        and problem.aligned
        and properties.compute_capability >= MINIMUM
        and instance.shared <= properties.max_shared_per_block
        and g.groups == 1
        and 0 < g.r * g.s <= _MAX_TAPS
        and g.c > 0
        and g.k > 0
        and g.c % chunk == 0
        and not (filters_too and g.k % chunk)
        and g.stride_h * g.stride_w <= 65535
        and max(g.n * g.h * g.w * g.c, g.n * g.p * g.q * g.k) // chunk <= INT_LIMIT
    )


@lru_cache(maxsize=4096)
def plan(instance: Instance, problem: Problem, properties: DeviceProperties) -> Plan:
    """The launch of a supported problem, and how much of its work is needed."""
    narrow = instance.precision in ("bf16", "fp16")
    if problem.direction == "backward_weight":
        return _plan_weight(instance, problem, 1 + narrow)
    g = problem.geometry
    if problem.direction == "forward":
        columns, depth = g.k, g.c
        classes = [(g.n * g.p * g.q, g.r * g.s)]
    else:
        columns, depth = g.c, g.k
        classes = [
            (g.n * rows * cols, taps_h * taps_w)
            for rows, taps_h in _classes(g.h, g.stride_h, g.pad_top, g.dilation_h, g.r)
            for cols, taps_w in _classes(g.w, g.stride_w, g.pad_left, g.dilation_w, g.s)
        ]
    tiles_n = ceil_div(columns, instance.tile_n)
    needed = done = 0
    for rows, taps in classes:
        tiles = ceil_div(rows, instance.tile_m) * tiles_n
        steps = taps * ceil_div(depth, instance.tile_k) + 2
        needed += rows * columns * taps * depth
        done += tiles * instance.tile_m * instance.tile_n * steps * instance.tile_k
    most = ceil_div(max(rows for rows, _ in classes), instance.tile_m) * tiles_n
    return Plan(
        (most, 1, len(classes)),
        each=depth,
        launches=1 + narrow,
        useful=needed / done if needed else 1.0,
    )


def _classes(size: int, stride: int, pad: int, dilation: int, taps: int) -> list[tuple[int, int]]:
    """Along one direction of the input, for each remainder of the stride: pixels, and taps that
    reach them.
    """
    return [
        (
            ceil_div(size - residue, stride),
            sum((residue + pad - tap * dilation) % stride == 0 for tap in range(taps)),
        )
        for residue in range(stride)
    ]


def _plan_weight(instance: Instance, problem: Problem, launches: int) -> Plan:
    rows, columns, depth = problem.product
    tiles = ceil_div(rows, instance.tile_m) * ceil_div(columns, instance.tile_n)
    size = 4 * (rows * columns + rows)
    splits, each = split_k.split(depth, tiles, 16 * instance.tile_k, instance.tile_k, size)
    steps = splits * (ceil_div(each, instance.tile_k) + 2)
    done = tiles * instance.tile_m * instance.tile_n * steps * instance.tile_k
    return Plan(
        (tiles, 1, splits),
        splits,
        each,
        splits * size if splits > 1 else 0,
        launches + (splits > 1),
        rows * columns * depth / done if depth else 1.0,
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
    """y (N, K, P, Q) = [relu](x convolved with w, + b + addend); partial as `Algorithm` says."""
    function, found = _launch(runtime, instance, geometry)
    x, w = _operands(runtime, instance, x, w)
    given = [array for array in (y, addend, partial) if array is not None]
    runtime.launch(
        function, found.grid, (instance.threads,),
        x, w, b, addend, y, partial, struct(function, "Conv2d", geometry), relu,
        geometry.k % 4 == 0 and aligned(runtime, *given),
        shared=instance.shared,
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
    function, found = _launch(runtime, instance, geometry)
    dy, w = _operands(runtime, instance, dy, w)
    runtime.launch(
        function, found.grid, (instance.threads,),
        dy, w, addend, mask, dx, struct(function, "Conv2d", geometry),
        shared=instance.shared,
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
    """dw (K, C, R, S), and db (K,) = dy summed over all but its channels, unrounded."""
    function, found = _launch(runtime, instance, geometry)
    narrow_x, narrow_dy = _operands(runtime, instance, x, dy)
    bias_tiles = 0 if db is None else ceil_div(geometry.k, instance.tile_m)
    with written_in_shares(runtime, dw, db, found.splits) as (target, bias_target, share):
        runtime.launch(
            function, (found.grid[0] + bias_tiles, 1, found.splits), (instance.threads,),
            narrow_x, narrow_dy, None if db is None else dy, target, bias_target,
            struct(function, "Conv2d", geometry), found.each, share,
            shared=instance.shared,
        )  # fmt: skip


def _launch(
    runtime: Runtime, instance: Instance, geometry: Conv2dGeometry
) -> tuple[kernel.Kernel, Plan]:
    found = plan(instance, Problem(instance.direction, geometry), runtime.properties())
    return kernel.get(instance.file, instance.entry, **dict(instance.defines)), found


def _operands(runtime: Runtime, instance: Instance, a: Array, b: Array) -> tuple[Array, Array]:
    """What the kernel reads: the arrays, or their elements as 16-bit words in the same order."""
    if instance.precision not in ("bf16", "fp16"):
        return a, b
    words = [runtime.empty((array.size,), np.uint16) for array in (a, b)]
    quads = [array.size // 4 for array in (a, b)]
    runtime.launch(
        kernel.get("cast_narrow.cu", f"narrow_{instance.precision}"),
        (min(ceil_div(sum(quads), _CAST_THREADS), _CAST_BLOCKS),), (_CAST_THREADS,),
        a, words[0], quads[0], b, words[1], quads[1],
    )  # fmt: skip
    return words[0], words[1]
