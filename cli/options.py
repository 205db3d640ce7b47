"""Options and lines of output that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from gpucnn.core.device import Device
    from gpucnn.data import Splits
    from gpucnn.nn import Module
    from gpucnn.training import Preprocessing

_Command = TypeVar("_Command")

device = click.option(
    "--device",
    metavar="NAME",
    help="cpu, cuda, cuda:N or emulated. Default: $GPUCNN_DEVICE, else a GPU where there is one.",
)
threads = click.option(
    "--threads",
    type=click.IntRange(1),
    metavar="N",
    help="Threads of the cpu device. The results do not depend on it.",
)
data = click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The folder with the data set's files; nothing is downloaded then.",
)
json_lines = click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE",
    help="Write a JSON line a row; - is standard output, where no table is printed then.",
)
model_file = click.argument("model", type=click.Path(path_type=Path))


def settle(device: str | None, threads: int | None) -> Device:
    """Make device and threads those that were asked for.

    Raises:
        ValueError: there is no such device. RuntimeError: it cannot be used; the text says why.
    """
    import gpucnn
    from gpucnn import backends

    if threads is not None:
        gpucnn.set_num_threads(threads)
    chosen = gpucnn.default_device() if device is None else gpucnn.device(device)
    backends.get(chosen)
    gpucnn.set_default_device(chosen)
    return chosen


def describe_device(chosen: Device) -> str:
    """The device, and why it is not a GPU."""
    import gpucnn

    if chosen.type == "cuda":
        return str(chosen)
    count = gpucnn.get_num_threads()
    text = f"{chosen}, {count} thread{'s' if count > 1 else ''}"
    reason = gpucnn.cuda.why_not()
    if reason is None:
        return f"{text} (a GPU can be used: --device cuda)"
    return f"{text} (no GPU: {reason})"


def describe_model(model: Module) -> str:
    """Name and number of parameters."""
    name = getattr(model, "name", "") or type(model).__name__
    return f"{name}, {sum(p.numel() for p in model.parameters()):,} parameters"


def load_data(name: str, folder: Path | None) -> Splits:
    """The data set, downloaded into the cache folder where that is needed."""
    import gpucnn

    return gpucnn.data.load(name, folder)


def load_model(path: Path, device: Device) -> tuple[Module, Preprocessing, dict[str, str]]:
    """A model file: the net, the images it takes, and all of the file's metadata.

    Raises:
        ValueError: it is no model file. OSError: it cannot be read.
    """
    import gpucnn
    from gpucnn.training import Preprocessing

    model = gpucnn.load(path, device)
    metadata = gpucnn.serialization.load_metadata(path)
    try:
        return model, Preprocessing.from_metadata(metadata, model), metadata
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def line(label: str, text: str) -> None:
    """One line of the head of an output."""
    click.echo(f"{label:<8}{text}")


def versions() -> dict[str, Any]:
    """The versions that decide about results."""
    import platform

    import numpy

    import gpucnn

    return {
        "gpucnn": gpucnn.__version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "platform": platform.platform(),
    }
