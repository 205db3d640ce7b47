"""How a result is compared with the one expected."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def relative_error(actual: Array, expected: Array) -> float:
    """The largest difference of finite entries, relative to the largest of them."""
    finite = np.isfinite(expected)
    scale = float(np.abs(expected[finite]).max(initial=0.0)) or 1.0
    with np.errstate(invalid="ignore"):
        return float(np.abs(actual[finite] - expected[finite]).max(initial=0.0)) / scale


def compare(actual: Any, expected: Any, what: str = "result") -> float:
    """The relative error of floats; shapes, integers, NaN and infinities must agree exactly.

    Raises:
        AssertionError: they do not; the text says where.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape:
        raise AssertionError(f"{what}: shape {actual.shape}, not {expected.shape}")
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(actual, expected, what)
        return 0.0
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    if actual.dtype == np.float32:  # what float32 cannot hold is infinite there
        with np.errstate(over="ignore"):
            b = np.where(np.isinf(b.astype(np.float32)), b.astype(np.float32), b)
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b), f"{what}: NaN")
    infinite = np.isinf(b)
    np.testing.assert_array_equal(a[infinite], b[infinite], f"{what}: infinity")
    return relative_error(a, b)


def assert_close(actual: Any, expected: Any, tolerance: float, what: str = "result") -> None:
    """`compare`, and the error is within the tolerance.

    Raises:
        AssertionError: it is not.
    """
    error = compare(actual, expected, what)
    if not error <= tolerance:
        raise AssertionError(f"{what}: error {error:.3g} above {tolerance:.3g}")
