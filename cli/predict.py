"""`gpucnn predict`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from gpucnn.cli import options

_BATCH = 64
_EPILOG = """\b
Examples:
  gpucnn predict runs/cifar10-convnet/model.safetensors cat.jpg dog.png
  gpucnn predict runs/mnist-lenet5/model.safetensors --invert photo.png --top 1
\b
A picture is cut around its middle to the net's proportions, scaled to its size, made grey or
colour as it wants, and normalised as its training images were; the model file says how. Digits
were learnt white on black: use --invert for dark writing on white paper."""


@click.command(epilog=_EPILOG)
@options.model_file
@click.argument(
    "images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--top", type=click.IntRange(1), default=3, help="How many classes. Default: 3.")
@click.option("--invert", is_flag=True, help="Make dark light first.")
@options.device
@options.threads
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a picture instead.")
def predict(
    model: Path,
    images: tuple[Path, ...],
    top: int,
    invert: bool,
    device: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Say which class the net in the file MODEL sees in each IMAGE, with probabilities."""
    place = options.settle(device, threads)
    net, preprocessing, _ = options.load_model(model, place)

    import gpucnn
    from gpucnn.nn import functional as F
    from gpucnn.training.metrics import evaluating

    classes = preprocessing.classes
    if not as_json:
        options.line("device", options.describe_device(place))
        options.line("model", f"{model}: {options.describe_model(net)}")
        options.line("images", f"become {preprocessing}{', after inversion' if invert else ''}")
    for start in range(0, len(images), _BATCH):
        paths = images[start : start + _BATCH]
        batch = preprocessing.load(paths, invert)
        with evaluating(net):
            outputs = net(gpucnn.from_numpy(batch).to(place))
            probabilities = F.softmax(outputs, 1).numpy()
        if probabilities.shape[1] != len(classes):
            raise ValueError(
                f"predict: {model} has {probabilities.shape[1]} outputs but names "
                f"{len(classes)} classes"
            )
        for path, row in zip(paths, probabilities):
            best = (-row).argsort(kind="stable")[:top]
            found = [(classes[number], float(row[number])) for number in best]
            if as_json:
                guesses = [{"class": name, "probability": share} for name, share in found]
                click.echo(json.dumps({"image": str(path), "top": guesses}))
            else:
                shares = ", ".join(f"{name} {100 * share:.2f}%" for name, share in found)
                click.echo(f"{path}: {shares}")
