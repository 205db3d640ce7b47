"""Rows for the algorithms of convolution on a GPU, which layers of few channels do not reach.

`PRECISIONS` and `ALGORITHMS` are part of the table. `of_instances` makes a row for every instance
that selection can return: `gpucnn check` runs them too, where there are kernels to choose from.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gpucnn.cases.case import Case, Input
from gpucnn.core.precision import PRECISIONS as NAMES

if TYPE_CHECKING:
    from gpucnn.backends.gpu.instances import Instance
    from gpucnn.backends.gpu.runtime import DeviceProperties

# Of the largest result: the rounding of operands; Winograd's transforms.
_TOLERANCES = {"tf32": 4e-3, "bf16": 2e-2, "fp16": 4e-3, "winograd": 5e-5}


def conv(
    x: Any,
    w: Any,
    bias: bool = True,
    note: str = "",
    precision: str = "auto",
    algorithm: str = "",
    **attributes: Any,
) -> Case:
    """A row of `conv2d`, by inputs or their shapes; precision and algorithm as in `Case`."""
    x, w = (value if isinstance(value, Input) else Input(value) for value in (x, w))
    b = Input((w.shape[0],)) if bias else None
    return Case(
        "conv2d", (x, w, b), attributes, note, _TOLERANCES.get(algorithm or precision, 2e-5),
        precision=precision, algorithm=algorithm,
    )  # fmt: skip


PRECISIONS = [
    *(conv((2, 64, 9, 7), (72, 64, 3, 3), padding=1, precision=name,
            note="tensor cores: a rest of rows and columns")
      for name in ("3xtf32", "tf32", "bf16", "fp16")),
    conv((1, 256, 7, 5), (256, 256, 3, 3), stride=2, padding=1, precision="bf16",
          note="few positions, long sums: split"),
]  # fmt: skip
"""Rows of rounded operands, in each direction."""

ALGORITHMS = [
    conv((2, 8, 9, 7), (40, 8, 3, 3), padding=1, algorithm="winograd", note="tiles at the edges"),
    conv((3, 24, 13, 11), (40, 24, 3, 3), padding=1, algorithm="simt",
          note="shares of a sum, and the bias's gradient with them"),
    *(conv((2, 12, 11, 9), (12, 1, 3, 3), groups=12, padding=1, stride=stride,
            note="quads of channels") for stride in (1, 2)),
]  # fmt: skip
"""Rows of algorithms that the choice on the emulated device passes over."""


def of_instances(properties: DeviceProperties) -> Iterator[Case]:
    """A row for each instance that a device can run, of odd sizes, beyond a tile and of its rest.

    The directions that an instance does not compute are the engine's choice.
    """
    from gpucnn.backends.gpu.instances import instances

    for instance in instances():
        row = _of(instance, properties)
        if row is not None:
            yield row


def _of(instance: Instance, properties: DeviceProperties) -> Case | None:
    from gpucnn.backends.gpu.instances import Problem, algorithm
    from gpucnn.ops.geometry import Conv2dGeometry

    precision = instance.precision if instance.precision in NAMES else "auto"
    tolerance = _TOLERANCES.get(instance.precision, 2e-5)
    with_statistics = ("STATISTICS", "true") in instance.defines
    for x, w, options in _sizes(instance):
        geometry = Conv2dGeometry.of("check", x, w, **options)
        problem = Problem(instance.direction, geometry, statistics=with_statistics)
        if not algorithm(instance.algorithm).supports(instance, problem, properties):
            continue
        layer = {name: options[name] for name in ("stride", "padding")}
        op, given = "conv2d", [Input(x), Input(w), Input((w[0],))]
        if instance.direction == "forward_max_pool":
            op, options = "convolution_relu_pool", {"pool": 2, **layer}
        elif with_statistics:
            op, options = "convolution_batch_norm", layer
            given.append(Input((w[0],)))
        return Case(
            op, tuple(given), options, "one instance", tolerance, captured=op != "conv2d",
            precision=precision, algorithm=instance.name,
        )  # fmt: skip
    return None


def _sizes(instance: Instance) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]]:
    """Images, filters and the other arguments, from which the first that suits is taken."""
    tiles = {instance.tile_m, instance.tile_n}
    wide = max(tiles - {max(tiles)}, default=max(tiles))
    few = [(wide + 8, 3)] if instance.algorithm == "direct" else []
    for filters, channels in (
        *few,
        (wide + 8, 24),
        (wide + 8, 40),
        (40, 3),
        (20, 3),
        (16, 6),
        (6, 1),
    ):
        for side, stride in itertools.product((3, 5, 7, 1, 11), (1, 2, 4)):
            options = {"stride": stride, "padding": side // 2, "dilation": 1, "groups": 1}
            yield (2, channels, 13, 11), (filters, channels, side, side), options
    for channels, groups, stride in ((12, 12, 1), (12, 12, 2), (7, 7, 2)):
        options = {"stride": stride, "padding": 1, "dilation": 1, "groups": groups}
        yield (2, channels, 13, 11), (channels, 1, 3, 3), options
    for side, stride in ((3, 1), (7, 2)):
        options = {"stride": stride, "padding": side // 2, "dilation": 1, "groups": 1}
        yield (1, 3, 32, 32), (64, 3, side, side), options
