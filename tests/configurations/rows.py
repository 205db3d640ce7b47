"""Linear layers, softmax and losses."""

from __future__ import annotations

from typing import Any

import numpy as np

from configurations.drawing import Configuration, Draw


def linear(draw: Draw) -> Configuration:
    features, outputs = draw.choice(0, 1, 2, 7, 33, 130), draw.integer(1, 9)
    x = draw.normal((*draw.shape(0, 3, 5), features))
    w = draw.normal((outputs, features + (1 if draw.chance(0.03) else 0)))
    b = draw.normal((outputs,)) if draw.chance(0.6) else None
    return Configuration([x, w, b], lambda _, F, x, w, b: F.linear(x, w, b))


def matmul(draw: Draw) -> Configuration:
    inner = draw.choice(0, 1, 3, 17)
    a, b = [inner], [inner]
    if draw.chance(0.8):
        a.insert(0, draw.integer(1, 5))
    if draw.chance(0.8):
        b.append(draw.integer(1, 5))
    batch = draw.shape(0, 2, 3, 0)
    if len(a) == 2 and draw.chance(0.5):
        a = [*batch, *a]
    if len(b) == 2 and draw.chance(0.5):
        b = [*(draw.choice(n, 1) for n in batch), *b]
    return Configuration([draw.normal(a), draw.normal(b)], lambda _, F, x, y: x @ y)


def softmax(draw: Draw) -> Configuration:
    x = draw.normal(draw.shape(0, 4)) * draw.choice(1, 1, 8)
    dim = draw.integer(-1 - x.ndim, x.ndim)
    name = draw.choice("softmax", "log_softmax")
    x = draw.laid_out(x)
    return Configuration([x], lambda _, F, x: getattr(F, name)(x, dim=dim), f"{name} {dim}")


def _classes(draw: Draw) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """The shape of the input, that of the target, and the number of classes."""
    classes = draw.choice(1, 2, 3, 7, 19)
    if draw.chance(0.1):
        return (classes,), (), classes
    batch = draw.choice(0, 1, 2, 3, 5, 8)
    rest = draw.choice((), (), (3,), (2, 3), (1, 4))
    return (batch, classes, *rest), (batch, *rest), classes


def _options(draw: Draw) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if draw.chance(0.7):
        options["reduction"] = draw.choice("mean", "sum", "none")
    if draw.chance(0.4):
        options["ignore_index"] = draw.choice(0, 1, 2, -1)
    return options


def _targets(draw: Draw, shape: tuple[int, ...], classes: int, options: dict[str, Any]) -> Any:
    target = draw.rng.integers(0, classes, shape)
    ignored = draw.choice(0.0, 0.0, 0.3, 1.0)
    target = np.where(draw.rng.random(shape) < ignored, options.get("ignore_index", -100), target)
    if target.size and draw.chance(0.03):
        target.flat[0] = classes
    return np.asarray(target)


def cross_entropy(draw: Draw) -> Configuration:
    shape, target_shape, classes = _classes(draw)
    options = _options(draw)
    if draw.chance(0.5):
        options["label_smoothing"] = draw.choice(0.1, 0.37, 1.0)
    x = draw.normal(shape)
    target = _targets(draw, target_shape, classes, options)
    weight = draw.positive((classes,)) if draw.chance(0.5) else None
    if weight is not None and draw.chance(0.2):
        weight[0] = 0
    return Configuration(
        [x, target, weight],
        lambda _, F, x, t, w: F.cross_entropy(x, t, w, **options),
        f"{options}",
        grad=(0,),
    )


def cross_entropy_with_probabilities(draw: Draw) -> Configuration:
    shape, _, classes = _classes(draw)
    options = _options(draw)
    if draw.chance(0.9):
        options.pop("ignore_index", None)
    if draw.chance(0.5):
        options["label_smoothing"] = 0.2
    target = draw.positive(shape)
    weight = draw.positive((classes,)) if draw.chance(0.5) else None
    return Configuration(
        [draw.normal(shape), target, weight],
        lambda _, F, x, t, w: F.cross_entropy(x, t, w, **options),
        f"{options}",
        grad=(0, 1),
    )


def nll_loss(draw: Draw) -> Configuration:
    shape, target_shape, classes = _classes(draw)
    options = _options(draw)
    target = _targets(draw, target_shape, classes, options)
    weight = draw.positive((classes,)) if draw.chance(0.5) else None
    return Configuration(
        [draw.normal(shape), target, weight],
        lambda _, F, x, t, w: F.nll_loss(x, t, w, **options),
        f"{options}",
        grad=(0,),
    )


def mse_loss(draw: Draw) -> Configuration:
    shape = draw.shape(0, 4)
    reduction = draw.choice("mean", "sum", "none")
    return Configuration(
        [draw.normal(shape), draw.normal(shape)],
        lambda _, F, x, t: F.mse_loss(x, t, reduction=reduction),
        reduction,
    )


GENERATORS = [linear, cross_entropy, matmul, softmax, cross_entropy_with_probabilities, nll_loss,
              mse_loss]  # fmt: skip
