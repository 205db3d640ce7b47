"""`gpucnn kernels`: what the CUDA compiler makes of every kernel. Needs no GPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpucnn.cli.profile import profile

if TYPE_CHECKING:
    from gpucnn.backends.gpu.kernel import Kernel, Module
    from gpucnn.backends.gpu.nvrtc import Compiled, Compiler

_EPILOG = """\b
Examples:
  gpucnn kernels                        registers, spills, shared memory, occupancy on an A100
  gpucnn kernels --arch sm_90 --only conv2d
  gpucnn kernels emit out --arch sm_90  source, PTX and cubin of each for other tools
  gpucnn kernels profile softmax        its counters, and an estimate for a GPU
\b
The kernels are those that the table of cases asks for, each under all its defines. The compiler
comes with a wheel: pip install nvidia-cuda-nvrtc-cu12 (or nvidia-cuda-nvrtc for CUDA 13)."""

_arch = click.option(
    "--arch", metavar="NAME", default="sm_80", show_default=True, help="sm_75 to sm_120."
)
_only = click.option("--only", metavar="TEXT", default="", help="Only kernels with TEXT in it.")


@click.group(invoke_without_command=True, epilog=_EPILOG)
@_arch
@_only
@click.option("--json", "as_json", is_flag=True, help="Print a JSON line a kernel instead.")
@click.pass_context
def kernels(ctx: click.Context, arch: str, only: str, as_json: bool) -> None:
    """List every kernel and specialisation with what the compiler says of it."""
    if ctx.invoked_subcommand is not None:
        return
    number = _number(arch)
    compiler = _compiler(number)
    rows = list(_rows(only, number, compiler))
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    from gpucnn.cli.output import print_table

    print_table(
        ["kernel", "defines", "registers", "spills", "shared", "threads", "occupancy"],
        [
            [
                row["entry"], row["defines"], str(row["registers"]), str(row["spilled_bytes"]),
                str(row["shared_bytes"]), str(row["threads"]), f"{row['occupancy']:.0%}",
            ]
            for row in rows
        ],
        left=2,
    )  # fmt: skip
    names = {row["entry"] for row in rows}
    click.echo(f"{len(names)} kernels, {len(rows)} specialisations, {compiler!r}, {arch}")


@kernels.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@_arch
@_only
@click.option("--json", "as_json", is_flag=True, help="Print a JSON line a file written instead.")
def emit(folder: Path, arch: str, only: str, as_json: bool) -> None:
    """Write source, PTX and cubin of every specialisation into FOLDER."""
    number = _number(arch)
    compiler = _compiler(number)
    folder.mkdir(parents=True, exist_ok=True)
    modules: dict[Module, None] = {kernel.module: None for kernel, _ in _kernels(only)}
    for module in modules:
        parts = [Path(module.file).stem, *(f"{k}-{v}" for k, v in module.defines)]
        stem = folder / "_".join(part.replace(" ", "-") for part in parts)
        ptx = compiler.compile(module.source, module.file, f"compute_{number}").code
        cubin = compiler.compile(module.source, module.file, f"sm_{number}").code
        written = {
            f"{stem}.cu": module.source.encode(),
            f"{stem}.ptx": ptx.rstrip(b"\0"),
            f"{stem}.sm_{number}.cubin": cubin,
        }
        for name, content in written.items():
            Path(name).write_bytes(content)
            if as_json:
                row = {"written": name, "bytes": len(content), "module": str(module)}
                click.echo(json.dumps(row | {"entries": module.entries}))
    if as_json:
        return
    click.echo(f"{len(modules)} modules in {folder}: .cu, .ptx and .sm_{number}.cubin of each")


kernels.add_command(profile)


def _number(arch: str) -> int:
    from gpucnn.backends.gpu.occupancy import LIMITS

    name = arch.removeprefix("sm_").removeprefix("compute_")
    if not name.isdecimal() or int(name) not in LIMITS:
        known = ", ".join(f"sm_{number}" for number in LIMITS)
        raise ValueError(f"--arch: {arch!r} is not one of {known}")
    return int(name)


def _compiler(arch: int) -> Compiler:
    from gpucnn.backends.gpu.nvrtc import compilers

    found = compilers()
    if not found:
        raise RuntimeError(
            "kernels: no NVRTC is installed; pip install nvidia-cuda-nvrtc-cu12 "
            "(or nvidia-cuda-nvrtc for CUDA 13)"
        )
    for compiler in found.values():
        if arch in compiler.architectures():
            return compiler
    raise RuntimeError(f"kernels: none of {list(found.values())} knows sm_{arch}")


def _kernels(only: str) -> list[tuple[Kernel, int]]:
    from gpucnn.cases import CASES
    from gpucnn.cases.specialisations import specialisations

    found = [
        (kernel, threads)
        for kernel, threads in specialisations(CASES).items()
        if only in f"{kernel.entry} {kernel.module}"
    ]
    if not found:
        raise ValueError(f"no kernel has {only!r} in its name")
    return found


def _rows(only: str, arch: int, compiler: Compiler) -> Iterator[dict[str, Any]]:
    from gpucnn.backends.gpu.occupancy import occupancy

    compiled: dict[Module, Compiled] = {}
    for kernel, threads in _kernels(only):
        module = kernel.module
        if module not in compiled:
            compiled[module] = compiler.compile(module.source, module.file, f"sm_{arch}")
        uses = compiled[module].resources[kernel.entry]
        yield {
            "entry": kernel.entry,
            "file": module.file,
            "defines": " ".join(f"{name}={value}" for name, value in module.defines),
            "arch": f"sm_{arch}",
            "compiler": repr(compiler),
            "registers": uses.registers,
            "spilled_bytes": uses.spill_stores + uses.spill_loads,
            "stack_bytes": uses.stack,
            "shared_bytes": uses.shared,
            "threads": threads,
            "occupancy": occupancy(arch, uses.registers, uses.shared, threads),
        }
