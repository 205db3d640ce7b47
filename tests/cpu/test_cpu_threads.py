from __future__ import annotations

import os
import threading
import time
import warnings

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from gpucnn.backends.cpu import threads
from gpucnn.backends.cpu.silence import silent
from gpucnn.backends.cpu.threads import blas_single, parallel_for


@pytest.fixture(params=[1, 2, 5])
def num_threads(request):
    before = threads.get_num_threads()
    threads.set_num_threads(request.param)
    yield request.param
    threads.set_num_threads(before)


def blas_threads():
    info = ThreadpoolController().select(user_api="blas").info()
    return [library["num_threads"] for library in info]


@pytest.mark.parametrize("count", [0, 1, 6, 7, 8, 50])
def test_pieces_depend_on_count_and_grain_only(num_threads, count):
    pieces = []
    parallel_for(count, 7, lambda start, stop: pieces.append((start, stop)))
    assert sorted(pieces) == [(a, min(a + 7, count)) for a in range(0, count, 7)]


def test_calls_with_several_pieces_use_several_threads():
    threads_before = threads.get_num_threads()
    threads.set_num_threads(3)
    meeting = threading.Barrier(3)  # passes only when three threads are inside at once
    try:
        parallel_for(3, 1, lambda start, stop: meeting.wait(10))
    finally:
        threads.set_num_threads(threads_before)


def test_exception_reaches_the_caller_and_the_pool_lives_on(num_threads):
    def work(start, stop):
        if start >= 4:
            raise KeyError(f"piece {start}")

    with pytest.raises(KeyError):
        parallel_for(10, 1, work)
    seen = []
    parallel_for(10, 1, lambda start, stop: seen.append(start))
    assert sorted(seen) == list(range(10))


def test_no_piece_runs_after_the_call_has_raised(num_threads):
    running = []

    def work(start, stop):
        if start == 0:
            raise ValueError("stop")
        running.append(start)
        time.sleep(0.01)
        running.remove(start)

    with pytest.raises(ValueError, match="stop"):
        parallel_for(20, 1, work)
    assert running == []


def test_nested_calls_run_serially_in_order(num_threads):
    inner = []

    def outer(start, stop):
        here = threading.get_ident()
        mine = []
        parallel_for(5, 2, lambda a, b: mine.append((a, b, threading.get_ident() == here)))
        inner.append(mine)

    parallel_for(4, 1, outer)
    assert inner == [[(0, 2, True), (2, 4, True), (4, 5, True)]] * 4


def test_user_threads_may_call_at_the_same_time(num_threads):
    totals = []

    def user():
        total = np.zeros(64)

        def work(start, stop):
            total[start:stop] += np.arange(start, stop)

        for _ in range(50):
            parallel_for(64, 5, work)
        totals.append(total)

    users = [threading.Thread(target=user) for _ in range(4)]
    for thread in users:
        thread.start()
    for thread in users:
        thread.join()
    assert len(totals) == 4
    for total in totals:
        np.testing.assert_array_equal(total, 50.0 * np.arange(64))


def test_floating_point_warnings_are_silent_inside_and_as_before_after(num_threads):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for work in (
            lambda start, stop: np.float32([0.0]) / np.float32([0.0]),
            lambda start, stop: np.exp(np.float32([1e4])),
        ):
            silent(parallel_for)(8, 1, work)
        with pytest.raises(RuntimeWarning):
            np.array([1.0]) / np.array([0.0])


def test_blas_runs_single_threaded_inside_and_is_restored():
    before = blas_threads()
    inside = []
    with blas_single():
        with blas_single():
            inside.append(blas_threads())
        inside.append(blas_threads())
    parallel_for(2, 1, lambda start, stop: inside.append(blas_threads()))
    parallel_for(1, 1, lambda start, stop: inside.append(blas_threads()))
    assert blas_threads() == before
    assert all(set(counts) <= {1} for counts in inside)


def test_blas_runs_single_threaded_whichever_thread_asks():
    """The main thread has asked before: threadpoolctl alone would obey none but that one."""
    before, inside = blas_threads(), []
    with blas_single():
        pass

    def work():
        with blas_single():
            inside.append(blas_threads())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert blas_threads() == before
    assert all(count == 1 for count in inside[0])


def test_silent_functions_nest_and_leave_the_settings_as_they_were():
    @silent
    def outer(x, *, raises=False):
        assert set(np.geterr().values()) == {"ignore"}
        if raises:
            raise KeyError
        with np.errstate(divide="raise"):  # inside itself it changes nothing
            assert inner()["divide"] == "raise"
        return np.float32(x) / np.float32(0)

    inner = silent(np.geterr)
    with np.errstate(divide="raise", over="warn"):
        before = np.geterr()
        assert outer(1) == np.inf
        with pytest.raises(KeyError):
            outer(1, raises=True)
        assert np.geterr() == before
        assert outer(1) == np.inf


def test_every_thread_is_silent():
    found = []
    silent(lambda: parallel_for(8, 1, lambda *_: found.append(set(np.geterr().values()))))()
    assert found == [{"ignore"}] * 8
    thread = threading.Thread(target=lambda: found.append(silent(np.geterr)()["divide"]))
    thread.start()
    thread.join()
    assert found[-1] == "ignore"


def test_blas_is_restored_after_an_error():
    before = blas_threads()
    with pytest.raises(ValueError), blas_single():
        raise ValueError
    assert blas_threads() == before


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "2", True, None])
def test_set_num_threads_refuses(wrong):
    with pytest.raises(ValueError, match="set_num_threads: n must be a positive integer, got"):
        threads.set_num_threads(wrong)


@pytest.mark.parametrize(
    ("text", "expected"), [("3", 3), ("4,2", 4), ("", None), ("0", None), ("many", None)]
)
def test_default_follows_omp_num_threads(monkeypatch, text, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    if expected is None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4}, raising=False)
        expected = 5
    assert threads._default_num_threads() == expected


def test_finished_work_does_not_keep_arrays_alive(num_threads):
    import gc
    import weakref

    class Thing:
        pass

    thing = Thing()
    alive = weakref.ref(thing)
    parallel_for(8, 1, lambda start, stop, thing=thing: time.sleep(0.001))
    del thing
    deadline = time.monotonic() + 5
    while alive() is not None and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert alive() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_child_of_a_fork_makes_its_own_workers():
    before = threads.get_num_threads()
    threads.set_num_threads(2)
    try:
        parallel_for(4, 1, lambda start, stop: None)
        child = os.fork()
        if child == 0:
            meeting = threading.Barrier(2)
            try:
                parallel_for(2, 1, lambda start, stop: meeting.wait(10))
                os._exit(0)
            except BaseException:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    finally:
        threads.set_num_threads(before)
