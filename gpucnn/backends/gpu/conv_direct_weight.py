"""Direct backward_weight of a convolution with few channels: filters and bias in one pass.

float32; x and dy may have any strides.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from gpucnn.backends.gpu import kernel
from gpucnn.backends.gpu.instances import Instance, Plan
from gpucnn.backends.gpu.kernel import strided
from gpucnn.backends.gpu.operands import aligned, ceil_div, steps, struct
from gpucnn.backends.gpu.runtime import Array, Runtime
from gpucnn.backends.gpu.split_k import BLOCKS
from gpucnn.backends.gpu.weight_shares import written_in_shares

if TYPE_CHECKING:
    from gpucnn.ops.geometry import Conv2dGeometry

WARPS = 8  # of a block of kernels/conv2d_direct_backward_weight.cu
SHARED = 48 * 1024


class Shape(NamedTuple):
    """The defines of one instance (see the kernel)."""

    filter: int
    lanes: int
    filters: int

    @property
    def block_filters(self) -> int:
        return self.lanes * self.filters

    @property
    def slots(self) -> int:
        return self.lanes * ceil_div(self.filters, 4) * 4

    @property
    def quad(self) -> int:
        """Words that a quad of dy takes in shared memory."""
        return 4 * self.slots + (0 if self.lanes == 8 else 4 * self.lanes)

    @property
    def sums(self) -> int:
        return self.filter**2 * self.filters

    @property
    def window(self) -> int:
        """Words of a row of a quad's window."""
        return ceil_div(self.filter + 3, 4) * 4


_SHAPES = (
    *(Shape(3, *how) for how in ((2, 4), (4, 4), (4, 8), (8, 8))),
    *(Shape(5, *how) for how in ((2, 3), (4, 4))),
)

_DEFINES = ("FILTER", "LANES", "FILTERS")

INSTANCES = tuple(
    Instance(
        "direct", "backward_weight", "conv2d_direct_backward_weight.cu",
        "conv2d_direct_backward_weight",
        tuple((name, str(value)) for name, value in zip(_DEFINES, shape)),
        shape.block_filters, shape.filter**2, 4, 32 * WARPS, 1 if shape.sums > 75 else 2, "fp32",
        0.87 if shape.sums < 72 else 0.92, 1,
    )
    for shape in _SHAPES
)  # fmt: skip


class Tiling(NamedTuple):
    """struct Tile and struct Planes, and the grid's groups of channels and filters."""

    images: int
    rows: int
    columns: int
    across: int
    down: int
    tiles: int
    each: int
    channels: int
    input_rows: int
    input_columns: int
    row: int
    channel: int
    image: int
    groups: tuple[int, int]

    @property
    def splits(self) -> int:
        return max(ceil_div(self.tiles, self.each), 1)  # of an empty batch, too

    @property
    def quads(self) -> int:
        return self.images * self.rows * self.columns

    @property
    def warps(self) -> int:
        return WARPS // self.channels * self.channels

    def shared(self, shape: Shape) -> int:
        """Bytes: the tile, or later the sums of the warps."""
        tile = self.images * self.image + self.quads * (shape.quad + 1)
        sums = self.warps * (shape.lanes * (shape.sums | 1) + shape.slots)
        return 4 * max(tile, sums)


def _shape(instance: Instance) -> Shape:
    return Shape(*(int(value) for _, value in instance.defines))


