"""Convolutions on tensor cores, run on the emulator beside float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucnn.backends.cpu import conv
from gpucnn.backends.gpu.emulated import EmulatedRuntime
from gpucnn.backends.gpu.instances import Algorithm, Instance
from gpucnn.backends.gpu.operands import CHANNELS_LAST
from gpucnn.benchmarks.precision_training import to_bf16, to_fp16, to_tf32
from gpucnn.ops.geometry import Conv2dGeometry

Array = np.ndarray[Any, Any]

ROUNDED = {"tf32": to_tf32, "bf16": to_bf16, "fp16": to_fp16}


def seen(values: Array, precision: str) -> Array:
    """What the products of a precision see of float32 operands, as float64."""
    rounded = ROUNDED.get(precision)
    return (values if rounded is None else rounded(np.ascontiguousarray(values))).astype(np.float64)


def geometry(x: tuple[int, ...], w: tuple[int, ...], **options: Any) -> Conv2dGeometry:
    named = {"stride": 1, "padding": 0, "dilation": 1, **options}
    return Conv2dGeometry.of(
        "conv2d", x, w, named["stride"], named["padding"], named["dilation"], 1
    )


@dataclass
class Product:
    """One direction of a convolution with random operands."""

    runtime: EmulatedRuntime
    direction: str
    g: Conv2dGeometry
    draw: Any = None
    seed: int = 0

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        shapes = {
            "forward": (self.g.x_shape, self.g.w_shape, self.g.y_shape),
            "backward_input": (self.g.y_shape, self.g.w_shape, self.g.x_shape),
            "backward_weight": (self.g.x_shape, self.g.y_shape, self.g.w_shape),
        }
        first, second, self.shape = shapes[self.direction]
        self.a, self.b = self.normal(first), self.normal(second)

    def normal(self, shape: tuple[int, ...]) -> Array:
        """An array of the runtime; of `draw`'s numbers where that is given."""
        array = self.runtime.empty(shape, np.float32, CHANNELS_LAST if len(shape) == 4 else None)
        array[...] = (self.draw or self.random.standard_normal)(shape)
        return array

    def exact(self, precision: str, absolute: bool = False) -> Array:
        """The product of what the precision sees, in float64; of absolute values on request."""
        a, b = seen(self.a, precision), seen(self.b, precision)
        if absolute:
            a, b = np.abs(a), np.abs(b)
        y = np.zeros(self.shape)
        how: dict[str, Any] = {"geometry": self.g, "precision": "fp32"}
        if self.direction == "forward":
            conv.conv2d(a, b, None, None, y, relu=False, **how)
        elif self.direction == "backward_input":
            conv.conv2d_backward_input(a, b, None, None, y, **how)
        else:
            conv.conv2d_backward_weight(a, b, y, None, **how)
        return y

    def run(self, module: Algorithm, instance: Instance, *more: Any, **options: Any) -> Array:
        """What the instance makes of it, with these operands of its epilogue (else none)."""
        out = self.runtime.empty(self.shape, np.float32, CHANNELS_LAST)
        call = getattr(module, self.direction)
        operands: tuple[Any, ...] = (self.a, self.b)
        if self.direction == "forward":
            bias, addend, partial = more or (None, None, None)
            operands += (bias, addend, out, partial)
            options = {"relu": False, **options}
        elif self.direction == "backward_input":
            operands += (*(more or (None, None)), out)
        else:
            operands += (out, *(more or (None,)))
        call(self.runtime, instance, self.g, *operands, **options)
        return out
