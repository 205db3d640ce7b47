"""What a trained net wants its images to be, kept in its model file, and pictures made so."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpucnn.data import DataError, Normalize
from gpucnn.data.dataset import ArrayDataset
from gpucnn.nn import Module

KEY = "preprocessing"


@dataclass(frozen=True)
class Preprocessing:
    """The images that a net was trained with.

    Attributes:
        channels: 1 for grey, 3 for red, green, blue.
        height: in pixels.
        width: in pixels.
        mean: per channel, subtracted from values in 0..1.
        std: per channel, the result is divided by it.
        classes: the names of the classes, in the order of the outputs.
    """

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, dataset: ArrayDataset) -> Preprocessing:
        """That of a data set."""
        channels, height, width = dataset.images.shape[1:]
        mean, std = tuple(dataset.mean), tuple(dataset.std)
        return cls(channels, height, width, mean, std, tuple(dataset.classes))

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], model: Module) -> Preprocessing:
        """That of a model file; where it says nothing, plain 0..1 and numbers for classes.

        Raises:
            ValueError: what it says is not sound, or it says nothing and the net does not know the
                size of its images.
        """
        text = metadata.get(KEY)
        if text is not None:
            try:
                return cls._checked(json.loads(text))
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise ValueError(f"the recorded preprocessing is damaged: {error}") from None
        shape = getattr(model, "input_shape", None)
        if shape is None:
            raise ValueError("the file does not say what images the net takes")
        channels, height, width = shape
        classes = tuple(str(i) for i in range(getattr(model, "num_classes", 0)))
        return cls(channels, height, width, (0.0,) * channels, (1.0,) * channels, classes)

    @classmethod
    def _checked(cls, values: Any) -> Preprocessing:
        sizes = [values[name] for name in ("channels", "height", "width")]
        if not all(type(v) is int and 1 <= v <= 65536 for v in sizes):
            raise ValueError(f"sizes {sizes}")
        mean, std = (tuple(map(float, values[name])) for name in ("mean", "std"))
        if len(mean) != sizes[0] or len(std) != sizes[0] or not all(map(math.isfinite, mean + std)):
            raise ValueError(f"mean {mean} and std {std} for {sizes[0]} channels")
        if not all(type(name) is str for name in values["classes"]):
            raise ValueError("classes that are not names")
        return cls(sizes[0], sizes[1], sizes[2], mean, std, tuple(values["classes"]))

    def to_metadata(self) -> dict[str, str]:
        """For `gpucnn.save(model, path, metadata)`."""
        return {KEY: json.dumps(asdict(self))}

    def __str__(self) -> str:
        colour = {1: "grey", 3: "colour"}.get(self.channels, f"{self.channels} channels")
        mean, std = (", ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        return f"{self.height} x {self.width} pixels, {colour}, (value - {mean}) / {std}"

    def load(
        self, paths: Sequence[str | PathLike[str]], invert: bool = False
    ) -> NDArray[np.float32]:
        """Pictures from files as one batch (N, C, H, W).

        Each is cut around its middle to the net's proportions, scaled, made grey or colour
        (transparent parts become white), brought to 0..1, and normalised.

        Args:
            invert: make dark light first, for dark writing on white paper.

        Raises:
            DataError: a file is no picture that can be read, or the net takes neither 1 nor 3
                channels.
            OSError: a file cannot be opened.
        """
        if self.channels not in (1, 3):
            raise DataError(f"the net takes {self.channels} channels, a picture has 1 or 3")
        batch = np.stack([self._read(path) for path in paths])
        if invert:
            np.subtract(1, batch, out=batch)
        return Normalize(self.mean, self.std)(batch)

    def _read(self, path: str | PathLike[str]) -> NDArray[np.float32]:
        from PIL import Image, ImageOps, UnidentifiedImageError

        size = (self.width, self.height)
        with open(path, "rb") as file:
            try:
                with Image.open(file) as picture:
                    image: Image.Image = ImageOps.exif_transpose(picture)
                    image = _opaque(image).convert("L" if self.channels == 1 else "RGB")
                    image = ImageOps.fit(image, size, Image.Resampling.BILINEAR)
            except UnidentifiedImageError:
                raise DataError(f"{path}: not a picture of a known format") from None
            # Pillow's readers fail in as many ways as there are damaged files.
            except (
                OSError,
                ValueError,
                SyntaxError,
                EOFError,
                IndexError,
                KeyError,
                TypeError,
                ArithmeticError,
                MemoryError,
                Image.DecompressionBombError,
            ) as error:
                raise DataError(f"{path}: not a picture that can be read: {error}") from error
        values = np.asarray(image, np.float32).reshape(self.height, self.width, self.channels)
        return values.transpose(2, 0, 1) / np.float32(255)


def _opaque(image: Any) -> Any:
    """The picture in 8 bits a channel, over white where it is transparent."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":  # 16 or 32 bits: `convert` would clip
        values = np.asarray(image, np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        return Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8))
    if image.mode not in ("RGBA", "LA", "PA", "RGBa", "La") and "transparency" not in image.info:
        return image
    layer = image.convert("RGBA")
    paper = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(paper, layer)
