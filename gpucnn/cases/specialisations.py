"""Every kernel, with the defines under which it is launched.

The table of cases says which kernels there are but for the instances of the convolution and the
tiles of matrix products, which selection chooses by size: those are launched one by one, on sizes
that they support.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

import numpy as np

from gpucnn.backends.gpu import conv, conv_pool, gemm
from gpucnn.backends.gpu.figures import Use
from gpucnn.backends.gpu.gemm_tiles import TILES, Tile
from gpucnn.backends.gpu.gemm_tiles import forced as forced_tile
from gpucnn.backends.gpu.host import A100, Launch, RecordingRuntime, recording
from gpucnn.backends.gpu.instances import Instance, Problem, algorithm, instances
from gpucnn.backends.gpu.kernel import Kernel
from gpucnn.backends.gpu.runtime import Array, DeviceProperties, Runtime
from gpucnn.backends.gpu.select import forced
from gpucnn.cases.case import Case, run
from gpucnn.core.precision import PRECISIONS
from gpucnn.ops.geometry import Conv2dGeometry, Pool2dGeometry

CHANNELS_LAST = (0, 2, 3, 1)


def launches(cases: Iterable[Case], properties: DeviceProperties = A100) -> list[Launch]:
    """What the cases would launch on a GPU, forward and backward, in float32 and float64."""
    with recording(properties) as runtime:
        for case in cases:
            for dtype in (np.float32, np.float64):
                run(case, "emulated", dtype)
    return runtime.launches


def specialisations(
    cases: Iterable[Case], properties: DeviceProperties = A100
) -> dict[Kernel, Use]:
    """Each kernel that the cases need, or that selection can return, on a device of these
    properties; with how it is launched."""
    found = uses(launches(cases, properties))
    for instance in instances():
        for kernel, use in instance_uses(instance, properties).items():
            found[kernel] = use.joined(found.get(kernel, use))
    for tile in TILES:
        for kernel, use in tile_uses(tile, properties).items():
            found[kernel] = use.joined(found.get(kernel, use))
    return dict(sorted(found.items(), key=lambda item: (str(item[0].module), item[0].entry)))


def uses(launched: Iterable[Launch]) -> dict[Kernel, Use]:
    """Each kernel once."""
    found: dict[Kernel, Use] = {}
    for launch in launched:
        use = Use(int(np.prod(launch.block)), launch.shared)
        found[launch.kernel] = use.joined(found.get(launch.kernel, use))
    return found


@cache
def instance_uses(instance: Instance, properties: DeviceProperties = A100) -> Mapping[Kernel, Use]:
    """The kernels that one instance launches: its own, and those that finish its work.

    Empty where the device has no such instructions, or where none of `sizes` suits it.
    """
    runtime = RecordingRuntime(properties)
    with forced(instance.name):
        for geometry, dtype in itertools.product(sizes(), ("float32", "float64")):
            problem = Problem(instance.direction, geometry, dtype)
            if algorithm(instance.algorithm).supports(instance, problem, properties):
                launch_instance(runtime, instance, problem)
    found = uses(runtime.launches)
    for kernel in found:
        # What is planned is planned for float32.
        if is_of(instance, kernel) and ("real", "double") not in kernel.module.defines:
            found[kernel] = found[kernel]._replace(planned=instance.blocks_per_sm)
    return found


@cache
def tile_uses(tile: Tile, properties: DeviceProperties = A100) -> Mapping[Kernel, Use]:
    """The kernels that products of one tile launch, whichever way their operands lie."""
    runtime = RecordingRuntime(properties)
    with forced_tile(tile):
        for dtype in ("float32", "float64"):
            launch_products(runtime, 64, dtype)
    found = uses(runtime.launches)
    for kernel, use in found.items():
        if kernel.entry == tile.entry and ("real", "double") not in kernel.module.defines:
            found[kernel] = use._replace(planned=tile.blocks)
    return found


def launch_products(runtime: Runtime, size: int, dtype: str) -> None:
    """Products of square matrices, whichever way they lie, and the gradient of a linear layer's
    weight. The values mean nothing."""
    x, w, dy = (runtime.empty((size, size), dtype) for _ in range(3))
    for a, b in itertools.product((x, x.T), (w, w.T)):
        gemm.matmul(runtime, a, b, None, None, dy, relu=True, precision="auto")
    bias = runtime.empty((size,), dtype)
    gemm.linear_backward_weight(runtime, x, dy, w, bias, precision="auto")


def is_of(instance: Instance, kernel: Kernel) -> bool:
    """Whether it is the instance's own kernel."""
    return (instance.file, instance.entry) == (kernel.module.file, kernel.entry) and set(
        instance.defines
    ) <= set(kernel.module.defines)


