"""Calling a cpu primitive with fresh outputs, for several numbers of threads."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np

from gpucnn.backends.cpu import CpuBackend
from gpucnn.backends.cpu.threads import get_num_threads, set_num_threads

BACKEND = CpuBackend()
NHWC = (0, 2, 3, 1)
CHWN = (1, 2, 3, 0)
FLOATS = (np.float32, np.float64)


@contextmanager
def using_threads(count):
    """Within it primitives use so many threads."""
    before = get_num_threads()
    set_num_threads(count)
    try:
        yield
    finally:
        set_num_threads(before)


def run(name, inputs, outputs, **attributes):
    """Outputs of a primitive; `outputs` lists (shape, dtype) or (shape, dtype, order).

    Runs with 1, 2 and 3 threads over outputs filled with garbage: all must have the same bits.
    """
    before = get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            set_num_threads(threads)
            made = [BACKEND.empty(s, np.dtype(d), *(rest or (None,))) for s, d, *rest in outputs]
            for array in made:
                array.fill(1 if array.dtype == np.bool_ else 77)
            BACKEND.primitives[name](*inputs, *made, **attributes)
            results.append(made)
    finally:
        set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other):
            assert a.tobytes() == b.tobytes(), f"{name}: bits depend on the number of threads"
    return results[0] if len(outputs) > 1 else results[0][0]


def close(actual, expected, dtype, factor=1.0):
    """Equal within a few roundings of `dtype`, relative to the largest expected value."""
    expected = np.asarray(expected, np.float64)
    finite = np.abs(expected[np.isfinite(expected)])
    scale = float(finite.max(initial=0)) or 1.0
    tolerance = factor * (2e-6 if np.dtype(dtype) == np.float32 else 1e-13)
    assert actual.shape == expected.shape
    assert actual.dtype == np.dtype(dtype)
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * scale)


def in_order(array, order):
    """The same values, dense in this memory order."""
    made = BACKEND.empty(array.shape, array.dtype, order)
    made[...] = array
    return made


def strided(array):
    """The same values behind gaps and a negative stride on every axis."""
    big = np.zeros([2 * n + 1 for n in array.shape], array.dtype)
    view = big[(..., *(slice(2 * n - 1, None, -2) if n else slice(0, 0) for n in array.shape))]
    view[...] = array
    return view


def layouts(array):
    """The same values as C, Fortran, strided and, when 4-D, NHWC and CHWN arrays."""
    yield array
    yield np.array(array, order="F")
    yield strided(array)
    if array.ndim == 4:
        yield in_order(array, NHWC)
        yield in_order(array, CHWN)


def bits(array):
    return np.ascontiguousarray(array).tobytes()
