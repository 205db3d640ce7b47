"""Random configurations: what PyTorch and gpucnn are both asked to compute.

A configuration calls both libraries by the same names with the same arguments. It may be one that
must be refused: then both must refuse it.
"""

from __future__ import annotations

import numpy as np

from configurations import arrays, images, rows
from configurations.drawing import Configuration, Draw

GENERATORS = [*images.GENERATORS, *rows.GENERATORS, *arrays.GENERATORS]


def configuration(seed: int) -> Configuration:
    """Configuration number `seed`: every generator in turn, each time another draw."""
    generator = GENERATORS[seed % len(GENERATORS)]
    draw = Draw(np.random.default_rng([20240607, seed]))
    made = generator(draw)
    made.name = f"{generator.__name__} {seed}"
    return made


def is_of_images(seed: int) -> bool:
    """Whether it convolves, pools or normalises."""
    return seed % len(GENERATORS) < len(images.GENERATORS)


__all__ = ["Configuration", "configuration", "is_of_images"]
