"""Transforms that the device of a batch carries out: the stored bytes go there, a quarter of the
floats, and with them where to cut and what to mirror. The results have the host's bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .transforms import Normalize, RandomCrop, RandomHorizontalFlip, Transform

if TYPE_CHECKING:
    from gpucnn.core.device import Device
    from gpucnn.core.tensor import Tensor


class Placed(NamedTuple):
    """Stored images with what is to be done to them.

    Attributes:
        images: (N, C, H, W) uint8.
        places: (N, 3) int32: row and column in the image where the result begins, and whether it is
            mirrored.
        size: height and width of the result.
    """

    images: NDArray[np.uint8]
    places: NDArray[np.int32]
    size: tuple[int, int]


@dataclass(frozen=True)
class Preparation:
    """Steps as one pass over the pixels: cut and mirrored, then multiplied and shifted.

    Attributes:
        moves: at most one crop, any flips.
        factor: (C,) float32, of the stored values.
        offset: (C,) float32.
    """

    moves: tuple[RandomCrop | RandomHorizontalFlip, ...]
    factor: NDArray[np.float32]
    offset: NDArray[np.float32]

    @classmethod
    def of(cls, steps: Sequence[Transform], channels: int, scale: float) -> Preparation | None:
        """That of elementary transforms, or None where they are others, or in another order.

        Args:
            steps: see `transforms.flatten`.
            channels: of the images.
            scale: stored integer times `scale` is the value in 0..1 that the steps see.
        """
        moves = [step for step in steps if type(step) in (RandomCrop, RandomHorizontalFlip)]
        rest = list(steps[len(moves) :])
        crops = sum(type(step) is RandomCrop for step in moves)
        if list(steps[: len(moves)]) != moves or crops > 1:
            return None
        if not rest:
            factor = np.full(channels, scale, np.float32)
            return cls(tuple(moves), factor, np.zeros(channels, np.float32))  # type: ignore[arg-type]
        normalize = rest[0]
        if len(rest) > 1 or type(normalize) is not Normalize or len(normalize.mean) != channels:
            return None
        return cls(tuple(moves), *normalize.factor_and_offset(scale))  # type: ignore[arg-type]

    def place(self, images: NDArray[Any], generator: np.random.Generator) -> Placed:
        """Draw what `transforms.apply` would draw for these stored images (N, C, H, W)."""
        n, _, h, w = images.shape
        places = np.zeros((n, 3), np.int32)
        top, left, flip = places.T
        size = h, w
        for move in self.moves:
            if isinstance(move, RandomHorizontalFlip):
                flip ^= move.draw(n, generator)
                continue
            rows, columns = move.draw(n, h, w, generator)
            size = move.size
            top[...] = rows - move.padding[0]
            columns -= move.padding[1]
            # A column of the mirrored image, counted from its other end.
            left[...] = np.where(flip, w - size[1] - columns, columns)
        return Placed(images, places, size)

    def run(self, placed: Placed, device: Device) -> Tensor:
        """The images (N, C, *size) as float32 on the device."""
        import gpucnn
        from gpucnn.ops.augment import prepare

        images, places, factor, offset = (
            gpucnn.from_numpy(array).to(device)
            for array in (placed.images, placed.places, self.factor, self.offset)
        )
        return prepare(images, places, factor, offset, placed.size)
