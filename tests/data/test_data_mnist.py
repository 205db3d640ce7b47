"""MNIST and Fashion-MNIST from a folder."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gpucnn.data import DataError, load

Arrays = dict[str, NDArray[np.uint8]]
Writer = Callable[[np.ndarray], bytes]


def test_reads_a_folder(mnist_folder: Path, mnist_arrays: Arrays) -> None:
    for name in ("mnist", "fashion-mnist"):
        data = load(name, mnist_folder)
        assert data.name == name and len(data.classes) == 10
        for part, stem in ((data.train, "train"), (data.test, "t10k")):
            assert part.images.dtype == np.uint8 and part.labels.dtype == np.int64
            np.testing.assert_array_equal(
                part.images[:, 0], mnist_arrays[f"{stem}-images-idx3-ubyte"]
            )
            np.testing.assert_array_equal(part.labels, mnist_arrays[f"{stem}-labels-idx1-ubyte"])
    assert data.classes[9] == "Ankle boot"


@pytest.mark.parametrize("sub", ["mnist", "MNIST/raw"])
def test_usual_folders_and_names(
    tmp_path: Path, mnist_arrays: Arrays, idx: Writer, sub: str
) -> None:
    folder = tmp_path / "data" / sub
    folder.mkdir(parents=True)
    for name, array in mnist_arrays.items():
        (folder / name.replace("-idx", ".idx")).write_bytes(idx(array))
    assert len(load("mnist", tmp_path / "data").train) == 23


def test_missing_files(tmp_path: Path, mnist_folder: Path) -> None:
    (mnist_folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(
        DataError, match=rf"mnist: {re.escape(str(mnist_folder))} lacks t10k-labels-idx1-ubyte"
    ):
        load("mnist", mnist_folder)
    with pytest.raises(DataError, match=r"none of train-images-idx3-ubyte.*does not exist"):
        load("mnist", tmp_path / "elsewhere")


def test_wrong_content(mnist_folder: Path, mnist_arrays: Arrays, idx: Writer) -> None:
    labels = mnist_folder / "train-labels-idx1-ubyte"
    good = mnist_arrays["train-labels-idx1-ubyte"]

    bad = good.copy()
    bad[[4, 9]] = 10
    labels.write_bytes(idx(bad))
    with pytest.raises(
        DataError, match=rf"{re.escape(str(labels))}: byte 12: expected a label in 0..9, found 10"
    ):
        load("mnist", mnist_folder)

    labels.write_bytes(idx(good[:-1]))
    with pytest.raises(
        DataError, match=rf"{re.escape(str(labels))}: byte 4: expected 23 labels, .*, found 22"
    ):
        load("mnist", mnist_folder)

    labels.write_bytes(idx(mnist_arrays["train-images-idx3-ubyte"]))
    with pytest.raises(
        DataError, match=rf"{re.escape(str(labels))}: byte 3: expected 1 dimensions, found 3"
    ):
        load("mnist", mnist_folder)

    labels.write_bytes(idx(good))
    images = mnist_folder / "t10k-images-idx3-ubyte.gz"
    images.write_bytes(gzip.compress(idx(np.zeros((7, 28, 27), np.uint8))))
    with pytest.raises(
        DataError, match=r"byte 8 after decompression: expected images of 28 x 28, found 28 x 27"
    ):
        load("mnist", mnist_folder)


def test_real_mnist(real_data: Path) -> None:
    data = load("mnist", real_data / "mnist")
    assert data.train.images.shape == (60000, 1, 28, 28)
    assert data.test.images.shape == (10000, 1, 28, 28)
    assert data.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    values = data.train.images / 255
    assert abs(values.mean() - data.train.mean[0]) < 1e-4
    assert abs(values.std() - data.train.std[0]) < 1e-4
