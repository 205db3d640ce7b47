from __future__ import annotations

import dataclasses
import inspect
import pickle

import numpy as np
import pytest
from cpu_helpers import BACKEND, NHWC, strided

from gpucnn.ops.geometry import Conv2dGeometry, Pool2dGeometry


def test_primitives_are_plain_typed_functions():
    for name, function in BACKEND.primitives.items():
        assert function.__name__ == name
        signature = inspect.signature(function)
        assert signature.return_annotation in ("None", None)
        assert all(p.annotation is not p.empty for p in signature.parameters.values()), name


@pytest.mark.parametrize("order", [None, NHWC, (1, 2, 3, 0), (3, 2, 1, 0)])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 0, 4, 5)])
def test_empty_is_dense_in_its_order(order, shape):
    array = BACKEND.empty(shape, np.dtype(np.float32), order)
    assert array.shape == shape and array.dtype == np.float32
    assert array.transpose(order or (0, 1, 2, 3)).flags.c_contiguous


def test_from_host_copies_and_keeps_the_order():
    source = BACKEND.empty((2, 3, 4, 5), np.dtype(np.float32), NHWC)
    source[...] = 1
    copied = BACKEND.from_host(source)
    assert copied.strides == source.strides and not np.shares_memory(copied, source)
    gaps = strided(np.arange(12.0).reshape(3, 4))
    np.testing.assert_array_equal(BACKEND.from_host(gaps), gaps)
    assert BACKEND.to_host(copied) is copied


def test_as_strided_begins_where_the_array_begins():
    array = np.arange(24.0).reshape(4, 6)
    view = BACKEND.as_strided(array[1:], (2, 3), (96, 16))
    np.testing.assert_array_equal(view, [[6, 8, 10], [18, 20, 22]])
    view[0, 0] = -1
    assert array[1, 0] == -1


def test_synchronize_and_preferred_order():
    BACKEND.synchronize()
    attributes = (1, 1, 1, 1)  # stride, padding, dilation, groups
    wide = Conv2dGeometry.of("conv2d", (64, 32, 9, 9), (64, 32, 3, 3), *attributes)
    assert BACKEND.preferred_order(wide) == NHWC
    few = Conv2dGeometry.of("conv2d", (64, 3, 9, 9), (6, 3, 3, 3), *attributes)
    assert BACKEND.preferred_order(few) == (1, 2, 3, 0)
    one = Conv2dGeometry.of("conv2d", (1, 3, 9, 9), (6, 3, 3, 3), *attributes)
    assert BACKEND.preferred_order(one) == NHWC


def test_geometries_are_keys_whose_hash_stays_in_its_process():
    """Pickled, a geometry leaves behind what other processes would compute otherwise."""
    g = Pool2dGeometry.of("test", (1, 2, 8, 8), 2, None, 0)
    same = Pool2dGeometry.of("test", (1, 2, 8, 8), (2, 2), (2, 2), (0, 0))
    assert g == same and hash(g) == hash(same) and len({g, same}) == 1
    other = pickle.loads(pickle.dumps(g))
    assert "_hash" in vars(g) and "_hash" not in vars(other)
    assert other == g and hash(other) == hash(g)
    assert dataclasses.replace(g, n=2) != g and hash(dataclasses.replace(g, n=2)) != hash(g)
