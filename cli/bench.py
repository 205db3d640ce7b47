"""`gpucnn bench`."""

from __future__ import annotations

import shlex
import sys
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from gpucnn.cli import options

if TYPE_CHECKING:
    from gpucnn.benchmarks.compare_torch import Opponent
    from gpucnn.core.device import Device

_SUITES = ("ops", "layers", "train", "epoch", "scaling", "overhead", "memory", "all")
_EPILOG = """\b
Suites:
  ops       operations and parameter updates
  layers    convolutions of well-known nets, each direction, and the algorithm chosen
  train     training steps and inference of whole nets, eager and captured
  epoch     an epoch of MNIST with LeNet-5, loading of data included
  scaling   training steps of batches of 16 to 256, and on one thread and on several
  overhead  Python's time for each primitive, at sizes where little else counts
  memory    peak memory of training steps, and what they allocate
  all       ops, layers and train
\b
Examples:
  gpucnn bench                                     some minutes
  gpucnn bench --suite train --compare torch       beside PyTorch, interleaved in the same run
  gpucnn bench --suite train --compare torch --malloc tuned --seconds 2
  gpucnn bench --suite layers --only resnet --json layers.jsonl
  gpucnn bench --suite train --profile             which primitives a step spends its time in
  gpucnn bench --device cuda --compare torch --json gpu.jsonl
\b
A wrong result is not timed, and the exit code is then 1. On a GPU 'gpucnn check' runs first.
"of GEMM" and "of copy" are the shares of what this machine did, at the start of the same run, in
one large float32 matrix product and in a copy of a similar size. docs/benchmarks.md explains the
columns, and how to run on a GPU and send the results."""


@click.command(epilog=_EPILOG)
@click.option(
    "--suite", type=click.Choice(_SUITES), default="all", show_default=True, help="Which rows."
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
    help="How long each variant of a row is timed, all runs together.",
)
@click.option(
    "--runs",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Into how many runs that time is cut; in each run the variants take turns.",
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["auto", "fp32", "3xtf32", "tf32", "bf16", "fp16"]),
    multiple=True,
    help="Of convolutions and products; may be repeated. Default: auto; on a GPU several.",
)
@click.option(
    "--mode",
    "modes",
    type=click.Choice(["eager", "channels_last", "compile", "graph"]),
    multiple=True,
    help="Of PyTorch on a GPU; may be repeated. Default: all.",
)
@click.option(
    "--malloc",
    type=click.Choice(["tuned", "stock"]),
    help="Settings of glibc's malloc, for both sides; the process begins anew with them.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    envvar="GPUCNN_DATA",
    metavar="DIR",
    help="The folder with MNIST's files, for the suite epoch; or the variable GPUCNN_DATA.",
)
@options.json_lines
@click.option(
    "--readme",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Rewrite the table between the bench:start and bench:end markers of a Markdown file.",
)
@click.option("--profile", is_flag=True, help="Then show where the time of the rows goes.")
@click.option("--no-check", is_flag=True, help="On a GPU: do not run 'gpucnn check' first.")
@click.pass_context
def bench(
    context: click.Context,
    suite: str,
    only: str,
    device: str | None,
    compare: str | None,
    threads: int | None,
    seconds: float,
    runs: int,
    precisions: tuple[str, ...],
    modes: tuple[str, ...],
    malloc: str | None,
    data: Path | None,
    json_file: Path | None,
    readme: Path | None,
    profile: bool,
    no_check: bool,
) -> int:
    """Measure what this hardware does with the engine.

    Each row is compared with a float64 reference before it is timed.
    """
    import gpucnn
    from gpucnn.benchmarks import environment as environments
    from gpucnn.benchmarks import malloc as mallocs
    from gpucnn.benchmarks import readme as readmes
    from gpucnn.benchmarks.check_first import check_first
    from gpucnn.benchmarks.measure import refuse_emulated
    from gpucnn.benchmarks.report import JsonLines, Table
    from gpucnn.benchmarks.row import Setup
    from gpucnn.benchmarks.run import select
    from gpucnn.benchmarks.session import Session

    refuse_emulated(gpucnn.default_device() if device is None else gpucnn.device(device))
    mallocs.apply(malloc)
    chosen = options.settle(device, threads)
    of_memory = suite == "memory"
    if of_memory and (chosen.type != "cpu" or readme is not None or profile):
        raise ValueError("--suite memory measures the cpu, without --readme and --profile")
    setup = Setup(chosen, data, precisions, modes)
    rows = [] if of_memory else select(suite, only, setup)
    if readme is not None:
        readmes.check(readme)
    to_stdout = json_file is not None and str(json_file) == "-"
    if json_file is not None and not json_file.parent.is_dir():  # said now, not when all is done
        raise ValueError(f"--json {json_file}: there is no folder {json_file.parent}")
    count = gpucnn.get_num_threads()
    with ExitStack() as stack:
        opponent = _opponent(chosen, count, stack) if compare else None
        table = Table(sys.stderr if to_stdout else None, opponent is not None)
        found = environments.describe(chosen, count)
        if opponent is not None:
            found.update(opponent.environment())
        if chosen.type == "cuda" and not no_check:
            passed, printed = check_first(chosen)
            table.line(printed if not passed else printed.rpartition("\n")[2])
            if not passed:
                raise RuntimeError(
                    f"gpucnn check --device {chosen} failed, so nothing is timed; --no-check times "
                    "all the same"
                )
        lines = None
        if json_file is not None:
            lines = JsonLines(stack.enter_context(_writable(json_file)), found)
        session = Session(setup, count, opponent, found, table, lines)
        if of_memory:
            return int(any(not each.figures for each in session.remember(only)))
        results = session.time(rows, seconds, runs)
        if profile:
            session.profile(rows, max(seconds, 0.5))
    if any(result.failed() for result in results):
        return 1
    if readme is not None:
        readmes.update(readme, _command_line(context), results, found, session.peaks)
    return 0


def _opponent(device: Device, threads: int, stack: ExitStack) -> Opponent:
    from gpucnn.benchmarks.compare_torch import Opponent

    opponent = Opponent(device, threads)
    stack.callback(opponent.close)
    return opponent


def _writable(path: Path) -> AbstractContextManager[IO[str]]:
    stream: AbstractContextManager[IO[str]] = click.open_file(str(path), "w", encoding="utf-8")
    return stream


def _command_line(context: click.Context) -> str:
    """The command with the options that were given."""
    given = ["gpucnn", "bench"]
    for parameter in context.command.params:
        name = parameter.name or ""
        if context.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
            continue
        value = context.params[name]
        for each in value if isinstance(value, tuple) else (value,):
            given.append(parameter.opts[0])
            if each is not True:
                given.append(shlex.quote(str(each)))
    return " ".join(given)
