"""Products cut into stacks: the same numbers however they are cut, and any strides."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_helpers import close

from gpucnn.backends.cpu import products


@pytest.fixture(params=[None, 0, 600, 5000])
def limit(request, monkeypatch):
    """The largest product that is not packed: the machine's, none at all, and small ones."""
    if request.param is not None:
        monkeypatch.setattr(products, "_limit", lambda: request.param)
        monkeypatch.setattr(products, "_ROWS", 4)
        monkeypatch.setattr(products, "_COLUMNS", 8)
        monkeypatch.setattr(products, "_PANEL", 8)
        monkeypatch.setattr(products, "_TERMS", 8)
    return request.param


def drawn(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


SIZES = [(1, 1, 1), (53, 3, 5), (5, 7, 61), (64, 12, 64), (37, 31, 29), (200, 40, 90), (0, 3, 4)]


@pytest.mark.parametrize(("rows", "inner", "columns"), SIZES)
def test_multiply(limit, rows, inner, columns):
    a, b = drawn(rows, inner), drawn(inner, columns)
    expected = a.astype(np.float64) @ b
    for left in (a, np.asfortranarray(a), drawn(rows, inner + 3)[:, :inner]):
        for right in (b, np.asfortranarray(b)):
            left[...], right[...] = a, b
            wide = np.full((rows, columns + 2), 7, np.float32)
            for out in (np.empty((rows, columns), np.float32), wide[:, :columns]):
                products.multiply(left, right, out)
                close(out, expected, np.float32, 2)
            assert (wide[:, columns:] == 7).all()


def test_multiply_a_batch(limit):
    a, b = drawn(2, 3, 41, 6), drawn(2, 3, 6, 33)
    out = np.empty((2, 3, 41, 33), np.float32)
    products.multiply(a, b, out)
    close(out, a.astype(np.float64) @ b, np.float32, 2)


@pytest.mark.parametrize(("rows", "length", "columns"), [(3, 100, 5), (5, 7, 4), (1, 999, 1)])
def test_multiply_long(limit, rows, length, columns):
    a, b = drawn(rows, length), drawn(length, columns)
    expected = a.astype(np.float64) @ b
    for left in (a, np.asfortranarray(a)):
        out = np.empty((rows, columns), np.float32)
        products.multiply_long(left, b, out)
        close(out, expected, np.float32, 4)
    both = np.empty((2, rows, columns), np.float32)
    products.multiply_long(np.stack([a, 2 * a]), np.stack([b, b]), both)
    close(both, np.stack([expected, 2 * expected]), np.float32, 4)


def test_cuts_are_within_the_limit_and_about_equal(monkeypatch):
    monkeypatch.setattr(products, "_limit", lambda: 1_000_000)
    f = np.dtype(np.float32)
    assert products._cut(100, 100, 100, f) == (100, 100)  # small enough as it is
    assert products._cut(4096, 64, 64, f) == (244, 64)  # rows: 17 pieces
    assert products._cut(16, 150, 4000, f) == (16, 400)  # columns: 10 pieces
    high, wide = products._cut(1024, 1152, 256, f)  # both
    assert wide == 64 and 12 <= high <= 1_000_000 // (64 * 1152)
    assert products._cut(1024, 5000, 256, f) == (1024, 256)  # packed
    assert products._cut(4096, 64, 64, np.dtype(np.float64)) == (4096, 64)


def test_the_limit_is_known_only_where_openblas_has_two_ways(monkeypatch):
    import threadpoolctl

    class Controller:
        def __init__(self, name):
            self.architecture = name

    def found(names):
        class Controllers:
            lib_controllers = [Controller(name) for name in names]

            def select(self, internal_api):
                assert internal_api == "openblas"
                return self

        monkeypatch.setattr(threadpoolctl, "ThreadpoolController", Controllers)
        return products._limit.__wrapped__()

    assert found(["SkylakeX"]) == 1_000_000
    assert found(["SkylakeX", "Haswell"]) == 0
    assert found(["Zen"]) == 0
    assert found([]) == 0