def small_size(instance: Instance, properties: DeviceProperties = A100) -> Problem | None:
    """A problem of one image that fills tiles of the instance and is quickly emulated, if any of
    `sizes` is: the largest up to 64 channels and 128 filters."""
    run = algorithm(instance.algorithm)
    found = [
        problem
        for dtype, geometry in itertools.product(("float32", "float64"), sizes(images=1))
        if geometry.c * geometry.k <= 64 * 128
        and run.supports(
            instance, problem := Problem(instance.direction, geometry, dtype), properties
        )
    ]
    return max(found, key=lambda p: (p.geometry.c * p.geometry.k, -p.geometry.r), default=None)


def sizes(images: int = 8) -> Iterator[Conv2dGeometry]:
    """Convolutions of all kinds, large enough for every tile, of images of 16 x 16."""
    for filter_size, padding in ((1, 0), (3, 1), (5, 2), (7, 3), (5, 0), (3, 0)):
        for stride in (1, 2):
            for channels, filters in ((1, 6), (3, 32), (3, 64), (16, 24), (64, 128), (128, 256)):
                yield _geometry(images, channels, filters, filter_size, stride, padding)
    yield _geometry(images, 3, 64, 11, 4, 2)
    for stride in (1, 2):
        for groups, dilation in ((32, 1), (4, 1), (1, 2)):
            yield _geometry(images, 64, 64, 3, stride, dilation, dilation, groups)
        yield _geometry(images, 64, 64, 3, stride, 1, 1, 64)


def _geometry(
    images: int,
    channels: int,
    filters: int,
    size: int,
    stride: int,
    padding: int,
    dilation: int = 1,
    groups: int = 1,
) -> Conv2dGeometry:
    return Conv2dGeometry.of(
        "sizes",
        (images, channels, 16, 16),
        (filters, channels // groups, size, size),
        stride,
        padding,
        dilation,
        groups,
    )


def launch_instance(runtime: Runtime, instance: Instance, problem: Problem) -> None:
    """Launch a supported problem by the primitives, within `forced(instance.name)`.

    The values of its arrays mean nothing. Instances with `statistics` run a second time with them.
    """
    g = problem.geometry

    def array(shape: tuple[int, ...]) -> Array:
        return runtime.empty(shape, problem.dtype, CHANNELS_LAST if len(shape) == 4 else None)

    x, w, y, channel = map(array, (g.x_shape, g.w_shape, g.y_shape, (g.k,)))
    precision = instance.precision if instance.precision in PRECISIONS else "auto"
    if instance.direction == "backward_input":
        conv.conv2d_backward_input(runtime, y, w, None, None, x, geometry=g, precision=precision)
    elif instance.direction == "backward_weight":
        conv.conv2d_backward_weight(runtime, x, y, w, channel, geometry=g, precision=precision)
    elif instance.direction == "forward_max_pool":
        pool = Pool2dGeometry.of("sizes", g.y_shape, 2, 2, 0)
        y = array(pool.y_shape)
        place = runtime.empty(pool.y_shape, pool.argmax_dtype, CHANNELS_LAST)
        conv_pool.conv2d_max_pool(
            runtime, x, w, channel, y, place,
            geometry=g, pool=pool, relu=True, precision=precision,
        )  # fmt: skip
    else:
        conv.conv2d(runtime, x, w, channel, None, y, geometry=g, relu=True, precision=precision)
        if instance.statistics:
            mean, variance = array((g.k,)), array((g.k,))
            conv.conv2d_statistics(
                runtime, x, w, None, None, None, y, mean, variance,
                geometry=g, precision=precision, momentum=0.1,
            )  # fmt: skip
