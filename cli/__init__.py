"""The command `gpucnn`: a group whose commands are imported when they are called."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

import click

from gpucnn.cli.errors import run_and_exit
from gpucnn.version import __version__

# name -> module, attribute, what --help says; so that --help imports none of them.
_COMMANDS = {
    "train": ("gpucnn.cli.train", "train", "Train a net on a data set."),
    "eval": ("gpucnn.cli.eval", "evaluate", "Measure a trained net on a data set."),
    "predict": ("gpucnn.cli.predict", "predict", "Say what pictures show."),
    "check": ("gpucnn.cli.check", "check", "Check every operation on a device."),
    "kernels": ("gpucnn.cli.kernels", "kernels", "List the CUDA kernels as compiled."),
    "warmup": ("gpucnn.cli.warmup", "warmup", "Compile ahead what training a net needs."),
    "bench": ("gpucnn.cli.bench", "bench", "Measure what this hardware does with the engine."),
    "info": ("gpucnn.cli.info", "info", "Show versions, devices and settings."),
}

_EPILOG = """\b
Examples:
  gpucnn train                          a small net on 8 x 8 digits, in seconds
  gpucnn train mnist --epochs 3         LeNet-5; the data are downloaded once
  gpucnn train cifar10 --data DIR       with files that are there already
  gpucnn eval runs/digits-digits_net/model.safetensors
  gpucnn predict runs/mnist-lenet5/model.safetensors photo.png --invert
  gpucnn check                          is every operation right on this device
  gpucnn bench                          GFLOP/s and images/s of this machine
  gpucnn info                           is the GPU used, and if not, why
  gpucnn kernels                        what the compiler makes of every CUDA kernel
  gpucnn warmup resnet18_cifar          compile its kernels now, not in the first step
\b
'gpucnn COMMAND --help' explains a command. In Python: import gpucnn.
\b
Environment:
  GPUCNN_DEVICE       cpu, cuda, cuda:N or emulated, where --device is not given
  GPUCNN_CACHE        the folder for downloaded data sets
  GPUCNN_CACHE_DIR    the folder for compiled kernels and choices by time
  GPUCNN_AUTOTUNE=1   chooses convolutions by time on a GPU, not by score alone
  GPUCNN_TRACEBACK=1  shows where in the code an error comes from
  GPUCNN_SYNC=1       waits for each kernel, so that an error names the right one"""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(_unknown(args[0]), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = "gpucnn",
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        call = partial(super().main, args, prog_name, complete_var, standalone_mode=False, **extra)
        run_and_exit(call)


def _unknown(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, _COMMANDS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"there is no command {name!r}; {hint}the commands are {', '.join(_COMMANDS)}"


@click.group(
    "gpucnn",
    cls=_LazyGroup,
    epilog=_EPILOG,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="gpucnn %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """gpucnn trains convolutional neural networks: raw CUDA kernels on a GPU, NumPy elsewhere."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
