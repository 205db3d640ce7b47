"""The rows of the suites; and rows built, verified, timed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from gpucnn.backends.cpu.threads import blas_single
from gpucnn.benchmarks import epoch, layers, ops, overhead, scaling, train
from gpucnn.benchmarks.measure import Clock, Contestant, Timing, gpu_runtime, measure
from gpucnn.benchmarks.peaks import Peaks
from gpucnn.benchmarks.result import TO_BEFORE, Entry, Result
from gpucnn.benchmarks.row import Array, Call, Row, Setup, Variant
from gpucnn.benchmarks.verify import NotTimed, verify

if TYPE_CHECKING:
    from gpucnn.benchmarks.compare_torch import Opponent

SUITES: dict[str, Callable[[Setup], list[Row]]] = {
    "ops": ops.rows,
    "layers": layers.rows,
    "train": train.rows,
    "epoch": epoch.rows,
    "scaling": scaling.rows,
    "overhead": overhead.rows,
}
ALL = ("ops", "layers", "train")
"""What `--suite all` means."""


def select(suite: str, only: str = "", setup: Setup | None = None) -> list[Row]:
    """The rows of a suite, or of `ALL`, whose name contains `only`.

    Raises:
        ValueError: there is none.
    """
    names = ALL if suite == "all" else (suite,)
    rows = [row for name in names for row in SUITES[name](setup or Setup())]
    chosen = [row for row in rows if only.lower() in row.title.lower()]
    if not chosen:
        raise ValueError(f"no row of the suite {suite} contains {only!r}")
    return chosen


def in_turn(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows in the lots that are timed together."""
    lots = groupby(enumerate(rows), lambda pair: pair[1].together or pair[0])
    return [[row for _, row in lot] for _, lot in lots]


@dataclass(frozen=True)
class Bench:
    """How rows are measured.

    Attributes:
        seconds: that a variant is timed for.
        runs: into which that time is cut, the variants in turn.
        opponent: PyTorch, if it is compared with.
    """

    setup: Setup
    clock: Clock
    peaks: Peaks
    seconds: float
    runs: int
    opponent: Opponent | None = None

    def measured(self, rows: Sequence[Row]) -> list[Result]:
        """Rows built, verified and timed, all their variants in turn.

        On a GPU the variants of a net follow each other instead, each with the memory to itself.
        A variant that gives a wrong result, or on a GPU any error, is not timed, and says so.
        """
        tasks = [task for row in rows for task in self._tasks(row)]
        alone = self.setup.device.type == "cuda" and not all(row.cold for row in rows)
        entries: list[tuple[Row, Entry]] = []
        for lot in [[task] for task in tasks] if alone else [tasks]:
            entries += self._lot(lot, rows[0])
            if alone:
                self._give_memory_back()
        results = []
        for row in rows:
            own = tuple(entry for of, entry in entries if of is row)
            figures = row.figures(self.setup.device) if any(e.timing for e in own) else {}
            results.append(Result(row, self.peaks, own, figures))
        return _compared(results)

    def _tasks(self, row: Row) -> Iterator[_Task]:
        expected = _Lazy(row)
        for variant in row.variants(self.setup):
            yield _Task(row, variant, expected)
        if self.opponent is not None:
            for variant in self.opponent.variants(row, self.setup):
                yield _Task(row, variant, expected)

    def _lot(self, tasks: Sequence[_Task], like: Row) -> list[tuple[Row, Entry]]:
        """The entries of tasks that are timed in turn."""
        ready: list[tuple[_Task, Call, float | None]] = []
        failures: dict[int, str] = {}
        for task in tasks:
            try:
                ready.append((task, *self._verified(task)))
            except Exception as error:
                if self._is_bug(error):
                    raise
                failures[id(task)] = _text(error)
        contestants = [Contestant(call.run, call.setting) for _, call, _ in ready]
        timings: list[Timing] = []
        try:
            if contestants:
                timings = measure(
                    contestants, self.clock, self.seconds, self.runs, like.cold, like.long
                )
        except Exception as error:
            if self._is_bug(error):
                raise
            failures.update({id(task): _text(error) for task, _, _ in ready})
        timed = {id(task): (t, error) for (task, _, error), t in zip(ready, timings)}
        return [(task.row, self._entry(task, timed, failures)) for task in tasks]

    def _entry(
        self,
        task: _Task,
        timed: dict[int, tuple[Timing, float | None]],
        failures: dict[int, str],
    ) -> Entry:
        algorithm = task.row.algorithm(self.setup.device, task.variant)
        if id(task) in failures:
            return Entry(task.variant, failure=failures[id(task)], algorithm=algorithm)
        timing, error = timed[id(task)]
        return Entry(task.variant, timing, error, algorithm=algorithm)

    def _verified(self, task: _Task) -> tuple[Call, float | None]:
        row, variant, opponent = task.row, task.variant, self.opponent
        if variant.library != "gpucnn" and opponent is not None:
            if not opponent.comparable(row):
                return opponent.call(row, variant), None
            expected = task.expected()
            call = opponent.call(row, variant)
        else:
            expected = task.expected()
            call = row.call(self.setup.device, variant)
        return call, verify(row, call, expected, variant)

    def _is_bug(self, error: Exception) -> bool:
        """Whether an error ends the command: on a GPU one variant's error is not the others'."""
        return self.setup.device.type != "cuda" and not isinstance(error, NotTimed)

    def _give_memory_back(self) -> None:
        """Both libraries keep memory for themselves that the other one may need."""
        gc.collect()
        gpu_runtime(self.setup.device).give_memory_back()
        if self.opponent is not None:
            self.opponent.give_memory_back()


class _Lazy:
    """A row's reference, computed when first asked for."""

    def __init__(self, row: Row) -> None:
        self._row = row
        self._arrays: list[Array] | None = None

    def __call__(self) -> list[Array]:
        if self._arrays is None:
            with blas_single():  # its many small products are slower on several threads
                self._arrays = self._row.expected()
        return self._arrays


@dataclass(frozen=True, eq=False)
class _Task:
    row: Row
    variant: Variant
    expected: _Lazy


def _text(error: Exception) -> str:
    """The first line of an error, with its kind where that is not ours."""
    line = (str(error).strip().splitlines() or ["no text"])[0]
    return line if isinstance(error, NotTimed) else f"{type(error).__name__}: {line}"


def _compared(results: Sequence[Result]) -> list[Result]:
    """Rows that were timed in turn, each with its time relative to the row before it."""
    found: list[Result] = []
    for result in results:
        own = result.find("gpucnn")
        before = found[-1].find("gpucnn") if found else None
        figures = dict(result.figures)
        if own and before and own.timing and before.timing:
            figures[TO_BEFORE] = own.timing.median / before.timing.median
        found.append(replace(result, figures=figures))
    return found
