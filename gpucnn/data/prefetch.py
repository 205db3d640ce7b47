"""A background thread that stays a few results ahead of its consumer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Failure:
    error: BaseException


class _Worker(Generic[Item]):
    """Makes items in order, at most `depth` of them not yet taken.

    A slot is acquired before an item is made and released when it is taken, so neither side ever
    polls: closing is a flag and one more slot, which wakes the thread wherever it waits.
    """

    def __init__(self, make: Callable[[int], Item], count: int, depth: int) -> None:
        self.make, self.count = make, count
        self.slots = threading.Semaphore(depth)
        self.ready: SimpleQueue[Item | _Failure] = SimpleQueue()
        self.closed = False
        # A daemon: a loop that is never finished must not keep the interpreter from exiting.
        self.thread = threading.Thread(target=self._run, name="gpucnn-data", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        for i in range(self.count):
            self.slots.acquire()
            if self.closed:
                return
            try:
                item = self.make(i)
            except BaseException as error:  # handed to the consumer, who raises it
                self.ready.put(_Failure(error))
                return
            self.ready.put(item)

    def take(self) -> Item:
        item = self.ready.get()
        if isinstance(item, _Failure):
            raise item.error
        self.slots.release()
        return item

    def close(self) -> None:
        self.closed = True
        self.slots.release()
        # The garbage collector may close an abandoned iterator from the worker itself.
        if self.thread is not threading.current_thread():
            self.thread.join()


def prefetched(make: Callable[[int], Item], count: int, depth: int) -> Generator[Item, None, None]:
    """Yields `make(0)` ... `make(count - 1)`, the next `depth` made ahead in a thread.

    An exception of `make` is raised here, with its traceback. Leaving the loop early, or dropping
    the iterator, ends the thread. With depth 0 there is no thread.
    """
    if depth == 0:
        for i in range(count):
            yield make(i)
        return
    worker = _Worker(make, count, depth)
    try:
        for _ in range(count):
            yield worker.take()
    finally:
        worker.close()
