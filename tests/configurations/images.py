"""Convolution, pooling and batch normalisation."""

from __future__ import annotations

import math
from typing import Any

from configurations.drawing import Configuration, Draw


def _image(draw: Draw, channels: int, longest: int = 11) -> tuple[int, ...]:
    batch = 0 if draw.chance(0.03) else draw.choice(1, 1, 2, 3)
    shape = (batch, channels, draw.integer(1, longest), draw.integer(1, longest))
    return shape[1:] if draw.chance(0.08) and batch else shape


def conv2d(draw: Draw) -> Configuration:
    groups = draw.choice(1, 1, 1, 2, 3, 5)
    per_group = draw.choice(1, 1, 2, 3, 4)
    filters = groups * draw.choice(1, 1, 2, 3)
    kernel = (draw.choice(1, 1, 2, 3, 3, 4, 5), draw.choice(1, 1, 2, 3, 3, 4, 5))
    options: dict[str, Any] = {"dilation": draw.pair(1, 3) if draw.chance(0.4) else 1}
    if draw.chance(0.2):
        options["padding"] = draw.choice("same", "valid")
    else:
        options["padding"] = draw.pair(0, 5) if draw.chance(0.7) else 0
    if options["padding"] != "same" or draw.chance(0.05):
        options["stride"] = draw.pair(1, 4)
    if groups > 1:
        options["groups"] = groups
    channels = groups * per_group + (1 if draw.chance(0.03) else 0)
    x = draw.normal(_image(draw, channels))
    w = draw.normal((filters, per_group, *kernel))
    b = draw.normal((filters,)) if draw.chance(0.6) else None
    return Configuration(
        [x, w, b], lambda _, F, x, w, b: F.conv2d(x, w, b, **options), f"{options}"
    )


def _pool_options(draw: Draw) -> dict[str, Any]:
    options: dict[str, Any] = {"kernel_size": draw.pair(1, 5)}
    if draw.chance(0.7):
        options["stride"] = draw.pair(1, 5)
    if draw.chance(0.6):
        options["padding"] = draw.pair(0, 2)
    if draw.chance(0.5):
        options["ceil_mode"] = True
    return options


def max_pool2d(draw: Draw) -> Configuration:
    options = _pool_options(draw)
    if draw.chance(0.3):
        options["dilation"] = draw.pair(1, 3)
    indices = draw.chance(0.4)
    x = draw.values(_image(draw, draw.integer(1, 4)))

    def call(_: Any, F: Any, x: Any) -> Any:
        result = F.max_pool2d(x, **options, return_indices=indices)
        # A window whose taps all fall into the padding has no maximum: PyTorch then returns
        # positions outside the image, and its gradient writes there.
        values = result[0] if indices else result
        if values.numel() and values.min().item() == -float("inf"):
            return x * 1.0
        return result

    return Configuration([x], call, f"{options} {indices}")


def avg_pool2d(draw: Draw) -> Configuration:
    options = _pool_options(draw)
    if draw.chance(0.5):
        options["count_include_pad"] = draw.chance(0.5)
    if draw.chance(0.2):
        options["divisor_override"] = draw.choice(1, 3, 7, -2)
    x = draw.values(_image(draw, draw.integer(1, 4)))
    return Configuration([x], lambda _, F, x: F.avg_pool2d(x, **options), f"{options}")


def adaptive_avg_pool2d(draw: Draw) -> Configuration:
    size = draw.choice(
        draw.integer(1, 7), (draw.integer(1, 7), draw.integer(1, 7)), (None, draw.integer(1, 5))
    )
    x = draw.normal(_image(draw, draw.integer(1, 4)))
    return Configuration([x], lambda _, F, x: F.adaptive_avg_pool2d(x, size), f"{size}")


def batch_norm(draw: Draw) -> Configuration:
    channels = draw.integer(1, 7)
    spatial = draw.choice((), (draw.integer(1, 9),), (draw.integer(1, 7), draw.integer(1, 7)))
    # Of two or three values the gradient almost vanishes: nothing to compare.
    least = -(-4 // math.prod(spatial))
    batch = draw.choice(0, 1 if math.prod(spatial) == 1 else least, least, least + 1, 5, 6, 7)
    training = draw.chance(0.6)
    statistics = not training or draw.chance(0.7)
    options = {"eps": draw.choice(1e-5, 1e-3, 0.1), "momentum": draw.choice(0.1, 0.0, 1.0, 0.37)}
    x = draw.normal((batch, channels, *spatial)) * draw.choice(1, 1, 8)
    x = draw.laid_out(x + draw.choice(0, 0, 3, -50))
    inputs = [
        x,
        draw.normal((channels,)) if statistics else None,
        draw.positive((channels,)) if statistics else None,
        draw.normal((channels,)) if draw.chance(0.8) else None,
        draw.normal((channels,)) if draw.chance(0.8) else None,
    ]

    def call(_: Any, F: Any, x: Any, mean: Any, var: Any, w: Any, b: Any) -> Any:
        mean = None if mean is None else mean.clone()
        var = None if var is None else var.clone()
        y = F.batch_norm(x, mean, var, w, b, training=training, **options)
        return (y, mean, var) if statistics else y

    text = f"training={training} statistics={statistics} {options}"
    return Configuration(inputs, call, text, grad=(0, 3, 4))


GENERATORS = [
    conv2d, max_pool2d, conv2d, avg_pool2d, batch_norm, conv2d, adaptive_avg_pool2d,
]  # fmt: skip
