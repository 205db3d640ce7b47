"""CIFAR-10: 32 x 32 colour images of ten classes, in the binary or the Python format.

The binary format is n records of 3073 bytes: the label, then 1024 bytes each of red, green and
blue, row by row. Any n will do, so subsets are data sets too. Krizhevsky, "Learning multiple
layers of features from tiny images", 2009.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .archive import unpack
from .cifar_pickle import PIXELS, read_batch
from .dataset import ArrayDataset, Splits
from .download import RemoteFile, fetch
from .errors import DataError, corrupt

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
RECORD = 1 + PIXELS

BINARY, PYTHON = "cifar-10-batches-bin", "cifar-10-batches-py"
ARCHIVES = {"cifar-10-binary.tar.gz": BINARY, "cifar-10-python.tar.gz": PYTHON}
REMOTE = RemoteFile(
    "cifar-10-binary.tar.gz",
    170052171,
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    (
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/"
        "cifar-10-binary.tar.gz",
        "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/"
        "cifar-10-binary.tar.gz",
    ),
)


def read_cifar10(folder: Path) -> Splits:
    """Reads the batches in `folder` or in its usual sub-folder; unpacks an archive found there.

    Raises:
        DataError: batches are missing or not what they should be.
    """
    train, test = _find(folder)
    return Splits("cifar10", _part(train), _part(test))


def download_cifar10(folder: Path) -> None:
    """Fetches and unpacks the binary archive into `folder`, unless batches are there already."""
    if any(_batches(place) for place in _places(folder)):
        return
    unpack(fetch(REMOTE, folder), BINARY)
    (folder / REMOTE.name).unlink()


def _places(folder: Path) -> list[Path]:
    return [folder, folder / BINARY, folder / PYTHON]


def _batches(place: Path) -> tuple[list[Path], list[Path]] | None:
    """Train and test files of one folder, or None if it has neither."""
    names = [path.name for path in place.iterdir()] if place.is_dir() else []
    for suffix in (".bin", ""):
        numbers = [re.fullmatch(rf"data_batch_(\d+){re.escape(suffix)}", name) for name in names]
        train = [match[0] for match in sorted(filter(None, numbers), key=lambda m: int(m[1]))]
        test = [name for name in names if name == f"test_batch{suffix}"]
        if train or test:
            return [place / name for name in train], [place / name for name in test]
    return None


def _find(folder: Path) -> tuple[list[Path], list[Path]]:
    found = next((b for place in _places(folder) if (b := _batches(place))), None)
    for archive, content in ARCHIVES.items():
        if found is None and (folder / archive).is_file():
            found = _batches(unpack(folder / archive, content))
    if found is None:
        places = ", ".join(str(place) for place in _places(folder))
        raise DataError(
            f"cifar10: no data_batch_*.bin, test_batch.bin (or the Python batches, or "
            f"{' or '.join(ARCHIVES)}) in {places}"
            + ("" if folder.is_dir() else f"; the folder {folder} does not exist")
        )
    for paths, other, what in ((*found, "data_batch_*"), (*found[::-1], "test_batch")):
        if not paths:
            raise DataError(f"cifar10: {other[0].parent} has {other[0].name} but no {what}")
    return found


def _part(paths: list[Path]) -> ArrayDataset:
    batches = [_binary(p) if p.suffix == ".bin" else read_batch(p, len(CLASSES)) for p in paths]
    # One copy in all: the records interleave labels and pixels, the data set must not.
    images = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    return ArrayDataset(images.reshape(-1, 3, 32, 32), labels, CLASSES, MEAN, STD)


def _binary(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (n, 3072) and labels (n,) as views of the file's bytes."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    whole = len(data) // RECORD
    if len(data) != whole * RECORD:
        raise corrupt(
            path,
            whole * RECORD,
            f"records of {RECORD} bytes up to the end of the file",
            f"{len(data) - whole * RECORD} bytes",
        )
    records = data.reshape(whole, RECORD)
    wrong = np.flatnonzero(records[:, 0] >= len(CLASSES))
    if len(wrong):
        raise corrupt(
            path,
            int(wrong[0]) * RECORD,
            f"a label in 0..{len(CLASSES) - 1}",
            f"{records[wrong[0], 0]}",
        )
    return records[:, 1:], records[:, 0]
