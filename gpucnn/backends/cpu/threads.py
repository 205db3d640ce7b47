"""One small pool of resident threads for the NumPy primitives, and BLAS held at one thread.

Work is cut by its size alone, never by the number of threads, so results have the same bits
for any number of threads; the pool only decides which thread runs which piece.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np

Work = Callable[[int, int], None]


def _default_num_threads() -> int:
    requested = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if requested.isdigit() and int(requested) > 0:
        return int(requested)
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


_num_threads = _default_num_threads()


def get_num_threads() -> int:
    """How many threads, the calling one included, `parallel_for` uses."""
    return _num_threads


def set_num_threads(n: int) -> None:
    """Set how many threads, the calling one included, `parallel_for` uses.

    Raises ValueError when `n` is not a positive integer.
    """
    global _num_threads
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f"set_num_threads: n must be a positive integer, got {n!r}")
    _num_threads = int(n)


class _Library(NamedTuple):
    """How many threads one BLAS uses: to be read and set."""

    get: Callable[[], int | None]
    set: Callable[[int], Any]

    @classmethod
    def of(cls, found: Any) -> _Library:
        """Of threadpoolctl's controller of a library.

        OpenBLAS with threads of its own is asked directly: the controller takes ten times as long,
        and obeys one Python thread only.
        """
        if found.internal_api == "openblas" and found.threading_layer == "pthreads":
            for name in found.check_symbols:
                get = getattr(found.dynlib, name, None)
                change = getattr(found.dynlib, name.replace("_get_", "_set_"), None)
                if get is not None and change is not None:
                    return cls(get, change)
        return cls(found.get_num_threads, found.set_num_threads)


class _BlasSingle:
    """Keeps NumPy's BLAS at one thread while at least one thread is inside.

    The setting is global to the process: the first to enter saves and lowers it, the last to
    leave restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._libraries: list[_Library] | None = None
        self._lowered: list[tuple[_Library, int]] = []

    def __enter__(self) -> None:
        with self._lock:
            if self._depth == 0:
                self._lower()
            self._depth += 1

    def __exit__(self, *_: Any) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._restore()

    def _lower(self) -> None:
        if self._libraries is None:  # scanning the loaded libraries takes milliseconds: once
            from threadpoolctl import ThreadpoolController

            controller = ThreadpoolController().select(user_api="blas")
            self._libraries = [_Library.of(found) for found in controller.lib_controllers]
        for library in self._libraries:
            threads = library.get()
            if threads is not None and threads > 1:
                library.set(1)
                self._lowered.append((library, threads))

    def _restore(self) -> None:
        for library, threads in self._lowered:
            library.set(threads)
        self._lowered.clear()

    def after_fork(self) -> None:
        """In a child only the forking thread lives on: whoever else was inside never leaves."""
        self._lock = threading.Lock()
        self._depth = 0
        self._restore()


_blas_single = _BlasSingle()


def blas_single() -> _BlasSingle:
    """Context manager that keeps BLAS at one thread; nests, and is safe to enter in any thread."""
    return _blas_single


class _Task:
    """The pieces of one `parallel_for`, claimed one at a time by whichever thread is free."""

    __slots__ = ("work", "count", "grain", "pieces", "lock", "next", "unfinished", "done", "error")

    def __init__(self, work: Work, count: int, grain: int, pieces: int) -> None:
        self.work = work
        self.count = count
        self.grain = grain
        self.pieces = pieces
        self.lock = threading.Lock()
        self.next = 0
        self.unfinished = pieces
        self.done = threading.Lock()
        self.done.acquire()
        self.error: tuple[int, BaseException] | None = None

    def run(self) -> None:
        """Claim and run pieces until none is left to claim."""
        finished = 0
        while True:
            with self.lock:
                self.unfinished -= finished
                if finished and not self.unfinished:
                    self.done.release()
                piece = self.next
                if piece == self.pieces:
                    return
                self.next = piece + 1
            start = piece * self.grain
            try:
                self.work(start, min(start + self.grain, self.count))
            except BaseException as error:  # the caller raises it again
                self._fail(piece, error)
            finished = 1

    def _fail(self, piece: int, error: BaseException) -> None:
        with self.lock:
            if self.error is None or piece < self.error[0]:
                self.error = (piece, error)
            self._drop_unclaimed()

    def _drop_unclaimed(self) -> None:
        self.unfinished -= self.pieces - self.next
        self.next = self.pieces

    def wait(self) -> None:
        """Block until every claimed piece has finished: the workers use the caller's arrays."""
        interruption: BaseException | None = None
        while True:
            try:
                self.done.acquire()
                break
            except BaseException as signal:  # Ctrl-C: stop early, but never leave workers behind
                interruption = signal
                with self.lock:
                    self._drop_unclaimed()
        self.work = _nothing  # a worker that wakes late must not keep the caller's arrays alive
        if interruption is not None:
            raise interruption
        if self.error is not None:
            raise self.error[1]


def _nothing(start: int, stop: int) -> None:
    pass


class _Pool:
    def __init__(self) -> None:
        self._tasks: SimpleQueue[_Task] = SimpleQueue()
        self._lock = threading.Lock()
        self._workers = 0

    def run(self, task: _Task, helpers: int) -> None:
        if self._workers < helpers:
            self._start(helpers)
        for _ in range(helpers):
            self._tasks.put(task)
        task.run()
        task.wait()

    def _start(self, workers: int) -> None:
        with self._lock:
            while self._workers < workers:
                name = f"gpucnn-cpu-{self._workers + 1}"
                threading.Thread(target=self._serve, name=name, daemon=True).start()
                self._workers += 1

    def _serve(self) -> None:
        _local.inside = True
        np.seterr(all="ignore")  # of this thread
        while True:
            task = self._tasks.get()
            task.run()
            del task


class _Local(threading.local):
    inside = False  # whether this thread is running a piece: nested calls run serially


_local = _Local()
_pool = _Pool()


def _after_fork_in_child() -> None:
    global _pool, _local
    _pool = _Pool()
    _local = _Local()
    _blas_single.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def parallel_for(count: int, grain: int, work: Work, *, blas: bool = True) -> None:
    """Run `work(start, stop)` over range(count) in pieces of `grain`, on the pool's threads.

    The pieces are [0, grain), [grain, 2*grain), ... whatever the number of threads; they may run
    in any order and at the same time, so each must write only what is its own. The calling
    thread takes part. BLAS is held at one thread unless `blas` is False (work without matrix
    products: saves a few microseconds). A nested call runs its pieces in order in the same thread.
    An exception in a piece is raised here, after all running pieces have ended; pieces not yet
    begun are dropped.
    """
    if blas:
        with _blas_single:
            parallel_for(count, grain, work, blas=False)
        return
    if count <= grain or _num_threads == 1 or _local.inside:
        for start in range(0, count, grain):
            work(start, min(start + grain, count))
        return
    pieces = -(-count // grain)
    helpers = min(_num_threads, pieces) - 1
    _local.inside = True
    try:
        _pool.run(_Task(work, count, grain, pieces), helpers)
    finally:
        _local.inside = False
