"""The suite `layers`: convolutions of well-known nets, each direction by itself."""

from __future__ import annotations

from typing import NamedTuple

from gpucnn.benchmarks.case_row import CaseRow
from gpucnn.benchmarks.row import Row, Setup
from gpucnn.cases.case import Case, Input
from gpucnn.ops.geometry import Conv2dGeometry

PHOTOGRAPHS = {"cpu": 4, "cuda": 16}
"""Images of a batch where they began with 224 x 224 pixels."""


class Shape(NamedTuple):
    """One convolution with square images and filters; n is 0 for a batch of `PHOTOGRAPHS`."""

    net: str
    n: int
    c: int
    size: int
    k: int
    filter: int
    stride: int = 1
    padding: int = 0


SHAPES = (
    Shape("LeNet-5", 128, 1, 28, 6, 5, padding=2),
    Shape("LeNet-5", 128, 6, 14, 16, 5),
    Shape("ConvNet", 128, 3, 32, 32, 3, padding=1),
    Shape("ConvNet", 128, 32, 16, 64, 3, padding=1),
    Shape("ConvNet", 128, 64, 8, 128, 3, padding=1),
    # For images of 32 x 32.
    Shape("VGG", 64, 3, 32, 64, 3, padding=1),
    Shape("VGG, ResNet", 64, 64, 32, 64, 3, padding=1),
    Shape("VGG, ResNet", 64, 128, 16, 128, 3, padding=1),
    Shape("VGG, ResNet", 64, 256, 8, 256, 3, padding=1),
    Shape("VGG, ResNet", 64, 512, 4, 512, 3, padding=1),
    Shape("ResNet", 64, 64, 32, 128, 3, stride=2, padding=1),
    Shape("ResNet", 64, 64, 32, 128, 1, stride=2),
    # For images of 224 x 224.
    Shape("AlexNet", 0, 3, 224, 64, 11, stride=4, padding=2),
    Shape("AlexNet", 0, 64, 27, 192, 5, padding=2),
    Shape("AlexNet", 0, 192, 13, 384, 3, padding=1),
    Shape("AlexNet", 0, 384, 13, 256, 3, padding=1),
    Shape("AlexNet", 0, 256, 13, 256, 3, padding=1),
    Shape("VGG-16", 0, 64, 224, 64, 3, padding=1),
    Shape("VGG-16", 0, 128, 112, 128, 3, padding=1),
    Shape("VGG-16", 0, 256, 56, 256, 3, padding=1),
    Shape("VGG-16", 0, 512, 28, 512, 3, padding=1),
    Shape("ResNet-50", 0, 3, 224, 64, 7, stride=2, padding=3),
    Shape("ResNet-50", 0, 64, 56, 64, 3, padding=1),
    Shape("ResNet-50", 0, 64, 56, 256, 1),
    Shape("ResNet-50", 0, 512, 28, 1024, 1, stride=2),
    Shape("ResNet-50", 0, 512, 14, 512, 3, stride=2, padding=1),
    Shape("ResNet-50", 0, 2048, 7, 512, 1),
)


def rows(setup: Setup) -> list[Row]:
    """Forward, backward_input and backward_weight of each shape.

    Images of 1 or 3 channels are a net's input: they lie in memory as a user has them (NCHW), and
    need no gradient. Others lie channels-last, as the layer before left them.
    """
    return [row for shape in SHAPES for row in _of(shape, PHOTOGRAPHS[setup.device.type])]


def _of(shape: Shape, photographs: int) -> list[Row]:
    n, is_input = shape.n or photographs, shape.c <= 3
    x = Input((n, shape.c, shape.size, shape.size), layout="C" if is_input else "channels_last")
    w = Input((shape.k, shape.c, shape.filter, shape.filter), layout="channels_last")
    attributes = {"stride": shape.stride, "padding": shape.padding}
    case = Case("conv2d", (x, w, Input((shape.k,))), attributes)
    g = Conv2dGeometry.of(
        "layers", x.shape, w.shape, shape.stride, shape.padding, dilation=1, groups=1
    )
    stride = f" stride {shape.stride}" if shape.stride > 1 else ""
    group = (
        f"{shape.net}: {n} x {shape.c} x {shape.size} x {shape.size}, "
        f"{shape.k} filters {shape.filter} x {shape.filter}{stride}"
    )
    directions: dict[str, tuple[int, ...]] = {"forward": ()}
    if not is_input:
        directions["backward_input"] = (0,)
    directions["backward_weight"] = (1,)
    return [
        CaseRow(
            suite="layers",
            group=group,
            name=name,
            flops=g.flops,
            bytes=4 * g.elements,
            case=case,
            wanted=wanted,
            geometry=g,
        )
        for name, wanted in directions.items()
    ]
