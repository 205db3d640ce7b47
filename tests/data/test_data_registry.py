"""Data sets by name: names, the cache folder, downloads into it."""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gpucnn.data import NAMES, DataError, DownloadError, canonical_name, load, mnist, registry
from gpucnn.data.download import RemoteFile


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPUCNN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def served(path: Path) -> RemoteFile:
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    return RemoteFile(path.name, len(content), sha256, (path.as_uri(),))


def test_names() -> None:
    assert NAMES == ("digits", "mnist", "fashion-mnist", "cifar10")
    for name in ("Fashion_MNIST", "fashionmnist", "fashion mnist"):
        assert canonical_name(name) == "fashion-mnist"
    assert canonical_name("CIFAR-10") == "cifar10"


def test_unknown_name() -> None:
    with pytest.raises(ValueError) as caught:
        load("minst")
    assert str(caught.value) == (
        "load: unknown data set 'minst', expected one of digits, mnist, fashion-mnist, cifar10; "
        "did you mean 'mnist'?"
    )
    with pytest.raises(ValueError, match=r"unknown data set 'zebra', expected one of .*cifar10$"):
        load("zebra")
    with pytest.raises(ValueError, match=r"unknown data set 3"):
        load(3)  # type: ignore[arg-type]


def test_digits_take_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="digits come with gpucnn"):
        load("digits", tmp_path)


def test_nothing_is_downloaded_when_told_so(cache: Path) -> None:
    for name in NAMES[1:]:
        with pytest.raises(DataError, match=r"does not exist \(cache folder; download is off\)"):
            load(name, download=False)
    assert not cache.exists()


def test_mnist_into_the_cache(
    cache: Path, mnist_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is there already is not asked for; the rest comes from the mirror."""
    mirror = mnist_folder.parent / "mirror"
    mirror.mkdir()
    for path in mnist_folder.iterdir():
        stem = path.name.removesuffix(".gz")
        shutil.copy(path, mirror / f"{stem}.gz")
    stems = ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"]
    files = tuple(served(mirror / f"{stem}-ubyte.gz") for stem in stems)
    family = replace(mnist.MNIST, files=files)

    monkeypatch.setitem(registry._SOURCES, "mnist", registry._mnist(family))
    (cache / "mnist").mkdir(parents=True)
    shutil.copy(mirror / "t10k-labels-idx1-ubyte.gz", cache / "mnist" / "t10k-labels-idx1-ubyte")
    assert len(load("mnist").train) == 23
    assert sorted(path.name for path in (cache / "mnist").iterdir()) == sorted(
        ["t10k-labels-idx1-ubyte", *(f"{stem}-ubyte.gz" for stem in stems[:3])]
    )
    shutil.rmtree(mirror)
    assert len(load("mnist").test) == 7

    damaged = cache / "mnist" / "train-labels-idx1-ubyte.gz"
    damaged.write_bytes(b"\0\0\x08\x01")
    with pytest.raises(
        DataError, match=rf"{re.escape(str(damaged))}: byte 4.*delete it to have it downloaded"
    ):
        load("mnist")


def test_cifar10_into_the_cache(
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cifar_arrays: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    cifar: Callable[..., bytes],
) -> None:
    batch = tmp_path / "batch"
    batch.write_bytes(cifar(*cifar_arrays))
    archive = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("data_batch_1.bin", "test_batch.bin"):
            tar.add(batch, f"cifar-10-batches-bin/{name}")
    monkeypatch.setattr("gpucnn.data.cifar.REMOTE", served(archive))
    np.testing.assert_array_equal(load("cifar10").train.images, cifar_arrays[0])
    assert [path.name for path in (cache / "cifar10").iterdir()] == ["cifar-10-batches-bin"]
    archive.unlink()
    assert len(load("cifar10").test) == 31


def test_failed_download(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = (tmp_path / "nothing").as_uri()
    lost = RemoteFile("cifar-10-binary.tar.gz", 5, "00" * 32, (url,))
    monkeypatch.setattr("gpucnn.data.cifar.REMOTE", lost)
    with pytest.raises(DownloadError, match=f"no mirror delivered it:\n  {re.escape(str(url))}: "):
        load("cifar10")
    assert list((cache / "cifar10").iterdir()) == []
