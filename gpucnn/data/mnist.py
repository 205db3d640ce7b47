"""MNIST and Fashion-MNIST: four IDX files in a folder.

MNIST: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition",
1998. Fashion-MNIST: Xiao, Rasul, Vollgraf, arXiv:1708.07747 (MIT licence).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .dataset import ArrayDataset, Splits
from .download import RemoteFile
from .errors import DataError, corrupt
from .idx import read_idx

STEMS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclass(frozen=True)
class Family:
    """What tells the two data sets apart."""

    name: str
    classes: tuple[str, ...]
    mean: float
    std: float
    folders: tuple[str, ...]
    files: tuple[RemoteFile, ...]


def _files(mirrors: tuple[str, ...], sums: tuple[tuple[int, str], ...]) -> tuple[RemoteFile, ...]:
    names = [f"{stem}.gz" for stem in STEMS]
    return tuple(
        RemoteFile(name, size, sha256, tuple(mirror + name for mirror in mirrors))
        for name, (size, sha256) in zip(names, sums, strict=True)
    )


MNIST = Family(
    name="mnist",
    classes=tuple("0123456789"),
    mean=0.1307,
    std=0.3081,
    folders=("", "mnist", "MNIST/raw"),
    files=_files(
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://raw.githubusercontent.com/fgnt/mnist/master/",
        ),
        (
            (9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            (28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            (1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
            (4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
        ),
    ),
)

FASHION_MNIST = Family(
    name="fashion-mnist",
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    mean=0.2860,
    std=0.3530,
    folders=("", "fashion-mnist", "FashionMNIST/raw"),
    files=_files(
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        ),
        (
            (26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
            (29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
            (4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
            (5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
        ),
    ),
)


def read_mnist(folder: Path, family: Family) -> Splits:
    """Reads the four files from `folder` or one of the family's usual sub-folders.

    Raises:
        DataError: a file is missing or not what it should be.
    """
    paths = _find(folder, family)
    train, test = _part(paths[0], paths[1], family), _part(paths[2], paths[3], family)
    return Splits(family.name, train, test)


def missing(folder: Path, family: Family) -> list[RemoteFile]:
    """The files that `folder` itself does not hold."""
    return [
        remote
        for stem, remote in zip(STEMS, family.files, strict=True)
        if _locate(folder, stem) is None
    ]


def _locate(folder: Path, stem: str) -> Path | None:
    # Some unpackers turn the last hyphen of the original names into a dot.
    for name in (
        stem,
        f"{stem}.gz",
        stem.replace("-idx", ".idx"),
        stem.replace("-idx", ".idx") + ".gz",
    ):
        if (folder / name).is_file():
            return folder / name
    return None


def _find(folder: Path, family: Family) -> list[Path]:
    for sub in family.folders:
        found = [_locate(folder / sub, stem) for stem in STEMS]
        paths = [path for path in found if path is not None]
        if len(paths) == len(STEMS):
            return paths
        if paths:
            lacking = [stem for stem, path in zip(STEMS, found, strict=True) if path is None]
            raise DataError(
                f"{family.name}: {folder / sub} lacks {', '.join(lacking)} (plain or .gz)"
            )
    places = ", ".join(str(folder / sub) for sub in family.folders)
    raise DataError(
        f"{family.name}: none of {', '.join(STEMS)} (plain or .gz) in {places}"
        + ("" if folder.is_dir() else f"; the folder {folder} does not exist")
    )


def _part(images_path: Path, labels_path: Path, family: Family) -> ArrayDataset:
    images = read_idx(images_path, "uint8", rank=3)
    if images.shape[1:] != (28, 28):
        raise corrupt(
            images_path,
            8,
            "images of 28 x 28",
            f"{images.shape[1]} x {images.shape[2]}",
            unpacked=_gzipped(images_path),
        )
    labels: NDArray[np.uint8] = read_idx(labels_path, "uint8", rank=1)
    if len(labels) != len(images):
        raise corrupt(
            labels_path,
            4,
            f"{len(images)} labels, one for each image of {images_path.name}",
            f"{len(labels)}",
            unpacked=_gzipped(labels_path),
        )
    wrong = np.flatnonzero(labels >= len(family.classes))
    if len(wrong):
        raise corrupt(
            labels_path,
            8 + int(wrong[0]),
            f"a label in 0..{len(family.classes) - 1}",
            f"{labels[wrong[0]]}",
            unpacked=_gzipped(labels_path),
        )
    return ArrayDataset(images[:, None], labels, family.classes, (family.mean,), (family.std,))


def _gzipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"
