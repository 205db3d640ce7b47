"""Loss and gradients of a whole net in float64: the reference's operations, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpucnn import nn
from gpucnn.benchmarks import reference
from gpucnn.benchmarks.row import Array
from gpucnn.models import Model

Key = tuple[int, int]


def layers(model: Model) -> list[nn.Module]:
    """The layers of a net of `gpucnn.models`, in the order of their calls."""
    return [*model.features, *model.classifier]


def logits(model: Model, x: Array) -> Array:
    """What the net gives in evaluation."""
    for layer in layers(model):
        if not isinstance(layer, nn.Dropout):
            x, _ = _apply(layer, x, iter(()))
    return x


def loss_and_gradients(model: Model, x: Array, target: Array, key: Key) -> list[Array]:
    """The mean cross entropy in training, then the gradient of each parameter in their order.

    Args:
        key: of the first dropout; the next ones count up its second number.
    """
    seed, calls = key
    keys = ((seed, number) for number in range(calls, calls + 1000))
    pulls = []
    for layer in layers(model):
        x, pull = _apply(layer, x, keys)
        pulls.append(pull)
    loss, pull = reference.cross_entropy(x, target)
    gradient: Any = pull(np.asarray(1.0))[0]
    gradients: list[Array] = []
    for pull in reversed(pulls):
        found: Any = pull(gradient)
        gradient, of_parameters = found[0], found[1:]
        gradients = [*of_parameters, *gradients]
    return [loss, *gradients]


def _apply(layer: Any, x: Array, keys: Iterator[Key]) -> reference.Result:
    parameters = [np.asarray(p).astype(np.float64) for p in layer.parameters()]
    match layer:
        case nn.Conv2d():
            return reference.conv2d(x, *parameters, stride=layer.stride, padding=layer.padding)
        case nn.Linear():
            return reference.linear(x, *parameters)
        case nn.ReLU():
            return reference.relu(x)
        case nn.MaxPool2d():
            return reference.max_pool2d(x, layer.kernel_size, layer.stride, layer.padding)
        case nn.Flatten():
            return reference.flatten(x)
        case nn.Dropout():
            return reference.dropout(x, layer.p, next(keys))
    raise TypeError(f"reference: no formula for the layer {layer!r}")
