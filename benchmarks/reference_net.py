"""Loss and gradients of a whole net in float64: the reference's operations, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpucnn import nn
from gpucnn.benchmarks import reference
from gpucnn.benchmarks.row import Array
from gpucnn.models import Model
from gpucnn.models.resnet import BasicBlock, Bottleneck, ResNet

Key = tuple[int, int]


@dataclass(frozen=True)
class _Mode:
    """Training, with the keys of the dropouts; else evaluation."""

    training: bool = False
    keys: Iterator[Key] = field(default_factory=lambda: iter(()))


def logits(model: Model, x: Array) -> Array:
    """What the net gives in evaluation."""
    return _apply(model, x, _Mode())[0]


def loss_and_gradients(model: Model, x: Array, target: Array, key: Key) -> list[Array]:
    """The mean cross entropy in training, then the gradient of each parameter in their order.

    Args:
        key: of the first dropout; the next ones count up its second number.
    """
    seed, calls = key
    keys = iter([(seed, number) for number in range(calls, calls + 1000)])
    y, pull = _apply(model, x, _Mode(True, keys))
    loss, of_logits = reference.cross_entropy(y, target)
    found: Any = pull(of_logits(np.asarray(1.0))[0])  # type: ignore[arg-type]
    return [loss, *found[1:]]


def _apply(module: Any, x: Array, mode: _Mode) -> reference.Result:
    """y, and pull(dy): the gradient of x, then those of the parameters in their order."""
    parameters = [np.asarray(p).astype(np.float64) for p in module.parameters(recurse=False)]
    match module:
        case nn.Conv2d():
            return _of_array_arguments(
                len(parameters),
                reference.conv2d(x, *parameters, stride=module.stride, padding=module.padding),
            )
        case nn.Linear():
            return reference.linear(x, *parameters)
        case nn.BatchNorm2d():
            statistics = np.asarray(module.running_mean), np.asarray(module.running_var)
            y, pull = reference.batch_norm(
                x, *statistics, *parameters, training=mode.training, eps=module.eps
            )
            return y, lambda dy: tuple(g for g in pull(dy) if g is not None)
        case nn.ReLU():
            return reference.relu(x)
        case nn.MaxPool2d():
            return reference.max_pool2d(x, module.kernel_size, module.stride, module.padding)
        case nn.AdaptiveAvgPool2d():
            return reference.global_avg_pool2d(x)
        case nn.Flatten():
            return reference.flatten(x)
        case nn.Dropout():
            return reference.dropout(x, module.p, next(mode.keys)) if mode.training else _same(x)
        case nn.Identity():
            return _same(x)
        case nn.Sequential():
            return _chain(module, x, mode)
        case BasicBlock() | Bottleneck():
            return _residual(module, x, mode)
        case ResNet():
            stages = (module.layer1, module.layer2, module.layer3, module.layer4)
            stem = module.conv1, module.bn1, module.relu, module.maxpool
            return _chain((*stem, *stages, module.avgpool, nn.Flatten(), module.fc), x, mode)
        case Model():
            return _chain((module.features, module.classifier), x, mode)
    raise TypeError(f"reference: no formula for {module!r}")


def _same(x: Array) -> reference.Result:
    return x, lambda dy: (dy,)


def _of_array_arguments(parameters: int, result: reference.Result) -> reference.Result:
    """Without the gradient of a bias that is not there."""
    y, pull = result
    return y, lambda dy: pull(dy)[: 1 + parameters]


def _chain(modules: Iterable[Any], x: Array, mode: _Mode) -> reference.Result:
    pulls = []
    for module in modules:
        x, pull = _apply(module, x, mode)
        pulls.append(pull)

    def back(dy: Array) -> tuple[Array | None, ...]:
        gradient: Any = dy
        of_parameters: tuple[Array | None, ...] = ()
        for pull in reversed(pulls):
            gradient, *own = pull(gradient)
            of_parameters = (*own, *of_parameters)
        return (gradient, *of_parameters)

    return x, back


def _residual(block: Any, x: Array, mode: _Mode) -> reference.Result:
    """y = relu(F(x) + shortcut(x)), He et al. 2016."""
    body = [block.conv1, block.bn1, block.relu, block.conv2, block.bn2]
    if isinstance(block, Bottleneck):
        body += [block.relu, block.conv3, block.bn3]
    residual, pull_residual = _chain(body, x, mode)
    shortcut, pull_shortcut = _chain(block.downsample or (), x, mode)
    y, pull_relu = reference.relu(residual + shortcut)

    def back(dy: Array) -> tuple[Array | None, ...]:
        gradient: Any = pull_relu(dy)[0]
        of_body: Any = pull_residual(gradient)
        of_shortcut: Any = pull_shortcut(gradient)
        return (of_body[0] + of_shortcut[0], *of_body[1:], *of_shortcut[1:])

    return y, back
