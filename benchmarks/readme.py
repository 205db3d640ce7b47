"""The table in a Markdown file between markers: figures that a command has printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gpucnn.benchmarks import environment as environments
from gpucnn.benchmarks.environment import Environment
from gpucnn.benchmarks.peaks import Peaks
from gpucnn.benchmarks.report import Column, columns
from gpucnn.benchmarks.result import Result

START, END = "<!-- bench:start -->", "<!-- bench:end -->"


def check(path: Path) -> None:
    """See that a file can be updated, before anything is measured.

    Raises:
        ValueError: it has not exactly one pair of markers, the first before the second.
        OSError: it cannot be read.
    """
    _split(path)


def update(
    path: Path,
    command: str,
    results: Sequence[Result],
    environment: Environment,
    peaks: Peaks,
) -> None:
    """Rewrite what stands between the markers; the rest of the file stays as it is.

    Args:
        command: what was typed, to be printed above the table.

    Raises:
        ValueError, OSError: as `check`.
    """
    before, after = _split(path)
    body = "\n".join(markdown(command, results, environment, peaks))
    path.write_text(f"{before}{START}\n{body}\n{END}{after}", encoding="utf-8")


def markdown(
    command: str, results: Sequence[Result], environment: Environment, peaks: Peaks
) -> list[str]:
    """The lines between the markers: a table a suite, then what it was measured on."""
    compared = any(result.torch is not None for result in results)
    found = [f"Printed by `{command}`."]
    if compared:
        found[0] += " The ratio is gpucnn's time by PyTorch's: below 1, gpucnn is quicker."
    for suite in dict.fromkeys(result.row.suite for result in results):
        shown = columns(suite, compared)
        found += ["", _row([suite, *(column.title for column in shown)])]
        found.append(_row(["---", *("---:" for _ in shown)]))
        found += [_cells(result, shown) for result in results if result.row.suite == suite]
    notes = [*environments.lines(environment), str(peaks), f"measured {environment['date']}"]
    return [*found, "", "```", *notes, "```"]


def _cells(result: Result, shown: Sequence[Column]) -> str:
    return _row([result.row.title, *(column.cell(result) for column in shown)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _split(path: Path) -> tuple[str, str]:
    """The text before the first marker and that behind the second."""
    text = path.read_text(encoding="utf-8")
    before, found, rest = text.partition(START)
    _, closed, after = rest.partition(END)
    if not found or not closed or START in rest or END in before or END in after:
        raise ValueError(f"{path}: needs one line {START} and after it one line {END}")
    return before, after
