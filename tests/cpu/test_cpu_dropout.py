from __future__ import annotations

import math

import numpy as np
import pytest
import reference
from cpu_helpers import BACKEND, CHWN, FLOATS, NHWC, layouts, run

KEY = (12345, 678910)


def words(key):
    return np.array(key, np.uint64).view(np.int64)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (0, 3), (8, 2), (2, 3, 5, 7)])
def test_dropout(shape, p, dtype):
    x = np.asarray(np.random.default_rng(0).standard_normal(shape), dtype)
    keep = reference.dropout_mask(shape, p, KEY)
    expected = np.where(keep, x * dtype(1 / (1 - p)), 0)
    for view in layouts(x):
        for order in (None, NHWC, CHWN) if len(shape) == 4 else (None,):
            y = run("dropout", [view, words(KEY)], [(shape, dtype, order)], p=p)
            np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("order", [None, NHWC])
@pytest.mark.parametrize("shape", [(1, 1, 1, 32769), (3, 13, 71, 67)])
def test_large_dropout_uses_the_same_words(shape, order):
    keep = reference.dropout_mask(shape, 0.3, KEY)
    x = np.ones(shape, np.float32)
    y = run("dropout", [x, words(KEY)], [(shape, np.float32, order)], p=0.3)
    np.testing.assert_array_equal(y, keep * np.float32(1 / 0.7))
    assert abs(keep.mean() - 0.7) < 0.01


def test_keys_give_different_masks_and_large_keys_work():
    x = np.ones(1000, np.float32)
    spec = [((1000,), np.float32)]
    masks = [
        run("dropout", [x, words(key)], spec, p=0.5).tobytes()
        for key in ((0, 0), (0, 1), (1, 0), (2**64 - 1, 2**63))
    ]
    assert len(set(masks)) == 4


def test_everything_is_dropped_when_p_rounds_to_one():
    x = np.ones(100)
    y = run("dropout", [x, words(KEY)], [((100,), np.float64)], p=1 - 1e-12)
    assert not y.any()


def test_dropout_in_place_and_of_nan():
    x = np.full(200, math.nan, np.float32)
    keep = reference.dropout_mask((200,), 0.5, KEY)
    x[~keep] = 3
    BACKEND.primitives["dropout"](x, words(KEY), x, p=0.5)
    np.testing.assert_array_equal(np.isnan(x), keep)
