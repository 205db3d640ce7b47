"""Work spread over Python processes that begin with nothing but this package.

`multiprocessing` would fork (a compiler's threads and locks with it), or import the caller's main
module in each process, which a script without the `__main__` idiom does not survive.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import IO, Any, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

WORTH_A_PROCESS = 3
"""Items a process: below it, starting one takes longer than it saves."""

_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from gpucnn.backends.gpu.workers import serve; serve()"
)


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def spread(
    function: Callable[[_Item], _Result], items: Sequence[_Item], workers: int | None = None
) -> list[_Result]:
    """`function` of each item, in other processes where there are enough of them.

    Args:
        function: of a module that the other processes can import.
        items: and the results are pickled.
        workers: processes at most; one a core by default, and 1 means this one.

    Raises:
        RuntimeError: a process ended before its work was done. Otherwise what `function` raises,
            for the first of the items that fail.
    """
    number = min(cores() if workers is None else workers, len(items) // WORTH_A_PROCESS)
    if number < 2:
        return [function(item) for item in items]
    left: SimpleQueue[int] = SimpleQueue()
    for i in range(len(items)):
        left.put(i)
    answers: list[Any] = [None] * len(items)

    def work() -> None:
        with _Worker() as worker:
            while True:
                try:
                    i = left.get_nowait()
                except Empty:
                    return
                answers[i] = worker.ask(function, items[i])

    with ThreadPoolExecutor(number) as threads:
        for future in [threads.submit(work) for _ in range(number)]:
            future.result()
    for _, error in answers:
        if error is not None:
            raise error
    return [result for result, _ in answers]


class _Worker:
    """One process, asked one question at a time over its standard streams."""

    def __enter__(self) -> _Worker:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ask(self, function: Callable[[Any], Any], item: Any) -> tuple[Any, Exception | None]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            _write(stdin, (function, item))
            answer: tuple[Any, Exception | None] = pickle.load(stdout)
        except (OSError, EOFError):
            code = self._process.wait()
            raise RuntimeError(
                f"a process for {function.__name__} ended with code {code}"
            ) from None
        return answer


def serve() -> None:
    """Answer until the questions end: what a worker runs."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    while True:
        try:
            function, item = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer: tuple[Any, Exception | None]
        try:
            answer = (function(item), None)
        except Exception as error:
            answer = (None, error)
        _write(answers, answer)


def _write(stream: IO[bytes], value: Any) -> None:
    pickle.dump(value, stream)
    stream.flush()
