"""Transforms of batches against loops over single images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpucnn.data import Compose, Normalize, RandomCrop, RandomHorizontalFlip
from gpucnn.data.transforms import apply, flatten


def batch(dtype: Any = np.uint8, n: int = 9, c: int = 3) -> NDArray[Any]:
    images = np.random.default_rng(2).integers(0, 256, (n, c, 7, 5))
    return images.astype(dtype) if dtype == np.uint8 else (images / 255).astype(dtype)


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


MEAN, STD = (0.2, 0.5, 0.7), (0.3, 0.25, 0.1)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_normalize(dtype: Any) -> None:
    images = batch(dtype)
    before = images.copy()
    result = Normalize(MEAN, STD)(images, draw(), scale=1 / 255 if dtype == np.uint8 else 1.0)
    assert result.dtype == np.float32 and result.flags.c_contiguous
    values = images / 255.0 if dtype == np.uint8 else images.astype(np.float64)
    expected = np.empty(images.shape)
    for i in range(len(images)):
        for c in range(3):
            expected[i, c] = (values[i, c] - MEAN[c]) / STD[c]
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    ("size", "padding"), [((7, 5), 2), (4, 0), ((9, 3), (1, 0)), ((7, 5), (0, 3)), (5, 0)]
)
def test_random_crop(dtype: Any, size: Any, padding: Any) -> None:
    images = batch(dtype, n=40)
    before = images.copy()
    result = RandomCrop(size, padding)(images, draw())
    height, width = size if isinstance(size, tuple) else (size, size)
    pad_h, pad_w = padding if isinstance(padding, tuple) else (padding, padding)
    assert result.dtype == images.dtype and result.shape == (40, 3, height, width)

    generator = draw()
    tops = generator.integers(7 + 2 * pad_h - height + 1, size=40)
    lefts = generator.integers(5 + 2 * pad_w - width + 1, size=40)
    for image, crop, top, left in zip(images, result, tops, lefts, strict=True):
        for y in range(height):
            for x in range(width):
                source_y, source_x = y + top - pad_h, x + left - pad_w
                inside = 0 <= source_y < 7 and 0 <= source_x < 5
                expected = image[:, source_y, source_x] if inside else 0
                np.testing.assert_array_equal(crop[:, y, x], expected)
    np.testing.assert_array_equal(images, before)


def test_every_crop_occurs() -> None:
    images = np.arange(9.0).reshape(1, 1, 3, 3).repeat(500, axis=0)
    corners = RandomCrop(2)(images, draw())[:, 0, 0, 0]
    assert sorted(set(corners.tolist())) == [0, 1, 3, 4]


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_random_horizontal_flip(p: float) -> None:
    images = batch(n=200)
    before = images.copy()
    result = RandomHorizontalFlip(p)(images, draw())
    flips = 0
    for image, flipped, chance in zip(images, result, draw().random(200), strict=True):
        flip = chance < p
        np.testing.assert_array_equal(flipped, image[:, :, ::-1] if flip else image)
        flips += flip
    assert abs(flips - 200 * p) < 30
    np.testing.assert_array_equal(images, before)


def test_pipeline_equals_one_step_after_the_other() -> None:
    """Moving bytes first and scaling inside `Normalize` changes nothing but the time."""
    images = batch(n=16)
    steps = [RandomCrop((7, 5), 2), RandomHorizontalFlip(), Normalize(MEAN, STD)]
    expected = Compose(steps)((images / np.float32(255)).astype(np.float32), draw(3))
    result = apply(flatten(Compose([Compose(steps[:2]), steps[2]])), images, 1 / 255, draw(3))
    assert result.dtype == np.float32 and result.flags.c_contiguous
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-6)


def test_functions_see_values_up_to_one() -> None:
    seen: list[NDArray[Any]] = []

    def look(images: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
        seen.append(images)
        return images.astype(np.float64) + 1

    images = batch()
    result = apply([RandomHorizontalFlip(0), look, Normalize(MEAN, STD)], images, 1 / 255, draw())
    assert seen[0].dtype == np.float32
    np.testing.assert_allclose(seen[0], images / 255, rtol=1e-6)
    expected = (images / 255 + 1 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    plain = apply([], images, 1 / 16, draw())
    np.testing.assert_array_equal(plain, images.astype(np.float32) / 16)


def test_errors() -> None:
    images = batch()
    with pytest.raises(ValueError, match="Normalize: mean has 1 values but std has 2"):
        Normalize([0], [1, 1])
    with pytest.raises(ValueError, match=r"Normalize: std must be positive, got \(0.0,\)"):
        Normalize([0], [0])
    with pytest.raises(ValueError, match="Normalize: mean and std have 1 values but the images"):
        Normalize([0], [1])(images)
    with pytest.raises(ValueError, match=r"RandomCrop: size \(8, 8\) is larger than .* \(9, 7\)"):
        RandomCrop(8, 1)(images, draw())
    with pytest.raises(ValueError, match="RandomCrop: size must be an integer or a pair of at l"):
        RandomCrop(0)
    with pytest.raises(ValueError, match="RandomCrop: padding must be .* got -1"):
        RandomCrop(4, -1)
    with pytest.raises(ValueError, match="RandomHorizontalFlip: p must lie in 0..1, got 2"):
        RandomHorizontalFlip(2)
    for transform in (RandomCrop(2), RandomHorizontalFlip(), Normalize(MEAN, STD)):
        with pytest.raises(ValueError, match=r"images must be a batch \(N, C, H, W\), got \(3, 7"):
            transform(images[0], draw())
    with pytest.raises(TypeError, match="Compose: 3 is not a transform"):
        Compose([3])  # type: ignore[list-item]
    for wrong in (lambda i, g: i[:-1], lambda i, g: i[0], lambda i, g: None):
        with pytest.raises(ValueError, match=r"expected \(9, C, H, W\), got"):
            apply([wrong], images, 1.0, draw())
