"""The bundled digits and their fixed split."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

import gpucnn.data
from gpucnn.data import load
from gpucnn.data.ordering import stratified


def test_content() -> None:
    data = load("digits")
    assert data.train.images.shape == (1297, 1, 8, 8)
    assert data.test.images.shape == (500, 1, 8, 8)
    assert data.train.images.dtype == np.uint8 and data.train.labels.dtype == np.int64
    assert data.train.maximum == 16 and data.train.images.max() == 16
    values = data.train.images / 16
    assert abs(values.mean() - data.train.mean[0]) < 5e-5
    assert abs(values.std() - data.train.std[0]) < 5e-5
    assert data.classes == list("0123456789")


def test_split_is_stratified() -> None:
    data = load("digits")
    test, train = np.bincount(data.test.labels), np.bincount(data.train.labels)
    share = (test + train) * 500 / 1797
    assert np.abs(test - share).max() < 1
    assert test.sum() == 500


def test_split_is_fixed() -> None:
    """The bytes of the test part, so that results stay comparable for ever."""
    test = load("digits").test
    digest = hashlib.sha256(test.images.tobytes() + test.labels.astype("<i8").tobytes())
    assert digest.hexdigest() == "05a3252878e76cf7402226873bd01bd875da8c68763cddfd5415e1b416d74490"


def test_split_is_the_documented_one() -> None:
    bundled = Path(gpucnn.data.__file__).parent / "bundled"
    with np.load(bundled / "digits.npz") as file:
        chosen = stratified(file["labels"].astype(np.int64), 500, seed=0)
        np.testing.assert_array_equal(chosen, file["test"])
    assert sum(path.stat().st_size for path in bundled.iterdir()) < 100_000
    text = (bundled / "ATTRIBUTION").read_text()
    for word in ("Alpaydin", "Kaynak", "CC BY 4.0", "10.24432/C50P49"):
        assert word in text
