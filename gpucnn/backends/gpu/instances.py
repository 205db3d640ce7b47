"""The table of the convolution's instances: every kernel that selection can return.

An algorithm is a module of this folder with `INSTANCES` and the functions of `Algorithm`. To add
one, write the module and name it in `MODULES`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol, cast

from gpucnn.backends.gpu.runtime import Array, DeviceProperties, Runtime

if TYPE_CHECKING:
    from gpucnn.ops.geometry import Conv2dGeometry

DIRECTIONS = ("forward", "backward_input", "backward_weight")

MODULES: Mapping[str, str] = {
    "depthwise": "conv_depthwise",
    "simt": "conv_simt",
    "direct": "conv_direct",
    "generic": "conv_generic",
    "tensorcore": "conv_tensorcore",
    "winograd": "conv_winograd",
}
"""Algorithm -> the module of this folder that launches it."""


@dataclass(frozen=True)
class Instance:
    """One kernel of one algorithm, with all its defines.

    Attributes:
        algorithm: a key of `MODULES`.
        direction: one of `DIRECTIONS`, or "forward_max_pool" of what also pools.
        file, entry, defines: what is compiled; the define `real` comes from the arrays.
        tile_m, tile_n, tile_k: of the implicit matrix product: rows (pixels; filters for
            backward_weight), columns, and the depth of one step.
        threads: of a block.
        blocks_per_sm: blocks that are planned to be resident together on a multiprocessor.
        precision: "fp32", "3xtf32", "tf32", "bf16" or "fp16".
        pipe_cap: share of the peak of that precision's units that the instruction mix of the main
            loop allows; above 1 where the algorithm saves arithmetic.
        stages: steps that are in shared memory at a time.
        shared: bytes of dynamic shared memory.
        statistics: whether the forward kernel can write the partial sums of `conv2d_statistics`.
        auto_depth: the least depth of a product for which precision "auto" takes it.
    """

    algorithm: str
    direction: str
    file: str
    entry: str
    defines: tuple[tuple[str, str], ...]
    tile_m: int
    tile_n: int
    tile_k: int
    threads: int
    blocks_per_sm: int
    precision: str
    pipe_cap: float
    stages: int = 2
    shared: int = 0
    statistics: bool = False
    auto_depth: int = 0

    @property
    def name(self) -> str:
        """Such as "simt/forward 128x128x16 FILTER=3 STRIDE=1": one of a kind in the table."""
        tile = f"{self.tile_m}x{self.tile_n}x{self.tile_k}"
        defines = [f"{name}={value}" for name, value in self.defines if not name.startswith("TILE")]
        precision = [] if self.precision == "fp32" else [self.precision]
        return " ".join([f"{self.algorithm}/{self.direction}", tile, *precision, *defines])


@dataclass(frozen=True)
class Problem:
    """What is to be computed.

    Attributes:
        direction: one of `DIRECTIONS`.
        geometry: its sizes.
        dtype: of the arrays, "float32" or "float64".
        aligned: whether every array lies on 16 bytes.
        statistics: whether the batch statistics of the output are wanted too (forward).
    """

    direction: str
    geometry: Conv2dGeometry
    dtype: str = "float32"
    aligned: bool = True
    statistics: bool = False

    @property
    def product(self) -> tuple[int, int, int]:
        """Rows, columns and depth of the implicit matrix product of one group."""
        g = self.geometry
        channels, filters, taps = g.c // g.groups, g.k // g.groups, g.r * g.s
        if self.direction == "forward":
            return g.n * g.p * g.q, filters, taps * channels
        if self.direction == "backward_input":
            return g.n * g.h * g.w, channels, taps * filters
        return filters, taps * channels, g.n * g.p * g.q


@dataclass(frozen=True)
class Plan:
    """How an instance computes a problem.

    Attributes:
        grid: blocks of the main launch.
        splits: into how many shares the depth is cut.
        each: depth of a share.
        workspace: bytes of the shares' sums, 0 where there is one.
        launches: kernels in all.
        useful: share of the multiply-adds done that the problem needs.
    """

    grid: tuple[int, int, int]
    splits: int = 1
    each: int = 0
    workspace: int = 0
    launches: int = 1
    useful: float = 1.0

    @property
    def blocks(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]


class Algorithm(Protocol):
    """What the module of an algorithm offers.

    All arrays are dense; x, y, dx, dy, addend and mask lie channels-last, w and dw as K R S C.
    A module needs the launch functions of those directions only that its instances have.
    """

    INSTANCES: tuple[Instance, ...]

    def supports(self, instance: Instance, problem: Problem, properties: DeviceProperties) -> bool:
        """Whether the instance computes the problem on such a device."""
        ...

    def plan(self, instance: Instance, problem: Problem, properties: DeviceProperties) -> Plan:
        """The launch of a supported problem."""
        ...

    def forward(
        self,
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
        """y = [relu](conv + b + addend).

        partial (2, ceil(N P Q / tile_m), K) takes mean and sum of squared deviations of each
        channel over each tile_m pixels; given only to instances with `statistics`.
        """
        ...

    def backward_input(
        self,
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
        ...

    def backward_weight(
        self,
        runtime: Runtime,
        instance: Instance,
        geometry: Conv2dGeometry,
        x: Array,
        dy: Array,
        dw: Array,
        db: Array | None,
    ) -> None:
        """dw, and db (K,) = dy summed over all but its channels."""
        ...


@cache
def algorithm(name: str) -> Algorithm:
    """The module of an algorithm."""
    return cast(Algorithm, importlib.import_module(f"{__package__}.{MODULES[name]}"))


@cache
def instances() -> tuple[Instance, ...]:
    """All instances of all algorithms."""
    return tuple(instance for name in MODULES for instance in algorithm(name).INSTANCES)
