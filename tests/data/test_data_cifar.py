"""CIFAR-10 in its binary format, and where batches are looked for."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gpucnn.data import DataError, load

Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]
Writer = Callable[[NDArray[np.uint8], NDArray[np.uint8]], bytes]


@pytest.fixture
def folder(tmp_path: Path, cifar_arrays: Arrays, cifar: Writer) -> Path:
    """Batches 1, 2 and 10 of 5, 7 and 11 images, and 8 test images."""
    images, labels = cifar_arrays
    parts = {"data_batch_1": (0, 5), "data_batch_2": (5, 12), "data_batch_10": (12, 23)}
    for name, (start, stop) in {**parts, "test_batch": (23, 31)}.items():
        (tmp_path / f"{name}.bin").write_bytes(cifar(images[start:stop], labels[start:stop]))
    return tmp_path


def test_reads_batches_in_order(folder: Path, cifar_arrays: Arrays) -> None:
    images, labels = cifar_arrays
    data = load("cifar10", folder)
    np.testing.assert_array_equal(data.train.images, images[:23])
    np.testing.assert_array_equal(data.train.labels, labels[:23])
    np.testing.assert_array_equal(data.test.images, images[23:])
    np.testing.assert_array_equal(data.test.labels, labels[23:])
    assert data.train.images.flags.c_contiguous and data.train.images.dtype == np.uint8
    assert data.classes[0] == "airplane" and data.classes[9] == "truck"


def test_other_files_are_not_batches(folder: Path) -> None:
    (folder / "data_batch_3.bin.part").write_bytes(b"x")
    (folder / "data_batch_1 (copy).bin").write_bytes(b"x")
    assert len(load("cifar10", folder).train) == 23


def test_usual_folder(tmp_path: Path, folder: Path) -> None:
    inner = tmp_path / "root" / "cifar-10-batches-bin"
    inner.mkdir(parents=True)
    for path in folder.glob("*.bin"):
        path.rename(inner / path.name)
    assert len(load("cifar10", tmp_path / "root").train) == 23


def test_archive_is_unpacked_beside_itself(tmp_path: Path, folder: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(root / "cifar-10-binary.tar.gz", "w:gz") as tar:
        for path in folder.glob("*.bin"):
            tar.add(path, f"cifar-10-batches-bin/{path.name}")
    assert len(load("cifar10", root).train) == 23
    assert (root / "cifar-10-batches-bin" / "test_batch.bin").is_file()
    (root / "cifar-10-binary.tar.gz").write_bytes(b"not read again")
    assert len(load("cifar10", root).train) == 23


def test_archive_without_the_folder(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("data_batch_1.bin"), io.BytesIO())
    with pytest.raises(DataError, match="expected a folder cifar-10-batches-bin in it"):
        load("cifar10", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-binary.tar.gz"]


def test_size_that_is_no_multiple(folder: Path) -> None:
    path = folder / "data_batch_2.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(
        DataError,
        match=rf"{re.escape(str(path))}: byte {6 * 3073}: expected records .* found 3072 bytes",
    ):
        load("cifar10", folder)
    path.write_bytes(content + b"xy")
    with pytest.raises(
        DataError, match=rf"{re.escape(str(path))}: byte {7 * 3073}: .* found 2 bytes"
    ):
        load("cifar10", folder)


def test_label_out_of_range(folder: Path) -> None:
    path = folder / "test_batch.bin"
    content = bytearray(path.read_bytes())
    content[3 * 3073] = 10
    path.write_bytes(content)
    with pytest.raises(
        DataError,
        match=rf"{re.escape(str(path))}: byte {3 * 3073}: expected a label in 0..9, found 10",
    ):
        load("cifar10", folder)


def test_missing_batches(tmp_path: Path, folder: Path) -> None:
    (folder / "test_batch.bin").unlink()
    with pytest.raises(DataError, match="has data_batch_1.bin but no test_batch"):
        load("cifar10", folder)
    with pytest.raises(DataError, match=r"no data_batch_\*.bin.* does not exist"):
        load("cifar10", tmp_path / "elsewhere")


def test_real_cifar10(real_data: Path) -> None:
    data = load("cifar10", real_data / "cifar10")
    assert data.train.images.shape[1:] == (3, 32, 32)
    assert len(data.train) >= 10000 and len(data.test) >= 2000
    assert np.bincount(data.test.labels).min() > 0
