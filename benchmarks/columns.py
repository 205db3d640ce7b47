"""The columns of a suite's table.

Two layouts: a line a row, gpucnn eager and captured and PyTorch side by side; or a line a variant,
where there are others than these three.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gpucnn.benchmarks.measure import Timing
from gpucnn.benchmarks.result import Entry, Result

NAME_WIDTH = 29
_SIDE_BY_SIDE = {("gpucnn", "eager"), ("gpucnn", "captured"), ("PyTorch", "eager")}
NET_SUITES = ("train", "scaling", "epoch", "overhead")
LEGEND = (
    "A time is the median of the runs, with the lowest and the highest run's in percent;",
    "e/P, c/P (eager, captured) and ratio: gpucnn's by PyTorch's, below 1 gpucnn is quicker.",
)


class Column(NamedTuple):
    """Header, width (0: as it comes, left-justified), and the text of a cell."""

    title: str
    width: int
    cell: Callable[[Result, Entry | None], str]


def by_variant(result: Result) -> bool:
    """Whether each variant has a line of its own; the same for all rows of a suite."""
    modes = [(entry.variant.library, entry.variant.mode) for entry in result.entries]
    return len(modes) > len(set(modes)) or not _SIDE_BY_SIDE.issuperset(modes)


def columns(suite: str, compared: bool, lines: bool = False) -> list[Column]:
    """The columns that mean something for the rows of a suite.

    A cell is given the result, and in the layout `lines` the entry of the line; else None.
    """
    if lines:
        return _by_variant(suite, compared)
    found = [Column("gpucnn", 15, lambda r, _: spread(r.find("gpucnn")))]
    if suite in ("train", "scaling"):
        found = [
            Column("eager", 15, lambda r, _: spread(r.find("gpucnn"))),
            Column("captured", 15, lambda r, _: spread(r.find("gpucnn", "captured"))),
        ]
    found += _overhead() if suite == "overhead" else []
    if compared:
        found.append(Column("PyTorch", 15, lambda r, _: spread(r.find("PyTorch"))))
        found.append(Column("e/P", 5, lambda r, _: ratio(r.ratio(r.find("gpucnn")))))
    if suite in ("train", "scaling"):
        if compared:
            found.append(Column("c/P", 5, _captured_ratio))
        else:
            found.append(Column("images/s", 8, lambda r, _: number(r.images(r.find("gpucnn")))))
    if suite in ("ops", "layers") or (suite == "train" and not compared):
        if not compared:
            found.append(Column("GFLOP/s", 7, lambda r, _: number(r.flops(r.find("gpucnn")), 1e9)))
        found.append(Column("of GEMM", 7, lambda r, _: percent(r.gemm_share(r.find("gpucnn")))))
    if suite == "layers":
        found.append(Column("algorithm", 0, lambda r, _: _algorithm(r.find("gpucnn"))))
    if suite == "ops":
        if not compared:
            found.append(Column("GB/s", 5, lambda r, _: number(r.bandwidth(r.find("gpucnn")), 1e9)))
        found.append(Column("of copy", 7, lambda r, _: percent(r.copy_share(r.find("gpucnn")))))
    return found


def _captured_ratio(result: Result, _: Entry | None) -> str:
    return ratio(result.ratio(result.find("gpucnn", "captured")))


def _overhead() -> list[Column]:
    return [
        Column("calls", 5, lambda r, _: f"{r.figures.get('primitive_calls', 0):.0f}"),
        Column("Python/call", 11, _python),
    ]


def _python(result: Result, _: Entry | None) -> str:
    found = result.figures.get("python_per_primitive_call")
    return "" if found is None else duration(found)


def _by_variant(suite: str, compared: bool) -> list[Column]:
    found = [Column("median", 15, lambda r, e: spread(e))]
    if suite in NET_SUITES:
        found.append(Column("images/s", 9, lambda r, e: number(r.images(e))))
    if suite != "epoch":
        found.append(Column("GFLOP/s", 7, lambda r, e: number(r.flops(e), 1e9)))
        found.append(Column("of GEMM", 7, lambda r, e: percent(r.gemm_share(e))))
    if suite == "ops":
        found.append(Column("of copy", 7, lambda r, e: percent(r.copy_share(e))))
    if compared:
        found.append(Column("ratio", 5, lambda r, e: ratio(r.ratio(e))))
    if suite == "layers":
        found.append(Column("algorithm", 0, lambda r, e: _algorithm(e)))
    return found


def _algorithm(entry: Entry | None) -> str:
    return "" if entry is None else entry.algorithm[0]


def spread(entry: Entry | None) -> str:
    """The median, and how far below and above it the runs' medians lie: "12.3 ms -2+5%"."""
    if entry is None or entry.timing is None:
        return ""
    timing: Timing = entry.timing
    low, high = (100 * (value / timing.median - 1) for value in timing.spread)
    return f"{duration(timing.median)} -{abs(low):.0f}+{high:.0f}%"


def ratio(value: float | None) -> str:
    """Two decimals; empty for None."""
    return "" if value is None else f"{value:.2f}"


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
