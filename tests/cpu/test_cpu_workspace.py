from __future__ import annotations

import threading

import numpy as np
import pytest

from gpucnn.backends.cpu import workspace as module
from gpucnn.backends.cpu.padding import copy_padded, inside
from gpucnn.backends.cpu.workspace import Kept, kept, planes, workspace


def in_a_thread(work):
    """Run in a thread of its own, which has a workspace of its own."""
    errors = []

    def run():
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def test_memory_is_kept_aligned_and_shared_between_dtypes():
    def work():
        one = workspace(0, (3, 5), np.float32)
        assert one.shape == (3, 5) and one.flags.c_contiguous and one.dtype == np.float32
        assert one.ctypes.data % 64 == 0
        two = workspace(0, (2, 2), np.float64)
        assert two.ctypes.data == one.ctypes.data
        other = workspace(1, (3, 5), np.float32)
        assert not np.shares_memory(one, other)
        assert kept() == 120
        workspace(0, (100,), np.float32)
        assert kept() == 460

    in_a_thread(work)


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "BOUND", 1000)

    def work():
        workspace(0, (200,), np.float32)
        big = workspace(1, (100,), np.float32)
        assert kept() == 800
        assert workspace(1, (100,), np.float32).ctypes.data != big.ctypes.data or kept() == 800
        workspace(0, (300,), np.float32)  # does not fit: it is new memory, what is kept stays
        assert kept() == 800

    in_a_thread(work)


def test_threads_have_their_own():
    mine = workspace(0, (8,), np.float32)
    mine.fill(1)
    in_a_thread(lambda: workspace(0, (8,), np.float32).fill(2))
    assert (mine == 1).all()


def test_planes_lie_apart():
    array = planes(0, (2, 3), (16, 64), np.float32)
    assert array.shape == (2, 3, 16, 64)
    assert array[0, 0].flags.c_contiguous
    assert array.strides[1] > 16 * 64 * 4 and array.strides[0] == 3 * array.strides[1]


@pytest.mark.parametrize("first", [-7, -2, 0, 1, 5, 9])
@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize(("count", "size"), [(1, 1), (4, 6), (5, 2), (6, 0)])
def test_inside(first, count, step, size):
    which, where = inside(first, count, step, size)
    places = [first + i * step for i in range(count)]
    assert places[which] == list(range(size))[where] == [p for p in places if 0 <= p < size]


@pytest.mark.parametrize("row_step", [1, 2])
@pytest.mark.parametrize("column_step", [1, 3])
def test_copy_padded(row_step, column_step):
    x = np.arange(1, 2 * 5 * 6 * 2 + 1).reshape(2, 5, 6, 2)
    for row, column in [(-2, -1), (0, 0), (1, 2), (-9, 0), (3, 9)]:
        target = np.full((2, 4, 5, 2), -1)
        copy_padded(x, row, column, target, row_step, column_step)
        for i in range(4):
            for j in range(5):
                h, w = row + i * row_step, column + j * column_step
                seen = x[:, h, w] if 0 <= h < 5 and 0 <= w < 6 else 0
                np.testing.assert_array_equal(target[:, i, j], np.broadcast_to(seen, (2, 2)))


def test_kept_values_are_bounded_and_one_too_large_drives_out_none():
    values = Kept[np.ndarray](bound=4000)
    for key in range(3):
        values.put(key, np.full(100, key))
    assert values.get(0)[0] == 0  # used last
    values.put(3, np.full(100, 3))
    assert [values.get(key) is None for key in range(4)] == [False, True, False, False]
    values.put(4, np.zeros(4000))
    assert values.get(4) is None and values.get(0)[0] == 0
    assert values.of(0, lambda: pytest.fail("it is kept")) is values.get(0)
    made = values.of(5, lambda: np.full(100, 5))
    assert values.get(5) is made
    found = []
    thread = threading.Thread(target=lambda: found.append(values.get(0)))
    thread.start()
    thread.join()
    assert found == [None]
