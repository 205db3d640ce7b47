"""How far off the precisions are, where tensor cores cut their sums off: docs/precision.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tensorcore_products import Array, Product, geometry

from gpucnn import emulator
from gpucnn.backends.gpu import conv_generic, conv_tensorcore, nvrtc
from gpucnn.backends.gpu.emulated import EmulatedRuntime
from gpucnn.backends.gpu.instances import Algorithm, Instance

if not nvrtc.compilers():
    pytest.skip("no NVRTC to make PTX", allow_module_level=True)

# Depths of 256 (from where "auto" uses it), 576 and 4608; few rows and columns.
DEPTHS = {
    "forward 256": ("forward", geometry((1, 256, 4, 4), (16, 256, 1, 1))),
    "forward 576": ("forward", geometry((1, 64, 4, 4), (16, 64, 3, 3), padding=1)),
    "forward 4608": ("forward", geometry((1, 512, 3, 3), (8, 512, 3, 3), padding=1)),
    "backward_input 576": ("backward_input", geometry((1, 16, 4, 4), (64, 16, 3, 3), padding=1)),
    "backward_weight 578": ("backward_weight", geometry((2, 16, 17, 17), (16, 16, 1, 1))),
}
# What two operands lose together, of the sum of absolute products.
BOUNDS = {"tf32": 2.0**-9, "bf16": 2.0**-7, "fp16": 2.0**-10, "3xtf32": 2.0**-19}


def smallest(module: Any, direction: str, precision: str) -> Instance:
    found = [i for i in module.INSTANCES if (i.direction, i.precision) == (direction, precision)]
    return min(found, key=lambda i: i.tile_m * i.tile_n)


def result(product: Product, module: Algorithm, precision: str) -> Array:
    return product.run(module, smallest(module, product.direction, precision))


def made(name: str, positive: bool = False) -> Product:
    """Random numbers; on request activations as a ReLU leaves them."""
    direction, g = DEPTHS[name]
    runtime = EmulatedRuntime(next(iter(nvrtc.compilers().values())), checks=emulator.NONE)
    product = Product(runtime, direction, g, seed=len(name))
    if positive:
        np.maximum(product.a, 0, out=product.a)
    return product


@pytest.mark.parametrize(
    ("name", "positive"),
    [*((name, False) for name in DEPTHS), ("forward 576", True), ("backward_input 576", True)],
)
def test_halves_are_as_good_as_float32(
    name: str, positive: bool, say: Callable[[str], None]
) -> None:
    product = made(name, positive)
    exact = product.exact("fp32")
    errors = []
    for module, precision in ((conv_generic, "fp32"), (conv_tensorcore, "3xtf32")):
        error = result(product, module, precision) - exact
        errors.append((np.sqrt((error**2).mean()), np.abs(error).max()))
    typical, largest = (ours / theirs for theirs, ours in zip(*errors))
    say(
        f"3xtf32, {name}{', after a ReLU' if positive else ''}: {typical:.2f} times the error of "
        f"float32, {largest:.2f} times the largest"
    )
    assert typical <= 1.5 and largest <= 1.5


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("name", ["forward 576", "backward_input 576", "backward_weight 578"])
def test_errors_keep_their_bounds(name: str, precision: str) -> None:
    """And are no smaller than rounding makes them: the precision is what was asked for."""
    product = made(name)
    error = np.abs(result(product, conv_tensorcore, precision) - product.exact("fp32"))
    share = error / product.exact("fp32", absolute=True)
    assert share.max() <= BOUNDS[precision]
    assert share.max() >= BOUNDS[precision] / 64
