"""`gpucnn kernels`: what the CUDA compiler makes of every kernel. Needs no GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpucnn.cli.choose import choose
from gpucnn.cli.profile import profile

if TYPE_CHECKING:
    from gpucnn.backends.gpu.kernel import Module

_EPILOG = """\b
Examples:
  gpucnn kernels                        registers, spills, occupancy, main loops on an A100
  gpucnn kernels --arch sm_90 --only conv2d
  gpucnn kernels --counters --only softmax   what the emulated device counts, too
  gpucnn kernels emit out --arch sm_90  source, PTX and cubin of each for other tools
  gpucnn kernels profile softmax        its counters, and an estimate for a GPU
  gpucnn kernels choose --net resnet18 --gpu a100   what would run, and why
\b
The kernels are those that the table of cases asks for, and all that selection can return for a
convolution, each under all its defines. 'docs/kernels.md' says what the columns mean. Compiler and
disassembler come with wheels: pip install nvidia-cuda-nvrtc-cu12 (or nvidia-cuda-nvrtc for CUDA
13) and nvidia-cuda-nvdisasm, without which nothing is known of the loops."""

_arch = click.option(
    "--arch", metavar="NAME", default="sm_80", show_default=True, help="sm_75 to sm_120."
)
_only = click.option("--only", metavar="TEXT", default="", help="Only kernels with TEXT in it.")
_major = click.option(
    "--compiler",
    "major",
    type=click.IntRange(1),
    metavar="MAJOR",
    help="The NVRTC of this CUDA version, 12 or 13; the oldest by default.",
)


@click.group(invoke_without_command=True, epilog=_EPILOG)
@_arch
@_only
@_major
@click.option("--counters", is_flag=True, help="Launch each on the emulated device and count.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON line a kernel instead.")
@click.option(
    "--docs",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the table between the markers of a Markdown file instead.",
)
@click.pass_context
def kernels(
    ctx: click.Context,
    arch: str,
    only: str,
    major: int | None,
    counters: bool,
    as_json: bool,
    docs: Path | None,
) -> None:
    """List every kernel and specialisation with what the compiler says of it."""
    if ctx.invoked_subcommand is not None:
        return
    from gpucnn.backends.gpu import sass
    from gpucnn.cli import kernel_rows as tables

    rows = tables.rows(only, tables.number(arch), major, counters)
    if sass.nvdisasm() is None:
        click.echo(f"the loops are not known: {sass.INSTALL}", err=True)
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    elif docs is not None:
        flags = [f"--arch {rows[0]['arch']}", *(["--counters"] if counters else [])]
        flags += [f"--only {only}"] if only else []
        tables.write_table(docs, rows, " ".join(["gpucnn kernels", *flags, "--docs", str(docs)]))
        click.echo(f"{len(rows)} rows in {docs}")
    else:
        from gpucnn.cli.output import print_table

        head = tables.HEAD + (tables.COUNTED if counters else [])
        print_table(head, [tables.cells(row) for row in rows], left=2)
        names = {row["entry"] for row in rows}
        made = f"{rows[0]['compiler']}, {rows[0]['arch']}"
        click.echo(f"{len(names)} kernels, {len(rows)} specialisations, {made}")


@kernels.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@_arch
@_only
@_major
@click.option("--json", "as_json", is_flag=True, help="Print a JSON line a file written instead.")
def emit(folder: Path, arch: str, only: str, major: int | None, as_json: bool) -> None:
    """Write source, PTX and cubin of every specialisation into FOLDER."""
    from gpucnn.backends.gpu.precompile import Job, compile_all
    from gpucnn.cli.kernel_rows import compiler, number, selected

    target = number(arch)
    of_cuda = compiler(target, major).version[0]
    folder.mkdir(parents=True, exist_ok=True)
    modules: dict[Module, None] = {kernel.module: None for kernel in selected(only, target)}
    jobs = [
        Job(of_cuda, module.source, module.file, f"{kind}_{target}")
        for kind in ("compute", "sm")
        for module in modules
    ]
    codes = [compiled.code for compiled in compile_all(jobs)]
    for i, module in enumerate(modules):
        parts = [Path(module.file).stem, *(f"{k}-{v}" for k, v in module.defines)]
        stem = folder / "_".join(part.replace(" ", "-") for part in parts)
        written = {
            f"{stem}.cu": module.source.encode(),
            f"{stem}.ptx": codes[i].rstrip(b"\0"),
            f"{stem}.sm_{target}.cubin": codes[len(modules) + i],
        }
        for name, content in written.items():
            Path(name).write_bytes(content)
            if as_json:
                row = {"written": name, "bytes": len(content), "module": str(module)}
                click.echo(json.dumps(row | {"entries": module.entries}))
    if as_json:
        return
    click.echo(f"{len(modules)} modules in {folder}: .cu, .ptx and .sm_{target}.cubin of each")


kernels.add_command(profile)
kernels.add_command(choose)
