"""The table in a Markdown file between markers: figures that a command has printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gpucnn.benchmarks import environment as environments
from gpucnn.benchmarks.columns import LEGEND, Column, by_variant, columns
from gpucnn.benchmarks.environment import Environment
from gpucnn.benchmarks.peaks import Peaks
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
    compared = any(not entry.ours for result in results for entry in result.entries)
    found = [f"Printed by `{command}`. {' '.join(LEGEND)}"]
    for suite in dict.fromkeys(result.row.suite for result in results):
        of_suite = [result for result in results if result.row.suite == suite]
        lines = by_variant(of_suite[0])
        shown = columns(suite, compared, lines)
        found += ["", _row([suite, *(column.title for column in shown)])]
        found.append(_row(["---", *("---:" if column.width else "---" for column in shown)]))
        for result in of_suite:
            found += _lines(result, shown, lines)
    notes = [*environments.lines(environment), str(peaks), f"measured {environment['date']}"]
    return [*found, "", "```", *notes, "```"]


def _lines(result: Result, shown: Sequence[Column], by_variant: bool) -> list[str]:
    title = result.row.title
    if not by_variant:
        return [_row([title, *(column.cell(result, None) for column in shown)])]
    return [
        _row([f"{title}: {entry.variant}", *(column.cell(result, entry) for column in shown)])
        for entry in result.entries
        if entry.timing is not None
    ]


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
