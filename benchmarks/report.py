"""The table on the screen, and JSON lines.

Widths are fixed, so that each row is printed as soon as it is measured, and no line is longer than
100 columns. On a terminal the same lines have colours.
"""

from __future__ import annotations

import json
from typing import IO, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from gpucnn.benchmarks.columns import NAME_WIDTH, Column, by_variant, columns
from gpucnn.benchmarks.environment import Environment
from gpucnn.benchmarks.peaks import Peaks
from gpucnn.benchmarks.result import Entry, Result

_WIDTH = 100
_RATIOS = ("ratio", "e/P", "c/P")


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
        """One row, with its headings where they are new, and what went wrong."""
        row, lines = result.row, by_variant(result)
        shown = columns(row.suite, self._compared, lines)
        if row.suite != self._suite:
            self._suite, self._group = row.suite, ""
            titles = (_justified(column.title, column) for column in shown)
            self.line("")
            self.line("  ".join([row.suite.ljust(NAME_WIDTH), *titles]), "bold underline")
        if row.group != self._group:
            self._group = row.group
            self.line(row.group, "bold")
        if lines:
            self.line(f" {row.name}")
            for entry in result.entries:
                self._cells(f"  {entry.variant}", result, entry, shown)
        else:
            self._cells(f"  {row.name}", result, None, shown)
            for entry in result.entries:
                if entry.timing is None:
                    self.line(f"  {entry.variant}: {entry.failure}", "red")

    def _cells(self, name: str, result: Result, entry: Entry | None, shown: list[Column]) -> None:
        text = Text(name.ljust(NAME_WIDTH))
        if entry is not None and entry.timing is None:
            text.append(f"  {entry.failure}"[: _WIDTH - NAME_WIDTH], "red")
            self._console.print(text, soft_wrap=True)
            return
        for column in shown:
            cell = column.cell(result, entry)
            text.append("  ")
            style = _style(cell) if column.title in _RATIOS else ""
            text.append(_justified(cell, column), style)
        text.rstrip()
        text.truncate(_WIDTH)
        self._console.print(text, soft_wrap=True)


def _justified(text: str, column: Column) -> str:
    return text.rjust(column.width) if column.width else text


def _style(ratio: str) -> str:
    if not ratio:
        return ""
    return "green" if float(ratio) <= 1 else "yellow" if float(ratio) <= 2.5 else "red"


class JsonLines:
    """Writes a line a variant as soon as it is known, each with all of the environment: a line can
    be read by itself, and what was measured before a crash is not lost."""

    def __init__(self, stream: IO[str], environment: Environment) -> None:
        self._stream = stream
        self._shared: dict[str, Any] = {"environment": environment}

    def peaks(self, peaks: Peaks) -> None:
        """What the lines from now on have for the machine's peaks."""
        self._shared["peaks"] = {
            "gemm": peaks.gemm,
            "gemm_by": peaks.gemm_by,
            "copy": {str(size): speed for size, speed in sorted(peaks.copy.items())},
        }

    def write(self, lines: list[dict[str, Any]]) -> None:
        """The lines of a result, at once."""
        for line in lines:
            self._stream.write(json.dumps({**line, **self._shared}) + "\n")
        self._stream.flush()
