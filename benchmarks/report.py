"""The table on the screen, and JSON lines.

Widths are fixed, so that each row is printed as soon as it is measured, and no line is longer than
100 columns. On a terminal the same lines have colours.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import IO, Any, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.text import Text

from gpucnn.benchmarks.environment import Environment
from gpucnn.benchmarks.peaks import Peaks
from gpucnn.benchmarks.result import Result

NAME_WIDTH = 29


class Column(NamedTuple):
    """Header, width, and the text of a result's cell."""

    title: str
    width: int
    cell: Any


def columns(suite: str, compared: bool) -> list[Column]:
    """The columns that mean something for the rows of a suite."""
    found = [
        Column("median", 8, lambda r: duration(r.timing.median)),
        Column("minimum", 8, lambda r: duration(r.timing.minimum)),
    ]
    if suite == "train":
        found.append(Column("images/s", 8, lambda r: number(r.images)))
    found += [
        Column("GFLOP/s", 7, lambda r: number(r.flops, 1e9)),
        Column("of GEMM", 7, lambda r: percent(r.gemm_share)),
    ]
    if suite != "train":
        found += [
            Column("GB/s", 5, lambda r: number(r.bandwidth, 1e9)),
            Column("of copy", 7, lambda r: percent(r.copy_share)),
        ]
    if compared:
        found += [
            Column("PyTorch", 8, lambda r: duration(r.torch.median) if r.torch else ""),
            Column("ratio", 5, lambda r: "" if r.ratio is None else f"{r.ratio:.2f}"),
        ]
    return found


class Table:
    """Prints rows under a heading for each suite and each group; a context manager.

    Within it a terminal's last line says what is being worked on. It is drawn when the work
    changes and not while that is timed: a spinner would take time of its own.

    Args:
        stream: where to print; standard output when None.
        compared: whether there are columns for PyTorch.
    """

    def __init__(self, stream: IO[str] | None, compared: bool) -> None:
        self._console = Console(file=stream, highlight=False)
        self._compared = compared
        self._suite = self._group = ""
        self._live: Live | None = None

    def __enter__(self) -> Table:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def working_on(self, text: str) -> None:
        """Change the terminal's last line."""
        if self._live is not None:
            self._live.update(Text(text, style="dim"), refresh=True)

    def line(self, text: str, style: str = "") -> None:
        """A line of its own."""
        self._console.print(Text(text, style=style), soft_wrap=True)

    def add(self, result: Result) -> None:
        """One row, with its headings where they are new."""
        row, shown = result.row, columns(result.row.suite, self._compared)
        if row.suite != self._suite:
            self._suite, self._group = row.suite, ""
            titles = (column.title.rjust(column.width) for column in shown)
            self.line("")
            self.line("  ".join([row.suite.ljust(NAME_WIDTH), *titles]), "bold underline")
        if row.group != self._group:
            self._group = row.group
            self.line(row.group, "bold")
        text = Text(f"  {row.name}".ljust(NAME_WIDTH))
        for column in shown:
            cell = column.cell(result).rjust(column.width)
            text.append("  ")
            text.append(cell, _ratio_style(result) if column.title == "ratio" else "")
        text.rstrip()
        self._console.print(text, soft_wrap=True)


def _ratio_style(result: Result) -> str:
    if result.ratio is None:
        return ""
    return "green" if result.ratio <= 1 else "yellow" if result.ratio <= 2.5 else "red"


def duration(seconds: float) -> str:
    """Four digits and a unit: "1.234 ms"."""
    for unit, scale in (("us", 1e6), ("ms", 1e3)):
        value = seconds * scale
        if value < 999.95:
            return f"{_digits(value)} {unit}"
    return f"{_digits(seconds)} s"


def number(value: float | None, scale: float = 1.0) -> str:
    """At least three digits; empty for None."""
    if value is None:
        return ""
    value /= scale
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def percent(share: float | None) -> str:
    """Empty for None; a share below one percent with a decimal."""
    if share is None:
        return ""
    return f"{share:.0%}" if share >= 0.01 else f"{share:.1%}"


def _digits(value: float) -> str:
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def write_json(
    stream: IO[str], results: Iterable[Result], environment: Environment, peaks: Peaks
) -> None:
    """One line a row, each with all of the environment: a line can be read by itself."""
    shared = {
        "peaks": {
            "gemm": peaks.gemm,
            "gemm_by": peaks.gemm_by,
            "copy": {str(size): speed for size, speed in sorted(peaks.copy.items())},
        },
        "environment": environment,
    }
    for result in results:
        stream.write(json.dumps({**result.as_dict(), **shared}) + "\n")
