"""ArrayDataset and Splits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpucnn.data import ArrayDataset, Splits
from gpucnn.data.ordering import shuffled, stratified


def make(count: int = 60, classes: int = 4) -> ArrayDataset:
    images = np.arange(count * 12).reshape(count, 3, 2, 2).astype(np.uint8)
    return ArrayDataset(images, np.arange(count) % classes, mean=(0.1, 0.2, 0.3))


def test_items_and_parts() -> None:
    data = make()
    image, label = data[5]
    np.testing.assert_array_equal(image, data.images[5])
    assert label == 1 and type(label) is int
    assert data[-1][1] == data.labels[-1]
    for key in (slice(3, 9, 2), [3, 5, 7], np.array([3, 5, 7]), np.arange(60) % 7 == 0, []):
        part = data[key]
        index = np.array(key, int) if isinstance(key, list) else key
        np.testing.assert_array_equal(part.images, data.images[index])
        np.testing.assert_array_equal(part.labels, data.labels[index])
        assert part.classes == data.classes and part.mean == (0.1, 0.2, 0.3)
    with pytest.raises(IndexError, match="index 60 is outside a dataset of 60 items"):
        data[60]
    assert len(list(iter(data))) == 60


def test_batches_are_copies() -> None:
    data = make()
    for index in (slice(0, 4), np.arange(4)):
        images, labels = data.batch(index)
        images[:] = 77
        labels[:] = 77
    assert data.images[0, 0, 0, 0] == 0 and data.labels[0] == 0


def test_defaults() -> None:
    data = make()
    assert data.classes == ["0", "1", "2", "3"]
    assert data.std == (1.0, 1.0, 1.0) and data.maximum == 255
    assert ArrayDataset(np.zeros((1, 1, 2, 2)), [0]).maximum == 1
    assert repr(data) == "ArrayDataset(60 images of 3 x 2 x 2 uint8, 4 classes)"
    assert len(ArrayDataset(np.zeros((0, 1, 2, 2)), [])) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(images=np.zeros((2, 3, 3))), r"must be \(N, C, H, W\), got \(2, 3, 3\); use images"),
        (dict(images=np.zeros((3, 1, 2, 2))), r"3 images but 2 labels"),
        (dict(labels=[0.0, 1.0]), r"labels must be integers of shape \(N,\), got float64 \(2,\)"),
        (dict(labels=[[0], [1]]), r"labels must be integers of shape \(N,\), got int64 \(2, 1\)"),
        (dict(classes=["a"]), r"label 1 is outside 0..0 \(1 classes\)"),
        (dict(labels=[0, -1]), r"label -1 is outside 0..0"),
        (dict(mean=(1, 2)), r"mean has 2 values but the images have 1 channels"),
        (dict(std=(1, 2)), r"std has 2 values"),
        (dict(maximum=0), r"maximum must be positive, got 0"),
        (dict(images=np.zeros((2, 1, 2, 2), np.int32)), r"images of int32 need maximum="),
    ],
)
def test_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"ArrayDataset: .*{message}|ArrayDataset: {message}"):
        ArrayDataset(**{"images": np.zeros((2, 1, 2, 2)), "labels": [0, 1], **arguments})


def test_split() -> None:
    whole = Splits("data", make(60, 4), make(8, 4))
    parts = whole.split(0.2)
    assert parts.validation is not None and whole.validation is None
    assert len(parts.train) == 48 and len(parts.validation) == 12
    assert np.bincount(parts.validation.labels).tolist() == [3, 3, 3, 3]
    together = np.concatenate([parts.train.images, parts.validation.images])
    assert sorted(together[:, 0, 0, 0].tolist()) == sorted(whole.train.images[:, 0, 0, 0].tolist())
    assert parts.test is whole.test and parts.classes == whole.classes

    same, other, counted = whole.split(0.2), whole.split(0.2, seed=1), whole.split(12)
    assert same.validation and other.validation and counted.validation
    np.testing.assert_array_equal(same.validation.images, parts.validation.images)
    np.testing.assert_array_equal(counted.validation.images, parts.validation.images)
    assert not np.array_equal(other.validation.images, parts.validation.images)


@pytest.mark.parametrize("validation", [0, 60, -1, 1.0, 0.0, 2.5])
def test_split_out_of_range(validation: float) -> None:
    whole = Splits("data", make(60), make(8))
    with pytest.raises(ValueError, match="split: validation must be a share between 0 and 1"):
        whole.split(validation)


def test_split_twice() -> None:
    with pytest.raises(ValueError, match="split: data has a validation part already"):
        Splits("data", make(60), make(8)).split(6).split(6)


def test_stratified_by_largest_remainders() -> None:
    labels = np.repeat([0, 1, 2, 3], [50, 30, 15, 5])
    assert np.bincount(labels[stratified(labels, 10, 0)]).tolist() == [5, 3, 2]
    assert np.bincount(labels[stratified(labels, 20, 0)]).tolist() == [10, 6, 3, 1]
    assert len(np.unique(stratified(labels, 99, 3))) == 99


def test_orders_are_permutations_and_fixed() -> None:
    order = shuffled(1000, 3, 0, 5)
    assert np.array_equal(np.sort(order), np.arange(1000))
    assert np.array_equal(order, shuffled(1000, 3, 0, 5))
    assert not np.array_equal(order, shuffled(1000, 3, 0, 6))
    assert not np.array_equal(order, shuffled(1000, 4, 0, 5))
    assert shuffled(8, 0, 0, 0).tolist() == [7, 2, 0, 4, 3, 5, 6, 1]
