"""One run of `gpucnn bench`: the machine described, its peaks, then row after row."""

from __future__ import annotations

import time
from collections.abc import Sequence

from gpucnn.benchmarks import environment as environments
from gpucnn.benchmarks import memory, scaling
from gpucnn.benchmarks.columns import LEGEND
from gpucnn.benchmarks.compare_torch import Opponent
from gpucnn.benchmarks.environment import Environment
from gpucnn.benchmarks.measure import clock
from gpucnn.benchmarks.peaks import Peaks, measure_peaks
from gpucnn.benchmarks.profile import profile
from gpucnn.benchmarks.report import JsonLines, Table
from gpucnn.benchmarks.result import Result
from gpucnn.benchmarks.row import Row, Setup
from gpucnn.benchmarks.run import Bench, in_turn


class Session:
    """What the parts of a run share.

    Args:
        threads: of the cpu, for both sides.
        environment: what is measured on; completed here.
        lines: where each result goes as well, if anywhere.
    """

    def __init__(
        self,
        setup: Setup,
        threads: int,
        opponent: Opponent | None,
        environment: Environment,
        table: Table,
        lines: JsonLines | None,
    ) -> None:
        self.setup, self.threads, self.opponent = setup, threads, opponent
        self.environment, self.table, self.lines = environment, table, lines
        self.peaks = Peaks(0.0, "", {})

    def time(self, rows: Sequence[Row], seconds: float, runs: int) -> list[Result]:
        """Verify and time rows, printing each lot when it is done."""
        began, device = time.perf_counter(), self.setup.device
        timer = clock(device)
        others = None if self.opponent is None else self.opponent.products()
        results: list[Result] = []
        with self.table:
            self.table.working_on("the machine's peaks")
            self.peaks = measure_peaks(device, self.threads, timer, seconds, others)
            if device.type == "cuda":  # its clocks now, not those of an idle GPU
                self.environment.update(environments.gpu(device))
            for text in environments.lines(self.environment):
                self.table.line(text, "dim")
            self.table.line(str(self.peaks))
            for text in LEGEND:
                self.table.line(text, "dim")
            if self.lines is not None:
                self.lines.peaks(self.peaks)
            bench = Bench(self.setup, timer, self.peaks, seconds, runs, self.opponent)
            for lot in in_turn(rows):
                title = lot[0].title if len(lot) == 1 else lot[0].together
                self.table.working_on(f"{len(results) + 1} of {len(rows)}: {title}")
                for result in bench.measured(lot):
                    results.append(result)
                    self.table.add(result)
                    if self.lines is not None:
                        self.lines.write(result.as_dicts())
        self.table.line("")
        for text in scaling.conclusions(results):
            self.table.line(text)
        taken = time.perf_counter() - began
        failed = sum(bool(result.failed()) for result in results)
        text = f"{len(results)} rows, each verified before it was timed, in {taken:.0f} s"
        self.table.line(text + (f"; {failed} of them FAILED" if failed else ""))
        return results

    def remember(self, only: str, steps: int = memory.STEPS) -> list[memory.Memory]:
        """The suite `memory`."""
        tasks = memory.tasks(only, self.opponent is not None)
        for text in (*environments.lines(self.environment), *memory.LEGEND):
            self.table.line(text, "dim")
        self.table.line("")
        self.table.line(memory.head(), "bold underline")
        found: list[memory.Memory] = []
        with self.table:
            for task in tasks:
                if not found or found[-1].net != task.net:
                    self.table.line(task.title, "bold")
                self.table.working_on(f"{task.title}: {task.variant}")
                found.append(memory.measured(task, self.threads, steps))
                self.table.line(memory.line(found[-1], found))
                if self.lines is not None:
                    self.lines.write([found[-1].as_dict()])
        return found

    def profile(self, rows: Sequence[Row], seconds: float) -> None:
        """Where the time of the rows goes."""
        for row in rows:
            self.table.line("")
            for text in profile(row, self.setup.device, seconds):
                self.table.line(text)
