"""`gpucnn bench`."""

from __future__ import annotations

import shlex
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from gpucnn.cli import options

if TYPE_CHECKING:
    from gpucnn.benchmarks.compare_torch import Opponent
    from gpucnn.benchmarks.result import Result
    from gpucnn.core.device import Device

_EPILOG = """\b
Suites: ops (operations and parameter updates), layers (convolutions of well-known nets, each
direction), train (training steps and inference of whole nets).
\b
Examples:
  gpucnn bench                                     all suites, in less than a minute on 2 cores
  gpucnn bench --suite train --compare torch       beside PyTorch, interleaved in the same run
  gpucnn bench --suite layers --only resnet --json layers.jsonl
  gpucnn bench --suite train --profile             which primitives a step spends its time in
\b
A wrong result ends the command with exit code 1. GFLOP/s and GB/s count the least work that a row
needs; "of GEMM" and "of copy" are the shares of what this machine did, at the start of the same
run, in one large matrix product and in a copy of a similar size."""


@click.command(epilog=_EPILOG)
@click.option(
    "--suite",
    type=click.Choice(["ops", "layers", "train", "all"]),
    default="all",
    show_default=True,
    help="Which rows.",
)
@click.option("--only", metavar="TEXT", default="", help="Only rows with TEXT in their name.")
@options.device
@click.option(
    "--compare", type=click.Choice(["torch"]), help="Time PyTorch's rows too, and the ratio."
)
@options.threads
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=0.25,
    show_default=True,
    help="How long a row is timed, and as long again with --compare.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Windows into which this time is cut; those of --compare alternate with them.",
)
@options.json_lines
@click.option(
    "--readme",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Rewrite the table between the bench:start and bench:end markers of a Markdown file.",
)
@click.option("--profile", is_flag=True, help="Then show where the time of the rows goes.")
@click.pass_context
def bench(
    context: click.Context,
    suite: str,
    only: str,
    device: str | None,
    compare: str | None,
    threads: int | None,
    seconds: float,
    repeats: int,
    json_file: Path | None,
    readme: Path | None,
    profile: bool,
) -> None:
    """Measure what this hardware does with the engine.

    Each row is compared with a float64 reference before it is timed.
    """
    import gpucnn
    from gpucnn.benchmarks import environment as environments
    from gpucnn.benchmarks import readme as readmes
    from gpucnn.benchmarks import report
    from gpucnn.benchmarks.measure import clock, refuse_emulated
    from gpucnn.benchmarks.peaks import measure_peaks
    from gpucnn.benchmarks.run import measured, select

    refuse_emulated(gpucnn.default_device() if device is None else gpucnn.device(device))
    chosen = options.settle(device, threads)
    count = gpucnn.get_num_threads()
    rows = select(suite, only)
    if readme is not None:
        readmes.check(readme)
    to_stdout = json_file is not None and str(json_file) == "-"
    if json_file is not None and not json_file.parent.is_dir():  # said now, not when all is done
        raise ValueError(f"--json {json_file}: there is no folder {json_file.parent}")
    began = time.perf_counter()
    with ExitStack() as stack:
        found = environments.describe(chosen, count)
        opponent = _opponent(chosen, count, stack) if compare else None
        if opponent is not None:
            found.update(opponent.environment())
        table = report.Table(sys.stderr if to_stdout else None, opponent is not None)
        for line in environments.lines(found):
            table.line(line, "dim")
        timer = clock(chosen)
        others = opponent.products() if opponent is not None else None
        with table:
            table.working_on("the machine's peaks")
            peaks = measure_peaks(chosen, count, timer, seconds, others)
            table.line(str(peaks))
            results: list[Result] = []
            for number, row in enumerate(rows, 1):
                table.working_on(f"{number} of {len(rows)}: {row.title}")
                results.append(measured(row, chosen, timer, peaks, seconds, repeats, opponent))
                table.add(results[-1])
        table.line("")
        taken = time.perf_counter() - began
        table.line(f"{len(results)} rows, each verified before it was timed, in {taken:.0f} s")
    if json_file is not None:
        with _writable(json_file) as stream:
            report.write_json(stream, results, found, peaks)
    if readme is not None:
        readmes.update(readme, _command_line(context), results, found, peaks)
    if profile:
        from gpucnn.benchmarks.profile import profile as profile_row

        for row in rows:
            table.line("")
            for line in profile_row(row, chosen, max(seconds, 0.5)):
                table.line(line)


def _opponent(device: Device, threads: int, stack: ExitStack) -> Opponent:
    from gpucnn.benchmarks.compare_torch import Opponent

    opponent = Opponent(device, threads)
    stack.callback(opponent.close)
    return opponent


def _writable(path: Path) -> IO[str]:
    stream: IO[str] = click.open_file(str(path), "w", encoding="utf-8")
    return stream


def _command_line(context: click.Context) -> str:
    """The command with the options that were given."""
    given = ["gpucnn", "bench"]
    for parameter in context.command.params:
        name = parameter.name or ""
        if context.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
            continue
        given.append(parameter.opts[0])
        if context.params[name] is not True:
            given.append(shlex.quote(str(context.params[name])))
    return " ".join(given)