def _tiling(
    shape: Shape, g: Conv2dGeometry, images: int, rows: int, columns: int, channels: int
) -> Tiling:
    input_columns = 4 * (columns - 1) + shape.window
    row = input_columns + (4 * columns - input_columns) % 32
    plane = (rows + shape.filter - 1) * row
    channel = plane + (4 - plane) % 8
    image = channels * channel
    image += (4 * rows * columns - image) % 32
    groups = ceil_div(g.c, channels), ceil_div(g.k, shape.block_filters)
    across, down = ceil_div(ceil_div(g.q, 4), columns), ceil_div(g.p, rows)
    tiles = ceil_div(g.n, images) * down * across
    each = max(ceil_div(tiles, max(BLOCKS // (groups[0] * groups[1]), 1)), 1)
    return Tiling(
        images, rows, columns, across, down, tiles, each, channels,
        rows + shape.filter - 1, input_columns, row, channel, image, groups,
    )  # fmt: skip


def _work(tiling: Tiling, shape: Shape) -> tuple[int, int]:
    """Instructions of a thread for one tile that multiply, and about the others."""
    threads = 32 * tiling.warps
    slices = threads // tiling.channels // shape.lanes
    words = tiling.images * tiling.channels * tiling.input_rows * tiling.input_columns
    words += 4 * tiling.quads * shape.slots
    return ceil_div(tiling.quads, slices) * shape.sums * 4, 8 * ceil_div(words, threads) + 100


@lru_cache(maxsize=1024)
def _plan(shape: Shape, g: Conv2dGeometry) -> tuple[Tiling, float]:
    """The tile with the least work of a block, and the useful share of the device's work."""
    channels = ceil_div(g.c, ceil_div(g.c, WARPS))
    wide = ceil_div(g.q, 4)
    candidates = []
    for columns in sorted({ceil_div(wide, across) for across in range(1, wide + 1)}):
        for rows in sorted({ceil_div(g.p, down) for down in range(1, g.p + 1)}):
            whole = (rows, columns) == (g.p, wide)
            for images in range(1, min(max(g.n, 1), 16) + 1 if whole else 2):
                found = _tiling(shape, g, images, rows, columns, channels)
                if found.shared(shape) <= SHARED:
                    candidates.append(found)
    last = 4 * shape.sums  # the sums over lanes and warps, once a block

    def time(tiling: Tiling) -> float:
        return tiling.each * sum(_work(tiling, shape)) + last + 20 * tiling.splits

    best = min(candidates, key=time)
    blocks = best.splits * best.groups[0] * best.groups[1]
    done = blocks * 32 * best.warps * (best.each * sum(_work(best, shape)) + last)
    needed = g.n * g.p * g.q * g.k * g.c * g.r * g.s
    return best, needed / max(done, 1)


def supports(instance: Instance, g: Conv2dGeometry) -> bool:
    """The instance's filter, and a stride of 1 (float32, one group, no dilation: asked before)."""
    shape = _shape(instance)
    return (g.r, g.s, g.stride_h, g.stride_w) == (shape.filter, shape.filter, 1, 1)


def plan(instance: Instance, g: Conv2dGeometry) -> Plan:
    """The launch over tiles, and one that sums their shares where there are several."""
    shape = _shape(instance)
    best, useful = _plan(shape, g)
    several = best.splits > 1
    size = 4 * best.splits * (g.k * g.c * g.r * g.s + g.k)
    return Plan(
        (best.splits, *best.groups), best.splits, best.each, size * several,
        2 if several else 1, useful,
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
    """dw (K, C, R, S), K R S C in memory, and db (K,) where it is given."""
    g = geometry
    shape = _shape(instance)
    best, _ = _plan(shape, g)
    function = kernel.get(instance.file, instance.entry, **dict(instance.defines))
    x_steps, dy_steps = steps(x), steps(dy)
    layout = struct(
        function, "Layout", None,
        x_by_channel=abs(x_steps[1]) <= abs(x_steps[3]),
        x_vector=x_steps[1] == 1 and g.c % 4 == best.channels % 4 == 0
        and not (x_steps[0] % 4 or x_steps[2] % 4 or x_steps[3] % 4) and aligned(runtime, x),
        dy_by_channel=abs(dy_steps[1]) <= abs(dy_steps[3]),
        dy_vector=dy_steps[1] == 1 and g.k % 4 == 0
        and not (dy_steps[0] % 4 or dy_steps[2] % 4 or dy_steps[3] % 4) and aligned(runtime, dy),
    )  # fmt: skip
    sizes = struct(
        function, "Sizes", g, images=g.n, channels=g.c, height=g.h, width=g.w, filters=g.k,
        rows=g.p, columns=g.q,
    )  # fmt: skip
    planes = struct(
        function, "Planes", best, rows=best.input_rows, columns=best.input_columns, group=best.row
    )
    strides = (
        struct(function, "Strides", None, **dict(zip("nchw", step, strict=True)))
        for step in (x_steps, dy_steps)
    )
    with written_in_shares(runtime, dw, db, best.splits) as (target, bias_target, share):
        runtime.launch(
            function,
            (best.splits, *best.groups),
            (32 * best.warps,),
            strided(x), strided(dy), target, bias_target,
            sizes, struct(function, "Tile", best), planes, *strides, layout, share,
            shared=best.shared(shape),
        )  # fmt: skip
