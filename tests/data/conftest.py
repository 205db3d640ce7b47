"""Writers of small data files in every format, and where the real ones may be."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

CODES = {"uint8": 8, "int8": 9, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}


def idx_bytes(array: NDArray[np.generic]) -> bytes:
    head = bytes([0, 0, CODES[array.dtype.name], array.ndim])
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return head + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


def cifar_bytes(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> bytes:
    return np.concatenate([labels[:, None], images.reshape(len(labels), -1)], axis=1).tobytes()


@pytest.fixture
def idx() -> Callable[[NDArray[np.generic]], bytes]:
    return idx_bytes


@pytest.fixture
def cifar() -> Callable[[NDArray[np.uint8], NDArray[np.uint8]], bytes]:
    return cifar_bytes


@pytest.fixture
def mnist_arrays() -> dict[str, NDArray[np.uint8]]:
    """The content of the four files: 23 training and 7 test images."""
    draw = np.random.default_rng(5)
    arrays = {}
    for part, count in (("train", 23), ("t10k", 7)):
        images = draw.integers(0, 256, (count, 28, 28))
        arrays[f"{part}-images-idx3-ubyte"] = images.astype(np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = (np.arange(count) % 10).astype(np.uint8)
    return arrays


@pytest.fixture
def mnist_folder(tmp_path: Path, mnist_arrays: dict[str, NDArray[np.uint8]]) -> Path:
    """A folder with two files gzipped and two plain."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name, array in mnist_arrays.items():
        if "images" in name:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
        else:
            (folder / name).write_bytes(idx_bytes(array))
    return folder


@pytest.fixture
def cifar_arrays() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """31 images and labels."""
    draw = np.random.default_rng(6)
    images = draw.integers(0, 256, (31, 3, 32, 32)).astype(np.uint8)
    return images, draw.integers(0, 10, 31).astype(np.uint8)


@pytest.fixture
def real_data() -> Path:
    """The folder with the real `mnist` and `cifar10`, where there is one."""
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("GPUCNN_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip("no real data here; name its folder in GPUCNN_TEST_DATA")
    return folder
