"""`gpucnn check`."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpucnn.cli import options

if TYPE_CHECKING:
    from gpucnn.backends.gpu.emulated import EmulatedRuntime
    from gpucnn.cases.check import Verdict
    from gpucnn.core.device import Device

_EPILOG = """\b
Examples:
  gpucnn check                          every operation on the default device
  gpucnn check --device cuda            the first thing to run on a new GPU
  gpucnn check --only conv2d            the rows with conv2d in their name
  gpucnn check --device emulated        the CUDA kernels, executed and checked without a GPU
\b
Each row of the table of cases runs in float32, forward and backward, and is compared with the
float64 result of the cpu; on a GPU and the emulated device so does each kernel that selection can
return for a convolution. A row that differs is printed, and the exit code is 1."""


@click.command(epilog=_EPILOG)
@options.device
@click.option("--only", metavar="TEXT", default="", help="Only rows with TEXT in their name.")
@options.json_lines
@click.option(
    "--compiler",
    type=click.Choice(["12", "13"]),
    help="On the emulated device: the NVRTC, by CUDA version, that makes the PTX.",
)
@click.option("--lines", is_flag=True, help="On the emulated device: lines of .cu never reached.")
def check(
    device: str | None, only: str, json_file: Path | None, compiler: str | None, lines: bool
) -> int:
    """Check every operation on a device against the cpu's float64."""
    from gpucnn import backends
    from gpucnn.backends.gpu import GpuBackend
    from gpucnn.cases import CASES
    from gpucnn.cases.algorithms import of_instances
    from gpucnn.cases.check import check as run

    chosen = options.settle(device, None)
    emulated = _emulated(chosen, compiler, lines)
    quiet = json_file is not None and str(json_file) == "-"
    verdicts = []
    with nullcontext() if emulated is None else backends.serving(chosen, GpuBackend(emulated)):
        rows = list(CASES)
        backend = backends.get(chosen)
        if isinstance(backend, GpuBackend):
            rows += of_instances(backend.runtime.properties())
        cases = [case for case in rows if only in case.name]
        if not cases:
            raise ValueError(f"no case has {only!r} in its name")
        for verdict in run(cases, chosen):
            verdicts.append(verdict)
            if not quiet and not verdict.passed:
                click.echo(f"FAILED {verdict.name}\n       {verdict.message}")
    if json_file is not None:
        text = "".join(json.dumps(v.as_dict() | {"device": str(chosen)}) + "\n" for v in verdicts)
        with click.open_file(str(json_file), "w") as file:
            file.write(text)
    failed = sum(not v.passed for v in verdicts)
    if not quiet:
        _report(verdicts)
        options.line("device", options.describe_device(chosen))
        if emulated is not None:
            from gpucnn.cases.coverage import coverage

            options.line("PTX", f"{emulated.compiler!r}")
            covered = coverage(emulated.launches or [], emulated)
            # Of some rows alone it says nothing which kernels were not launched.
            click.echo(str(covered) if only and not lines else covered.report())
        click.echo(f"{len(verdicts) - failed} passed, {failed} failed")
    return 1 if failed else 0


def _emulated(chosen: Device, compiler: str | None, lines: bool) -> EmulatedRuntime | None:
    """A runtime that keeps its launches, if the device is the emulated one."""
    if chosen.type != "emulated":
        if compiler is not None or lines:
            raise ValueError(f"--compiler and --lines go with --device emulated, not {chosen}")
        return None
    from gpucnn.backends.gpu.emulated import EmulatedRuntime
    from gpucnn.backends.gpu.nvrtc import compilers

    found = compilers()
    if compiler is not None and int(compiler) not in found:
        raise RuntimeError(
            f"--compiler {compiler}: the NVRTC of CUDA {compiler} is not installed; "
            f"pip install nvidia-cuda-nvrtc{'-cu12' if compiler == '12' else ''}"
        )
    runtime = EmulatedRuntime(found[int(compiler)] if compiler else None, counters=lines)
    runtime.launches = []
    return runtime


def _report(verdicts: list[Verdict]) -> None:
    from gpucnn.cli.output import print_table

    rows = []
    for op in sorted({v.op for v in verdicts}):
        of_op = [v for v in verdicts if v.op == op]
        worst = max((v for v in of_op if v.error is not None), key=_share, default=None)
        error = "" if worst is None else f"{worst.error:.1e}"
        allowed = "" if worst is None else f"{worst.tolerance:.0e}"
        passed = sum(v.passed for v in of_op)
        rows.append([op, str(len(of_op)), str(passed), error, allowed])
    print_table(["operation", "cases", "passed", "largest error", "allowed"], rows)


def _share(verdict: Verdict) -> float:
    error = verdict.error or 0.0
    if not verdict.tolerance:  # to the bit
        return float("inf") if error else 0.0
    return error / verdict.tolerance
